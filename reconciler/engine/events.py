"""What an apply tells whoever watches it: a closed set of events, each with its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from reconciler.model.errors import ReconcilerError
from reconciler.plan.actions import Plan, Step


@dataclass(frozen=True, slots=True)
class ApplyStarted:
    """The lease is held, the journal is open; ``resumed`` names an apply that this one goes on."""

    at: datetime
    plan: Plan
    operation: str
    resumed: str | None = None


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The intent is in the journal and the step runs."""

    at: datetime
    step: Step


@dataclass(frozen=True, slots=True)
class StepWaits:
    """The step waits for something outside, and for what; or says what it does (``works``)."""

    at: datetime
    step: Step
    reason: str
    works: bool = False


@dataclass(frozen=True, slots=True)
class StepDone:
    """The outcome is in the journal."""

    at: datetime
    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step failed; steps that need it will not run, others go on."""

    at: datetime
    step: Step
    error: ReconcilerError


@dataclass(frozen=True, slots=True)
class ApplyEnded:
    """All that could be done was done. ``left`` are ids of steps that did not run."""

    at: datetime
    done: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...]
    interrupted: bool


ApplyEvent: TypeAlias = ApplyStarted | StepStarted | StepWaits | StepDone | StepFailed | ApplyEnded


class Watcher(Protocol):
    """Whoever is told. Called from one thread at a time."""

    def __call__(self, event: ApplyEvent) -> None:
        """Take note; must not raise."""
        ...
