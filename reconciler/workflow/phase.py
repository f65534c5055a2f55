"""A long operation is an ordered list of phases; the first that is not done says what comes next.

A phase looks at facts and answers with one decision. It never acts and never waits itself, so an
operation that was interrupted anywhere goes on by being asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeAlias, TypeVar

from reconciler.model.errors import ReconcilerError

A = TypeVar("A")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do here."""


@dataclass(frozen=True, slots=True)
class Act(Generic[A]):
    """Perform this now, then look again; performing it twice changes nothing more."""

    act: A


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now; ``reason`` is what users are shown."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot go on before a person decides."""

    error: ReconcilerError


Decision: TypeAlias = Done | Act[A] | Wait | Refuse


def first_undone(
    phases: Iterable[Callable[P, Decision[A]]], *args: P.args, **kwargs: P.kwargs
) -> Decision[A]:
    """Ask the phases in order and return the first decision that is not Done, else Done."""
    for phase in phases:
        decision = phase(*args, **kwargs)
        if not isinstance(decision, Done):
            return decision
    return Done()
