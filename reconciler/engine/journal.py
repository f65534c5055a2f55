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
from reconciler.engine.operations import Operations, encode_step
from reconciler.engine.ports import Store
from reconciler.engine.records import OPERATIONS, PLANS
from reconciler.model.access import Lease
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
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
            "title": step.text,
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
            "steps": [encode_step(step) for step in operation.steps[:KEPT_STEPS]],
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


def _dump(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
