"""A move of keys among crashes, failovers, stale clients and changing wishes, in memory.

``move_world`` is the world, ``move_acts`` what an edge does in it commit by commit, ``move_engine``
the loop and what must hold after each step. Every guard is taken away once, and the same walks
then have to fail: a simulation that cannot fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import NO_EPOCH, Move, MoveView, Side, Wish
from reconciler.workflow import reshard, reshard_compare, reshard_facts, reshard_refusals
from reconciler.workflow.phase import Wait
from tests.workflow import move_acts, move_cuts
from tests.workflow.move_engine import STREAMS, Engine, walk
from tests.workflow.move_hand import Hand
from tests.workflow.move_shard import TABLES, Shard
from tests.workflow.move_world import Broken, World

WALKS = 500
WALKS_OF_A_MUTANT_MAX = 6000

sides, streams, tables = (
    st.sampled_from(list(Side)),
    st.sampled_from(STREAMS),
    st.sampled_from(TABLES),
)


class MoveMachine(RuleBasedStateMachine):
    """Hypothesis chooses what happens; a failing history is shrunk to the shortest one."""

    engine: Engine

    @initialize(
        tells_owners=st.booleans(),
        rows=st.integers(0, 3),
        copy=st.sampled_from(CopyDriver),
        asynchronous=st.booleans(),
    )
    def begin(self, tells_owners: bool, rows: int, copy: CopyDriver, asynchronous: bool) -> None:
        self.engine = Engine(tells_owners=tells_owners, copy=copy, asynchronous=asynchronous)
        for _ in range(rows):
            self.engine.world.write(Side.SOURCE, TABLES[0])

    @rule(steps=st.integers(1, 30))
    def the_engine_goes_on(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.go_on()
            self.engine.check()

    @rule(side=sides, table=tables)
    def a_client_writes(self, side: Side, table: str) -> None:
        self.engine.world.write(side, table)

    @rule(side=sides, table=tables)
    def a_client_deletes(self, side: Side, table: str) -> None:
        self.engine.world.delete(side, table)

    @rule(side=sides, table=tables)
    def a_client_changes_a_key_over_the_border(self, side: Side, table: str) -> None:
        self.engine.world.change_key(side, table)

    @rule(side=sides, table=tables)
    def an_owner_truncates(self, side: Side, table: str) -> None:
        self.engine.world.truncate(side, table)

    @rule()
    def another_move_is_published(self) -> None:
        self.engine.world.publish_another()

    @rule(name=streams, changes=st.integers(1, 8))
    def a_stream_delivers(self, name: str, changes: int) -> None:
        self.engine.world.deliver(name, changes)

    @rule(name=streams)
    def a_subscriber_confirms(self, name: str) -> None:
        self.engine.world.confirm(name)

    @rule()
    def the_engine_is_killed(self) -> None:
        self.engine.crash()

    @rule()
    def the_engine_hangs_and_another_takes_over(self) -> None:
        self.engine.stop()

    @rule(steps=st.integers(1, 12))
    def one_that_hung_goes_on(self, steps: int) -> None:
        self.engine.wake(steps)

    @rule(side=sides, changes=st.integers(1, 8))
    def a_standby_catches_up(self, side: Side, changes: int) -> None:
        self.engine.world.sides[side].replicate(changes)

    @rule()
    def the_last_act_is_done_again(self) -> None:
        self.engine.again()

    @rule(side=sides, kept=st.sampled_from((0.0, 0.5, 1.0)))
    def a_shard_fails_over(self, side: Side, kept: float) -> None:
        self.engine.fail_over(side, kept)

    @rule(name=streams)
    def a_slot_loses_its_wal(self, name: str) -> None:
        self.engine.world.lose_slot(name)

    @rule(wish=st.sampled_from(Wish))
    def its_owner_wishes(self, wish: Wish) -> None:
        self.engine.world.wish(wish)

    @rule(seconds=st.sampled_from((1, 100, 600)))
    def time_passes(self, seconds: int) -> None:
        self.engine.world.now += timedelta(seconds=seconds)

    @rule(side=sides)
    def a_shard_is_seen_no_more_or_again(self, side: Side) -> None:
        self.engine.world.unseen ^= {side}

    @rule()
    def an_obstacle_comes_or_goes(self) -> None:
        self.engine.world.obstacle = not self.engine.world.obstacle

    @invariant()
    def no_key_has_two_owners(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.settle()


TestMove = MoveMachine.TestCase
TestMove.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_walks_that_chance_chose_end_with_every_write_at_one_owner() -> None:
    ends = {walk(seed).world.map[1] for seed in range(WALKS)}

    assert ends == set(Side), "some go forward, some end where they began"


def test_the_walks_meet_every_act_and_every_kind_of_wait() -> None:
    said = {word for seed in range(WALKS) for word in walk(seed).said}

    acts = {said_ for said_ in said if said_.isalpha()}
    assert acts == {kind.__name__ for kind in reshard.Step.__args__}  # type: ignore[attr-defined]
    for words in ("not seen", "paused", "no cut while", "is behind", "no way back"):
        assert any(f"waits: {words}" in w or words in w for w in said), words


def test_a_loser_that_fails_over_after_the_cut_still_refuses_stale_clients() -> None:
    """Nobody has to look for that: the next apply may be hours away."""
    for seed in range(20):
        engine = walk_to_the_cut(seed)
        engine.crash()
        engine.fail_over(Side.SOURCE, 0.0)
        engine.world.write(Side.TARGET, TABLES[0])
        engine.check()


def walk_to_the_cut(seed: int) -> Engine:
    """Return one whose cut has just been published; no standby has more than it was waited for."""
    engine = Engine(asynchronous=True)
    for _ in range(seed % 4):
        engine.world.write(Side.SOURCE, TABLES[0])
    for _ in range(1000):
        if engine.world.map[1] is Side.TARGET:
            return engine
        engine.go_on()
        engine.world.deliver("fwd", 6)
        engine.world.confirm("fwd")
        for shard in engine.world.sides.values() if "Cut" not in engine.said else ():
            shard.replicate(len(shard.wal))
    raise AssertionError(engine.said[-3:])


# Each guard taken away ---------------------------------------------------------------------------

Patch = tuple[object, str, Any]
real_standbys = move_cuts.on_standbys
real_decide, real_phases, real_broken = reshard.decide, reshard._phases, reshard_facts.is_broken
real_free_writers = reshard_refusals.free_writers
ALL = tuple(TABLES)


def blind_to(**fact: Any) -> Callable[[MoveView], bool]:
    """Judge the forward stream as if one of its facts were always so."""
    return lambda view: real_broken(replace(view, forward=replace(view.forward, **fact)))


def slot_that_is_gone_goes_unnoticed(view: MoveView) -> bool:
    return view.forward.slot_lost or view.forward.gap


def silence_is_taken_for_nothing(move: Move, view: MoveView, now: datetime) -> reshard.Decision:
    return real_decide(move, replace(view, source=None, target=None), now)


def open_tables_are_overlooked(look: reshard_facts.Look) -> tuple[reshard.Phase, ...]:
    return real_phases(replace(look, view=replace(look.view, opened=())))


def half_a_rollback_is_overlooked(look: reshard_facts.Look) -> tuple[reshard.Phase, ...]:
    return real_phases(replace(look, view=replace(look.view, fenced=ALL)))


def pause_holds_all(move: Move, decision: reshard.Decision) -> reshard.Decision:
    return Wait("paused: all") if move.wish is Wish.PAUSE else decision


def no_drain(hand: Hand, name: str) -> Generator[None, None, bool]:
    publisher, _ = hand.world.ends(name)
    hand.world.ids += 1
    hand.commit(publisher, "beat", hand.world.ids)
    yield
    return True


def nobody_is_superseded(hand: Hand, *shards: Shard) -> Iterator[None]:
    yield


def no_standby(shard: Shard, upto: int) -> Generator[None, None, bool]:
    yield
    return True


def only_the_losers_standby(shard: Shard, upto: int) -> Generator[None, None, bool]:
    if shard.born_accepting:
        return (yield from real_standbys(shard, upto))
    yield
    return True


def advance_unfenced(hand: Hand, target: Shard) -> None:
    if "rev" in target.slots:
        target.slots["rev"].confirmed = len(target.wal)


def no_refusal(*_: object) -> Generator[None, None, bool]:
    yield
    return True


def only_fences_are_taken_away(
    look: reshard_facts.Look, decision: reshard.Decision
) -> reshard.Decision:
    view = replace(look.view, source_refuses_below=NO_EPOCH, target_refuses_below=NO_EPOCH)
    return real_free_writers(replace(look, view=view), decision)


def without(list_: str, *phases: reshard.Phase) -> Patch:
    kept = tuple(phase for phase in getattr(reshard, list_) if phase not in phases)
    return reshard, list_, kept


def moved_up(list_: str, phase: reshard.Phase, before: reshard.Phase) -> Patch:
    others = [p for p in getattr(reshard, list_) if p is not phase]
    others.insert(others.index(before), phase)
    return reshard, list_, tuple(others)


MUTANTS: dict[str, Patch] = {
    "a fence may stand": (reshard, "free_writers", lambda look, decision: decision),
    "silence is taken for nothing": (reshard, "decide", silence_is_taken_for_nothing),
    "a target's failover is overlooked": (reshard, "is_broken", blind_to(gap=False)),
    "lost WAL is overlooked": (reshard, "is_broken", blind_to(slot_lost=False)),
    "a slot that is gone is overlooked": (
        reshard,
        "is_broken",
        slot_that_is_gone_goes_unnoticed,
    ),
    "open tables are overlooked": (reshard, "_phases", open_tables_are_overlooked),
    "half a rollback is overlooked": (reshard, "_phases", half_a_rollback_is_overlooked),
    "a pause holds what must end": (reshard, "_hold", pause_holds_all),
    "the map before the guards": moved_up(
        "COMMITTED", reshard.publish_map, before=reshard.finish_opening
    ),
    "the map before the guards, back": moved_up(
        "COMMITTED_BACK", reshard.publish_map_back, before=reshard.cut_back
    ),
    "the map is forgotten, back": without("COMMITTED_BACK", reshard.publish_map_back),
    "rows go before streams, forward": moved_up("SOAK", reshard.prune_source, before=reshard.clean),
    "rows go before streams, back": moved_up("BACK", reshard.prune_target, before=reshard.clean),
    "rows go before streams, abort": moved_up("ABORT", reshard.prune_copy, before=reshard.clean),
    "a way back that is not whole": without("ROLL_BACK", reshard.way_back_is_whole),
    "streams stay, forward": without("SOAK", reshard.clean),
    "streams stay, abort": without("ABORT", reshard.clean),
    "streams stay, back": without("BACK", reshard.clean),
    "rows stay, forward": without("SOAK", reshard.prune_source),
    "rows stay, abort": without("ABORT", reshard.prune_copy),
    "rows stay, back": without("BACK", reshard.prune_target),
    "nothing is held": without("FORWARD", reshard_refusals.hold_tables),
    "key changes pass": (World, "holds", ("truncate",)),
    "TRUNCATE passes": (World, "holds", ("key",)),
    "a cut does not refuse stale clients": (move_cuts, "refuse_stale", no_refusal),
    "an epoch that no map has may stand": (reshard, "free_writers", only_fences_are_taken_away),
    "the other side's token is not raised": (move_cuts, "take_over", nobody_is_superseded),
    "a superseded applier may move a slot": (move_cuts, "advance", advance_unfenced),
    "standbys are not waited for": (move_cuts, "on_standbys", no_standby),
    "rows need not be on the target's standby": (
        move_cuts,
        "on_standbys",
        only_the_losers_standby,
    ),
    "a copy by bytes is followed from its slot's beginning": (Shard, "origins", False),
    "a copy by bytes is followed from where it was read": (
        move_acts,
        "is_unread",
        lambda slot, until: True,
    ),
    "the cut is not compared": without("SOAK", reshard_compare.compare_cut),
    "a cut does not drain": (move_cuts, "drain", no_drain),
}


def walk_all(count: int) -> None:
    for seed in range(count):
        walk(seed)


@pytest.mark.parametrize("guard", MUTANTS)
def test_without_this_guard_a_walk_fails(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[guard])

    with pytest.raises(Broken):
        walk_all(WALKS_OF_A_MUTANT_MAX)
