"""Operations as etcd has them: what each apply did, and what one does now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reconciler.engine.records import OPERATIONS
from reconciler.model.access import Versioned
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import RunningOperation
from reconciler.model.records import BROKEN


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


def encode_step(step: StepRecord) -> dict[str, Any]:
    """Return an ended step as a head holds it."""
    return {
        "id": step.id,
        "title": step.title,
        "kind": step.kind,
        "state": step.state,
        "begunAt": step.begun_at,
        "seconds": step.seconds,
        "error": step.error,
    }
