"""Rounds: a worker takes a database from the queue, reconciles it, and writes what came of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reconciler.daemon.leader import Leader
from reconciler.daemon.sights import Sights
from reconciler.engine import status as records
from reconciler.engine.conditions import Facts, conditions_of
from reconciler.engine.events import ApplyEvent, StepDone, StepFailed, StepStarted, StepWaits
from reconciler.engine.leadership import Tenure
from reconciler.engine.reconcile import Again, Conclusion, failed, reconcile
from reconciler.engine.records import decode_record, record_key
from reconciler.engine.sight import Sight
from reconciler.engine.sources import NOTHING, Wanted
from reconciler.engine.workqueue import WorkQueue
from reconciler.engine.world import World
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.status import Status
from reconciler.telemetry import CONTROLLER, Metrics

SOON_S = 2.0
"""When a database is looked at again that waits for something outside."""

NOT_OURS = "NotOurs"
IN_DOUBT = "SourceInDoubt"
_READY = {"True": 1, "False": 0, "Unknown": -1}


@dataclass(slots=True)
class _Work:
    """One database's round that runs: how to stop it, and the spec it was begun with."""

    stop: threading.Event
    digest: str


class Rounds:
    """The workers and all that they share.

    ``written`` hears of each write of a status: None, or why etcd did not take it. ``unlooked``
    returns a source that was not looked at since a database left another, empty when all were.
    """

    def __init__(
        self,
        world: World,
        leader: Leader,
        metrics: Metrics,
        log: Any,
        written: Callable[[ReconcilerError | None], None],
        unlooked: Callable[[DatabaseKey], str],
    ) -> None:
        self._world, self._leader, self._metrics, self._log = world, leader, metrics, log
        self._written, self._unlooked = written, unlooked
        self._lock = threading.Lock()
        self._queue: WorkQueue[DatabaseKey] = WorkQueue(time.monotonic, random.random)
        self._sights = Sights(world.eyes)
        self._works: dict[DatabaseKey, _Work] = {}
        self._begun: Tenure | None = None
        self._asked: dict[DatabaseKey, float] = {}
        self._statuses: dict[DatabaseKey, Status] = {}
        self._unwritten: set[DatabaseKey] = set()
        self._workers = [
            threading.Thread(target=self._work, name=f"worker {n}", daemon=True)
            for n in range(world.settings.parallel)
        ]
        self.wanted: Wanted = NOTHING
        self.requests: dict[DatabaseKey, tuple[str, int]] = {}

    def start(self) -> None:
        """Begin to work on what is asked for."""
        for worker in self._workers:
            worker.start()

    def ask(self, key: DatabaseKey, *, routine: bool = False) -> None:
        """Ask for a round of a database; ``routine`` when nothing is known to have changed."""
        if not routine:
            self._sights.note(key)
        self._asked.setdefault(key, time.monotonic())
        self._queue.add(key, routine=routine)
        self._metrics.adds.labels(CONTROLLER).inc()
        self._metrics.depth.labels(CONTROLLER).set(self._queue.depth)

    def want(self, wanted: Wanted) -> None:
        """Take over what is asked for; rounds towards something else stop at a safe point."""
        with self._lock:
            self.wanted = wanted
            for key, work in self._works.items():
                if work.digest != digest_of(wanted, key):
                    work.stop.set()

    def remember(self, tenure: Tenure, statuses: dict[DatabaseKey, Status]) -> None:
        """Begin a tenure with the statuses that are in etcd; before that nothing is done in it."""
        self._sights.forget()
        self._statuses, self._begun = statuses, tenure

    def followed(self) -> set[DatabaseKey]:
        """Return the databases that have a status."""
        return {key for key, one in self._statuses.copy().items() if one.reason != NOT_OURS}

    def in_doubt(self) -> set[DatabaseKey]:
        """Return the databases of which it is not known whether a source holds them."""
        return {key for key, one in self._statuses.copy().items() if one.reason == IN_DOUBT}

    def hear(self, found: dict[DatabaseKey, tuple[str, int]]) -> list[DatabaseKey]:
        """Take over the open requests of people; ask for the new ones, which are returned."""
        before = self.requests
        new = sorted(key for key, mark in found.items() if before.get(key) != mark)
        for key in new:  # first: a round that answers one must look after it was made
            self._sights.note(key)
        self.requests = found
        for key in new:
            self.ask(key)
        return new

    def interrupt(self) -> None:
        """Stop all rounds at their next safe point."""
        with self._lock:
            for work in self._works.values():
                work.stop.set()

    def end(self, within_s: float) -> list[str]:
        """Begin no round any more and wait for those that run; return the names of what is left."""
        self._queue.close()
        self.interrupt()
        until = time.monotonic() + within_s
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        return [worker.name for worker in self._workers if worker.is_alive()]

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            self._metrics.depth.labels(CONTROLLER).set(self._queue.depth)
            asked = self._asked.pop(key, None)
            if asked is not None:
                self._metrics.queued.labels(CONTROLLER).observe(time.monotonic() - asked)
            try:
                with self._metrics.active.labels(CONTROLLER).track_inprogress():
                    self._round(key)
            except Exception as error:  # a worker must live; the database is tried again
                self._log.error("round broken", database=str(key), error=repr(error))
                self._queue.add_failed(key)
            finally:
                self._queue.done(key)

    def _round(self, key: DatabaseKey) -> None:
        tenure = self._leader.tenure
        if tenure is None or tenure is not self._begun:
            return  # whoever leads next asks for it again
        stop, began = threading.Event(), time.monotonic()
        mark = self.requests.get(key, ("", 0))
        unlooked = self._unlooked(key)  # first: what a look finds is in what is wanted by then
        with self._lock:
            wanted = self.wanted
            self._works[key] = _Work(stop, digest_of(wanted, key))
        try:
            doubt = _doubt(key, wanted, unlooked)
            conclusion, source, revision = (
                self._doubted(key, doubt) if doubt else self._conclude(key, wanted, tenure, stop)
            )
        except FencedOff as error:
            self._leader.lose(tenure, error.problem)
            return
        finally:
            with self._lock:
                del self._works[key]
        self._metrics.seconds.labels(CONTROLLER).observe(time.monotonic() - began)
        self._count(key, conclusion)
        self._note(key, conclusion, source, revision, mark, tenure)
        self._again(key, conclusion)

    def _doubted(self, key: DatabaseKey, doubt: Conclusion) -> tuple[Conclusion, str, str]:
        last = self._statuses.get(key)
        return (doubt, last.source, last.attempted) if last else (doubt, "", "")

    def _conclude(
        self, key: DatabaseKey, wanted: Wanted, tenure: Tenure, stop: threading.Event
    ) -> tuple[Conclusion, str, str]:
        """Return what a round found, and the source and revision that it was held against."""
        clash = wanted.clashes.get(key)
        if clash:
            return failed(clash), "", ""
        sight = self._sights.of(key, self._queue.depth)
        try:
            loaded = wanted.databases.get(key) or wanted.sources.get(
                self._recorded_source(key, sight)
            )
        except ReconcilerError as error:
            return failed(error), "", ""
        if loaded is None:
            text = "no source of this daemon holds it"
            return Conclusion(None, False, False, NOT_OURS, text, Again.ROUTINE), "", ""
        conclusion = reconcile(
            self._world, loaded, key, wanted.policies, tenure, self._teller(key), stop, sight
        )
        return conclusion, loaded.desired.source, str(loaded.desired.revision)

    def _recorded_source(self, key: DatabaseKey, sight: Sight | None) -> str:
        """Return which source applied a database last, empty when none did."""
        name = record_key(key)
        records = sight.records_of(key) if sight else self._world.eyes.store.read(name)
        found = records.get(name)
        return decode_record(name, found.value, key, found.version).source if found else ""

    def _note(
        self, key: DatabaseKey, conclusion: Conclusion, source: str, revision: str,
        answered: tuple[str, int], tenure: Tenure,
    ) -> None:  # fmt: skip
        """Write the status when it says something new; log what is worth a line."""
        mark, version = answered
        before = self._statuses.get(key) or Status(key, None, True, False, "", "")
        after = records.concluded(
            before, conclusion, source=source, revision=revision, handled=mark,
            failures=self._queue.failures(key) + 1, now=self._world.clock.now(),
        )  # fmt: skip
        ready, *others = conditions_of(Facts(key, serving=after.serving, told=after))
        self._metrics.ready.labels(key.namespace, key.name).set(_READY[ready.status])
        if (after.reason, after.message) != (before.reason, before.message):
            tell = self._log.error if conclusion.again is Again.BACKOFF else self._log.info
            true = {one.type for one in others}
            tell(
                conclusion.reason, database=str(key), message=conclusion.message,
                ready=ready.status, reconciling="Reconciling" in true, stalled="Stalled" in true,
                revision=revision,
            )  # fmt: skip
        self._statuses[key] = after
        if after.reason == NOT_OURS:
            self._metrics.forget(key.namespace, key.name)
        if after != before or version or key in self._unwritten:
            self._write(key, None if after.reason == NOT_OURS else after, version, tenure)

    def _write(
        self, key: DatabaseKey, status: Status | None, answered: int, tenure: Tenure
    ) -> None:
        store = self._world.eyes.store
        try:
            records.write_status(store, tenure.lease, key, status, answered)
        except FencedOff as error:
            self._leader.lose(tenure, error.problem)
        except ReconcilerError as error:  # the next round writes it
            self._unwritten.add(key)
            self._written(error)
        else:
            self._unwritten.discard(key)
            self._written(None)

    def _count(self, key: DatabaseKey, conclusion: Conclusion) -> None:
        is_failed = conclusion.again is Again.BACKOFF
        result = "error" if is_failed else "requeue" if conclusion.reconciling else "success"
        self._metrics.reconciles.labels(CONTROLLER, result).inc()
        if is_failed:
            self._metrics.errors.labels(CONTROLLER).inc()
        self._metrics.stalled.labels(key.namespace, key.name).set(int(conclusion.stalled))

    def _again(self, key: DatabaseKey, conclusion: Conclusion) -> None:
        self._sights.note(key, SOON_S if conclusion.again is Again.SOON else 0.0)
        if conclusion.again is Again.BACKOFF or key in self._unwritten:
            self._queue.add_failed(key)
            return
        self._queue.forget(key)
        if conclusion.again is Again.NOW:
            self.ask(key)
        elif conclusion.again is Again.SOON:
            self._queue.add_after(key, SOON_S)

    def _teller(self, key: DatabaseKey) -> Teller:
        return Teller(self._log.bind(database=str(key)), self._metrics)


@dataclass(frozen=True, slots=True)
class Teller:
    """Writes a log line for each event of an apply."""

    log: Any
    metrics: Metrics

    def __call__(self, event: ApplyEvent) -> None:
        """Tell it."""
        match event:
            case StepStarted():
                self.log.info("step begun", step=event.step.id)
            case StepWaits():
                said = "step works" if event.works else "step waits"
                self.log.info(said, step=event.step.id, reason=event.reason)
            case StepDone():
                self.metrics.steps.labels("done").inc()
                self.log.info("step done", step=event.step.id, seconds=round(event.seconds, 3))
            case StepFailed():
                self.metrics.steps.labels("failed").inc()
                error = event.error
                self.log.error(
                    "step failed", step=event.step.id, code=error.code, error=error.problem
                )
            case _:
                pass  # that it began and ended is told by the round's conclusion


def _doubt(key: DatabaseKey, wanted: Wanted, unlooked: str) -> Conclusion | None:
    """Say why what no source holds is not taken for gone: one of them may hold it by now."""
    if key in wanted.databases or key in wanted.clashes:
        return None
    if wanted.doubts:
        text = f"no source is known to hold it, but {wanted.doubts[0]}: left alone"
        return Conclusion(None, True, False, IN_DOUBT, text, Again.ROUTINE)
    if unlooked:
        text = f"it left its source, and source {unlooked} is looked at once more: left alone"
        return Conclusion(None, True, False, IN_DOUBT, text, Again.SOON)
    return None


def digest_of(wanted: Wanted, key: DatabaseKey) -> str:
    """Return the digest of what is asked of a database, empty when nothing is."""
    loaded = wanted.databases.get(key)
    return loaded.desired.databases[0].digest if loaded else ""
