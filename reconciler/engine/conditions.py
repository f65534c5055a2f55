"""Ready, Reconciling and Stalled of a database, as kstatus means them: derived once. Pure.

``get``, ``describe`` and ``status`` say the same of a database because they all ask here, whatever
each of them knows: what was just seen of its shards, its last apply, what the specs are refused
for, and the word of the daemon that leads. That word goes before the journal's, which only tells
of the last attempt.

Reconciling and Stalled are there only while they are true. Stalled means that nothing goes on by
itself. Ready is True when it serves and nothing that is known is outstanding.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.diff.changes import Refusal
from reconciler.engine.operations import Operation, StepRecord
from reconciler.model.names import DatabaseKey
from reconciler.model.rollouts import RolloutRecord
from reconciler.model.status import Readiness, Status

SUSPENDED = "Suspended"
_SERVES = {"True": "Serving", "False": "NotServing", "Unknown": "NotSeen"}
_WORDS = {True: "True", False: "False", None: "Unknown"}
_UNSEEN = Readiness("Unknown", "nobody has looked at it")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; ``since`` is when it began, in ISO 8601 UTC, empty when nobody noted it."""

    type: str
    status: str
    reason: str
    message: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one database.

    ``serving``: what a look at its shards says, or said, None without one. ``last``: its last
    apply, and ``cut_off``, whether that one's process is surely dead. ``refusals``: of the specs.
    ``told``: the word of the daemon that leads, None without one. ``gone``: what one said that is
    gone, in words. ``suspended``: by what it is.
    """

    key: DatabaseKey
    serving: Readiness | None = None
    last: Operation | None = None
    cut_off: bool = False
    refusals: tuple[Refusal, ...] = ()
    rollout: RolloutRecord | None = None
    told: Status | None = None
    gone: str = ""
    suspended: str = ""

    @property
    def under_way(self) -> Operation | None:
        """The apply that works on it now."""
        runs = self.last is not None and self.last.result == "running" and not self.cut_off
        return self.last if runs else None


def conditions_of(facts: Facts) -> tuple[Condition, ...]:
    """Return Ready, then what else is true."""
    reconciling, stalled = _reconciling(facts), _stalled(facts)
    ready = _ready(facts, stalled or reconciling)
    return (ready, *(one for one in (reconciling, stalled) if one))


def _ready(facts: Facts, outstanding: Condition | None) -> Condition:
    told = facts.told
    seen = facts.serving or (Readiness(_WORDS[told.ready]) if told else _UNSEEN)
    if told and told.reason == SUSPENDED:
        return Condition("Ready", "Unknown", told.reason, told.message, told.since)
    if facts.suspended:
        return Condition("Ready", "Unknown", SUSPENDED, f"{facts.suspended}: left alone")
    if facts.serving and seen.ready != "True":
        return Condition("Ready", seen.ready, _SERVES[seen.ready], seen.reason)
    if outstanding:
        unknown = told is not None and told.ready is None and not facts.under_way
        status = "Unknown" if unknown else "False"
        return Condition("Ready", status, outstanding.reason, outstanding.message,
                         outstanding.since)  # fmt: skip
    if told:
        return Condition("Ready", _WORDS[told.ready], told.reason, told.message, told.since)
    if facts.gone and facts.serving is None:
        return Condition("Ready", "Unknown", "DaemonGone", facts.gone)
    return Condition("Ready", seen.ready, _SERVES[seen.ready], seen.reason)


def _reconciling(facts: Facts) -> Condition | None:
    if facts.under_way:
        operation = facts.under_way
        return _true("Reconciling", "Applying", _progress(operation), operation.started_at)
    if facts.told:
        told = facts.told
        return _word("Reconciling", told) if told.reconciling else None
    if facts.rollout and not facts.rollout.stopped:
        text = "the canaries have a change that other shards wait for"
        return _true("Reconciling", "RollingOut", text, facts.rollout.since)
    return None


def _stalled(facts: Facts) -> Condition | None:
    if facts.refusals:
        first, more = facts.refusals[0], len(facts.refusals) - 1
        text = f"{first.kind.code} {first.subject}: {first.problem}"
        return _true("Stalled", "Refused", text + (f" (and {more} more)" if more else ""))
    if facts.under_way:
        return None  # whatever was said before, it goes on
    if facts.told:
        return _word("Stalled", facts.told) if facts.told.stalled else None
    return _stopped(facts.rollout) or _broken(facts)


def _stopped(record: RolloutRecord | None) -> Condition | None:
    if record is None or not record.stopped:
        return None
    return _true("Stalled", "RolloutStopped", record.stopped, record.since)


def _broken(facts: Facts) -> Condition | None:
    last = facts.last
    if last is None:
        return None
    if facts.cut_off and last.result == "running":
        text = f"{last.id} was killed before its end; the next apply goes on from what is there"
        return _true("Stalled", "CutOff", text, last.started_at)
    failed = next(
        (s for s in last.steps if s.state == "failed" and owner_of(s.id, last) == facts.key), None
    )
    if last.result == "interrupted" and failed:
        text = f"{last.id} was stopped; the next apply goes on from what is there: {failed.error}"
        return _true("Stalled", "Interrupted", text, last.ended_at)
    if last.result == "failed" and failed:
        text = f"{last.id} failed: {failed.error}"
        return _true("Stalled", "ApplyFailed", text, last.ended_at)
    return None


def _true(kind: str, reason: str, message: str, since: str = "") -> Condition:
    return Condition(kind, "True", reason, message, since)


def _word(kind: str, told: Status) -> Condition:
    return _true(kind, told.reason, told.message, told.since)


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
