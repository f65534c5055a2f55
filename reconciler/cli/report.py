"""From what the engine saw and planned to what is shown of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.model.desired import Place, Revision
from reconciler.model.observed import ObservedDatabase, ObservedState, Unseen
from reconciler.model.platform import Resources
from reconciler.model.routing import AppliedRecord, RoutingMap
from reconciler.plan.render_report import Owners, PlanReport, ShownDatabase, ShownFinding

if TYPE_CHECKING:
    from reconciler.engine.world import Outlook
    from reconciler.model.errors import Position
    from reconciler.settings import Settings


def report_of(outlook: Outlook, settings: Settings, saved_as: str = "") -> PlanReport:
    """Return everything that a rendering of the plan needs."""
    plan, observed = outlook.plan, outlook.observed
    return PlanReport(
        plan,
        place_text(outlook.loaded.locate),
        _databases(outlook),
        last_applied=_last_applied(outlook),
        answered=observed.answered,
        unseen=named_unseen(observed),
        not_applied=_not_applied(outlook),
        findings=tuple(
            ShownFinding(
                found.outcome.value, found.policy, found.rule, found.text, found.place,
                str(found.database),
            )
            for found in outlook.verdict.findings
        ),
        rules_passed=outlook.verdict.passed,
        saved_as=saved_as,
        parallel=settings.parallel,
    )  # fmt: skip


def named_unseen(observed: ObservedState) -> tuple[Unseen, ...]:
    """Return what did not answer, shards by the names that people give them."""
    names = {
        str(shard.key): f"{database.key}/{shard.name}"
        for database in observed.databases
        for shard in database.shards
        if shard.name
    }
    return tuple(
        replace(one, subject=names.get(one.subject, one.subject)) for one in observed.unseen
    )


def _not_applied(outlook: Outlook) -> tuple[str, ...]:
    """Return the fields that the platform cannot honour, as far as some spec asks for them."""
    usual = Resources()
    wanted = {shard.resources for d in outlook.loaded.desired.databases for shard in d.shards}
    asked = {
        "resources.cpu": any(r.cpu for r in wanted),
        "resources.memory": any(r.memory for r in wanted),
        "storage.class": any(r.storage_class for r in wanted),
        "storage.size": any(r.storage_size != usual.storage_size for r in wanted),
    }
    return tuple(name for name in outlook.observed.not_applied if asked.get(name, True))


def place_text(locate: Callable[[Place], Position]) -> Callable[[Place], str]:
    """Return what shows a place as ``file:line``; each place is looked up once.

    Finding a line means reading the file again, so only places that are shown are asked for.
    """
    known: dict[Place, str] = {}

    def text(place: Place) -> str:
        if place not in known:
            position = locate(place) if place.path or place.document else None
            line = f":{position.line}" if position and position.line else ""
            known[place] = f"{place.file}{line}"
        return known[place]

    return text


def _databases(outlook: Outlook) -> tuple[ShownDatabase, ...]:
    shown = []
    there = {seen.key: seen for seen in outlook.observed.databases}
    for database in outlook.loaded.desired.databases:
        seen = there.get(database.key)
        shown.append(
            ShownDatabase(
                database.key,
                Place(database.place.file),
                before=_owners(seen.routing if seen else None),
                after=tuple((shard.name, shard.keys) for shard in database.shards),
            )
        )
    wanted = {database.key for database in shown}
    shown += [
        ShownDatabase(gone.key, before=_owners(gone.routing))
        for gone in outlook.observed.databases
        if gone.key not in wanted
    ]
    return tuple(shown)


def _owners(routing: RoutingMap | Unseen | None) -> Owners:
    if not isinstance(routing, RoutingMap):
        return ()
    return tuple((owner.shard, owner.keys) for owner in routing.owners)


def _last_applied(outlook: Outlook) -> str:
    desired = outlook.loaded.desired
    wanted = {database.key for database in desired.databases}
    found = [(seen.key, record_of(seen)) for seen in outlook.observed.databases]
    # What left this source was applied from it, too.
    known = [r for key, r in found if r and (key in wanted or r.source == desired.source)]
    silent = any(unseen.system == "etcd" for unseen in outlook.observed.unseen)
    if silent or any(isinstance(seen.record, Unseen) for seen in outlook.observed.databases):
        return "unknown"
    if not known:
        return ""
    latest = max(known, key=lambda record: record.applied_at)
    return short_revision(latest.revision, outlook.plan.revision)


def record_of(seen: ObservedDatabase) -> AppliedRecord | None:
    """Return what was last applied to a database, None when nothing was or nobody knows."""
    return seen.record if isinstance(seen.record, AppliedRecord) else None


def short_revision(text: str, beside: Revision | None = None) -> str:
    """Return a revision for people; only its digits when the branch is that of ``beside``."""
    short = Revision(text).short
    head, _, digits = short.rpartition(":")
    same = beside is not None and beside.text.rpartition(":")[0] == head
    return digits if same else short
