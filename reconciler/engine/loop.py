"""The whole story on one page: look, then act.

``look`` is everything up to a plan and its verdict; it changes nothing, and a dry run ends there.
``act`` performs the same plan under the applier's lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.diff.changes import Difference, Remark
from reconciler.engine import rollouts
from reconciler.engine.events import ApplyEnded, Watcher
from reconciler.engine.foresight import leave_reported, observe_and_diff
from reconciler.engine.observe import Eyes
from reconciler.engine.ports import Clock, Gauge, Mover
from reconciler.engine.records import APPLIER
from reconciler.engine.turns import Turns
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedState
from reconciler.plan.actions import Plan, Step
from reconciler.plan.canary import Phase, Standing, without_held
from reconciler.plan.planner import make_plan
from reconciler.policy.check import Verdict, check_plan, check_spec
from reconciler.policy.rules import PolicySet, compile_policies, policy_document
from reconciler.spec.loaded import Loaded

if TYPE_CHECKING:
    from reconciler.engine.leadership import Tenure
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
