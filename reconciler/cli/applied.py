"""What an apply came to, as JSON: the plan, the operation's id, and how each step ended."""

from __future__ import annotations

import json
from typing import Any

from reconciler.cli.errors import fields_of
from reconciler.cli.progress import stopped
from reconciler.engine.events import (
    ApplyEnded,
    ApplyEvent,
    ApplyStarted,
    StepDone,
    StepFailed,
    Watcher,
)
from reconciler.plan.actions import Step


class Tally:
    """Keeps what came of an apply and of its steps, and passes every event on."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.stopped: set[str] = set()
        self.steps: list[dict[str, Any]] = []
        self.operation: dict[str, Any] | None = None

    def __call__(self, event: ApplyEvent) -> None:
        """Take note."""
        match event:
            case ApplyStarted():
                self.operation = {
                    "id": event.operation,
                    "result": "running",
                    "startedAt": event.at.isoformat(timespec="milliseconds"),
                    "endedAt": None,
                    "resumed": event.resumed,
                }
            case StepDone():
                self._note(event.step, "done", seconds=round(event.seconds, 3))
            case StepFailed():
                if stopped(event):
                    self.stopped.add(event.step.id)
                state = "stopped" if stopped(event) else "failed"
                self._note(event.step, state, error=fields_of(event.error))
            case ApplyEnded():
                self._end(event)
            case _:
                pass
        self._watcher(event)

    def _note(self, step: Step, state: str, **more: object) -> None:
        self.steps.append({"id": step.id, "title": step.text, "state": state, **more})

    def _end(self, event: ApplyEnded) -> None:
        if self.operation is not None:
            result = "interrupted" if event.interrupted else "failed" if event.failed else "done"
            self.operation["result"] = result
            self.operation["endedAt"] = event.at.isoformat(timespec="milliseconds")
        self.steps += [{"id": id_, "state": "notBegun"} for id_ in event.left]

    def as_json(self, plan: bytes) -> str:
        """Return it beside the plan, ``operation`` null when none began."""
        operation = {**self.operation, "steps": self.steps} if self.operation else None
        made = {"apiVersion": "shardwright.dev/v1alpha1", "kind": "Apply"}
        whole = {**made, "operation": operation, "plan": json.loads(plan)}
        return json.dumps(whole, indent=2, ensure_ascii=False)
