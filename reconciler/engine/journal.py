"""What an apply is about to do, and what came of it: intent before, outcome after, in etcd.

An operation is one head record and one record a step::

    operations/<id>/head            who, what, when, how it ended
    operations/<id>/step/<number>   begun, done or failed; one write each

Every write carries the applier's lease, so a former applier cannot write any more. When an
operation ends, its steps are folded into the head, so that history stays small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.engine.audit import Deed, write_audited
from reconciler.engine.ports import Store
from reconciler.engine.records import OPERATIONS, PLANS
from reconciler.model.access import Lease, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import RunningOperation
from reconciler.model.records import BROKEN
from reconciler.plan.actions import Plan, Step
from reconciler.plan.estimate import kind_of
from reconciler.plan.fingerprint import meaning_of

KEPT_OPERATIONS = 50
"""Ended operations that stay in etcd; older ones are removed when a later one ends."""
KEPT_PLANS = 1000
"""Saved plans that are remembered as used; older ones cannot be told from new ones, and the
versions of all they saw have moved on since."""
AMOUNTS_EVERY_S = 2.0
_AMOUNTS = re.compile(r"\d[\d,.]*")
_BATCH = 100
"""Keys that are removed in one write; etcd allows 128 operations each."""
ACTION_MAX = 2000
"""Characters of an action in the audit."""
KEPT_STEPS = 500
"""Steps that a head names one by one; of larger operations only counts and durations stay."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step as the journal has it. ``state`` is begun, done or failed; times are ISO 8601 UTC.

    ``waits`` is what a step under way waits for, since and at most until when; empty when it works.
    """

    id: str
    title: str
    kind: str
    state: str
    begun_at: str
    seconds: float | None = None
    error: str = ""
    waits: str = ""
    waits_since: str = ""
    waits_until: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One apply. ``result`` is running, done, failed, interrupted or superseded by another."""

    id: str
    source: str
    revision: str
    databases: tuple[DatabaseKey, ...]
    plan: str
    actor: str
    started_at: str
    result: str
    ended_at: str = ""
    planned: int = 0
    steps: tuple[StepRecord, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Operations:
    """All operations in etcd, oldest first."""

    all: tuple[Operation, ...] = ()

    @property
    def running(self) -> RunningOperation | None:
        """The operation whose end was never written: it runs now, or was cut off."""
        found = [operation for operation in self.all if operation.result == "running"]
        if not found:
            return None
        last = found[-1]
        return RunningOperation(
            id=last.id,
            databases=last.databases,
            revision=last.revision,
            begun=tuple(s.id for s in last.steps if s.state == "begun"),
            done=tuple(s.id for s in last.steps if s.state == "done"),
            started_at=last.started_at,
        )

    @property
    def durations(self) -> tuple[tuple[str, float], ...]:
        """(kind, seconds) of every step done, for estimates."""
        return tuple(
            (step.kind, step.seconds)
            for operation in self.all
            for step in operation.steps
            if step.state == "done" and step.seconds is not None
        )


def read_operations(found: dict[str, Versioned]) -> Operations:
    """Build the operations from etcd's keys; a record that cannot be read is left out."""
    heads: dict[str, Operation] = {}
    steps: dict[str, list[tuple[int, StepRecord]]] = {}
    for key in sorted(found):
        id_, _, rest = key.removeprefix(OPERATIONS).partition("/")
        if not key.startswith(OPERATIONS) or not rest:
            continue
        try:
            data = json.loads(found[key].value)
            if rest == "head":
                heads[id_] = _head(id_, data, found[key].version)
            else:
                steps.setdefault(id_, []).append((int(rest.rpartition("/")[2]), _step(data)))
        except BROKEN:
            continue  # history must not stop work
    whole = [
        _with_steps(head, [s for _, s in sorted(steps.get(id_, []), key=lambda x: x[0])])
        for id_, head in heads.items()
    ]
    return Operations(tuple(sorted(whole, key=lambda o: (o.started_at, o.id))))


def _with_steps(head: Operation, steps: list[StepRecord]) -> Operation:
    if not steps:
        return head
    return Operation(**{**{f: getattr(head, f) for f in head.__slots__}, "steps": tuple(steps)})


def _head(id_: str, data: dict[str, Any], version: int) -> Operation:
    return Operation(
        id=id_,
        source=str(data["source"]),
        revision=str(data["revision"]),
        databases=tuple(DatabaseKey(Namespace(n), DatabaseName(d)) for n, d in data["databases"]),
        plan=str(data["plan"]),
        actor=str(data["actor"]),
        started_at=str(data["startedAt"]),
        result=str(data["result"]),
        ended_at=str(data.get("endedAt", "")),
        planned=int(data.get("planned", 0)),
        steps=tuple(_step(step) for step in data.get("steps", ())),
        version=version,
    )


def _step(data: dict[str, Any]) -> StepRecord:
    seconds = data.get("seconds")
    return StepRecord(
        id=str(data["id"]),
        title=str(data["title"]),
        kind=str(data["kind"]),
        state=str(data["state"]),
        begun_at=str(data["begunAt"]),
        seconds=None if seconds is None else float(seconds),
        error=str(data.get("error", "")),
        waits=str(data.get("waits", "")),
        waits_since=str(data.get("waitsSince", "")),
        waits_until=str(data.get("waitsUntil", "")),
    )


@dataclass(slots=True)
class Journal:
    """The journal of one apply. Each method is one write, and raises FencedOff when superseded."""

    store: Store
    lease: Lease
    id: str
    head: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    noted: dict[str, datetime] = field(default_factory=dict)
    """When the amounts that a step waits for were written last."""
    single_use: bool = False

    def open(self, plan: Plan, actor: str, at: datetime, *, single_use: bool) -> None:
        """Write the head. A saved plan is marked as used in the same write, and only once.

        Raises ConflictingWrite when the plan was used before.
        """
        self.head = {
            "source": plan.source,
            "revision": str(plan.revision),
            "databases": sorted({(s.database.namespace, s.database.name) for s in plan.steps}),
            "plan": plan.id,
            "actor": actor,
            "startedAt": at.isoformat(timespec="milliseconds"),
            "planned": len(plan.steps),
            "result": "running",
        }
        changes: dict[str, tuple[bytes | None, int | None]] = {
            self._key("head"): (_dump(self.head), 0)
        }
        self.single_use = single_use
        if single_use:
            changes[PLANS + plan.digest] = (_dump({"operation": self.id}), 0)
        self.store.write(changes, self.lease)

    def intent(self, step: Step, at: datetime) -> None:
        """Note that a step begins, in the audit too."""
        self.numbers[step.id] = len(self.numbers)
        self.steps[step.id] = {
            "id": step.id,
            "title": title_of(step),
            "kind": kind_of(step.action),
            "state": "begun",
            "begunAt": at.isoformat(timespec="milliseconds"),
        }
        self._write_audited(step, at, "begun")

    def waits(self, step: Step, reason: str, at: datetime, until: datetime | None) -> None:
        """Note what a step waits for; another amount in it (``31 MB behind``) now and then.

        Called from the step's own thread, whose record nobody else writes meanwhile.
        """
        record = self.steps[step.id]
        if _AMOUNTS.sub("", record.get("waits", "")) == _AMOUNTS.sub("", reason):
            if (at - self.noted[step.id]).total_seconds() < AMOUNTS_EVERY_S:
                return
        else:
            record["waitsSince"] = at.isoformat(timespec="milliseconds")
            record["waitsUntil"] = until.isoformat(timespec="milliseconds") if until else ""
        record["waits"] = reason
        self.noted[step.id] = at
        self._write_step(step)

    def outcome(
        self,
        step: Step,
        seconds: float,
        at: datetime,
        error: ReconcilerError | None = None,
        sql: tuple[str, ...] = (),
    ) -> None:
        """Note how a step ended, in the audit with the ``sql`` that it ran."""
        record = self.steps[step.id]
        for name in ("waits", "waitsSince", "waitsUntil"):
            record.pop(name, None)
        record["seconds"] = round(seconds, 3)
        record["state"] = "failed" if error else "done"
        if error:
            record["error"] = f"{error.code} {error.subject}: {error.problem}"
        self._write_audited(step, at, record["state"], sql)

    def close(self, result: str, at: datetime, earlier: Operations) -> None:
        """Fold the steps into the head, and remove the oldest operations."""
        whole = list(self.steps.values())
        self.head |= {
            "result": result,
            "endedAt": at.isoformat(timespec="milliseconds"),
            "steps": whole[:KEPT_STEPS],
        }
        gone = [self._key(f"step/{n:06}") for n in self.numbers.values()]
        old = [o for o in earlier.all if o.result != "running"]
        gone += [f"{OPERATIONS}{o.id}/head" for o in old[: -(KEPT_OPERATIONS - 1) or None]]
        _end(self.store, self.lease, self._key("head"), self.head, gone)
        if self.single_use:
            used = sorted(self.store.read(PLANS).items(), key=lambda plan: plan[1].version)
            _delete(self.store, self.lease, [key for key, _ in used[:-KEPT_PLANS]])

    def _write_step(self, step: Step) -> None:
        self.store.write(self._line(step), self.lease)

    def _line(self, step: Step) -> dict[str, tuple[bytes | None, int | None]]:
        key = self._key(f"step/{self.numbers[step.id]:06}")
        return {key: (_dump(self.steps[step.id]), None)}

    def _write_audited(
        self, step: Step, at: datetime, outcome: str, sql: tuple[str, ...] = ()
    ) -> None:
        deed = Deed(
            at=at,
            actor=self.head["actor"],
            what=step.id,
            outcome=outcome,
            text=step.text,
            database=str(step.database),
            revision=self.head["revision"],
            plan=self.head["plan"],
            action=repr(meaning_of(step.action))[:ACTION_MAX] if outcome == "begun" else "",
            sql=sql,
            error=self.steps[step.id].get("error", ""),
        )
        write_audited(self.store, self.lease, self._line(step), deed)

    def _key(self, rest: str) -> str:
        return f"{OPERATIONS}{self.id}/{rest}"


def supersede(
    store: Store,
    lease: Lease,
    earlier: Operations,
    by: str,
    at: datetime,
    only: frozenset[DatabaseKey] | None = None,
    beside: Callable[[str], bool] | None = None,
) -> str | None:
    """End every operation that was cut off, and return the id of the last of them.

    Its steps may have happened or not; nothing rests on that, because what is planned now comes
    from what is there now. Without a successor (``by`` is empty: nothing was left to do) it is
    called interrupted. Steps of operations that have ended are removed too: an applier may have
    been cut off between writing its last head and removing them.

    ``only`` these databases are taken over; an operation with others goes on running without them.
    ``beside`` tells from an id which operations run now, under the same lease: left alone.
    """
    last = None
    kept: set[str] = set()
    for operation in earlier.all:
        if operation.result != "running":
            continue
        rest = () if only is None else tuple(d for d in operation.databases if d not in only)
        if (beside and beside(operation.id)) or rest == operation.databases:
            kept.add(operation.id)
            continue
        last = operation.id
        head = {
            "source": operation.source,
            "revision": operation.revision,
            "databases": [(d.namespace, d.name) for d in rest or operation.databases],
            "plan": operation.plan,
            "actor": operation.actor,
            "startedAt": operation.started_at,
            "planned": operation.planned,
        }
        prefix = f"{OPERATIONS}{operation.id}/"
        if rest:
            kept.add(operation.id)
            store.write({prefix + "head": (_dump({**head, "result": "running"}), None)}, lease)
            continue
        head |= {
            "result": f"superseded by {by}" if by else "interrupted",
            "endedAt": at.isoformat(timespec="milliseconds"),
            "steps": [_encode(step) for step in operation.steps[:KEPT_STEPS]],
        }
        gone = [key for key in store.read(OPERATIONS) if key.startswith(prefix + "step/")]
        _end(store, lease, prefix + "head", head, gone)
    _delete(store, lease, _steps_left(store, kept, beside))
    return last


def _steps_left(
    store: Store, kept: set[str], beside: Callable[[str], bool] | None
) -> Iterator[str]:
    """Yield the keys of steps whose operation does not run."""
    for key in store.read(OPERATIONS):
        id_, _, rest = key.removeprefix(OPERATIONS).partition("/")
        if rest.startswith("step/") and id_ not in kept and not (beside and beside(id_)):
            yield key


def _encode(step: StepRecord) -> dict[str, Any]:
    return {
        "id": step.id,
        "title": step.title,
        "kind": step.kind,
        "state": step.state,
        "begunAt": step.begun_at,
        "seconds": step.seconds,
        "error": step.error,
    }


def _end(store: Store, lease: Lease, key: str, head: dict[str, Any], gone: list[str]) -> None:
    """Write a last head and remove the step records that are in it: at once, when they are few."""
    first: dict[str, tuple[bytes | None, int | None]] = dict.fromkeys(gone[:_BATCH], (None, None))
    store.write({key: (_dump(head), None)} | first, lease)
    _delete(store, lease, gone[_BATCH:])


def _delete(store: Store, lease: Lease, keys: Iterable[str]) -> None:
    """Delete keys in transactions of a bounded size."""
    rest = list(keys)
    for i in range(0, len(rest), _BATCH):
        store.write(dict.fromkeys(rest[i : i + _BATCH], (None, None)), lease)


def title_of(step: Step) -> str:
    """Return a step's title with its shard's name in it."""
    return step.text


def _dump(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
