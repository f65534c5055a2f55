"""Two real servers, a shard on each, a move between them, and writers that must lose nothing."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psutil
import psycopg

from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import Limits
from reconciler.model.access import Seat
from reconciler.model.desired import CopyDriver, KeyType, ShardedTable
from reconciler.model.hashing import position_of_key
from reconciler.model.keyspace import KeySet, parse_key_set
from reconciler.model.moves import CopyProgress, Move, MoveId, MoveView, Side, Stage, Wish
from reconciler.model.names import DatabaseKey, DatabaseName, Epoch, Namespace, ScopeKey, ShardName
from reconciler.model.names import Scope as ScopeName
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow.phase import Act, Done, Refuse, Wait
from reconciler.workflow.reshard import decide
from reconciler.workflow.reshard_records import (
    record_compared,
    record_cut,
    record_not_comparable,
    record_stage,
)
from tests.edges.servers import PostgresServer, running_postgres
from tests.edges.shard import TOKEN, TestShard, new_shard, schema_file

DEADLINE_S = 120.0
FIRST_EPOCH = Epoch(7)
_numbers = count(1)

LEDGER = """
CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, note text);
CREATE TABLE entries (
  account_id bigint NOT NULL REFERENCES accounts (id), id bigint GENERATED ALWAYS AS IDENTITY,
  mark text NOT NULL, doubled text GENERATED ALWAYS AS (mark || mark) STORED,
  PRIMARY KEY (account_id, id));
CREATE UNIQUE INDEX entries_mark ON entries (account_id, mark);
CREATE INDEX accounts_balance ON accounts (balance) WHERE balance > 0;
COMMENT ON INDEX accounts_balance IS 'who has something';
"""
LEDGER_TABLES = (("public.accounts", "id"), ("public.entries", "account_id"))
SETTINGS = (
    "\nwal_retrieve_retry_interval='500ms'\nmax_worker_processes=32\nmax_replication_slots=20\n"
    "max_logical_replication_workers=20\nmax_wal_senders=20\nmax_prepared_transactions=5\n"
    "wal_level=logical\nautovacuum=on\n"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers of one version."""

    source: PostgresServer
    target: PostgresServer


@contextmanager
def running_pair(binaries: Path, home: Path, tls: Any) -> Iterator[Pair]:
    home.mkdir(parents=True, exist_ok=True)  # with several files at once it may begin again
    folders = [Path(tempfile.mkdtemp(prefix=side, dir=home)) for side in ("a-", "b-")]
    with (
        running_postgres(binaries, folders[0], tls) as source,
        running_postgres(binaries, folders[1], tls) as target,
    ):
        for server in (source, target):
            with (server.home / "data" / "postgresql.conf").open("a") as conf:
                conf.write(SETTINGS)
            server.run("pg_ctl", "restart", "--wait", "--pgdata=data", "--log=log")
        yield Pair(source, target)


def kill(server: PostgresServer) -> None:
    """kill -9 of a whole server, the postmaster first, so that it cannot tidy up."""
    pid_file = server.home / "data" / "postmaster.pid"
    postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
    whole = [postmaster, *postmaster.children(recursive=True)]
    for process in whole:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(whole, timeout=DEADLINE_S)


def start(server: PostgresServer) -> None:
    """Start after a kill; the old children need a moment to notice."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            server.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log")
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


@dataclass
class MoveWorld:
    """A move, the map that routers follow, and what was done."""

    source: TestShard
    target: TestShard
    move: Move
    mover: LogicalMover = field(default_factory=lambda: LogicalMover(Limits(chunk_bytes=65536)))
    map_epoch: Epoch = FIRST_EPOCH
    owner: Side = Side.SOURCE
    twice: bool = False
    done: list[str] = field(default_factory=list)
    copied: list[CopyProgress] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def seats(self) -> tuple[Seat, Seat]:
        return seat(self.source), seat(self.target)

    def view(self) -> MoveView:
        view = self.mover.view(self.move, *self.seats, self.map_epoch)
        owner = self.move.source_scope if self.owner is Side.SOURCE else self.move.target_scope
        return replace(view, map_owners=(owner.scope,))

    def go(self, until: Callable[[acts.Step], bool] | None = None) -> None:
        """Do what the workflow decides, until an act (which is not done) or until it soaks."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline, (self.reasons[-3:], self.done)
            decision = decide(self.move, self.view(), datetime.now(UTC))
            match decision:
                case Act(act):
                    if until and until(act):
                        return
                    self.perform(act)
                    if isinstance(act, acts.EndMove):
                        return
                case Wait(reason):
                    self.reasons.append(reason)
                    if self.move.stage is Stage.SWITCHED and "rolled back" in reason:
                        return
                    time.sleep(0.05)
                case Refuse(error):
                    raise error
                case Done():
                    return

    def perform(self, act: acts.Step) -> None:
        self.done.append(type(act).__name__)
        for _ in range(2 if self.twice else 1):
            self._perform(act)

    def _perform(self, act: acts.Step) -> None:  # noqa: C901  a dispatch table
        mover, where = self.mover, (self.move, *self.seats, TOKEN)
        match act:
            case acts.PrepareTarget():
                assert mover.preflight(self.move, *self.seats) == ()
                mover.prepare_target(*where)
            case acts.Hold():
                mover.hold(*where)
            case acts.Publish():
                mover.publish(*where)
            case acts.Copy():
                mover.copy(*where, self.copied.append, lambda: False)
            case acts.BuildIndexes():
                mover.build_indexes(*where)
            case acts.Subscribe():
                mover.subscribe(*where)
            case acts.Verify():
                found = mover.verify(*where)
                assert found.equal, found
            case acts.RefreshViews():
                mover.refresh_views(*where)
            case acts.DivideSequences():
                mover.divide_sequences(*where)
            case acts.VerifyCut():
                found = mover.verify_cut(*where)
                self.move = record_compared(self.move, found)
                assert found.equal, found
            case acts.GiveUpVerifyCut(why):
                self.move = record_not_comparable(self.move, why)
            case acts.VerifyBack():
                found = mover.verify_back(*where)
                assert found.equal, found
            case acts.Arm():
                mover.arm(*where)
            case acts.Cut():
                self.note_cut(mover.cut(*where, self.next_epoch(8)))
            case acts.RollBackCut():
                self.note_cut(mover.roll_back_cut(*where, self.next_epoch(9)))
            case acts.FinishOpening():
                mover.finish_opening(*where)
            case acts.Unfence():
                mover.unfence(*where)
            case acts.Reverse():
                mover.reverse(*where)
            case acts.Clean():
                mover.clean(*where)
            case acts.Prune(side):
                assert mover.prune(self.move, side, *self.seats, TOKEN, lambda: False) == 0
            case acts.RefuseStale(side, epoch):
                mover.refuse_stale(self.move, side, epoch, *self.seats, TOKEN)
            case acts.WriteMap(epoch, back):
                self.map_epoch = epoch
                self.owner = Side.SOURCE if back else Side.TARGET
            case acts.Record(stage):
                self.move = record_stage(self.move, stage, datetime.now(UTC))
            case acts.EndMove():
                pass

    def next_epoch(self, planned: int) -> Epoch:
        return Epoch(max(planned, self.map_epoch + 1))

    def note_cut(self, result: Any) -> None:
        if result.pause_ms or not result.opened:
            self.move = record_cut(self.move, result, datetime.now(UTC))
            self.move = replace(self.move, cut_after="")
        if not result.opened:
            self.reasons.append(f"backed out: {result.reason}")

    def wish(self, wish: Wish) -> None:
        self.move = replace(self.move, wish=wish)

    def finish(self) -> None:
        self.wish(Wish.FINISH)
        self.go()

    def owner_of(self, key: object) -> TestShard:
        position = position_of_key(self.move.key_type, str(key))
        moved = position in self.move.keys
        if moved:
            return self.source if self.owner is Side.SOURCE else self.target
        return self.source if position in self.move.source_keys else self.target

    def nothing_left(self) -> None:
        for shard in (self.source, self.target):
            assert self.mover.sweep(seat(shard)) == ()


def seat(shard: TestShard) -> Seat:
    return Seat(shard.login, shard.primary, shard.database)


def make_world(
    pair: Pair,
    schema: str = LEDGER,
    tables: tuple[tuple[str, str], ...] = LEDGER_TABLES,
    *,
    keys: str = "80-",
    source_keys: str = "-",
    target_keys: str = "none",
    key_type: KeyType = KeyType.BIGINT,
    reference: tuple[str, ...] = (),
    pause_max_ms: int = 2000,
    copy: CopyDriver = CopyDriver.OWN,
) -> MoveWorld:
    source, target = new_shard(pair.source), new_shard(pair.target)
    target = replace(target, database=source.database, owner=source.owner, app=source.app)
    for shard, owned in ((source, source_keys), (target, target_keys)):
        shard.set_up()
        shard.apply(schema_file(schema))
        shard.guard(owned, *tables, key_type=key_type, epoch=7)
    namespace, name = Namespace("default"), DatabaseName(source.database)
    move = Move(
        id=MoveId(f"m{next(_numbers):08x}"),
        database=DatabaseKey(namespace, name),
        source=ShardName("s0"),
        target=ShardName("s1"),
        source_scope=ScopeKey(namespace, ScopeName("shop-s0")),
        target_scope=ScopeKey(namespace, ScopeName("shop-s1")),
        keys=parse_key_set(keys),
        source_keys=parse_key_set(source_keys),
        target_keys=parse_key_set(target_keys),
        epoch=Epoch(8),
        key_type=key_type,
        tables=tuple(ShardedTable(*t) for t in tables),
        reference=reference,
        pause_max_ms=pause_max_ms,
        rollback_window_s=3600,
        copy=copy,
    )
    return MoveWorld(source, target, move)


def load_accounts(world: MoveWorld, number: int) -> None:
    """Put accounts onto their owners, with notes large enough to be stored out of line."""
    for shard, keys in (
        (world.source, world.move.source_keys),
        (world.target, world.move.target_keys),
    ):
        wanted = [i for i in range(1, number + 1) if position_of_key("bigint", str(i)) in keys]
        with shard.connect() as connection:
            connection.execute(
                "INSERT INTO accounts (id, note) SELECT id, CASE WHEN id %% 50 = 0 THEN"
                " (SELECT string_agg(md5((id * 99 + i)::text), '') FROM generate_series(1, 200) i)"
                " ELSE 'n' || id END FROM unnest(%s::bigint[]) id",
                [wanted],
            )


STATEMENT = """
WITH changed AS (UPDATE accounts SET balance = balance + 1 WHERE id = %(id)s RETURNING id)
INSERT INTO entries (account_id, mark) SELECT id, %(mark)s FROM changed RETURNING account_id
"""


@dataclass
class Ledger:
    """Writers in threads: each acknowledged entry must be there exactly once at the end."""

    world: MoveWorld
    accounts: int
    threads: int = 4
    pause_s: float = 0.002
    isolation: str = "read committed"
    stale: bool = False
    name: str = "w"
    acknowledged: list[tuple[int, str]] = field(default_factory=list)
    unknown: list[tuple[int, str]] = field(default_factory=list)
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Ledger:
        for number in range(self.threads):
            thread = threading.Thread(target=self._write, args=(number,))
            thread.start()
            self.running.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.running:
            thread.join()

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.acknowledged) + more, time.monotonic() + DEADLINE_S
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, (self.failures[:3], self.refused)
            time.sleep(0.01)

    def _write(self, number: int) -> None:
        random = Random(number)  # noqa: S311
        sessions: dict[tuple[str, int], psycopg.Connection[Any]] = {}
        turn = 0
        while not self.stop.is_set():
            turn += 1
            key = random.randint(1, self.accounts)
            self._once(sessions, key, f"{self.name}{number}-{turn}")
            time.sleep(self.pause_s)
        for session in sessions.values():
            session.close()

    def _once(self, sessions: dict[Any, Any], key: int, mark: str) -> None:
        while not self.stop.is_set():
            shard = self.world.source if self.stale else self.world.owner_of(key)
            epoch = 7 if self.stale else self.world.map_epoch
            sent = False
            try:
                session = self._session(sessions, shard, epoch)
                sent = True
                row = session.execute(STATEMENT, {"id": key, "mark": mark}).fetchone()
                assert row is not None, f"account {key} is nowhere"
                self.acknowledged.append((key, mark))
                return
            except psycopg.Error as error:
                if error.sqlstate == "PS001":
                    self.refused += 1
                    if self.stale:
                        return
                elif error.sqlstate in ("40001", "40P01"):
                    pass
                elif isinstance(error, psycopg.OperationalError):
                    sessions.pop((shard.primary.postgres_port, epoch), None)
                    if sent:
                        self.unknown.append((key, mark))
                        return
                else:
                    self.failures.append(str(error))
                    return
                time.sleep(0.002)
            except AssertionError as error:
                self.failures.append(str(error))
                return

    def _session(self, sessions: dict[Any, Any], shard: TestShard, epoch: int) -> Any:
        at = (shard.primary.postgres_port, epoch)
        if at not in sessions:
            session = shard.connect(shard.app)
            session.execute(f"SET shardwright.epoch = {epoch}")
            session.execute(f"SET default_transaction_isolation = '{self.isolation}'")
            sessions[at] = session
        return sessions[at]

    def check(self) -> None:
        """Nothing lost, nothing twice, and the balances are the entries."""
        assert self.failures == []
        found: Counter[tuple[int, str]] = Counter()
        for shard in (self.world.source, self.world.target):
            for key, mark in shard.rows("SELECT account_id, mark FROM entries"):
                if self.world.owner_of(key) is shard:
                    found[key, mark] += 1
            for key, balance, entries in shard.rows(
                "SELECT a.id, a.balance, (SELECT count(*) FROM entries e WHERE e.account_id = a.id)"
                " FROM accounts a"
            ):
                if self.world.owner_of(key) is shard:
                    assert balance == entries, key
        lost = [entry for entry in self.acknowledged if found[entry] != 1]
        extra = set(found) - set(self.acknowledged) - set(self.unknown)
        assert lost == []
        assert extra == set()


def in_keys(keys: KeySet, key: object, key_type: str = "bigint") -> bool:
    return position_of_key(key_type, str(key)) in keys
