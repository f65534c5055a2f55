"""Order of steps by what must be done before; knows nothing of databases.

A node is an id with the ids that must come before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class DependencyCycle(ValueError):
    """Some steps wait for one another; ``ids`` are on or behind the cycle."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        super().__init__(f"these steps wait for one another: {', '.join(ids)}")
        self.ids = ids


def order(after: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return all ids so that each stands behind those it waits for; else in the given order.

    Linear in nodes and edges. Raises KeyError for an unknown id, DependencyCycle for a cycle.
    """
    waits = {node: set(needs) for node, needs in after.items()}
    followers: dict[str, list[str]] = {node: [] for node in after}
    for node, needs in waits.items():
        for need in needs:
            followers[need].append(node)
    ready = [node for node, needs in waits.items() if not needs]
    done: list[str] = []
    while ready:
        following: list[str] = []
        for node in ready:
            done.append(node)
            for follower in followers[node]:
                waits[follower].discard(node)
                if not waits[follower]:
                    following.append(follower)
        ready = following
    if len(done) < len(waits):
        raise DependencyCycle(tuple(node for node in after if waits[node]))
    return tuple(done)


def behind(after: Mapping[str, Iterable[str]], starts: Iterable[str]) -> frozenset[str]:
    """Return all ids that wait, directly or not, for one of ``starts``."""
    followers: dict[str, list[str]] = {node: [] for node in after}
    for node, needs in after.items():
        for need in needs:
            if need in followers:
                followers[need].append(node)
    found: set[str] = set()
    look = [follower for start in starts for follower in followers.get(start, [])]
    while look:
        node = look.pop()
        if node not in found:
            found.add(node)
            look.extend(followers[node])
    return frozenset(found)
