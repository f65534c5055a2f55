"""A rolling restart in the model: whatever Patroni says next, the rules hold and it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.names import MemberName
from reconciler.model.observed import ObservedMember, PatroniView, Role, Unseen
from reconciler.model.platform import Endpoint
from reconciler.workflow.rollout import (
    Finished,
    Hold,
    Lead,
    Move,
    Restart,
    best_candidate,
    decide_restart,
    decide_secured,
    decide_switch,
)

_AT = Endpoint("127.0.0.1", 1, 2)
_RAISED, _LOWERED = "shared_buffers", "max_connections"


def member(
    number: int,
    role: Role = Role.STANDBY,
    state: str = "",
    *,
    synchronous: bool = False,
    pending: tuple[str, ...] = (),
    lowered: tuple[str, ...] = (),
    lag: int | None = None,
) -> ObservedMember:
    state = state or ("running" if role is Role.PRIMARY else "streaming")
    name = MemberName(f"s0-{number}")
    return ObservedMember(name, _AT, role, state, 1, lag, synchronous, pending, lowered)


@st.composite
def members(draw: st.DrawFn) -> tuple[ObservedMember, ...]:
    count = draw(st.integers(1, 4))
    primary = draw(st.integers(-1, count - 1))
    found = []
    for number in range(count):
        pending = draw(st.sets(st.sampled_from((_RAISED, _LOWERED))))
        found.append(
            member(
                number,
                Role.PRIMARY if number == primary else Role.STANDBY,
                draw(st.sampled_from(("", "", "", "", "starting", "stopped"))),
                synchronous=number != primary and draw(st.booleans()),
                pending=tuple(sorted(pending)),
                lowered=(_LOWERED,) if _LOWERED in pending and draw(st.booleans()) else (),
                lag=draw(st.none() | st.integers(0, 100)),
            )
        )
    return tuple(found)


@st.composite
def views(draw: st.DrawFn) -> PatroniView:
    """Any shard of up to four members, among them ill, unseen and leaderless ones."""
    found = draw(members())
    primary = next((m.name for m in found if m.role is Role.PRIMARY), None)
    unseen = (Unseen("patroni", "s0-9", "silent"),) if draw(st.integers(0, 5)) == 0 else ()
    return PatroniView(
        leader=primary if draw(st.integers(0, 5)) else None,
        members=found,
        parameters=(),
        synchronous=draw(st.booleans()),
        paused=draw(st.integers(0, 7)) == 0,
        unseen_members=unseen,
    )


def _restarted(view: PatroniView, name: MemberName) -> PatroniView:
    """What a restart brings into force: on a standby nothing that its primary must lower first."""
    primary = next((m for m in view.members if m.role is Role.PRIMARY), None)
    held = set(primary.lowered) if primary and primary.name != name else set()
    return replace(
        view,
        members=tuple(
            replace(
                m,
                pending_restart=tuple(p for p in m.pending_restart if p in held),
                lowered=tuple(p for p in m.lowered if p in held),
            )
            if m.name == name
            else m
            for m in view.members
        ),
    )


def _led_by(view: PatroniView, candidate: MemberName) -> PatroniView:
    def now(one: ObservedMember) -> ObservedMember:
        if one.name == candidate:
            return replace(one, role=Role.PRIMARY, state="running", synchronous=False)
        synchronous = view.synchronous
        return replace(one, role=Role.STANDBY, state="streaming", synchronous=synchronous)

    return replace(view, leader=candidate, members=tuple(map(now, view.members)))


@given(views())
def test_no_member_is_taken_down_while_another_is_away(view: PatroniView) -> None:
    match decide_restart(view):
        case Restart(name) | Lead(_, name):
            assert view.leader is not None
            assert not view.unseen_members
            assert not view.paused
            assert all(m.healthy for m in view.members)
            assert view.member(name) is not None


@given(views())
def test_a_restart_is_ordered_only_where_one_is_waited_for(view: PatroniView) -> None:
    move = decide_restart(view)
    if isinstance(move, Restart):
        chosen = view.member(move.member)
        assert chosen is not None
        assert chosen.pending_restart


@given(views())
def test_a_primary_restarts_in_place_only_alone_or_to_lower_a_limit(view: PatroniView) -> None:
    move = decide_restart(view)
    if isinstance(move, Restart):
        chosen = view.member(move.member)
        assert chosen is not None
        if chosen.role is Role.PRIMARY:
            assert len(view.members) == 1 or chosen.lowered
            held = set(chosen.lowered)
            others = [m for m in view.members if m.role is Role.STANDBY]
            assert all(held.issuperset(m.pending_restart) for m in others)


@given(views(), st.booleans())
def test_nobody_is_promoted_who_could_lack_acknowledged_writes(
    view: PatroniView, rolling: bool
) -> None:
    move = decide_restart(view) if rolling else decide_switch(view, {view.leader or MemberName("")})
    if isinstance(move, Lead):
        assert move.leader == view.leader
        candidate = view.member(move.candidate)
        assert candidate is not None
        assert candidate.role is Role.STANDBY
        assert candidate.healthy
        assert candidate.synchronous or not view.synchronous


@given(views())
def test_it_is_finished_only_when_nobody_waits_and_everybody_was_seen(view: PatroniView) -> None:
    done = decide_restart(view) == Finished()
    assert done == (not view.unseen_members and not any(m.pending_restart for m in view.members))


@given(members(), st.booleans())
def test_a_rollout_of_a_healthy_shard_ends_with_nothing_pending(
    found: tuple[ObservedMember, ...], synchronous: bool
) -> None:
    """Every step moves forward: each member restarts at most twice, at most one switchover."""
    well = tuple(
        replace(
            m,
            role=Role.STANDBY if n else Role.PRIMARY,
            state="streaming" if n else "running",
            synchronous=bool(n) and synchronous,
        )
        for n, m in enumerate(found)
    )
    # A limit is lowered for the whole shard, so all that wait for it lower it.
    lowers = any(m.lowered for m in well)
    lowered = tuple(
        replace(m, lowered=(_LOWERED,) if lowers and _LOWERED in m.pending_restart else ())
        for m in well
    )
    view = PatroniView(lowered[0].name, lowered, (), synchronous)
    moves: list[Move] = []
    while (move := decide_restart(view)) != Finished():
        moves.append(move)
        assert len(moves) <= 2 * len(found) + 1, moves
        match move:
            case Restart(name):
                view = _restarted(view, name)
            case Lead(_, candidate):
                view = _led_by(view, candidate)
            case other:
                raise AssertionError(other)
    assert sum(isinstance(m, Lead) for m in moves) <= 1


def test_standbys_restart_first_then_the_primary_gives_way() -> None:
    primary = member(0, Role.PRIMARY, pending=(_RAISED,))
    standby = member(1, synchronous=True, pending=(_RAISED,))
    view = PatroniView(primary.name, (primary, standby), (), synchronous=True)

    assert decide_restart(view) == Restart(standby.name)
    view = _restarted(view, standby.name)
    assert decide_restart(view) == Lead(primary.name, standby.name)
    view = _led_by(view, standby.name)
    assert decide_restart(view) == Restart(primary.name)
    assert decide_restart(_restarted(view, primary.name)) == Finished()


def test_a_lowered_limit_goes_to_the_primary_before_its_standbys() -> None:
    primary = member(0, Role.PRIMARY, pending=(_LOWERED,), lowered=(_LOWERED,))
    standby = member(1, pending=(_LOWERED,), lowered=(_LOWERED,))
    view = PatroniView(primary.name, (primary, standby), (), synchronous=False)

    assert decide_restart(view) == Restart(primary.name)
    view = _restarted(view, primary.name)
    assert decide_restart(view) == Restart(standby.name)


def test_a_standby_takes_what_it_can_before_the_primary_lowers_a_limit() -> None:
    """Else the primary would have more of another limit than its standby, which stops replay."""
    both = (_LOWERED, _RAISED)
    primary = member(0, Role.PRIMARY, pending=both, lowered=(_LOWERED,))
    standby = member(1, pending=both, lowered=(_LOWERED,))
    view = PatroniView(primary.name, (primary, standby), (), synchronous=False)

    assert decide_restart(view) == Restart(standby.name)
    assert decide_restart(_restarted(view, standby.name)) == Restart(primary.name)


def test_a_switch_waits_for_a_leader_and_for_somebody_able_to_take_over() -> None:
    primary, ill = member(0, Role.PRIMARY), member(1, state="starting")
    view = PatroniView(None, (primary, ill), (), synchronous=False)

    assert isinstance(decide_switch(view, {primary.name}), Hold)
    view = replace(view, leader=primary.name)
    assert isinstance(decide_switch(view, {primary.name}), Hold)
    assert decide_switch(view, {ill.name}) == Finished()


def test_nobody_who_leaves_too_is_asked_to_lead() -> None:
    primary, first, second = member(0, Role.PRIMARY), member(1), member(2)
    view = PatroniView(primary.name, (primary, first, second), (), synchronous=False)

    move = decide_switch(view, {primary.name, first.name})

    assert move == Lead(primary.name, second.name)


@pytest.mark.parametrize(("first", "second", "wins"), [(5, 0, 1), (0, 5, 0), (3, 3, 0)])
def test_the_standby_with_the_least_lag_takes_over(first: int, second: int, wins: int) -> None:
    standbys = (member(0, lag=first), member(1, lag=second))
    view = PatroniView(None, standbys, (), synchronous=False)

    assert best_candidate(view, ()) == standbys[wins]


_WAITING = (member(0, Role.PRIMARY, pending=(_RAISED,)), member(1, pending=(_RAISED,)))


@pytest.mark.parametrize(
    "view",
    [
        PatroniView(_WAITING[0].name, _WAITING, (), False, paused=True),
        PatroniView(
            _WAITING[0].name, _WAITING, (), False, unseen_members=(Unseen("patroni", "s0-2", ""),)
        ),
        PatroniView(None, _WAITING, (), False),
        PatroniView(
            _WAITING[0].name, (*_WAITING, member(2, state="starting")), (), synchronous=False
        ),
    ],
    ids=["paused", "a silent member", "no leader", "an ill member"],
)
def test_nobody_is_restarted_now(view: PatroniView) -> None:
    assert isinstance(decide_restart(view), Hold)


@pytest.mark.parametrize(
    ("others", "synchronous", "secured"),
    [
        ((), True, True),
        ((member(1),), False, True),
        ((member(1),), True, False),
        ((member(1, synchronous=True),), True, True),
        ((member(1), member(2, synchronous=True)), True, True),
        ((member(1, state="starting", synchronous=True), member(2)), True, False),
    ],
    ids=["alone", "asynchronous", "not yet", "named", "one of two", "named but ill"],
)
def test_a_step_is_done_when_a_synchronous_shard_has_its_synchronous_standby(
    others: tuple[ObservedMember, ...], synchronous: bool, secured: bool
) -> None:
    primary = member(0, Role.PRIMARY)
    view = PatroniView(primary.name, (primary, *others), (), synchronous)

    assert isinstance(decide_secured(view), Finished) is secured
