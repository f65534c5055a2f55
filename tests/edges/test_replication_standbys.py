"""What a cut waits for beside the stream: standbys, superseded appliers, and how long at most."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.edges import replication_cut
from reconciler.edges.postgres_session import StatementRefused
from reconciler.edges.replication_ends import NotReady, open_session
from reconciler.edges.replication_seal import advance_slot
from reconciler.edges.replication_streams import drop_slots
from reconciler.model.access import FencedOff
from reconciler.model.names import FencingToken, MemberName
from reconciler.model.platform import Endpoint, PlatformMember, TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    MoveWorld,
    Pair,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import SUPERUSER_PASSWORD, PostgresServer, postgres_binaries
from tests.edges.shard import TOKEN, TestShard

STANDBY = "shop-s0-1"


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "standbys", tls) as servers:
        for server in (servers.source, servers.target):
            with (server.home / "data" / "pg_hba.conf").open("a") as hba:
                hba.write("host replication all 127.0.0.1/32 scram-sha-256\n")
            server.run("pg_ctl", "reload", "--pgdata=data")
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    """A move whose next act is the cut."""
    world = make_world(pair, pause_max_ms=400)
    load_accounts(world, 100)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    return world


def with_standby(shard: TestShard) -> TestShard:
    """Return the shard with a second member, which nobody can reach."""
    member = PlatformMember(MemberName(STANDBY), Endpoint("127.0.0.1", 1, 0), running=True)
    return replace(shard, login=replace(shard.login, members=(*shard.login.members, member)))


@contextmanager
def standby(server: PostgresServer, shard: TestShard, folder: Path) -> Iterator[int]:
    """Follow a server as a standby does, and flush at once; yield the process."""
    environment = {
        **os.environ, "PGPASSWORD": SUPERUSER_PASSWORD, "PGAPPNAME": STANDBY,
        "PGSSLROOTCERT": shard.login.tls.ca,
    }  # fmt: skip
    receiver = subprocess.Popen(
        [str(server.bin / "pg_receivewal"), "-h", "127.0.0.1", "-U", "postgres", "-p",
         str(server.port), "-D", str(folder), "--no-loop", "--synchronous"],
        env=environment,
    )  # fmt: skip
    try:
        query = f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{STANDBY}'"
        wait_until(lambda: shard.rows(f"{query} AND state = 'streaming'") == [(1,)])
        yield receiver.pid
    finally:
        receiver.kill()
        receiver.wait()


@contextmanager
def synchronous(shard: TestShard, name: str) -> Iterator[None]:
    def await_setting(value: str) -> None:
        connection.execute("SELECT pg_reload_conf()")
        wait_until(lambda: shard.rows("SHOW synchronous_standby_names") == [(value,)])

    with shard.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '\"{name}\"'")
        try:
            await_setting(f'"{name}"')
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await_setting("")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def before(monkeypatch: pytest.MonkeyPatch, step: str, do: Callable[[], object]) -> None:
    """Let something happen just before a step of the cut."""
    real = getattr(replication_cut, step)

    def with_it(*given: Any) -> Any:
        do()
        return real(*given)

    monkeypatch.setattr(replication_cut, step, with_it)


# Standbys ----------------------------------------------------------------------------------------


def test_a_missing_synchronous_standby_holds_the_cut_and_not_the_writers(world: MoveWorld) -> None:
    with synchronous(world.source, "nobody"), pytest.raises(NotReady, match="synchronous standby"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
    assert world.view().fenced == ()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_member_that_is_away_holds_the_cut_while_it_may_be_promoted(
    world: MoveWorld, side: str
) -> None:
    """Without synchronous standbys Patroni promotes whoever is there and not far behind."""
    setattr(world, side, with_standby(getattr(world, side)))

    with pytest.raises(NotReady, match=f"{STANDBY} may be promoted and does not follow"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


@pytest.mark.parametrize(
    ("side", "step", "what"),
    [
        ("source", "_fence", "the fence"),
        ("source", "_refuse_stale", "the epoch"),
        ("target", "_seal", "the rows"),
    ],
)
@pytest.mark.parametrize("waited_for", [True, False])
def test_a_standby_that_stops_within_the_cut_makes_it_back_out(
    pair: Pair,
    world: MoveWorld,
    side: str,
    step: str,
    what: str,
    waited_for: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A COMMIT that waits for a synchronous one would hold writers for as long as it is away."""
    shard, server = with_standby(getattr(world, side)), getattr(pair, side)
    setattr(world, side, shard)
    with standby(server, shard, tmp_path) as process:
        before(monkeypatch, step, lambda: os.kill(process, signal.SIGSTOP))
        try:
            if waited_for:
                with synchronous(shard, STANDBY):
                    result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
            else:
                result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
            seen = world.view()
        finally:
            os.kill(process, signal.SIGCONT)

    who = "a synchronous standby" if waited_for else STANDBY
    assert (result.opened, result.reason) == (False, f"{who} had not got {what} in time")
    assert (seen.fenced, seen.opened) == ((), ())


def test_a_cut_with_a_standby_at_each_side_goes_through(
    pair: Pair, world: MoveWorld, tmp_path: Path
) -> None:
    world.source, world.target = with_standby(world.source), with_standby(world.target)
    folders = [tmp_path / side for side in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    world.move = replace(world.move, pause_max_ms=60_000)
    with (
        standby(pair.source, world.source, folders[0]),
        standby(pair.target, world.target, folders[1]),
        synchronous(world.target, STANDBY),
    ):
        assert world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch).opened


def test_a_seal_that_cannot_go_on_makes_the_cut_back_out(world: MoveWorld) -> None:
    with world.target.connect() as connection, connection.transaction():
        connection.execute("SELECT FROM shardwright.moved FOR UPDATE")

        result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert result.reason == "a statement took longer than writers may wait"
    assert (world.view().fenced, world.view().opened) == ((), ())


def test_an_opening_that_is_refused_gives_the_keys_back(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The apply ends with that, so nobody else would for as long as nobody applies."""
    keys, tables = world.move.target_keys, [(t.name, t.key) for t in world.move.tables]
    other = lambda: world.target.guard(keys, *tables, epoch=3)  # noqa: E731
    before(monkeypatch, "_open_first", other)

    with pytest.raises(StatementRefused, match="was changed meanwhile"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    seen = world.view()
    assert (seen.fenced, seen.opened) == ((), ())
    assert seen.source_refuses_below <= seen.map_epoch


# Superseded appliers -----------------------------------------------------------------------------


def successor(shard: TestShard) -> None:
    with shard.connect() as connection:
        connection.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])


def test_a_superseded_applier_touches_no_slot(world: MoveWorld) -> None:
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    world.source.rows("SELECT pg_logical_emit_message(true, 'test', 'x')")
    successor(world.target)
    query = "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE NOT active"
    slots = world.target.rows(query)

    flush = psycopg.sql.SQL("SELECT pg_logical_emit_message(true, 'test', 'x')")
    with open_session(ends.target) as connection, pytest.raises(psycopg.Error, match="took over"):
        advance_slot(connection, ends.reverse, flush, TOKEN)
    with pytest.raises(FencedOff):
        drop_slots(ends.target, ends.reverse, TOKEN)
    assert world.target.rows(query) == slots

    drop_slots(ends.target, ends.reverse, FencingToken(TOKEN + 1))
    with pytest.raises(FencedOff):
        world.mover.arm(world.move, *world.seats, TOKEN)
    assert [name for name, _ in world.target.rows(query) if name == ends.reverse] == []


def test_no_token_is_raised_while_a_slot_is_being_made(world: MoveWorld) -> None:
    with world.target.connect() as maker, world.target.connect() as other:
        other.execute("SET lock_timeout = '200ms'")
        with maker.transaction():
            maker.execute("SELECT shardwright.hold_fence(%s)", [TOKEN])
            other.execute("SELECT shardwright.check_fence(%s)", [TOKEN])
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])
            maker.execute("SELECT pg_create_logical_replication_slot('made', 'pgoutput')")
            maker.execute("SELECT pg_drop_replication_slot('made')")
        successor(world.target)
        with pytest.raises(psycopg.Error, match="took over"):
            maker.execute("SELECT shardwright.hold_fence(%s)", [TOKEN])


def test_an_applier_superseded_within_its_cut_does_not_open(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor gives the keys back to the source: opened as well, both would accept them."""
    where = (world.move, *world.seats, FencingToken(TOKEN + 1))
    before(monkeypatch, "_open_first", lambda: world.mover.unfence(*where))

    with pytest.raises(FencedOff):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert (world.view().fenced, world.view().opened) == ((), ())


def test_an_applier_superseded_within_its_cut_does_not_give_back_what_was_opened(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = world.mover.cut
    token = FencingToken(TOKEN + 1)

    def finished_by_another() -> None:
        monkeypatch.undo()
        assert cut(world.move, *world.seats, token, world.move.epoch).opened

    def back_out(*_: Any) -> None:
        raise replication_cut._BackOut("test")

    monkeypatch.setattr(replication_cut, "_seal", back_out)
    before(monkeypatch, "_give_back", finished_by_another)

    with pytest.raises(FencedOff):
        cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().opened == world.view().fenced != ()
