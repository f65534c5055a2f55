"""How much of a database may be changed at once: the blast radius of its roll-out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.model.desired import Rollout
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.plan.actions import MoveKeyRange, Step


def bounded(
    ready: Iterable[Step], running: Iterable[Step], limits: Mapping[DatabaseKey, Rollout]
) -> list[Step]:
    """Return the steps of ``ready``, in order, that may begin beside those that run.

    A database without an entry in ``limits`` has none. What alone is more than a limit (a move of
    more bytes, or of a size that nobody knows) begins when nothing else of its kind runs: a limit
    bounds what happens at once, and forbids nothing.
    """
    taken = list(running)
    begun: list[Step] = []
    for step in ready:
        if _fits(step, taken, limits.get(step.database)):
            taken.append(step)
            begun.append(step)
    return begun


def _fits(step: Step, taken: list[Step], limits: Rollout | None) -> bool:
    if limits is None:
        return True
    mine = [other for other in taken if other.database == step.database]
    if isinstance(step.action, MoveKeyRange):
        moves = [other.action for other in mine if isinstance(other.action, MoveKeyRange)]
        if limits.bytes_max is None or not moves:
            return True
        sizes = [_bytes(move) for move in (*moves, step.action)]
        known = [size for size in sizes if size is not None]
        return len(known) == len(sizes) and sum(known) <= limits.bytes_max
    if step.shard is None or limits.shards_max is None:
        return True
    touched = {shard for other in mine if (shard := _touched(other)) is not None}
    return step.shard in touched or len(touched) < limits.shards_max


def _touched(step: Step) -> ShardName | None:
    """Return the shard that a step changes; moves are bounded by their bytes."""
    return None if isinstance(step.action, MoveKeyRange) else step.shard


def _bytes(move: MoveKeyRange) -> int | None:
    if move.tables is None:
        return None
    return sum(table_bytes for _, table_bytes, _ in move.tables)
