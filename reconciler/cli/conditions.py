"""Ready, Reconciling and Stalled of a database, as kstatus means them. Pure.

Reconciling and Stalled are there only while they are true. Stalled means that nothing goes on by
itself: the specs are refused, the last apply failed, or it was killed before its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.cli.readiness import of_database
from reconciler.diff.changes import Refusal
from reconciler.engine.journal import Operation, StepRecord
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedDatabase
from reconciler.model.rollouts import RolloutRecord

_READY = {"True": "Serving", "False": "NotServing", "Unknown": "NotSeen"}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; ``since`` is when it began, in ISO 8601 UTC, empty when nobody noted it."""

    type: str
    status: str
    reason: str
    message: str
    since: str = ""


def conditions_of(
    database: ObservedDatabase,
    operations: Iterable[Operation],
    refusals: Iterable[Refusal],
    is_gone: Callable[[str], bool],
) -> tuple[Condition, ...]:
    """Return the conditions; ``is_gone`` tells whether the process of an actor is surely dead."""
    state = of_database(database)
    found = [Condition("Ready", state.ready, _READY[state.ready], state.reason)]
    mine = [one for one in operations if database.key in one.databases]
    last = mine[-1] if mine else None
    if last and last.result == "running" and not is_gone(last.actor):
        found.append(Condition("Reconciling", "True", "Applying", _progress(last), last.started_at))
    if refused := [one for one in refusals if one.database == database.key]:
        first, more = refused[0], len(refused) - 1
        text = f"{first.kind.code} {first.subject}: {first.problem}"
        text += f" (and {more} more)" if more else ""
        found.append(Condition("Stalled", "True", "Refused", text))
    elif last and (stalled := _stalled(database.key, last, is_gone)):
        found.append(stalled)
    if database.rollout:
        found.append(_rolling(database.rollout))
    return tuple(found)


def _rolling(record: RolloutRecord) -> Condition:
    """Say that other shards wait for what the canaries have, or will not get it."""
    if record.stopped:
        return Condition("Stalled", "True", "RolloutStopped", record.stopped, record.since)
    text = "the canaries have a change that other shards wait for"
    return Condition("Reconciling", "True", "RollingOut", text, record.since)


def _stalled(key: DatabaseKey, last: Operation, is_gone: Callable[[str], bool]) -> Condition | None:
    if last.result == "running" and is_gone(last.actor):
        text = f"{last.id} was killed before its end; the next apply goes on from what is there"
        return Condition("Stalled", "True", "CutOff", text, last.started_at)
    failed = next(
        (s for s in last.steps if s.state == "failed" and owner_of(s.id, last) == key), None
    )
    if last.result == "failed" and failed:
        text = f"{last.id} failed: {failed.error}"
        return Condition("Stalled", "True", "ApplyFailed", text, last.ended_at)
    return None


def owner_of(step: str, operation: Operation) -> DatabaseKey | None:
    """Return whose step it is: ids begin with the database's name, or a shard's scope."""
    fitting = [key for key in operation.databases if step.startswith((f"{key}/", f"{key}-"))]
    return max(fitting, key=lambda key: len(str(key)), default=None)


def _progress(operation: Operation) -> str:
    done = sum(step.state == "done" for step in operation.steps)
    text = f"{operation.id}, {done} of {operation.planned} steps done"
    under_way = [_under_way(step) for step in operation.steps if step.state == "begun"]
    return "; ".join([text, *under_way])


def _under_way(step: StepRecord) -> str:
    """Say what a step does, or waits for, since when, and until when at most."""
    if not step.waits:
        return step.title
    until = f", until {_clock(step.waits_until)} at most" if step.waits_until else ""
    return f"{step.title}: {step.waits}, since {_clock(step.waits_since)}{until}"


def _clock(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%H:%M:%S}Z"
    except ValueError:
        return moment
