"""What of a plan waits for a person, and what is said of it and of its steps."""

from __future__ import annotations

from dataclasses import replace

from reconciler.model.desired import AutoApply, DriftPolicy, Mode
from reconciler.plan.actions import Estimate, Plan
from reconciler.plan.render_report import PlanReport
from reconciler.plan.render_verdict import changes_line, timing
from tests.policy.plans import planned
from tests.worlds import database, desired, settled, with_shard

ASKING = replace(database(), auto_apply=AutoApply(online=Mode.APPROVAL))


def _without_guards(drift_policy: DriftPolicy) -> Plan:
    """Return the plan after somebody took the guards of s0 away."""
    wanted = desired(replace(ASKING, drift_policy=drift_policy))
    return planned(wanted, with_shard(settled(wanted), catalog={"guards": ()}))


def _told(plan: Plan) -> list[str]:
    return [remark.text for remark in plan.remarks]


def test_drift_that_is_corrected_may_wait_for_a_person() -> None:
    plan = _without_guards(DriftPolicy.CORRECT)
    assert [step.drift for step in plan.steps if step.visible] == [True]
    assert plan.asked
    assert "the daemon asks before it does this: guard" in _told(plan)[0]


def test_nobody_is_asked_to_approve_drift_that_is_only_reported() -> None:
    plan = _without_guards(DriftPolicy.REPORT)
    assert [step.drift for step in plan.steps if step.visible] == [True]
    assert plan.asked == ()
    assert _told(plan) == [
        "the daemon leaves drift alone (driftPolicy: report); apply by hand corrects it"
    ]


def test_book_keeping_is_not_named_beside_what_is_approved() -> None:
    before = settled(desired(ASKING))
    wanted = replace(ASKING, parameters=(("work_mem", "21MB"),), digest="other")
    ((_, asked),) = planned(desired(wanted, revision="r2"), before).asked
    assert all("configure" in title for title in asked.titles), asked.titles
    assert len(asked.marks) > len(asked.titles), "what is approved is the whole"


def test_a_plan_of_guards_alone_counts_its_steps() -> None:
    report = PlanReport(_without_guards(DriftPolicy.CORRECT), str)
    assert changes_line(report) == "1 step, nothing to destroy"


def test_milliseconds_that_are_known_of_a_long_plan_are_not_told() -> None:
    plan = _without_guards(DriftPolicy.CORRECT)
    (step,) = (step for step in plan.steps if step.visible)
    for seconds, told in ((0.02, "1 step has no"), (2.0, "At least about 2 s")):
        known = replace(step, id="known", estimate=Estimate(seconds, "measured"))
        report = PlanReport(replace(plan, steps=(step, known)), str)
        assert timing(report).startswith(told)
