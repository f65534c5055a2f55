"""Real plans, made by the real planner."""

from __future__ import annotations

from reconciler.diff.diff import diff
from reconciler.model.desired import DesiredState
from reconciler.model.observed import ObservedState
from reconciler.plan.actions import Plan
from reconciler.plan.planner import make_plan


def planned(wanted: DesiredState, seen: ObservedState) -> Plan:
    """Plan from what was seen to what is wanted."""
    return make_plan(wanted, seen, diff(wanted, seen))
