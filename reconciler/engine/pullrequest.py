"""What a pull request would do: the plan of its head, without what is outstanding anyway.

Both sides are held against the same observation by the same code as any other plan. They are
planned as the source that applied these databases last, wherever the check itself reads them from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.diff.diff import diff
from reconciler.engine.loop import judge
from reconciler.engine.world import Outlook
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedState
from reconciler.model.routing import AppliedRecord
from reconciler.plan.actions import Step
from reconciler.plan.fingerprint import meaning_of
from reconciler.spec.loaded import Loaded


@dataclass(frozen=True, slots=True)
class Proposal:
    """A pull request's outlook with its own steps only; ``outstanding`` steps were there before."""

    outlook: Outlook
    outstanding: int


def propose(base: Loaded, head: Loaded, observed: ObservedState, now: datetime) -> Proposal:
    """Return what ``head`` would do that ``base`` would not. Raises ProblemsFound of policies."""
    source = _source(base, head, observed)
    before, after = (judged(_as(loaded, source), observed, now) for loaded in (base, head))
    known = {_meaning(step) for step in before.plan.steps}
    own = tuple(step for step in after.plan.steps if _meaning(step) not in known)
    refused = {(r.database, r.kind, r.subject, r.problem) for r in before.plan.refusals}
    plan = replace(
        after.plan,
        steps=own,
        refusals=tuple(
            r
            for r in after.plan.refusals
            if (r.database, r.kind, r.subject, r.problem) not in refused
        ),
    )
    return Proposal(replace(after, plan=plan), len(before.plan.steps))


def judged(loaded: Loaded, observed: ObservedState, now: datetime) -> Outlook:
    """Return the outlook of specs against what was observed; no shard is asked anything more."""
    return judge(loaded, observed, diff(loaded.desired, observed), now)


def _meaning(step: Step) -> tuple[str, str]:
    return step.id, repr(meaning_of(step.action))


def _source(base: Loaded, head: Loaded, observed: ObservedState) -> str:
    """Return which source applied the databases of both last; the head's own when several did."""
    keys = {database.key for loaded in (base, head) for database in loaded.desired.databases}
    known = {record.source for record in _records(observed, keys)}
    return known.pop() if len(known) == 1 else head.desired.source


def _records(observed: ObservedState, keys: Iterable[DatabaseKey]) -> Iterable[AppliedRecord]:
    wanted = set(keys)
    for database in observed.databases:
        if database.key in wanted and isinstance(database.record, AppliedRecord):
            yield database.record


def _as(loaded: Loaded, source: str) -> Loaded:
    return replace(loaded, desired=replace(loaded.desired, source=source))
