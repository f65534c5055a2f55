"""A source that fails over with a standby that keeps the move's slot: PostgreSQL 17 and later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import Wish
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    DEADLINE_S,
    Ledger,
    MoveWorld,
    Pair,
    kill,
    load_accounts,
    make_world,
    running_pair,
    start,
)
from tests.edges.servers import SUPERUSER_PASSWORD, PostgresServer, free_port, postgres_binaries
from tests.edges.shard import TestShard
from tests.edges.test_replication_faults import go_on


@pytest.fixture
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    with running_pair(postgres_binaries()["wheel-18"], home / "kept", tls) as servers:
        yield servers


@contextmanager
def standby_of(shard: TestShard, primary: PostgresServer) -> Iterator[PostgresServer]:
    """A standby as Patroni makes them on 17 and later: with a slot, feedback and a database."""
    with shard.connect_to_maintenance() as connection:
        hba = primary.home / "data" / "pg_hba.conf"
        hba.write_text(hba.read_text() + "host replication all 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    standby = replace(primary, home=primary.home / "standby", port=free_port())
    standby.home.mkdir()
    where = make_conninfo(
        host="127.0.0.1", port=primary.port, user="postgres", password=SUPERUSER_PASSWORD,
        dbname="postgres",
    )  # fmt: skip
    standby.run(
        "pg_basebackup", f"--dbname={where}", "--pgdata=data", "--checkpoint=fast",
        "--write-recovery-conf", "--create-slot", "--slot=standby", "--wal-method=stream",
    )  # fmt: skip
    with (standby.home / "data" / "postgresql.conf").open("a") as conf:
        conf.write(f"port={standby.port}\nhot_standby_feedback=on\nsync_replication_slots=on\n")
    standby.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log")
    try:
        yield standby
    finally:
        standby.run("pg_ctl", "stop", "--wait", "--pgdata=data", "--mode=immediate")


def promoted(shard: TestShard, standby: PostgresServer) -> TestShard:
    """The shard with the standby as its only member."""
    there = shard.at(standby.port)
    (member,) = shard.login.members
    member = replace(member, endpoint=there.primary)
    return replace(there, login=replace(shard.login, members=(member,)))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


SYNCED = "SELECT FROM pg_replication_slots WHERE synced AND NOT temporary AND slot_name ~ '{}'"
LEVEL = "SELECT FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_lsn() AND state <> ''"


@pytest.mark.parametrize(
    ("copy", "ahead"),
    [(CopyDriver.OWN, False), (CopyDriver.OWN, True), (CopyDriver.NATIVE, True)],
)
def test_a_move_goes_on_after_its_source_failed_over_and_starts_over_only_if_rows_differ(
    pair: Pair, copy: CopyDriver, ahead: bool
) -> None:
    world = make_world(pair, copy=copy)
    load_accounts(world, 300)
    with standby_of(world.source, pair.source) as standby:
        world.go(until=lambda act: isinstance(act, acts.Arm))
        wait_until(lambda: bool(world.source.at(standby.port).rows(SYNCED.format("_fwd_"))))
        if ahead:
            standby.run("pg_ctl", "stop", "--wait", "--pgdata=data", "--mode=fast")
            lose_a_write(world)
        else:
            wait_until(lambda: len(world.source.rows(LEVEL)) > 1)
        kill(pair.source)
        try:
            if ahead:
                standby.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log")
            standby.run("pg_ctl", "promote", "--wait", "--pgdata=data")
            world.source = promoted(world.source, standby)

            with Ledger(world, 300) as ledger:
                go_on(world)
                ledger.wait_for(50)

            ledger.check()
            assert world.done.count("Copy") == (2 if ahead else 1)
            world.finish()
            world.nothing_left()
        finally:
            start(pair.source)


@pytest.mark.parametrize("ahead", [False, True])
def test_the_way_back_outlives_a_failover_of_the_target_and_is_taken_only_if_rows_are_equal(
    pair: Pair, ahead: bool
) -> None:
    world = make_world(pair)
    load_accounts(world, 300)
    with standby_of(world.target, pair.target) as standby:
        with Ledger(world, 300) as ledger:
            world.go()  # until it soaks
            ledger.wait_for(50)
        wait_until(lambda: bool(world.target.at(standby.port).rows(SYNCED.format("_rev"))))
        if ahead:
            standby.run("pg_ctl", "stop", "--wait", "--pgdata=data", "--mode=fast")
            lose_a_write_of_the_target(world)
        else:
            wait_until(lambda: len(world.target.rows(LEVEL)) > 1)
        kill(pair.target)
        try:
            if ahead:
                standby.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log")
            standby.run("pg_ctl", "promote", "--wait", "--pgdata=data")
            world.target = promoted(world.target, standby)
            world.done.clear()

            world.wish(Wish.ROLLBACK)
            if ahead:
                with pytest.raises(AssertionError, match="equal=False"):
                    go_on(world)
                assert "RollBackCut" not in world.done
                world.finish()
            else:
                with Ledger(world, 300, name="late") as late:
                    go_on(world)
                    late.wait_for(50)
                late.acknowledged += ledger.acknowledged
                late.unknown += ledger.unknown
                late.check()
                assert "VerifyBack" in world.done
            world.nothing_left()
        finally:
            start(pair.target)


def lose_a_write_of_the_target(world: MoveWorld) -> None:
    """Let the source have rows that the standby of the target never got."""
    with world.target.connect() as connection:
        connection.execute(
            "INSERT INTO accounts (id) SELECT i FROM generate_series(9000, 9099) i"
            " WHERE hashint8extended(i, 0) >= 0"
        )
    wait_until(lambda: bool(world.source.rows("SELECT FROM accounts WHERE id >= 9000")))


def lose_a_write(world: MoveWorld) -> None:
    """Let the target have a row that the standby of the source never got."""
    with world.source.connect() as connection:
        connection.execute("INSERT INTO accounts (id) SELECT i FROM generate_series(9000, 9099) i")
    found = "SELECT FROM accounts WHERE id >= 9000"
    wait_until(lambda: bool(world.target.rows(found)))
