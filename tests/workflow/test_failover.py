"""The rules of fast failover: when a lease may be given up, and that it never is otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.workflow.failover import (
    FENCE_AFTER_S,
    AwaitCandidate,
    ControlState,
    FencePostgres,
    GiveUpLease,
    KillMember,
    LeaderKey,
    LeaveToPatroni,
    MemberFacts,
    RestartPatroni,
    ScopeView,
    Survivors,
    Switchover,
    Unseen,
    control_state,
    decide_failover,
    decide_for_peer,
    restart_delay_s,
)

ME, OTHER, THIRD = "shop-s0-0", "shop-s0-1", "shop-s0-2"
LEASE, SYNC_REVISION, SHUTDOWN_LSN = 77, 5, 1000

VIEW = ScopeView(
    leader=LeaderKey(ME, LEASE),
    sync_leader=ME,
    sync_standbys=(OTHER,),
    sync_revision=SYNC_REVISION,
    running=(ME, OTHER),
)
ALL_DEAD = MemberFacts(
    member=ME,
    patroni_alive=False,
    postmaster_alive=False,
    survivors=Survivors.NONE,
    control=ControlState.UNCLEAN,
    view=VIEW,
)
POSTGRES_DEAD = replace(ALL_DEAD, patroni_alive=True, survivors=Survivors.UNKNOWN)
PATRONI_DEAD = replace(ALL_DEAD, postmaster_alive=True, survivors=Survivors.SOME)
SWITCHING = replace(
    POSTGRES_DEAD,
    control=ControlState.SHUT_DOWN,
    view=replace(VIEW, switchover=Switchover(ME, OTHER)),
    shutdown_lsn=SHUTDOWN_LSN,
    received=((OTHER, SHUTDOWN_LSN + 120),),
)

VIEWS_THAT_FORBID = {
    "etcd is silent": Unseen("timed out"),
    "patroni is paused": replace(VIEW, paused=True),
    "nobody leads": replace(VIEW, leader=None),
    "another leads": replace(VIEW, leader=LeaderKey(OTHER, LEASE)),
    "no standby is named": replace(VIEW, sync_standbys=()),
    "only itself is named": replace(VIEW, sync_standbys=(ME,)),
    "sync is another leader's": replace(VIEW, sync_leader=OTHER),
    "synchronous mode is off": replace(VIEW, sync_leader="", sync_standbys=()),
    "the standby does not run": replace(VIEW, running=(ME,)),
}
forbidding = pytest.mark.parametrize(
    "view", VIEWS_THAT_FORBID.values(), ids=lambda v: next(
        name for name, view in VIEWS_THAT_FORBID.items() if view is v
    )
)  # fmt: skip


def test_a_leader_that_is_surely_dead_gives_its_lease_up() -> None:
    decision = decide_failover(ALL_DEAD)
    assert isinstance(decision, GiveUpLease)
    assert (decision.member, decision.lease, decision.sync_revision) == (ME, LEASE, SYNC_REVISION)
    assert decision.revoke


@forbidding
def test_a_dead_member_keeps_its_lease_when(view: ScopeView | Unseen) -> None:
    assert isinstance(decide_failover(replace(ALL_DEAD, view=view)), RestartPatroni)


def test_processes_left_behind_are_killed_before_anything_is_given_up() -> None:
    left = replace(ALL_DEAD, survivors=Survivors.SOME)
    assert isinstance(decide_failover(left), KillMember)


def test_a_death_that_is_not_certain_is_left_to_the_ttl() -> None:
    decision = decide_failover(replace(ALL_DEAD, survivors=Survivors.UNKNOWN))
    assert isinstance(decision, RestartPatroni)
    assert "not certain" in decision.reason


def test_a_patroni_that_died_alone_is_started_again_and_nothing_else() -> None:
    assert isinstance(decide_failover(PATRONI_DEAD), RestartPatroni)


def test_a_primary_too_long_without_patroni_is_fenced() -> None:
    unkept = replace(PATRONI_DEAD, unkept_s=FENCE_AFTER_S)
    assert isinstance(decide_failover(unkept), FencePostgres)


@pytest.mark.parametrize(
    "facts",
    [
        replace(PATRONI_DEAD, unkept_s=FENCE_AFTER_S - 0.1),
        replace(PATRONI_DEAD, unkept_s=FENCE_AFTER_S, control=ControlState.STANDBY),
        replace(PATRONI_DEAD, unkept_s=FENCE_AFTER_S, view=replace(VIEW, paused=True)),
    ],
    ids=["not long enough", "a standby", "paused"],
)
def test_no_other_postgres_is_fenced(facts: MemberFacts) -> None:
    assert isinstance(decide_failover(facts), RestartPatroni)


def test_a_member_that_runs_is_left_alone() -> None:
    assert isinstance(
        decide_failover(replace(PATRONI_DEAD, patroni_alive=True, unkept_s=99)), LeaveToPatroni
    )


def test_a_primary_whose_postmaster_alone_died_is_killed_whole_to_fail_over() -> None:
    assert isinstance(decide_failover(POSTGRES_DEAD), KillMember)


@forbidding
def test_a_postmaster_that_died_alone_is_left_to_patroni_when(view: ScopeView | Unseen) -> None:
    assert isinstance(decide_failover(replace(POSTGRES_DEAD, view=view)), LeaveToPatroni)


@pytest.mark.parametrize("control", [ControlState.STANDBY, ControlState.UNREADABLE])
def test_an_end_that_was_no_primarys_crash_is_left_to_patroni(control: ControlState) -> None:
    assert isinstance(decide_failover(replace(POSTGRES_DEAD, control=control)), LeaveToPatroni)


def test_a_clean_shutdown_for_a_switchover_gives_up_the_key_but_keeps_the_live_lease() -> None:
    decision = decide_failover(SWITCHING)
    assert isinstance(decision, GiveUpLease)
    assert not decision.revoke


def test_a_switchover_to_anybody_takes_any_synchronous_standby() -> None:
    view = replace(VIEW, switchover=Switchover(ME, ""))
    assert isinstance(decide_failover(replace(SWITCHING, view=view)), GiveUpLease)


@pytest.mark.parametrize(
    "received",
    [(), ((OTHER, 0),), ((OTHER, SHUTDOWN_LSN),), ((THIRD, SHUTDOWN_LSN + 120),)],
    ids=["silent", "nothing", "all but the checkpoint", "only another"],
)
def test_a_candidate_that_lags_is_waited_for(received: tuple[tuple[str, int], ...]) -> None:
    assert isinstance(decide_failover(replace(SWITCHING, received=received)), AwaitCandidate)


def test_a_checkpoint_position_that_could_not_be_read_gives_nothing_up() -> None:
    assert isinstance(decide_failover(replace(SWITCHING, shutdown_lsn=0)), AwaitCandidate)


@pytest.mark.parametrize(
    "switchover",
    [None, Switchover(OTHER, OTHER), Switchover(ME, THIRD)],
    ids=["none is ordered", "from another", "to one that is not synchronous"],
)
def test_any_other_clean_shutdown_is_left_to_patroni(switchover: Switchover | None) -> None:
    view = replace(VIEW, switchover=switchover)
    assert isinstance(decide_failover(replace(SWITCHING, view=view)), LeaveToPatroni)


@forbidding
def test_a_switchover_keeps_the_lease_when(view: ScopeView | Unseen) -> None:
    if isinstance(view, ScopeView):
        view = replace(view, switchover=Switchover(ME, OTHER))
    assert not isinstance(decide_failover(replace(SWITCHING, view=view)), GiveUpLease)


def test_a_peer_gives_up_the_lease_of_a_member_that_died_with_its_supervisor() -> None:
    decision = decide_for_peer(ALL_DEAD)
    assert isinstance(decision, GiveUpLease)
    assert decision.member == ME


@pytest.mark.parametrize(
    "facts",
    [
        replace(ALL_DEAD, postmaster_alive=True),
        replace(ALL_DEAD, patroni_alive=True),
        replace(ALL_DEAD, survivors=Survivors.SOME),
        replace(ALL_DEAD, survivors=Survivors.UNKNOWN),
    ],
    ids=["postgres lives", "patroni lives", "backends live", "backends unknown"],
)
def test_a_peer_leaves_a_death_that_is_not_whole_and_certain(facts: MemberFacts) -> None:
    assert isinstance(decide_for_peer(facts), LeaveToPatroni)


@forbidding
def test_a_peer_leaves_the_lease_when(view: ScopeView | Unseen) -> None:
    assert isinstance(decide_for_peer(replace(ALL_DEAD, view=view)), LeaveToPatroni)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("shut down", ControlState.SHUT_DOWN),
        ("in production", ControlState.UNCLEAN),
        ("shutting down", ControlState.UNCLEAN),
        ("in crash recovery", ControlState.UNCLEAN),
        ("in archive recovery", ControlState.STANDBY),
        ("shut down in recovery", ControlState.STANDBY),
        ("starting up", ControlState.UNREADABLE),
        ("", ControlState.UNREADABLE),
    ],
)
def test_the_control_file_is_read_as_postgres_writes_it(text: str, state: ControlState) -> None:
    assert control_state(f"   {text} ") is state


def test_a_patroni_that_keeps_dying_is_started_ever_more_slowly_up_to_a_bound() -> None:
    delays = [restart_delay_s(lives) for lives in range(20)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == delays[-2] == 10


names = st.sampled_from([ME, OTHER, THIRD, ""])
name_sets = st.lists(st.sampled_from([ME, OTHER, THIRD]), unique=True).map(tuple)
#: Any view, and (often enough to matter) one that is a single step from allowing everything.
near_views = st.sampled_from(
    [
        VIEW,
        *VIEWS_THAT_FORBID.values(),
        *(replace(VIEW, switchover=Switchover(a, b)) for a in (ME, OTHER) for b in (OTHER, "")),
    ]
)
any_views = st.builds(
    ScopeView,
    leader=st.none() | st.builds(LeaderKey, names, st.integers(0, 3)),
    sync_leader=names,
    sync_standbys=name_sets,
    sync_revision=st.integers(0, 3),
    running=name_sets,
    switchover=st.none() | st.builds(Switchover, names, names),
    paused=st.booleans(),
)
views = near_views | any_views
all_facts = st.builds(
    MemberFacts,
    member=st.just(ME),
    patroni_alive=st.booleans(),
    postmaster_alive=st.booleans(),
    survivors=st.sampled_from(Survivors),
    control=st.sampled_from(ControlState),
    view=views,
    shutdown_lsn=st.sampled_from([0, 1000]),
    received=st.lists(st.tuples(names, st.sampled_from([0, 999, 1000, 1120]))).map(tuple),
    unkept_s=st.floats(0, 60),
)


def _dead_for_certain(facts: MemberFacts) -> bool:
    return not (facts.patroni_alive or facts.postmaster_alive) and (
        facts.survivors is Survivors.NONE
    )


def _handed_over(facts: MemberFacts, view: ScopeView) -> bool:
    target = view.switchover
    return (
        facts.control is ControlState.SHUT_DOWN
        and not facts.postmaster_alive
        and target is not None
        and target.leader == facts.member
        and facts.shutdown_lsn > 0
        and any(
            lsn > facts.shutdown_lsn
            and name != facts.member
            and name in view.sync_standbys
            and target.candidate in ("", name)
            for name, lsn in facts.received
        )
    )


@settings(max_examples=1000)
@given(all_facts)
def test_no_lease_is_ever_given_up_that_could_cost_an_acknowledged_write(
    facts: MemberFacts,
) -> None:
    for decision in (decide_failover(facts), decide_for_peer(facts)):
        if not isinstance(decision, GiveUpLease):
            continue
        view = facts.view
        assert isinstance(view, ScopeView)
        assert _dead_for_certain(facts) or _handed_over(facts, view)
        assert view.leader == LeaderKey(facts.member, decision.lease)
        assert view.sync_leader == facts.member == decision.member
        assert set(view.sync_standbys) & set(view.running) - {facts.member}
        assert decision.sync_revision == view.sync_revision
        assert not view.paused
        assert decision.revoke is not facts.patroni_alive


@given(all_facts)
def test_nothing_is_killed_that_patroni_and_postgres_still_share(facts: MemberFacts) -> None:
    if facts.patroni_alive and facts.postmaster_alive:
        assert isinstance(decide_failover(facts), LeaveToPatroni)


@given(all_facts)
def test_a_dead_patroni_is_never_left_dead(facts: MemberFacts) -> None:
    if not facts.patroni_alive:
        assert not isinstance(decide_failover(facts), LeaveToPatroni | AwaitCandidate)
