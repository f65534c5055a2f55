"""The whole story on one page: look, then act.

``look`` is everything up to a plan and its verdict; it changes nothing, and a dry run ends there.
``act`` performs the same plan under the applier's lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.diff.changes import Difference, Remark
from reconciler.engine import rollouts
from reconciler.engine.events import ApplyEnded, Watcher
from reconciler.engine.foresight import leave_reported, observe_and_diff
from reconciler.engine.records import APPLIER
from reconciler.engine.world import Outlook, World
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedState
from reconciler.plan.canary import Phase
from reconciler.plan.planner import make_plan
from reconciler.policy.check import check_plan, check_spec
from reconciler.policy.rules import PolicySet, compile_policies, policy_document
from reconciler.spec.loaded import Loaded

if TYPE_CHECKING:
    from reconciler.engine.leadership import Tenure


def compiled(loaded: Loaded) -> PolicySet:
    """Compile a source's policies. Raises ProblemsFound when one does not compile."""
    return compile_policies(
        tuple(policy_document(p.manifest, p.place) for p in loaded.policies),
        {f.path: f.data for f in loaded.documents.files} if loaded.documents else {},
    )


def look(
    world: World,
    loaded: Loaded,
    policies: PolicySet | None = None,
    only: frozenset[DatabaseKey] | None = None,
    *,
    reports: bool = False,
) -> Outlook:
    """Observe, diff, plan, check. Changes nothing.

    ``policies`` are those to ask, the source's own by default. ``reports``: drift is left where a
    spec says `driftPolicy: report`, as the daemon does. Raises ProblemsFound when one of these does
    not compile.
    """
    observed, difference = observe_and_diff(world.eyes, world.mover, loaded.desired, only)
    left: tuple[str, ...] = ()
    if reports:
        difference, left = leave_reported(loaded.desired, observed, difference)
    outlook = judge(loaded, observed, difference, world.clock.now(), policies, only)
    outlook = replace(outlook, left=left, reports=reports)
    found = rollouts.standings(world, loaded.desired, observed, outlook.plan)
    said = tuple(Remark(s.database, s.text) for s in found if s.phase is not Phase.CANARY)
    plan = replace(outlook.plan, remarks=(*outlook.plan.remarks, *said))
    return replace(outlook, standings=found, plan=plan) if found else outlook


def judge(
    loaded: Loaded,
    observed: ObservedState,
    difference: Difference,
    now: datetime,
    policies: PolicySet | None = None,
    only: frozenset[DatabaseKey] | None = None,
) -> Outlook:
    """Plan and check, from what was seen. Raises ProblemsFound for a policy with a mistake."""
    desired = loaded.desired
    policies = compiled(loaded) if policies is None else policies
    plan = make_plan(desired, observed, difference)
    verdict = check_spec(policies, desired, now)
    verdict = verdict.joined(check_plan(policies, desired, plan, now))
    return Outlook(loaded, observed, difference, plan, policies, verdict, only)


def outlive_dead(world: World, tell: Callable[[], None]) -> None:
    """Wait until the lease of an applier that certainly died has run out; ``tell`` is called then.

    Before looking, because what that applier began goes on meanwhile: a plan made now would be
    stale when its lease is free. Silence of etcd is left to ``look`` to report.
    """
    for tries in range(2 * (world.settings.lease_s + 5)):
        try:
            held = world.eyes.store.read(APPLIER).get(APPLIER)
        except ReconcilerError:
            return
        if held is None or not world.is_gone(held.value.decode(errors="replace")):
            return
        if tries == 0:
            tell()
        world.clock.sleep(0.5)


def act(
    world: World,
    outlook: Outlook,
    watcher: Watcher,
    stop: threading.Event,
    *,
    single_use: bool = False,
    tenure: Tenure | None = None,
) -> ApplyEnded:
    """Perform the plan of an outlook; what it may not or cannot do is told to the watcher.

    ``single_use`` marks a saved plan as used. ``tenure`` is the daemon's, which holds the applier's
    lease all the time; without it the lease is taken for this apply.

    Raises PolicyDenies, PolicyHolds, LeaseHeld, NothingSeen and FencedOff; failures of single steps
    are events.
    """
    from reconciler.engine.apply import Applier  # a plan does not need it

    return Applier(world, outlook, watcher, stop, single_use, tenure).run()
