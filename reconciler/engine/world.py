"""What a look or an apply works with, and what a look found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.diff.changes import Difference
from reconciler.engine.observe import Eyes
from reconciler.engine.ports import Clock, Gauge, Mover
from reconciler.engine.turns import Turns
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedState
from reconciler.plan.actions import Plan, Step
from reconciler.plan.canary import Standing, without_held
from reconciler.policy.check import Verdict
from reconciler.policy.rules import PolicySet
from reconciler.spec.loaded import Loaded

if TYPE_CHECKING:
    from reconciler.settings import Settings


@dataclass(frozen=True, slots=True)
class World:
    """All edges of one call, and its settings; made by ``wiring.open_world``.

    ``actor`` names who acts (user, host, process), for the journal and the lease; ``is_gone`` tells
    from a text that holds such a name whether that process is certainly dead. ``gauge`` is
    Prometheus, None when none is configured. ``turns`` are those of moves, over all applies of this
    process.
    """

    eyes: Eyes
    mover: Mover
    clock: Clock
    settings: Settings
    actor: str
    is_gone: Callable[[str], bool]
    gauge: Gauge | None = None
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What was asked for, what was seen, what would be done, and what the policies say of it.

    ``only``: the databases that were looked at; None for all. ``left``: the titles of what would
    correct drift that is only reported. ``standings``: how far roll-outs are that go to canaries
    first.
    """

    loaded: Loaded
    observed: ObservedState
    difference: Difference
    plan: Plan
    policies: PolicySet
    verdict: Verdict
    only: frozenset[DatabaseKey] | None = None
    left: tuple[str, ...] = ()
    reports: bool = False
    standings: tuple[Standing, ...] = ()

    @property
    def ready(self) -> tuple[Step, ...]:
        """The steps that wait for no canary."""
        return without_held(self.plan.steps, self.standings)
