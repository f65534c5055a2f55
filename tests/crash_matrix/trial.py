"""One run: clients book, keys move, one thing breaks, and apply goes on until nothing is to do."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from reconciler.demo.shards import connect
from reconciler.engine.events import StepFailed
from reconciler.engine.problems import PlanStale
from reconciler.engine.wishes import moves_under_way, record_wish
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import position_of_key
from reconciler.model.moves import Stage as MoveStage
from reconciler.model.moves import Wish
from reconciler.workflow.reshard_facts import WayBackLost
from tests.crash_matrix.plan import Course, Fault, Strike, Trial
from tests.crash_matrix.stage import KEYS, NAME, NEWEST, Stage
from tests.e2e.test_moves import leftovers
from tests.ledger import ACCOUNTS, ENTRIES, Ledger, Rows, check
from tests.ledger_clients import MapSession, RouterSession, SdkSession

_APPLIER = (sys.executable, "-m", "tests.crash_matrix.applier")
DEADLINE_S = 300.0
"""How long a run may take to converge; generous, since it says nothing about speed."""


@dataclass
class Outcome:
    """What came of a run. ``problem`` is empty when all is well."""

    trial: Trial
    struck: bool = False
    applies: int = 0
    failures: list[str] = field(default_factory=list)
    acknowledged: int = 0
    unknown: int = 0
    refused_stale: int = 0
    longest_s: float = 0.0
    seconds: float = 0.0
    problem: str = ""

    def line(self) -> str:
        """Return it as one line of the table."""
        trial = self.trial
        state = "ok" if not self.problem else f"FAILED {self.problem}"
        strike = f"{trial.strike}{'' if self.struck else ' (not reached)'}"
        return (
            f"{trial.seed:>6}  {trial.what:<15} {trial.course:<8} {strike:<48} "
            f"{self.applies:>2} applies "
            f"{self.acknowledged:>5} acknowledged {self.unknown:>3} unknown "
            f"{self.longest_s:>5.1f} s longest {self.seconds:>5.0f} s  {state}"
            f"{'  [' + ', '.join(self.failures) + ']' if self.failures else ''}"
        )


class Run:
    """A trial on a stage."""

    def __init__(self, stage: Stage, trial: Trial) -> None:
        self.stage, self.trial = stage, trial
        self.outcome = Outcome(trial)
        self._armed: list[Strike] = [*([trial.first] if trial.first else []), trial.strike]
        self._revival: threading.Timer | None = None
        self._end = time.monotonic() + DEADLINE_S

    def go(self) -> Outcome:
        """Run it and check everything; what is wrong is in the outcome."""
        begun = time.monotonic()
        try:
            self._arrange()
            with self._ledgers() as ledgers:
                self._move()
                self.stage.await_whole()
                for ledger in ledgers:
                    if not ledger.stale:
                        ledger.await_more(10)
            self._count(ledgers)
            self._check(ledgers)
            self.stage.reset()
        except (AssertionError, ReconcilerError, psycopg.Error) as problem:
            self.outcome.problem = " ".join(str(problem).split())[:600] or repr(problem)
        finally:
            if self._revival:
                self._revival.join()
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    # The move -----------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Bring the keys to where this trial begins, without any fault."""
        if self.stage.tiling != self.trial.way.before:
            armed, self._armed = self._armed, []
            self.stage.write(self.trial.way.before)
            self._converge(finish=True)
            self.outcome.applies, self._armed = 0, armed
        self.stage.await_whole()

    def _move(self) -> None:
        way, course = self.trial.way, self.trial.course
        self.stage.write(way.after, self.trial.copy)
        if course is Course.ABORT:
            self._apply()  # it is killed
        elif course is Course.BACK:
            self._converge(finish=False)
        if course is not Course.FORWARD:
            self.stage.write(way.before)
        self._converge(finish=True)

    def _converge(self, *, finish: bool) -> None:
        """Apply until nothing is to do; ``finish`` ends the window of what has been cut over."""
        while True:
            assert time.monotonic() < self._end, f"still to do: {self._left()}"
            try:
                plan = self.stage.scene.look().plan
                if plan.steps:
                    self._apply()
                elif plan.standstills or plan.refusals:
                    self.stage.revive()
                    time.sleep(0.3)
                elif not (finish and self._finish_one()):
                    return
            except ReconcilerError as error:
                if not error.transient and not isinstance(error, PlanStale):
                    raise
                self._note(error.code)
                self.stage.revive()
                time.sleep(0.3)

    def _left(self) -> str:
        plan = self.stage.scene.look().plan
        return f"{[s.id for s in plan.steps]} {plan.standstills} {plan.refusals}"

    def _finish_one(self) -> bool:
        world = self.stage.scene.world()
        moves = [m for m in moves_under_way(world.eyes.store) if m.stage is MoveStage.SWITCHED]
        for move in moves:
            record_wish(world, move.id, Wish.FINISH)
        return bool(moves)

    def _apply(self) -> None:
        self.outcome.applies += 1
        if self._armed:
            self._apply_gated()
            return
        ended = self.stage.scene.apply()
        for event in self.stage.scene.events:
            if isinstance(event, StepFailed):
                self._note(event.error.code)
                if event.error.code == WayBackLost.code:
                    self._finish_one()  # as it says; the spec then moves the keys back afresh
                    continue
                assert event.error.transient, event.error
        if ended.failed:
            self.stage.revive()

    def _note(self, code: str) -> None:
        if code not in self.outcome.failures:
            self.outcome.failures.append(code)

    def _apply_gated(self) -> None:
        scene = self.stage.scene
        applier = subprocess.Popen(
            [*_APPLIER, str(scene.home), str(scene.folder)],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert applier.stdout is not None
        assert applier.stdin is not None
        assert applier.stderr is not None
        drained = threading.Thread(target=lambda: errors.extend(applier.stderr or ()), daemon=True)
        errors: list[str] = []
        drained.start()
        for line in applier.stdout:
            place = line.strip().removeprefix("AT ")
            with suppress(BrokenPipeError):
                if self._armed and place == self._armed[0].gate:
                    self._strike(applier)
                applier.stdin.write("go\n")
                applier.stdin.flush()
        applier.wait()
        drained.join()
        for code in re.findall(r"\b[A-Z]{2}[0-9]{3}\b", "".join(errors)):
            self._note(code)
        for pipe in (applier.stdin, applier.stdout, applier.stderr):
            with suppress(BrokenPipeError):
                pipe.close()

    def _strike(self, applier: subprocess.Popen[str]) -> None:
        strike = self._armed.pop(0)
        self.outcome.struck = not self._armed
        if strike.when != "during":
            self._break(strike, applier)
            return
        assert applier.stdin is not None
        late = threading.Timer(strike.delay_s, self._break, (strike, applier))
        late.start()

    def _break(self, strike: Strike, applier: subprocess.Popen[str]) -> None:
        if strike.fault is Fault.APPLIER:
            applier.kill()
            return
        self.stage.strike(strike.fault, self.trial.way)
        self._revival = threading.Timer(self.trial.revive_s, self.stage.revive)
        self._revival.start()

    # The clients --------------------------------------------------------------------------------

    @contextmanager
    def _ledgers(self) -> Iterator[list[Ledger]]:
        stage, seed = self.stage, self.trial.seed
        world, options, config = stage.scene.world(), stage.router_options(), stage.config()
        ledgers = [
            Ledger(f"sdk-{seed}", lambda: SdkSession(config), KEYS, pace_s=0.03),
            Ledger(f"router-{seed}", lambda: RouterSession(options), KEYS, pace_s=0.03),
            Ledger(
                f"stale-{seed}",
                lambda: MapSession(
                    stage.routing, lambda m, o: connect(world, m, o), stale=True, tells_epoch=True
                ),
                KEYS,
                stale=True,
                pace_s=0.05,
            ),
        ]
        with ExitStack() as stack:
            for ledger in ledgers:
                stack.enter_context(ledger)
                ledger.await_more(3)
            yield ledgers

    def _count(self, ledgers: list[Ledger]) -> None:
        out = self.outcome
        out.acknowledged = sum(ledger.acknowledged for ledger in ledgers)
        out.unknown = sum(len(ledger.unknown) for ledger in ledgers)
        out.refused_stale = ledgers[-1].refused
        out.longest_s = max(ledger.longest_s for ledger in ledgers)

    # The checks ---------------------------------------------------------------------------------

    def _check(self, ledgers: list[Ledger]) -> None:
        trial, scene = self.trial, self.stage.scene
        wanted = trial.way.after if trial.course is Course.FORWARD else trial.way.before
        assert self.stage.tiling == wanted
        accounts, strange = self._owned(ACCOUNTS)
        entries, more = self._owned(ENTRIES)
        check(accounts, entries, *ledgers)
        assert not strange + more, f"{len(strange + more)} rows at a shard that does not own them"
        assert moves_under_way(scene.world().eyes.store) == (), "a move's record is left"
        left = leftovers(scene, NAME)
        assert not left, f"left behind: {left}"
        taken = self._takers()
        assert set(taken.values()) == {1}, f"shards that take each key: {taken}"

    def _owned(self, query: str) -> tuple[Rows, Rows]:
        """Return the rows at their owners, and those elsewhere."""
        world, routing = self.stage.scene.world(), self.stage.routing()
        mine: Rows = []
        strange: Rows = []
        for owner in routing.owners:
            with connect(world, routing, owner) as session:
                for row in session.execute(query.encode()):
                    at = position_of_key("bigint", str(row[0])) in owner.keys
                    (mine if at else strange).append(row)
        return mine, strange

    def _takers(self) -> dict[int, int]:
        """Return by key how many shards take a row of it."""
        world, routing = self.stage.scene.world(), self.stage.routing()
        takers = dict.fromkeys(KEYS, 0)
        for owner in routing.owners:
            with connect(world, routing, owner) as session:
                session.execute(NEWEST)
                for key in KEYS:
                    with suppress(psycopg.Error), session.transaction(force_rollback=True):
                        session.execute(_TRY, [key])
                        takers[key] += 1
        return takers


_TRY = "INSERT INTO accounts (id) VALUES (%s) ON CONFLICT DO NOTHING"


def run_trial(stage: Stage, trial: Trial) -> Outcome:
    """Run one trial on a stage."""
    return Run(stage, trial).go()
