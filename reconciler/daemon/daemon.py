"""The daemon: sources → queue → one round a database → status, for as long as it leads."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Any

from reconciler.daemon.config import ConfigFile, DaemonConfig
from reconciler.daemon.leader import Leader
from reconciler.daemon.rounds import Rounds
from reconciler.daemon.sources import Follower
from reconciler.daemon.webhook import plain_address
from reconciler.edges.etcd_gateway import StoreFull
from reconciler.engine import status as records
from reconciler.engine.leadership import Tenure
from reconciler.engine.records import DATABASES, database_of_key, decode_record
from reconciler.engine.sources import SourceState, accepted, changed, join
from reconciler.engine.workqueue import routine_pause_s
from reconciler.engine.world import World
from reconciler.model.access import ConflictingWrite, FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.telemetry import Metrics

RETRY_S = 2.0
"""How often one that does not lead tries to."""
REQUESTS_S = 1.0
"""How often requests of people are looked for."""
HEARD_S = 900.0
"""How often an idle daemon says that it is there: so old a word may be when it is killed."""
STOP_S = 25.0
"""How long a stop waits for the work in hand to reach a safe point."""


class Daemon:
    """One daemon. ``run`` returns when ``stop`` was called."""

    def __init__(
        self, world: World, config: DaemonConfig, log: Any, file: ConfigFile | None = None
    ) -> None:
        self.world, self.config, self.log, self._file = world, config, log, file
        self.metrics = Metrics()
        self.leader = Leader(world, log, self._lost)
        self.rounds = Rounds(
            world, self.leader, self.metrics, log, self._hear_write, self._not_looked_since
        )
        self._joining = threading.Lock()
        self._over = threading.Event()
        self._followers: dict[str, Follower] = {}
        self._etcd_silent, self._etcd_refuses = "it was not asked yet", ""
        self._begun: Tenure | None = None
        self._at_start = config.at_start
        self._accepted: dict[str, str] = {}
        self._left: dict[DatabaseKey, dict[Follower, int]] = {}
        self._is_told, self._told_at = True, 0.0

    def run(self) -> None:
        """Follow, lead and work until stopped."""
        self.log.info("starting", actor=self.world.actor, interval_s=self.config.interval_s)
        self.reconfigure(self.config)
        self.rounds.start()
        try:
            self._lead()
        finally:
            self._end()

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when the work in hand is at a safe point."""
        self._over.set()

    def reconfigure(self, config: DaemonConfig) -> None:
        """Follow these sources from now on; those that stay the same are not disturbed."""
        self.config = config
        if config.webhook_secret and not os.access(config.webhook_secret, os.R_OK):
            self.log.warning("webhooks refused", unreadable=str(config.webhook_secret))
        kept = {source.name: source for source in config.sources}
        for name, follower in list(self._followers.items()):
            if kept.get(name) != follower.source:
                follower.stop()
                del self._followers[name]
                self.log.info("source left", source=name)
        for name, source in kept.items():
            if name not in self._followers:
                self._followers[name] = Follower(
                    source, self._news, self._count_look, self.log,
                    partial(self._accepted_of, name),
                )  # fmt: skip
                self._followers[name].start()
                self.log.info("source followed", source=name, interval_s=source.interval_s)
        self._news(None)

    def hear_push(self, addresses: frozenset[str], ref: str) -> int:
        """Let the sources of a pushed repository look at once; return how many do."""
        looking = 0
        for follower in list(self._followers.values()):
            source = follower.source
            if (
                source.hears
                and plain_address(source.request.git) in addresses
                and (source.request.ref in ("", ref))
            ):
                follower.poke()
                looking += 1
        return looking

    def states(self) -> tuple[SourceState, ...]:
        """Return the state of every source, in the order of the configuration."""
        followers = [self._followers.get(source.name) for source in self.config.sources]
        return tuple(follower.state for follower in followers if follower)

    def why_not_ready(self) -> list[str]:
        """Return what is missing; empty when ready. Leading is not needed for that."""
        missing = [f"source {s.name} was not read yet" for s in self.states() if not s.answered]
        if self._etcd_silent:
            missing.append(f"etcd does not answer: {self._etcd_silent}")
        if self._etcd_refuses:
            missing.append(f"etcd takes no writes: {self._etcd_refuses}")
        return missing

    def dependencies(self) -> list[str]:
        """Return the state of all that it needs, in the order in which it takes them up."""
        told = [f"source {state.name}: {state.summary}" for state in self.states()]
        told.append(f"etcd: {self._etcd_silent or self._etcd_refuses or 'ok'}")
        told.append(f"leadership: {'held' if self.leader.tenure else 'not held'}")
        return told

    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._over.is_set()

    def _end(self) -> None:
        self.log.info("stopping")
        for follower in list(self._followers.values()):
            follower.stop()
        left = self.rounds.end(STOP_S)
        if left:  # the journal has what they do; the next daemon goes on from there
            self.log.warning("left at work", workers=left)
        elif not self._etcd_silent:
            self._write_daemon()  # how old its word is, for whoever reads it then
        self.leader.resign()
        self.metrics.leads.set(0)
        self.log.info("stopped")

    def _news(self, by: SourceState | None) -> None:
        """Take all sources together and ask for the databases of which something changed."""
        with self._joining:
            before, states = self.rounds.wanted, self.states()
            wanted = join(states, before)
            self._note_left(wanted.left_since(before), by.name if by else "")
            self.rounds.want(wanted)
        for problem in wanted.problems:
            self.log.error("policies kept", code=problem.code, error=str(problem))
        for state in states:
            self.metrics.quarantined.labels(state.name).set(int(bool(state.problems)))
        for key in sorted({*changed(before, wanted), *self.rounds.in_doubt()}):
            self.rounds.ask(key)
        if self.leader.tenure:
            self._write_daemon()

    def _note_left(self, left: frozenset[DatabaseKey], by: str) -> None:
        """Let all other sources look again when databases left one: another may hold them now."""
        others = [one for name, one in list(self._followers.items()) if name != by]
        for key in left:
            self._left[key] = {follower: follower.looks for follower in others}
        for follower in others if left else ():
            follower.poke()

    def _not_looked_since(self, key: DatabaseKey) -> str:
        """Return a source that was not looked at since a database left, empty when all were."""
        now = self._followers
        for follower, looks in self._left.get(key, {}).items():
            name = follower.source.name
            if now.get(name) is follower and follower.told <= looks:
                return name
        self._left.pop(key, None)
        return ""

    def _count_look(self, source: str, result: str) -> None:
        self.metrics.fetches.labels(source, result).inc()

    def _lead(self) -> None:
        """Stand until we lead; then hear requests, and ask for a routine look now and then."""
        routine_at, cpu_s = 0.0, time.process_time()
        while not self._over.is_set():
            wait = REQUESTS_S
            self._reload()
            try:
                if not self._leads():
                    wait = RETRY_S
                elif self._begin_tenure() or time.monotonic() >= routine_at:
                    cpu_s, before_s = time.process_time(), cpu_s
                    pause_s = routine_pause_s(self.config.interval_s, cpu_s - before_s)
                    routine_at = time.monotonic() + pause_s
                    self._ask_for_all()
            except FencedOff:
                pass  # the keeper says so
            except StoreFull as error:  # it answers: what it holds can be read
                self._hear_etcd("")
                self._hear_write(error)
            except ReconcilerError as error:
                self._hear_etcd(f"{error.code} {error.problem}")
            else:
                self._hear_etcd("")
            self._over.wait(wait)

    def _leads(self) -> bool:
        """Whether we lead, now that we tried. Raises what the store raises."""
        if self.leader.tenure is None:
            stood = self.leader.stand()
            self._hear_write(None)  # to stand is to write, whoever leads
            return stood
        return True

    def _begin_tenure(self) -> bool:
        """Begin a new tenure, which is tried until it is done; return whether this was one."""
        tenure = self.leader.tenure
        if tenure is None:  # lost since we asked
            return False
        is_new = tenure is not self._begun
        if is_new:
            self._begin(tenure)
        self._hear_requests()
        is_due = time.monotonic() - self._told_at > HEARD_S
        if self._etcd_refuses or not self._is_told or is_due:  # a write shows that etcd takes them
            self._write_daemon()
        return is_new

    def _reload(self) -> None:
        """Take over the daemon's own configuration when its file changed."""
        if self._file is None:
            return
        before = self._file.problem
        config = self._file.news()
        if self._file.problem is not before:
            self._is_told = False
            self._log_mistakes(self._file.problems)
        if config is not None and config != self.config:
            self.log.info("configuration in force", sources=len(config.sources))
            late = [name for name, _ in set(config.at_start) - set(self._at_start)]
            if late:
                self.log.warning("needs a restart", fields=sorted(late))
            self.reconfigure(config)

    def _log_mistakes(self, problems: tuple[ReconcilerError, ...]) -> None:
        """Say what is wrong with a configuration that is not taken over."""
        for problem in problems:
            self.log.error(
                "problem in configuration", code=problem.code, where=str(problem.where or ""),
                subject=problem.subject, error=problem.problem, remedy=problem.remedy,
            )  # fmt: skip
        if problems:
            self.log.error("configuration kept", problems=len(problems))

    def _begin(self, tenure: Tenure) -> None:
        """A tenure begins with what the last one left in etcd."""
        self.metrics.leads.set(1)
        store = self.world.eyes.store
        self._accepted = records.read_accepted(store.read(records.DAEMON))
        for name, follower in list(self._followers.items()):
            follower.begin_from(self._accepted.get(name, ""))
        self._news(None)
        self.rounds.remember(tenure, records.read_statuses(store.read(records.STATUS)))
        self._begun = tenure
        self._write_daemon()

    def _accepted_of(self, name: str) -> str:
        """Return what is on record as in force of a source. Raises what the store raises."""
        return records.read_accepted(self.world.eyes.store.read(records.DAEMON)).get(name, "")

    def _lost(self) -> None:
        self.metrics.leads.set(0)
        self.rounds.interrupt()

    def _ask_for_all(self) -> None:
        """Ask for every database: of the specs, those that a source of ours applied before, and
        those with a status that another daemon left, which goes if nobody holds them.
        """
        wanted = self.rounds.wanted
        keys = wanted.databases.keys() | wanted.clashes.keys()
        left = {k for k, source in self._recorded().items() if source in wanted.sources}
        for key in sorted(keys | left | self.rounds.followed()):
            self.rounds.ask(key, routine=True)

    def _recorded(self) -> dict[DatabaseKey, str]:
        """Return the source of each database that was applied. Raises what the store raises."""
        found: dict[DatabaseKey, str] = {}
        for key, item in self.world.eyes.store.read(DATABASES).items():
            match database_of_key(key):
                case (database, "record"):
                    record = decode_record(key, item.value, database, item.version)
                    found[database] = record.source
                case _:
                    pass
        return found

    def _hear_etcd(self, silence: str) -> None:
        if silence and silence != self._etcd_silent:
            self.log.error("etcd does not answer", error=silence)
        elif self._etcd_silent and not silence:
            self.log.info("etcd answers")
            for follower in list(self._followers.values()):
                if follower.state.unreachable:  # perhaps it waits to hear what was in force
                    follower.poke()
        self._etcd_silent = silence

    def _hear_write(self, error: ReconcilerError | None) -> None:
        """Hear what came of a write of ours; said once, however many fail."""
        refusal = f"{error.code} {error.problem}" if error else ""
        if isinstance(error, ConflictingWrite):
            return  # a person asked once more meanwhile
        if error and not self._etcd_refuses:
            self.log.error(
                "etcd takes no writes", code=error.code, error=error.problem, remedy=error.remedy
            )
        elif self._etcd_refuses and not error:
            self.log.info("etcd takes writes")
        self._etcd_refuses = refusal

    def _hear_requests(self) -> None:
        found = records.requests(self.world.eyes.store)
        for key in self.rounds.hear(found):
            self.log.info("asked to reconcile", database=str(key), mark=found[key][0])

    def _write_daemon(self) -> None:
        tenure = self.leader.tenure
        if tenure is None or tenure is not self._begun:
            return
        states = self.states()
        self._accepted = accepted(states, self._accepted)
        at = self.world.clock.now().isoformat(timespec="seconds")
        value = records.encode_daemon(
            self.world.actor, self.leader.since, states, self._accepted, at,
            self._file.problems if self._file else (),
        )  # fmt: skip
        self._is_told, self._told_at = False, time.monotonic()
        try:
            self.world.eyes.store.write({records.DAEMON: (value, None)}, tenure.lease)
        except FencedOff as error:
            self.leader.lose(tenure, error.problem)
        except ReconcilerError as error:  # told again until it is taken
            self._hear_write(error)
        else:
            self._is_told = True
            self._hear_write(None)
