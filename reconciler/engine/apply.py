"""Perform a plan: the steps that are ready, some at once, each with its intent and outcome noted.

One applier works at a time, under a lease in etcd that it keeps alive. Its fencing token goes with
every write to etcd, PostgreSQL and the platform, so that an applier which lost the lease (stopped,
then continued) cannot write any more. What was shown is planned once more under the lease: an apply
that ran in between makes this one stale instead of surprising.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engine.events import (
    ApplyEnded,
    ApplyEvent,
    ApplyStarted,
    StepDone,
    StepFailed,
    StepStarted,
    StepWaits,
    Watcher,
)
from reconciler.engine.execute import perform
from reconciler.engine.foresight import leave_reported, observe_and_diff
from reconciler.engine.hands import Hands
from reconciler.engine.journal import Journal, supersede
from reconciler.engine.known import read_known
from reconciler.engine.leasing import kept
from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.operations import Operations, read_operations
from reconciler.engine.problems import (
    ApplierGone,
    DaemonLeads,
    NothingSeen,
    PlanStale,
    PlanUsed,
    PolicyDenies,
    PolicyHolds,
    StepBroken,
)
from reconciler.engine.progress import Progress
from reconciler.engine.records import APPLIER, OPERATIONS, PLANS
from reconciler.engine.rollouts import Roll
from reconciler.engine.saved import what_moved
from reconciler.model.access import ConflictingWrite, FencedOff, Lease, LeaseHeld
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import Catalog, ObservedShard
from reconciler.model.statements import noting
from reconciler.plan.actions import CloseMove, MoveKeyRange, Step
from reconciler.plan.planner import make_plan
from reconciler.policy.check import prepare_plan_check
from reconciler.policy.rules import Outcome

if TYPE_CHECKING:
    from reconciler.engine.leadership import Tenure
    from reconciler.engine.world import Outlook, World


class Applier:
    """One apply. ``run`` is all there is to call."""

    def __init__(
        self,
        world: World,
        outlook: Outlook,
        watcher: Watcher,
        stop: threading.Event,
        single_use: bool,
        tenure: Tenure | None = None,
    ) -> None:
        self._tenure = tenure
        self._world, self._outlook, self._watcher = world, outlook, watcher
        self._stop, self._single_use = stop, single_use
        self._telling = threading.Lock()
        self._said: dict[str, list[str]] = {}
        self._took: dict[str, float] = {}
        self._lost: ReconcilerError | None = None
        self._limits = {d.key: d.rollout for d in outlook.loaded.desired.databases}
        self._roll = Roll(world, outlook)
        self._check = prepare_plan_check(outlook.policies, outlook.loaded.desired, outlook.plan)

    def run(self) -> ApplyEnded:
        """Perform the plan. Raises what stops all of it; failures of steps are events."""
        plan = self._outlook.plan
        self._refuse()
        databases = self._blocked()
        mine = {step.id for step in self._outlook.ready if step.database not in databases}
        progress = Progress(plan.steps, frozenset(s.id for s in plan.steps if s.id not in mine))
        if not mine:
            self._end_earlier()
            self._note_alone()
            return self._ended(progress)
        with self._lease() as lease:
            self._world.eyes.platform.fence(lease.token)
            self._fence_shards(lease)
            earlier = read_operations(self._world.eyes.store.read(OPERATIONS))
            self._replan()
            self._roll.begin(lease)
            journal = self._open(lease, earlier)
            self._work(progress, journal, self._hands(lease))
            self._roll.end(progress.done)
            return self._close(progress, journal, earlier)

    def _refuse(self) -> None:
        """Raise what forbids the whole plan."""
        for outcome, kind in ((Outcome.DENY, PolicyDenies), (Outcome.HOLD, PolicyHolds)):
            found = [f for f in self._outlook.verdict.findings if f.outcome is outcome]
            if found and self._outlook.plan.steps:
                names = "; ".join(f"{f.policy}/{f.rule} ({f.database}): {f.text}" for f in found)
                raise kind(
                    self._outlook.plan.id,
                    names,
                    remedy="`shardwright plan` shows the rules' places",
                )
        for unseen in self._outlook.observed.unseen:
            if unseen.system == "etcd":
                raise NothingSeen("etcd", unseen.reason, remedy="start it: shardwright platform up")

    def _blocked(self) -> set[DatabaseKey]:
        """Return the databases of which nothing may be done: those with a refusal."""
        plan = self._outlook.plan
        return {r.database for r in plan.refusals}

    @contextmanager
    def _lease(self) -> Iterator[Lease]:
        """Hold the applier's lease and keep it alive. Raises LeaseHeld."""
        if self._tenure:  # the daemon keeps it, and stops this apply when it is lost
            yield self._tenure.lease
            return
        store, lease_s = self._world.eyes.store, self._world.settings.lease_s
        with kept(store, self._acquire(), lease_s, self._give_up) as lease:
            yield lease

    def _acquire(self) -> Lease:
        """Take the lease; wait for one whose holder is certainly dead to run out."""
        store, settings = self._world.eyes.store, self._world.settings
        began = self._world.clock.monotonic()
        while True:
            try:
                return store.acquire(APPLIER, self._world.actor, settings.lease_s)
            except LeaseHeld as error:
                self._unless_used()
                dead = self._world.is_gone(error.problem)
                waited = self._world.clock.monotonic() - began
                if not dead or waited > settings.lease_s + 5 or self._stop.is_set():
                    self._unless_led(error)
                    raise
                self._world.clock.sleep(0.5)

    def _unless_led(self, error: LeaseHeld) -> None:
        """Raise DaemonLeads when it is a daemon that holds the lease."""
        actor = str((read_known(self._world.eyes.store, lambda _: False).daemon or {}).get("actor"))
        if error.problem.startswith(f"held by {actor}, "):
            who = actor.partition(" start ")[0]
            raise DaemonLeads(
                self._outlook.plan.id,
                f"a daemon leads here ({who}) and applies what its sources say",
                remedy="commit it, and shardwright reconcile; or stop the daemon, then apply",
            ) from error

    def _unless_used(self) -> None:
        """Raise PlanUsed for a saved plan that another apply is doing, or has done."""
        plan, key = self._outlook.plan, PLANS + self._outlook.plan.digest
        if self._single_use and key in self._world.eyes.store.read(key):
            raise PlanUsed(plan.id, "is applied by another call", remedy="look: get operations")

    def _end_earlier(self) -> None:
        """End an apply that was cut off when nothing of it is left to do; leave one that runs."""
        if self._outlook.observed.operation is None:
            return
        with suppress(LeaseHeld), self._lease() as lease:
            store = self._world.eyes.store
            self._supersede(lease, read_operations(store.read(OPERATIONS)), "")

    def _note_alone(self) -> None:
        """Note how far roll-outs are where nothing else is to be done."""
        if self._outlook.standings:
            with suppress(LeaseHeld), self._lease() as lease:
                self._roll.begin(lease)

    def _fence_shards(self, lease: Lease) -> None:
        """Raise the fence in every shard that this plan rests on, before looking again.

        A former applier may have been stopped with a statement in its hand for a shard that no step
        of this plan touches; without this, that statement would still pass when it goes on.
        """
        eyes, desired = self._world.eyes, self._outlook.loaded.desired
        wanted = {d.key for d in desired.databases if not d.suspend}
        shards = [
            shard
            for database in self._outlook.observed.databases
            if database.key in wanted
            for shard in database.shards
            if isinstance(shard.catalog, Catalog) and shard.catalog.installed
        ]

        def fence(shard: ObservedShard) -> None:
            primary = primary_of(shard.platform, shard.patroni)
            if primary is not None:
                login = login_of(eyes.platform, shard.platform)
                eyes.postgres.fence(login, primary, shard.platform.database, lease.token)

        with ThreadPoolExecutor(eyes.parallel) as pool:
            list(pool.map(fence, shards))

    def _replan(self) -> None:
        """Look again under the lease. Raises PlanStale when the plan is another one by now."""
        desired, plan = self._outlook.loaded.desired, self._outlook.plan
        eyes, mover = self._world.eyes, self._world.mover
        observed, difference = observe_and_diff(eyes, mover, desired, self._outlook.only)
        if self._outlook.reports:
            difference, _ = leave_reported(desired, observed, difference)
        now = make_plan(desired, observed, difference)
        if now.digest != plan.digest:
            raise PlanStale(
                plan.id,
                f"changed since it was shown: {what_moved(plan.saw, now.saw)}",
                remedy="plan again",
            )

    def _open(self, lease: Lease, earlier: Operations) -> Journal:
        plan, store, now = self._outlook.plan, self._world.eyes.store, self._now()
        id_ = f"{now:%Y%m%d-%H%M%S}-{lease.token}"
        journal = Journal(store, lease, self._tenure.numbered(id_) if self._tenure else id_)
        resumed = self._supersede(lease, earlier, journal.id)
        try:
            journal.open(plan, self._world.actor, now, single_use=self._single_use)
        except ConflictingWrite:
            self._unless_used()
            raise
        self._tell(ApplyStarted(now, plan, journal.id, resumed))
        return journal

    def _supersede(self, lease: Lease, earlier: Operations, by: str) -> str | None:
        only = self._outlook.only
        beside = self._tenure.is_own if self._tenure else None
        return supersede(self._world.eyes.store, lease, earlier, by, self._now(), only, beside)

    def _hands(self, lease: Lease) -> Hands:
        world, plan = self._world, self._outlook.plan
        return Hands(
            platform=world.eyes.platform,
            store=world.eyes.store,
            patroni=world.eyes.patroni,
            postgres=world.eyes.postgres,
            mover=world.mover,
            clock=world.clock,
            lease=lease,
            source=plan.source,
            revision=str(plan.revision),
            start_s=world.settings.start_s,
            stop=self._stop,
        )

    def _work(self, progress: Progress, journal: Journal, hands: Hands) -> None:
        """Run what is ready until nothing is; a failure keeps only what stands behind it."""
        with ThreadPoolExecutor(self._world.settings.parallel) as pool:
            while True:
                free = self._world.settings.parallel - len(progress.running)
                moves = self._world.settings.moves_parallel
                stopped = self._stop.is_set()
                begun = [] if stopped else progress.next(moves, self._limits, free)
                for step in begun:
                    progress.begin(step)
                    if self._begin(step, progress, journal):
                        future = pool.submit(self._perform, hands, step, journal)
                        progress.running[future] = step
                if not progress.running:
                    if not begun:
                        break
                    continue  # a policy refused them all: others may have their place
                ended, _ = wait(progress.running, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._take(future, progress.running.pop(future), progress, journal)
        progress.leave()

    def _begin(self, step: Step, progress: Progress, journal: Journal) -> bool:
        """Ask policies and gates, and note the intent; return False when the step must not run."""
        try:
            self._allowed(step)
            self._roll.ask(step, progress.done)
            journal.intent(step, self._now())
        except ReconcilerError as error:
            self._fail(step, error, progress)
            return False
        self._tell(StepStarted(self._now(), step))
        return True

    def _allowed(self, step: Step) -> None:
        verdict = self._check.at_step(step, self._now())
        for found in verdict.findings:
            if found.outcome is not Outcome.WARN:
                kind = PolicyDenies if found.outcome is Outcome.DENY else PolicyHolds
                raise kind(step.id, f"{found.policy}/{found.rule}: {found.text}")

    def _held(self, step: Step, phase: str) -> str:
        """Ask the policies before a phase of a step that runs; return why it has to wait."""
        for found in self._check.at_step(step, self._now(), phase).findings:
            if found.outcome is not Outcome.WARN:
                return f"policy {found.policy}/{found.rule}: {found.text}"
        return ""

    def _perform(self, hands: Hands, step: Step, journal: Journal) -> None:
        """Run one step in a worker's thread, and note its seconds however it ends."""
        start = time.monotonic()
        waits = partial(self._waits, step, journal)
        does = partial(self._waits, step, journal, works=True)
        hands = replace(hands, held=partial(self._held, step), does=does)
        turn = self._world.turns.of(
            step, self._world.settings.moves_parallel, hands.clock, waits, self._stop.is_set
        )
        try:
            with turn, noting() as self._said[step.id]:
                perform(hands, step.action, waits)
        finally:
            self._took[step.id] = time.monotonic() - start

    def _waits(self, step: Step, journal: Journal, reason: str, *, works: bool = False) -> None:
        """Tell what a step waits for, or does: who watches here, and who looks elsewhere."""
        now = self._now()
        bounded = not isinstance(step.action, MoveKeyRange | CloseMove)
        until = now + timedelta(seconds=self._world.settings.start_s) if bounded else None
        with suppress(ReconcilerError):  # the step goes on; its outcome will be written or not
            journal.waits(step, reason, now, until)
        self._tell(StepWaits(now, step, reason, works))

    def _take(self, future: Future[None], step: Step, progress: Progress, journal: Journal) -> None:
        """Note how a step ended."""
        error: ReconcilerError | None = None
        try:
            future.result()
        except ReconcilerError as problem:
            error = problem
        except Exception as problem:  # the journal must learn of bugs too
            error = StepBroken(step.id, f"{type(problem).__name__}: {problem}")
            error.__cause__ = problem
        seconds = self._took.pop(step.id, 0.0)
        try:
            sql = tuple(self._said.pop(step.id, ()))
            journal.outcome(step, seconds, self._now(), error, sql)
        except ReconcilerError as problem:
            error = error or problem
        if error:
            self._fail(step, error, progress)
        else:
            progress.end(step)
            self._tell(StepDone(self._now(), step, seconds))

    def _fail(self, step: Step, error: ReconcilerError, progress: Progress) -> None:
        if isinstance(error, FencedOff):
            self._give_up(error)
        progress.fail(step)
        self._tell(StepFailed(self._now(), step, error))

    def _give_up(self, error: ReconcilerError) -> None:
        """The lease is lost, or not kept alive any more: begin nothing more."""
        self._lost = self._lost or error
        self._stop.set()

    def _close(self, progress: Progress, journal: Journal, earlier: Operations) -> ApplyEnded:
        ended = self._ended(progress)
        if isinstance(self._lost, FencedOff):
            raise ApplierGone(
                self._outlook.plan.id,
                f"another apply took over: {self._lost.problem}",
                remedy="look at it with `shardwright get operations`, then plan again",
            )
        result = "interrupted" if ended.interrupted else "failed" if ended.failed else "done"
        journal.close("failed" if self._lost else result, ended.at, earlier)
        if self._lost:
            raise self._lost
        return ended

    def _ended(self, progress: Progress) -> ApplyEnded:
        ended = ApplyEnded(
            self._now(),
            tuple(progress.done),
            tuple(progress.failed),
            tuple(s.id for s in self._outlook.plan.steps if s.id in progress.left),
            self._stop.is_set(),
        )
        self._tell(ended)
        return ended

    def _now(self) -> datetime:
        return self._world.clock.now()

    def _tell(self, event: ApplyEvent) -> None:
        with self._telling:
            self._watcher(event)
