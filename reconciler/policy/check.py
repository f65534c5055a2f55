"""Hold rules against facts. Pure: the same rules, facts and time give the same findings.

A rule speaks once for each database that its policy matches. A rule whose expression fails at run
time counts as not fulfilled, and says so; so does one whose ``when`` fails: a rule that cannot tell
whether it applies must not pass in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.model.desired import DesiredState, Place
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.plan.actions import Plan, Step
from reconciler.policy.expressions import Environment, Failed, Stage, Values, environment
from reconciler.policy.facts import (
    DatabaseFacts,
    FleetFacts,
    PlanFacts,
    StepFacts,
    describe_database,
)
from reconciler.policy.plan_facts import PlanView, describe_step, view_plan
from reconciler.policy.rules import CompiledRule, Outcome, PolicyDocument, PolicySet
from reconciler.policy.windows import Windows

NOT_FULFILLED = "not fulfilled"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is not fulfilled. ``place`` is the rule's; ``about`` the database's in the specs.

    ``reason`` is "not fulfilled", or "failed at run time: …". ``until`` is, for a rule that holds
    and looks at the clock, when it would pass; None when that is not within seven days. ``step`` is
    the step's id at apply.
    """

    policy: str
    rule: str
    outcome: Outcome
    message: str
    place: Place
    database: DatabaseKey
    reason: str = NOT_FULFILLED
    until: datetime | None = None
    step: str = ""
    about: Place | None = None

    @property
    def failed(self) -> bool:
        """Whether the expression had no result at all."""
        return self.reason != NOT_FULFILLED

    @property
    def text(self) -> str:
        """The message and whatever a reader needs beside it."""
        notes = [self.reason] if self.failed else []
        if self.until:
            notes.append(f"would run at {self.until:%Y-%m-%d %H:%M %Z}")
        return f"{self.message} ({'; '.join(notes)})" if notes else self.message


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say: findings, worst first, and (policy, rule) of all that were asked."""

    findings: tuple[Finding, ...] = ()
    asked: frozenset[tuple[str, str]] = frozenset()

    @property
    def passed(self) -> int:
        """How many of the rules that were asked have no finding."""
        return len(self.asked - {(found.policy, found.rule) for found in self.findings})

    @property
    def worst(self) -> Outcome | None:
        """The worst outcome, None when every rule passed."""
        return min((f.outcome for f in self.findings), key=lambda o: o.rank, default=None)

    def joined(self, other: Verdict) -> Verdict:
        """Return both as one; a rule that found the same at two stages is shown once."""
        unique = {_identity(found): found for found in (*self.findings, *other.findings)}
        return Verdict(_sorted(list(unique.values())), self.asked | other.asked)


def _identity(found: Finding) -> tuple[object, ...]:
    return found.database, found.policy, found.rule, found.step, found.reason


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (f.outcome.rank, f.database, f.policy, f.rule)))


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules of a stage are held against: one database, and what happens to it."""

    database: DatabaseFacts
    plan: PlanFacts | None = None
    step: StepFacts | None = None
    about: Place | None = None

    @property
    def key(self) -> DatabaseKey:
        """The database's identity."""
        return DatabaseKey(Namespace(self.database.namespace), DatabaseName(self.database.name))


@dataclass(frozen=True, slots=True)
class _Round:
    """One call of ``check``: the rules of a stage, and what they share over all subjects."""

    cel: Environment
    now: datetime
    rules: tuple[CompiledRule, ...]
    fleet: Any
    windows: Windows = field(default_factory=Windows)


def check(
    policies: PolicySet,
    stage: Stage,
    subjects: tuple[Subject, ...],
    now: datetime,
    fleet: FleetFacts | None = None,
) -> Verdict:
    """Hold a stage's rules against each subject; ``now`` must carry its time zone."""
    rules = policies.at(stage)
    if not rules or not subjects:
        return Verdict()
    cel = environment(stage)
    shared = None if stage is Stage.SPEC else cel.message(fleet or FleetFacts())
    this = _Round(cel, now, rules, shared)
    findings: list[Finding] = []
    asked: set[tuple[str, str]] = set()
    for subject in subjects:
        for rule, found in _ask_all(this, subject):
            asked.add((rule.policy.name, rule.rule.name))
            if found:
                findings.append(found)
    return Verdict(_sorted(findings), frozenset(asked))


def _ask_all(this: _Round, subject: Subject) -> Iterator[tuple[CompiledRule, Finding | None]]:
    matches: dict[str, bool] = {}
    messages: Mapping[str, Any] = {}
    values: Values | None = None
    for rule in this.rules:
        if not _speaks(rule.policy, subject, matches):
            continue
        if values is None:
            messages = _messages(this, subject)
            values = this.cel.values(this.now, messages)
        reason = judge(rule, values)
        yield rule, _finding(this, rule, subject, reason, messages) if reason else None


def _speaks(policy: PolicyDocument, subject: Subject, known: dict[str, bool]) -> bool:
    if policy.name not in known:
        facts = subject.database
        known[policy.name] = policy.speaks_of(facts.namespace, facts.name)
    return known[policy.name]


def _messages(this: _Round, subject: Subject) -> Mapping[str, Any]:
    facts = {"database": subject.database, "plan": subject.plan, "step": subject.step}
    messages = {name: this.cel.message(v) for name, v in facts.items() if v is not None}
    return messages if this.fleet is None else messages | {"fleet": this.fleet}


def judge(rule: CompiledRule, values: Values) -> str:
    """Return why a rule is not fulfilled, "" when it is or does not apply."""
    applies = rule.when.evaluate(values) if rule.when else True
    if isinstance(applies, Failed):
        return f"failed at run time: {applies.reason}"
    if not applies:
        return ""
    fulfilled = rule.require.evaluate(values)
    if isinstance(fulfilled, Failed):
        return f"failed at run time: {fulfilled.reason}"
    return "" if fulfilled else NOT_FULFILLED


def _finding(
    this: _Round, rule: CompiledRule, subject: Subject, reason: str, messages: Mapping[str, Any]
) -> Finding:
    until = None
    if rule.rule.otherwise is Outcome.HOLD and reason == NOT_FULFILLED:
        until = this.windows.opening(
            rule.rule.when,
            rule.rule.require,
            this.now,
            lambda at: not judge(rule, this.cel.values(at, messages)),
        )
    return Finding(
        policy=rule.policy.name,
        rule=rule.rule.name,
        outcome=rule.rule.otherwise,
        message=rule.rule.message,
        place=rule.rule.place,
        database=subject.key,
        reason=reason,
        until=until,
        step=subject.step.id if subject.step else "",
        about=subject.about,
    )


def check_spec(policies: PolicySet, desired: DesiredState, now: datetime) -> Verdict:
    """Hold the rules of stage ``spec`` against every database."""
    if not policies.at(Stage.SPEC):
        return Verdict()
    subjects = tuple(Subject(describe_database(d), about=d.place) for d in desired.databases)
    return check(policies, Stage.SPEC, subjects, now)


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """Policies held against one plan, whose facts are read once however many steps ask."""

    policies: PolicySet
    view: PlanView
    places: Mapping[DatabaseKey, Place]

    def at_plan(self, now: datetime) -> Verdict:
        """Hold the rules of stage ``plan`` against every database that the plan changes."""
        subjects = tuple(self._subject(key) for key in self.view.databases)
        return check(self.policies, Stage.PLAN, subjects, now, self.view.fleet)

    def at_step(self, step: Step, now: datetime, phase: str = "") -> Verdict:
        """Hold the rules of stage ``apply`` against one step, or a phase of it, about to run."""
        if not self.policies.at(Stage.APPLY):
            return Verdict()
        subject = self._subject(step.database, describe_step(step, phase))
        return check(self.policies, Stage.APPLY, (subject,), now, self.view.fleet)

    def _subject(self, key: DatabaseKey, step: StepFacts | None = None) -> Subject:
        part = self.view.databases[key]
        return Subject(part.database, part.plan, step, self.places.get(key))


def prepare_plan_check(policies: PolicySet, desired: DesiredState, plan: Plan) -> PlanCheck:
    """Read a plan's facts, if any rule will ask for them."""
    needed = policies.at(Stage.PLAN) or policies.at(Stage.APPLY)
    view = view_plan(desired, plan) if needed else PlanView()
    return PlanCheck(policies, view, {d.key: d.place for d in desired.databases})


def check_plan(policies: PolicySet, desired: DesiredState, plan: Plan, now: datetime) -> Verdict:
    """Hold the rules of stage ``plan`` against every database that the plan changes."""
    return prepare_plan_check(policies, desired, plan).at_plan(now)


def check_step(
    policies: PolicySet, desired: DesiredState, plan: Plan, step: Step, now: datetime
) -> Verdict:
    """Hold the rules of stage ``apply`` against one step; for many, keep a ``PlanCheck``."""
    return prepare_plan_check(policies, desired, plan).at_step(step, now)
