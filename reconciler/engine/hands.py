"""What an action is done with, and how one waits for a shard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from reconciler.engine.move_acts import never_held, never_told
from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.ports import Clock, Mover, Patroni, Platform, Postgres, Store
from reconciler.engine.problems import NotHealthyInTime, StoppedByUser
from reconciler.model.access import Lease, Login
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import MemberName, ScopeKey
from reconciler.model.observed import PatroniView
from reconciler.model.platform import Endpoint, PlatformShard
from reconciler.workflow.rollout import Hold, decide_secured

POLL_S = 0.2
"""How often a wait looks again."""

Wait = Callable[[str], None]
"""Told what a step waits for, whenever that changes."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Hands:
    """The edges an apply acts through, the lease it acts under, and when to stop.

    ``held`` tells why a phase of the step may not begin now, by the policies; ``does`` is told what
    the step does meanwhile.
    """

    platform: Platform
    store: Store
    patroni: Patroni
    postgres: Postgres
    mover: Mover
    clock: Clock
    lease: Lease
    source: str
    revision: str
    start_s: float
    stop: threading.Event
    held: Callable[[str], str] = never_held
    does: Wait = never_told


def shard_of(hands: Hands, key: ScopeKey) -> PlatformShard | None:
    """Return what the platform has of a shard now."""
    return next((s for s in hands.platform.observe() if s.key == key), None)


def login_to(hands: Hands, key: ScopeKey) -> Login:
    """Return how to log in to a shard. Raises NotHealthyInTime when its platform has none."""
    shard = shard_of(hands, key)
    if shard is None:
        raise NotHealthyInTime(str(key), "its platform has nothing of it", remedy="plan again")
    return login_of(hands.platform, shard)


def until(hands: Hands, key: ScopeKey, look: Callable[[], _T | Hold], wait: Wait) -> _T:
    """Look until there is an answer. Raises NotHealthyInTime and StoppedByUser."""
    began, told = hands.clock.monotonic(), ""
    while True:
        answer = _try(look)
        if not isinstance(answer, Hold):
            return answer
        if answer.reason != told:
            told = answer.reason
            wait(told)
        if hands.stop.is_set():
            raise StoppedByUser(str(key), f"stopped while it waited: {told}")
        waited = hands.clock.monotonic() - began
        if waited >= hands.start_s:
            raise NotHealthyInTime(
                str(key),
                f"after {waited:.0f} s: {told}",
                remedy="`shardwright platform logs` shows why; then apply again, or allow more "
                "with SHARDWRIGHT_START_S",
            )
        hands.clock.sleep(POLL_S)


def _try(look: Callable[[], _T | Hold]) -> _T | Hold:
    """Take a transient error as one more reason to wait."""
    try:
        return look()
    except ReconcilerError as error:
        if not error.transient:
            raise
        return Hold(f"{error.code} {error.problem}")


def wait_healthy(
    hands: Hands, key: ScopeKey, names: tuple[MemberName, ...], wait: Wait
) -> PatroniView:
    """Wait until there is a primary, with its synchronous standby, and all these members serve."""

    def look() -> PatroniView | Hold:
        view = hands.patroni.view(login_to(hands, key))
        if view.leader is None:
            return Hold("no primary yet")
        for name in names:
            member = view.member(name)
            if member is None:
                return Hold(f"{name} does not answer yet")
            if not member.healthy:
                return Hold(f"{name} is {member.state}")
        secured = decide_secured(view)
        return secured if isinstance(secured, Hold) else view

    return until(hands, key, look, wait)


def primary_at(hands: Hands, key: ScopeKey, wait: Wait) -> tuple[Login, Endpoint]:
    """Return how to reach the shard's primary, waiting for one."""

    def look() -> tuple[Login, Endpoint] | Hold:
        shard = shard_of(hands, key)
        if shard is None:
            return Hold("its platform has nothing of it")
        login = login_of(hands.platform, shard)
        primary = primary_of(shard, hands.patroni.view(login))
        return (login, primary) if primary else Hold("no primary at the moment")

    return until(hands, key, look, wait)
