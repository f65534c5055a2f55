"""What to do when a part of a member dies: the rules of fast failover, without any I/O.

A member is Patroni and its PostgreSQL. Patroni fails over by itself when the leader's lease runs
out, which takes its ttl (20 s by default), because from afar a silent primary may still be alive.
The supervisor is the parent of both processes: it *knows* that they are dead, and so may give the
lease up at once. Three rules keep that as safe as waiting:

1. Death is certain (nothing that can write is left), or PostgreSQL shut down cleanly for a
   switchover and the candidate holds all of its WAL.
2. A synchronous standby is named and running, so every acknowledged write is on it.
3. The leader key still names the dead member, in the lease that was seen (etcd checks it again
   when the key is deleted: see ``GiveUpLease``).

Whatever is uncertain is left to Patroni and its ttl.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ControlState(Enum):
    """What ``pg_controldata`` says about the last state of a data directory."""

    SHUT_DOWN = "shut down"
    UNCLEAN = "unclean"
    STANDBY = "standby"
    UNREADABLE = "unreadable"


#: From PostgreSQL's ``dbState()`` in pg_controldata.c; what is not here is UNREADABLE.
_CONTROL_STATES = {
    "shut down": ControlState.SHUT_DOWN,
    "shut down in recovery": ControlState.STANDBY,
    "in archive recovery": ControlState.STANDBY,
    "in production": ControlState.UNCLEAN,
    "shutting down": ControlState.UNCLEAN,
    "in crash recovery": ControlState.UNCLEAN,
}


class Survivors(Enum):
    """Whether processes of a member's PostgreSQL are left after its postmaster is gone."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LeaderKey:
    """Patroni's ``/leader``: who holds it, in which etcd lease."""

    member: str
    lease: int


@dataclass(frozen=True, slots=True)
class Switchover:
    """Patroni's ``/failover`` key: away from ``leader``, to ``candidate`` or (empty) to anybody."""

    leader: str
    candidate: str


@dataclass(frozen=True, slots=True)
class ScopeView:
    """What etcd says about one scope, read in one request.

    ``sync_leader`` is empty when synchronous mode is off; ``sync_revision`` (0: no such key) pins
    the reading of ``/sync``. ``running`` names the members whose PostgreSQL runs, sorted.
    """

    leader: LeaderKey | None
    sync_leader: str
    sync_standbys: tuple[str, ...]
    sync_revision: int
    running: tuple[str, ...]
    switchover: Switchover | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Unseen:
    """Etcd did not answer; unknown is not empty."""

    reason: str


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member at the moment in which a part of it was found dead.

    ``shutdown_lsn`` is where the shutdown checkpoint's record starts; ``received`` are the
    positions up to which other members hold the WAL, as they say themselves. ``unkept_s`` is how
    long PostgreSQL has been without a Patroni that lived.
    """

    member: str
    patroni_alive: bool
    postmaster_alive: bool
    survivors: Survivors
    control: ControlState
    view: ScopeView | Unseen
    shutdown_lsn: int = 0
    received: tuple[tuple[str, int], ...] = ()
    unkept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUpLease:
    """Delete the leader key, if it still names ``member`` in ``lease`` and ``/sync`` is unchanged.

    ``revoke`` also ends the lease itself, and with it the dead member's other keys. Not so in a
    switchover: there Patroni lives, and would put the leader key back when it misses its lease
    (``Etcd3._update_leader``).
    """

    member: str
    lease: int
    sync_revision: int
    revoke: bool
    reason: str


@dataclass(frozen=True, slots=True)
class RestartPatroni:
    """Start Patroni again; it takes over a running PostgreSQL, or starts it."""

    reason: str


@dataclass(frozen=True, slots=True)
class KillMember:
    """Make an unclean death certain: kill Patroni and all that is left, then decide again."""

    reason: str


@dataclass(frozen=True, slots=True)
class FencePostgres:
    """Stop a primary that has no keeper before its lease can run out, then decide again."""

    reason: str


@dataclass(frozen=True, slots=True)
class AwaitCandidate:
    """The candidate does not hold all WAL yet: ask it again, for a bounded time."""

    candidates: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LeaveToPatroni:
    """Do nothing: Patroni decides."""

    reason: str


Decision = (
    GiveUpLease | RestartPatroni | KillMember | FencePostgres | AwaitCandidate | LeaveToPatroni
)

#: A primary without a keeper is stopped before a standby may promote, which is from ttl (20 s) less
#: one ``loop_wait`` (2 s, the age of the last renewal) after its Patroni died.
FENCE_AFTER_S = 12.0
#: What lived this long is no start-up failure and is started again without a delay.
LIVED_S = 5.0
_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_DELAY_MAX_S = 10.0


def control_state(text: str) -> ControlState:
    """Classify pg_controldata's ``Database cluster state`` (in the C locale)."""
    return _CONTROL_STATES.get(text.strip(), ControlState.UNREADABLE)


def restart_delay_s(short_lives: int) -> float:
    """Seconds to wait before Patroni is started again after so many short lives in a row."""
    return _DELAYS_S[short_lives] if short_lives < len(_DELAYS_S) else _DELAY_MAX_S


def decide_failover(facts: MemberFacts) -> Decision:
    """Decide what the supervisor does about its member, of which a part may be dead."""
    if facts.postmaster_alive:
        return _decide_running(facts)
    if facts.patroni_alive:
        return _decide_postgres_gone(facts)
    return _decide_all_gone(facts)


def decide_for_peer(facts: MemberFacts) -> GiveUpLease | LeaveToPatroni:
    """Decide what a peer does about a member whose own supervisor is dead: it kills nothing."""
    if facts.patroni_alive or facts.postmaster_alive:
        return LeaveToPatroni("a part of it lives")
    if facts.survivors is not Survivors.NONE:
        return LeaveToPatroni(f"its death is not certain (processes left: {facts.survivors.value})")
    return _give_up(facts, revoke=True, reason="seen dead by a peer, its supervisor too")


def _decide_running(facts: MemberFacts) -> Decision:
    if facts.patroni_alive:
        return LeaveToPatroni("both run")
    paused = isinstance(facts.view, ScopeView) and facts.view.paused
    primary = facts.control is ControlState.UNCLEAN
    if primary and not paused and facts.unkept_s >= FENCE_AFTER_S:
        return FencePostgres(f"a primary without Patroni for {facts.unkept_s:.0f} s")
    return RestartPatroni("Patroni died, PostgreSQL runs")


def _decide_all_gone(facts: MemberFacts) -> Decision:
    if facts.survivors is Survivors.SOME:
        return KillMember("PostgreSQL processes are left behind")
    if facts.survivors is Survivors.UNKNOWN:
        return RestartPatroni("death is not certain, the lease is left to its ttl")
    match _give_up(facts, revoke=True, reason="Patroni and PostgreSQL are dead"):
        case LeaveToPatroni(reason):
            return RestartPatroni(f"Patroni and PostgreSQL are dead; lease kept: {reason}")
        case give_up:
            return give_up


def _decide_postgres_gone(facts: MemberFacts) -> Decision:
    if facts.control is ControlState.SHUT_DOWN:
        return _decide_switchover(facts)
    if facts.control is not ControlState.UNCLEAN:
        return LeaveToPatroni(f"PostgreSQL ended, control data: {facts.control.value}")
    match _give_up(facts, revoke=True, reason=""):
        case LeaveToPatroni() as left:
            return left
        case _:
            return KillMember("the primary's postmaster died, a synchronous standby is there")


def _decide_switchover(facts: MemberFacts) -> Decision:
    view = facts.view
    if isinstance(view, Unseen) or view.switchover is None:
        return LeaveToPatroni("a clean shutdown without a switchover")
    if view.switchover.leader != facts.member:
        return LeaveToPatroni("the switchover is not from this member")
    wanted = view.switchover.candidate
    allowed = tuple(n for n in _standbys(view, facts.member) if wanted in ("", n))
    if not allowed:
        return LeaveToPatroni("no synchronous standby that the switchover may go to runs")
    received = dict(facts.received)
    if not any(0 < facts.shutdown_lsn < received.get(name, 0) for name in allowed):
        return AwaitCandidate(allowed, "no candidate holds the shutdown checkpoint yet")
    return _give_up(facts, revoke=False, reason="clean shutdown, the candidate holds all WAL")


def _give_up(facts: MemberFacts, *, revoke: bool, reason: str) -> GiveUpLease | LeaveToPatroni:
    """Give the lease up unless a guard forbids it; the guards that hold for every revocation."""
    view = facts.view
    if isinstance(view, Unseen):
        return LeaveToPatroni(f"etcd: {view.reason}")
    if view.paused:
        return LeaveToPatroni("Patroni is paused")
    if view.leader is None or view.leader.member != facts.member:
        return LeaveToPatroni("the leader key does not name this member")
    if not _standbys(view, facts.member):
        return LeaveToPatroni("no synchronous standby runs")
    return GiveUpLease(facts.member, view.leader.lease, view.sync_revision, revoke, reason)


def _standbys(view: ScopeView, member: str) -> tuple[str, ...]:
    """Return the running synchronous standbys of ``member``, never itself."""
    if view.sync_leader != member:
        return ()
    return tuple(n for n in view.sync_standbys if n != member and n in view.running)
