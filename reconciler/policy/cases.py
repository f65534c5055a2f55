"""Cases beside a policy: facts that go in, outcomes that must come out. Pure.

A case holds ``name``, ``at`` (spec, plan or apply), ``now``, some facts of ``database``, ``plan``,
``fleet`` and ``step`` (all others have defaults; sizes and durations may be texts such as ``10Gi``
and ``24h``), and ``expect``: for each rule ``pass``, ``deny``, ``hold`` or ``warn``. A rule that is
meant to fail at run time, such as one on a size nobody saw, is expected as ``deny (failed)``: a
case that did not expect it would take a mistake in the rule for its answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reconciler.model.desired import Place
from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.policy.case_facts import Misfit, fill
from reconciler.policy.check import Finding, Subject, Verdict, check
from reconciler.policy.expressions import VARIABLES, Stage
from reconciler.policy.facts import (
    DatabaseFacts,
    FleetFacts,
    PlanFacts,
    StepFacts,
    with_shard_counts,
)
from reconciler.policy.places import Sources, locate_expression
from reconciler.policy.plan_facts import with_move_totals
from reconciler.policy.problems import BadCase
from reconciler.policy.rules import Outcome, PolicyDocument, PolicySet
from reconciler.spec.manifest_other import PolicyTest
from reconciler.spec.problems import did_you_mean, quoted

PASSED = "pass"
FAILED = " (failed)"
NOW_DEFAULT = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
"""A Wednesday at noon, so that a case about time has to say its own."""
_KEYS = ("name", "at", "now", "database", "plan", "fleet", "step", "expect")


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to run. ``expect`` maps a rule's name to an outcome, or to ``pass``."""

    policy: str
    name: str
    stage: Stage
    now: datetime
    subject: Subject
    fleet: FleetFacts
    expect: Mapping[str, str]
    place: Place


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went: (rule, expected, actual) of each rule that did not do as expected.

    ``findings`` are all that the case's policy found, with the reason of each.
    """

    case: Case
    differences: tuple[tuple[str, str, str], ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every rule did as expected."""
        return not self.differences


def decode_cases(
    manifest: PolicyTest, place: Place, policies: PolicySet, sources: Sources | None = None
) -> tuple[Case, ...]:
    """Read a manifest's cases. Raises ProblemsFound with every mistake in them."""
    name = manifest.spec.policy
    policy = next((p for p in policies.documents if p.name == name), None)
    problems: list[ReconcilerError] = []
    cases: list[Case] = []
    if policy is None:
        known = [p.name for p in policies.documents]
        error = Misfit(f"there is no policy {quoted(name)}", did_you_mean(name, known), ("policy",))
        raise ProblemsFound((_bad_case(f"test of {name}", error, place.at("spec"), sources),))
    for index, written in enumerate(manifest.spec.cases):
        at = place.at("spec", "cases", index)
        try:
            cases.append(_decode_case(policy, written, at))
        except Misfit as error:
            subject = f"test of {name}, case {written.get('name', index + 1)}"
            problems.append(_bad_case(subject, error, at, sources))
    if problems:
        raise ProblemsFound(tuple(problems))
    return tuple(cases)


def _bad_case(subject: str, error: Misfit, place: Place, sources: Sources | None) -> BadCase:
    where = locate_expression(place.at(*error.path), sources or {})
    return BadCase(subject, error.problem, remedy=error.remedy, where=where)


def _decode_case(policy: PolicyDocument, written: Mapping[str, Any], place: Place) -> Case:
    for key in written:
        if key not in _KEYS:
            remedy = did_you_mean(key, list(_KEYS)) or f"its fields are {', '.join(_KEYS)}"
            raise Misfit(f"there is no field {quoted(key)}", remedy, (key,))
    stage = _stage(written.get("at", "spec"))
    for variable in ("plan", "fleet", "step"):
        if variable in written and variable not in VARIABLES[stage]:
            raise Misfit(f"there is no {quoted(variable)} at {stage}", "", (variable,))
    database = with_shard_counts(fill(DatabaseFacts, written.get("database", {}), ("database",)))
    plan = _plan(written.get("plan", {})) if stage is not Stage.SPEC else None
    step = fill(StepFacts, written.get("step", {}), ("step",)) if stage is Stage.APPLY else None
    return Case(
        policy=policy.name,
        name=str(written.get("name", place.path[-1])),
        stage=stage,
        now=_now(written.get("now")),
        subject=Subject(database, plan, step),
        fleet=_fleet(written.get("fleet"), plan),
        expect=_expect(policy, stage, written.get("expect")),
        place=place,
    )


def _stage(value: Any) -> Stage:
    if value not in list(Stage):
        raise Misfit(f"{quoted(value)} is no stage", f"use one of {', '.join(Stage)}", ("at",))
    return Stage(value)


def _now(value: Any) -> datetime:
    if value is None:
        return NOW_DEFAULT
    try:
        now = datetime.fromisoformat(str(value))
    except ValueError:
        now = None
    if now is None or now.tzinfo is None:
        remedy = 'write it as "2026-01-31T22:00:00+01:00"'
        raise Misfit(f"{quoted(value)} is no time with an offset", remedy, ("now",))
    return now


def _plan(written: Any) -> PlanFacts:
    """Fill in a plan; totals that are not written follow from its moves and deletions."""
    facts = fill(PlanFacts, written, ("plan",))
    return fill(PlanFacts, written, ("plan",), with_move_totals(facts))


def _fleet(written: Any, plan: PlanFacts | None) -> FleetFacts:
    """Fill in the whole plan's numbers; by default they are those of the one database."""
    names = FleetFacts.__dataclass_fields__
    same = FleetFacts(**{name: getattr(plan, name) for name in names}) if plan else FleetFacts()
    return fill(FleetFacts, written or {}, ("fleet",), same)


def _expect(policy: PolicyDocument, stage: Stage, written: Any) -> Mapping[str, str]:
    if not isinstance(written, dict) or not written:
        raise Misfit("it expects nothing", "expect: {rule: pass|deny|hold|warn}", ("expect",))
    rules = {rule.name: rule for rule in policy.rules}
    outcomes = [PASSED, *Outcome, *(f"{outcome}{FAILED}" for outcome in Outcome)]
    for name, outcome in written.items():
        path = ("expect", name)
        if name not in rules:
            remedy = did_you_mean(name, list(rules)) or f"it has {', '.join(rules)}"
            raise Misfit(f"the policy has no rule {quoted(name)}", remedy, path)
        if stage not in rules[name].at:
            raise Misfit(f"rule {name} is not checked at {stage}", "", path)
        if outcome not in outcomes:
            remedy = f"use one of {', '.join(outcomes)}"
            raise Misfit(f"{quoted(outcome)} is no outcome", remedy, path)
    return written


def run_cases(policies: PolicySet, cases: tuple[Case, ...]) -> tuple[CaseResult, ...]:
    """Run cases against their policies, each with its own facts and time."""
    return tuple(_run(policies, case) for case in cases)


def _run(policies: PolicySet, case: Case) -> CaseResult:
    verdict = check(policies, case.stage, (case.subject,), case.now, case.fleet)
    found = {f.rule: f for f in verdict.findings if f.policy == case.policy}
    differences = [
        (rule, expected, _actual(case, rule, found.get(rule), verdict))
        for rule, expected in case.expect.items()
    ]
    wrong = tuple(d for d in differences if d[1] != d[2])
    return CaseResult(case, wrong, tuple(found.values()))


def _actual(case: Case, rule: str, finding: Finding | None, verdict: Verdict) -> str:
    if finding is None:
        return PASSED if (case.policy, rule) in verdict.asked else "not asked: match leaves it out"
    return f"{finding.outcome}{FAILED if finding.failed else ''}"
