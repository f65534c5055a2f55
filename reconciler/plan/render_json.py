"""A plan for programs: ``apiVersion: shardwright.dev/plan/v1``, with a published JSON Schema.

The structs are the contract: fields are added, never renamed or removed, within v1. ``python -m
reconciler.plan.render_json`` prints the schema, which stands in ``schemas/plan.v1.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from reconciler.diff.changes import Refusal
from reconciler.model.desired import Place
from reconciler.model.errors import Position
from reconciler.plan.actions import Step
from reconciler.plan.render_action import ActionV1, action_fields
from reconciler.plan.render_report import PlanReport, ShownFinding
from reconciler.plan.render_verdict import verdict

API_VERSION: Literal["shardwright.dev/plan/v1"] = "shardwright.dev/plan/v1"
FindPosition = Callable[[Place], Position]


class PlaceV1(Struct, rename="camel", omit_defaults=True):
    """Where something is written; line and column count from 1, 0 when unknown."""

    file: str
    line: int = 0
    column: int = 0


class RevisionV1(Struct, rename="camel"):
    """Which state of the sources the plan was made from."""

    text: Annotated[str, Meta(description="In full, such as main@sha1:4f2a….")]
    short: Annotated[str, Meta(description="For people.")]
    uncommitted: Annotated[bool, Meta(description="The working tree held changes of no commit.")]


class SystemV1(Struct, rename="camel"):
    """How many parts of one system were asked, and how many answered in time."""

    name: str
    answered: int
    asked: int


class UnseenV1(Struct, rename="camel"):
    """Something that did not answer; no step touches it."""

    system: str
    subject: str
    reason: str


class EstimateV1(Struct, rename="camel"):
    """How long a step takes, and what that rests on."""

    seconds: float
    basis: str


class StepV1(Struct, rename="camel", omit_defaults=True):
    """One step; steps stand in an order in which they may run."""

    id: Annotated[str, Meta(description="Stable for the same action on the same thing.")]
    namespace: str
    database: str
    action: ActionV1
    risk: Literal["online", "failover", "restart", "dataMove", "dataLoss"]
    title: str
    shard: str = ""
    reason: str = ""
    after: Annotated[list[str], Meta(description="Ids of steps that must be done before.")] = []
    place: PlaceV1 | None = None
    estimate: EstimateV1 | None = None
    visible: Annotated[bool, Meta(description="False for book-keeping.")] = True
    drift: Annotated[bool, Meta(description="True when the world moved, and not the spec.")] = False
    wave: Annotated[
        Literal["", "canary", "rest"],
        Meta(description="Whether it goes before other shards in a roll-out, or after them."),
    ] = ""


class RefusalV1(Struct, rename="camel", omit_defaults=True):
    """A difference that cannot be acted on; nothing of its database is applied."""

    code: str
    namespace: str
    database: str
    subject: str
    problem: str
    remedy: str
    place: PlaceV1 | None = None


class StandstillV1(Struct, rename="camel"):
    """Something left alone: unseen, suspended, or another source's."""

    namespace: str
    database: str
    subject: str
    reason: str


class RemarkV1(Struct, rename="camel", omit_defaults=True):
    """Something to know that changes nothing."""

    namespace: str
    database: str
    text: str
    place: PlaceV1 | None = None


class FindingV1(Struct, rename="camel", omit_defaults=True):
    """What a policy has to say."""

    outcome: Literal["deny", "hold", "warn"]
    policy: str
    rule: str
    message: str
    database: str = ""
    place: PlaceV1 | None = None


class PoliciesV1(Struct, rename="camel"):
    """Rules that passed, and what the others found."""

    passed: int
    findings: list[FindingV1]


class PlanV1(Struct, rename="camel", omit_defaults=True):
    """A plan of Shardwright: what would be done, why, and what stands in the way."""

    id: str
    digest: Annotated[str, Meta(description="SHA-256 over the steps and all that was seen.")]
    source: str
    revision: RevisionV1
    verdict: Annotated[str, Meta(description="The plan in one line, for people.")]
    outcome: Literal["nothingToDo", "changes", "refused", "denied", "held", "unknown"]
    risk: Literal["online", "failover", "restart", "dataMove", "dataLoss"]
    observed: list[SystemV1]
    unseen: list[UnseenV1]
    steps: list[StepV1]
    refusals: list[RefusalV1]
    standstills: list[StandstillV1]
    remarks: list[RemarkV1]
    policies: PoliciesV1
    not_applied: Annotated[list[str], Meta(description="Fields that this platform cannot honour.")]
    last_applied: str = ""
    saved_as: str = ""
    api_version: Annotated[
        Literal["shardwright.dev/plan/v1"], Meta(description="The version of this format.")
    ] = msgspec.field(default=API_VERSION, name="apiVersion")
    kind: Literal["Plan"] = "Plan"


RISKS: tuple[Literal["online", "failover", "restart", "dataMove", "dataLoss"], ...] = (
    "online", "failover", "restart", "dataMove", "dataLoss",
)  # fmt: skip


def render_json(report: PlanReport, find: FindPosition) -> bytes:
    """Return the plan as JSON; every step is in it, book-keeping included."""
    made = msgspec.to_builtins(plan_v1(report, find))
    head = {"apiVersion": API_VERSION, "kind": "Plan"}
    return msgspec.json.format(msgspec.json.encode({**head, **made}), indent=2) + b"\n"


def plan_v1(report: PlanReport, find: FindPosition) -> PlanV1:
    """Return the plan as the structs of its published form."""
    plan = report.plan

    def place(where: Place | None) -> PlaceV1 | None:
        if where is None:
            return None
        position = find(where)
        return PlaceV1(position.file, position.line, position.column)

    return PlanV1(
        id=plan.id,
        digest=plan.digest,
        source=plan.source,
        revision=RevisionV1(plan.revision.text, plan.revision.short, plan.revision.uncommitted),
        verdict=verdict(report),
        outcome=outcome(report),
        risk=RISKS[plan.risk],
        observed=[SystemV1(*system) for system in report.answered],
        unseen=[UnseenV1(u.system, u.subject, u.reason) for u in report.unseen],
        steps=[_step(step, place(step.place)) for step in plan.steps],
        refusals=[_refusal(r, place(r.place)) for r in plan.refusals],
        standstills=[
            StandstillV1(s.database.namespace, s.database.name, s.subject, s.reason)
            for s in plan.standstills
        ],
        remarks=[
            RemarkV1(r.database.namespace, r.database.name, r.text, place(r.place))
            for r in plan.remarks
        ],
        policies=PoliciesV1(
            report.rules_passed, [_finding(f, place(f.place)) for f in report.findings]
        ),
        not_applied=list(report.not_applied),
        last_applied=report.last_applied,
        saved_as=report.saved_as,
    )  # fmt: skip


def _refusal(refusal: Refusal, place: PlaceV1 | None) -> RefusalV1:
    return RefusalV1(
        refusal.kind.code, refusal.database.namespace, refusal.database.name, refusal.subject,
        refusal.problem, refusal.remedy, place,
    )  # fmt: skip


def _finding(found: ShownFinding, place: PlaceV1 | None) -> FindingV1:
    return FindingV1(
        _outcome(found.outcome), found.policy, found.rule, found.message, found.database, place
    )


def outcome(
    report: PlanReport,
) -> Literal["nothingToDo", "changes", "refused", "denied", "held", "unknown"]:
    """Return what a program does next: the gravest of what stands in the way comes first."""
    found = {finding.outcome for finding in report.findings}
    if "deny" in found:
        return "denied"
    if report.plan.refusals:
        return "refused"
    if "hold" in found:
        return "held"
    if report.undecided:
        return "unknown"
    return "changes" if any(step.visible for step in report.plan.steps) else "nothingToDo"


def _outcome(text: str) -> Literal["deny", "hold", "warn"]:
    outcomes: dict[str, Literal["deny", "hold", "warn"]] = {"deny": "deny", "hold": "hold"}
    return outcomes.get(text, "warn")


def _step(step: Step, place: PlaceV1 | None) -> StepV1:
    known = step.estimate.seconds
    return StepV1(
        id=step.id,
        namespace=step.database.namespace,
        database=step.database.name,
        action=action_fields(step.action),
        risk=RISKS[step.risk],
        title=step.title.replace("{shard}", step.shard or ""),
        shard=step.shard or "",
        reason=step.reason,
        after=list(step.after),
        place=place,
        estimate=None if known is None else EstimateV1(known, step.estimate.basis),
        visible=step.visible,
        drift=step.drift,
        wave=step.wave.value,
    )


def plan_schema() -> bytes:
    """Return the JSON Schema (draft-07) of the plan's JSON form."""
    (_,), components = msgspec.json.schema_components([PlanV1], ref_template="#/definitions/{name}")
    definitions: dict[str, Any] = dict(sorted(components.items()))
    root = definitions.pop("PlanV1")
    root["required"] = ["apiVersion", "kind", *root["required"]]
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://shardwright.dev/schemas/plan.v1.json",
        **root,
        "definitions": definitions,
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(plan_schema())
