"""A change goes to its canaries first; the others wait for time and gates."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.model.desired import Canary, Database, Gate, GateLanguage, Rollout
from reconciler.model.names import ShardName
from reconciler.model.observed import ObservedState
from reconciler.model.rollouts import RolloutRecord
from reconciler.plan.actions import Plan, Step, Wave
from reconciler.plan.canary import (
    Answer,
    Phase,
    Standing,
    change_of,
    judged,
    standing,
    without_held,
)
from reconciler.plan.graph import behind
from reconciler.plan.simulate import simulate
from tests.policy.plans import planned
from tests.worlds import database, desired, schema_file, settled, shard, tiles

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
GATE = Gate("errors", GateLanguage.PROMQL, "errors", most=5.0)
CANARY = Canary((ShardName("s1"),), 600.0, (GATE,))
OLD = replace(database(*tiles(4, 1)), rollout=Rollout(canary=CANARY))
NEW = replace(OLD, digest="other", parameters=(("max_connections", "321"), ("work_mem", "32MB")))
SEEN = settled(desired(OLD))


def _plan(wanted: Database = NEW, seen: ObservedState = SEEN) -> Plan:
    return planned(desired(wanted, revision="r2"), seen)


def _waves(plan: Plan) -> dict[str, Wave]:
    return {step.id: step.wave for step in plan.steps if step.wave is not Wave.ANY}


def _done(plan: Plan, *, of: Wave) -> tuple[Step, ...]:
    """Return the steps that are left when those of a wave are done."""
    return tuple(step for step in plan.steps if step.wave is not of)


def _stands(steps: tuple[Step, ...], record: RolloutRecord | None, now: datetime = NOW) -> Standing:
    found = standing(NEW, steps, record, now)
    assert found is not None
    return found


def _answered(before: Standing, *values: float, problem: str = "") -> Standing:
    steps = _done(_plan(), of=Wave.CANARY)
    return judged(before, [Answer(GATE, "Prometheus", values, problem)], NEW, steps)


def test_parameters_and_restarts_have_waves_and_the_canary_has_the_first_turn() -> None:
    plan = _plan()
    assert _waves(plan) == {
        f"shop-s{n}/{what}": Wave.CANARY if n == 1 else Wave.REST
        for n in range(4)
        for what in ("configure", "restart")
    }
    waits = behind({s.id: s.after for s in plan.steps}, ["shop-s1/restart"])
    assert {"shop-s0/restart", "shop-s2/restart", "shop-s3/restart"} <= waits


def test_a_schema_file_goes_to_the_canary_first_but_to_a_new_shard_at_once() -> None:
    more = replace(NEW, schema=(*OLD.schema, schema_file("a.sql")), parameters=())
    waves = _waves(_plan(more))
    assert waves["shop-s1/schema/a.sql"] is Wave.CANARY
    assert waves["shop-s0/schema/a.sql"] is Wave.REST
    wider = replace(more, shards=(*OLD.shards, shard("s9", "none", instances=1)))
    assert "shop-s9/schema/a.sql" not in _waves(_plan(wider))


def test_without_canaries_no_step_has_a_wave() -> None:
    assert _waves(_plan(replace(NEW, rollout=Rollout()))) == {}


def test_a_repair_waits_for_nobody() -> None:
    changed = simulate(desired(NEW), SEEN, _plan()).databases[0]
    by_hand = replace(SEEN, databases=(replace(changed, record=SEEN.databases[0].record),))
    plan = _plan(OLD, by_hand)
    drifted = [step for step in plan.steps if step.drift]
    assert {step.id for step in drifted} >= {"shop-s0/configure", "shop-s3/configure"}
    assert {step.wave for step in drifted} == {Wave.ANY}


def test_first_only_the_canary_and_what_stands_before_nobody_else() -> None:
    plan = _plan()
    now = _stands(plan.steps, None)
    assert (now.phase, now.record) == (Phase.CANARY, None)
    ids = {step.id for step in without_held(plan.steps, [now])}
    assert ids == {"shop-s1/configure", "shop-s1/restart"}, "the record waits for all shards"


def test_it_bakes_from_when_somebody_noted_it_or_from_now() -> None:
    left = _done(_plan(), of=Wave.CANARY)
    first = _stands(left, None)
    assert (first.phase, first.until) == (Phase.BAKING, "2026-11-26T12:10:00+00:00")
    assert first.record == RolloutRecord(change_of(NEW), "2026-11-26T12:00:00+00:00")
    later = _stands(left, first.record, NOW + timedelta(minutes=9))
    assert (later.phase, later.until, later.asks) == (Phase.BAKING, first.until, True)
    assert without_held(left, [later]) == ()
    over = _stands(left, first.record, NOW + timedelta(minutes=10))
    assert (over.phase, over.held) == (Phase.GOING, frozenset())
    assert "1 of 4 shards have it" in over.text


def test_another_change_bakes_anew_and_a_repeated_one_too() -> None:
    plan, old = _plan(), RolloutRecord("another", "2026-11-20T12:00:00+00:00")
    assert _stands(_done(plan, of=Wave.CANARY), old).phase is Phase.BAKING
    same = RolloutRecord(change_of(NEW), "2026-11-20T12:00:00+00:00", stopped="a gate")
    again = _stands(plan.steps, same)
    assert (again.phase, again.record) == (Phase.CANARY, None), "the canary lost it: a new start"


@pytest.mark.parametrize("minutes", [1, 60])
def test_a_gate_that_fails_stops_it_for_good(minutes: int) -> None:
    left = _done(_plan(), of=Wave.CANARY)
    noted = RolloutRecord(change_of(NEW), NOW.isoformat(timespec="seconds"), version=7)
    before = _stands(left, noted, NOW + timedelta(minutes=minutes))
    stopped = _answered(before, 1.0, 5.1)
    assert stopped.phase is Phase.STOPPED
    assert "gate errors at Prometheus: 5.1 is above 5; 1 of 4 shards have it" in stopped.text
    assert without_held(left, [stopped]) == ()
    assert stopped.record is not None
    after = _stands(left, stopped.record, NOW + timedelta(days=1))
    assert (after.phase, after.asks) == (Phase.STOPPED, False), "a gate that holds again is late"
    promoted = replace(stopped.record, stopped="", promoted=True)
    assert _stands(left, promoted).phase is Phase.GOING


@pytest.mark.parametrize(
    ("values", "problem"), [((), ""), ((1.0, float("nan")), ""), ((), "PM101 no answer")]
)
def test_a_gate_that_says_nothing_did_not_hold(values: tuple[float, ...], problem: str) -> None:
    left = _done(_plan(), of=Wave.CANARY)
    noted = RolloutRecord(change_of(NEW), NOW.isoformat(timespec="seconds"))
    over = _answered(_stands(left, noted, NOW + timedelta(hours=1)), *values, problem=problem)
    assert over.phase is Phase.UNKNOWN
    assert without_held(left, [over]) == ()
    assert over.record == noted, "it is not stopped: nobody knows"
    baking = _answered(_stands(left, noted), *values, problem=problem)
    assert baking.phase is Phase.BAKING
    assert "says nothing at Prometheus" in baking.text


def test_bounds_are_inclusive_and_of_either_side() -> None:
    noted = RolloutRecord(change_of(NEW), NOW.isoformat(timespec="seconds"))
    going = _stands(_done(_plan(), of=Wave.CANARY), noted, NOW + timedelta(hours=1))
    assert _answered(going, 5.0, -3.0).phase is Phase.GOING
    least = replace(GATE, least=2.0, most=None)
    low = judged(going, [Answer(least, "s1", (1.9,))], NEW, _plan().steps)
    assert "1.9 is below 2" in low.text


def test_a_reverted_change_is_not_held() -> None:
    partly = simulate(desired(NEW), SEEN, _plan())
    canary_only = replace(
        SEEN,
        databases=tuple(
            replace(
                there,
                shards=tuple(
                    new if new.name == "s1" else old
                    for old, new in zip(there.shards, changed.shards, strict=True)
                ),
            )
            for there, changed in zip(SEEN.databases, partly.databases, strict=True)
        ),
    )
    plan = _plan(OLD, canary_only)
    assert {s.shard for s in plan.steps if s.shard} == {"s1"}
    assert standing(OLD, plan.steps, RolloutRecord("x", NOW.isoformat()), NOW) is None


def test_as_many_restart_at_once_as_the_roll_out_says() -> None:
    two = replace(NEW, rollout=Rollout(restarts_max=2))
    after = {step.id: step.after for step in _plan(two).steps}
    assert "shop-s0/restart" not in after["shop-s1/restart"]
    assert "shop-s0/restart" in after["shop-s2/restart"]
    assert "shop-s1/restart" in after["shop-s3/restart"]


def test_the_plan_says_who_goes_first_and_how_many_at_once() -> None:
    said = [remark.text for remark in _plan().remarks]
    assert "canary s1 first; then 10 min and gate errors; then 3 other shards" in said
    narrow = _plan(replace(NEW, rollout=Rollout(shards_max=2)))
    assert "4 shards, of which 2 at once" in [remark.text for remark in narrow.remarks]
