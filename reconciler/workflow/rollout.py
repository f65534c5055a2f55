"""Rolling work over the members of one shard: restart what waits for it, or let another one lead.

Standbys first, one at a time, each healthy again before the next; then another member leads, and
the former primary is restarted as a standby. A primary is restarted in place only where nobody
could take over (a shard of one member), and where a limit is lowered that a standby must not have
below its primary: until the primary has it, no restart of a standby brings it into force. Every
decision comes from what Patroni says now, so an interrupted rollout goes on by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from reconciler.model.names import MemberName
from reconciler.model.observed import ObservedMember, PatroniView, Role


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart this member now."""

    member: MemberName


@dataclass(frozen=True, slots=True)
class Lead:
    """Let ``candidate`` lead in place of ``leader``."""

    leader: MemberName
    candidate: MemberName


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing can be done now; ``reason`` says what is waited for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do."""


Move: TypeAlias = Restart | Lead | Hold | Finished


def decide_restart(view: PatroniView) -> Move:
    """Say what a rolling restart needs next."""
    waiting = [m for m in view.members if m.pending_restart]
    if not waiting and not view.unseen_members:
        return Finished()
    unwell = _unwell(view)
    if unwell:
        return unwell
    held_back = {name for m in waiting if m.role is Role.PRIMARY for name in m.lowered}
    standbys = [m for m in waiting if m.role is Role.STANDBY]
    helped = [m for m in standbys if not held_back.issuperset(m.pending_restart)]
    if helped:
        return Restart(helped[0].name)
    waiting = [m for m in waiting if m.role is Role.PRIMARY]
    if not waiting:
        return Finished()
    if held_back or len(view.members) == 1:
        return Restart(waiting[0].name)
    candidate = best_candidate(view, ())
    if candidate is None:
        return Hold(f"no standby may take over from {waiting[0].name} yet")
    return Lead(waiting[0].name, candidate.name)


def decide_switch(view: PatroniView, away_from: Collection[MemberName]) -> Move:
    """Say what it needs so that none of ``away_from`` leads."""
    if view.leader is None:
        return Hold("no primary at the moment; Patroni is electing one")
    if view.leader not in away_from:
        return Finished()
    candidate = best_candidate(view, away_from)
    if candidate is None:
        return Hold(f"no healthy standby could take over from {view.leader}")
    return Lead(view.leader, candidate.name)


def decide_secured(view: PatroniView) -> Hold | Finished:
    """Say whether a synchronous shard that has standbys has a synchronous one.

    Patroni names one some seconds after it streams; until then nobody may take over.
    """
    standbys = [m for m in view.members if m.name != view.leader]
    if not view.synchronous or not standbys:
        return Finished()
    if any(m.healthy and m.synchronous for m in standbys):
        return Finished()
    return Hold("no standby is synchronous yet")


def _unwell(view: PatroniView) -> Hold | None:
    """Return why no member may be taken down now: never two at a time."""
    if view.paused:
        return Hold("Patroni is paused")
    if view.leader is None:
        return Hold("no primary at the moment; Patroni is electing one")
    if view.unseen_members:
        return Hold(f"not seen: {', '.join(u.subject for u in view.unseen_members)}")
    ill = [m for m in view.members if not m.healthy]
    return Hold(f"{ill[0].name} is {ill[0].state}") if ill else None


def best_candidate(view: PatroniView, but_not: Collection[MemberName]) -> ObservedMember | None:
    """Return the healthy standby to promote: in synchronous mode only one that is synchronous.

    An asynchronous standby could lack acknowledged writes, and Patroni would refuse it.
    """
    able = [
        m
        for m in view.members
        if m.role is Role.STANDBY
        and m.healthy
        and m.name not in but_not
        and (m.synchronous or not view.synchronous)
    ]
    return min(able, key=lambda m: (m.lag_bytes or 0, m.name), default=None)
