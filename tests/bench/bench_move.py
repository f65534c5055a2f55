"""What a move of keys costs: rows a second to a caught-up, indexed, equal target; the pause.

    .venv/bin/python -m tests.bench.bench_move [--rows 5000000] [--narrow] [--cuts 20]

A shard of twice as many rows is split onto a new server of the same host; durable commits, source
otherwise idle. Beside it, in the same run: ``cp`` of as many bytes as arrive and a sync (the
floor), one-worker tablesync of the same half into a target with its indexes, and ``pg_dump |
pg_restore`` of the shard, which cannot take half of one. Only the move is verified, and its time
holds that. Before, cuts under four writers, there and back, each to the other server. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg

from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import Limits
from reconciler.model.moves import Side, Wish
from reconciler.model.names import Epoch
from reconciler.workflow import reshard_acts as acts
from tests.bench.yardsticks import (
    Place,
    copy_files,
    dump_and_restore,
    dump_then_restore,
    tablesync,
    timed,
)
from tests.edges import replication_world
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import make_certificates, postgres_binaries
from tests.edges.shard import TestShard, new_shard, schema_file

_TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text, email text, made timestamptz);
CREATE TABLE orders (
  customer_id bigint NOT NULL, id bigint NOT NULL, total numeric, state text, made timestamptz,
  note text, PRIMARY KEY (customer_id, id));
"""
NARROW = f"""{_TABLES}
CREATE INDEX customers_email ON customers (email);
CREATE INDEX orders_made ON orders (made);
CREATE INDEX orders_state ON orders (state, total);
"""
"""Rows of 60 bytes with 2.75 indexes each: what an index costs."""
MIXED = f"""{_TABLES}
CREATE TABLE events (
  customer_id bigint NOT NULL, id text NOT NULL, at timestamptz, payload jsonb,
  PRIMARY KEY (customer_id, id));
CREATE TABLE docs (
  customer_id bigint NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (customer_id, id));
CREATE INDEX customers_email ON customers (email);
CREATE INDEX orders_made ON orders (made);
"""
"""What the aims were set by (resharding.md, 2): also text, jsonb and values in TOAST."""
HALF = "pg_catalog.hashint8extended({}, 0) >= 0"  # the keys 80-
ACCOUNTS = 2000
_TWO = (("public.customers", "id"), ("public.orders", "customer_id"))
TABLES = {
    NARROW: _TWO,
    MIXED: (*_TWO, ("public.events", "customer_id"), ("public.docs", "customer_id")),
}
SETTINGS = (
    "\nfsync=on\nshared_buffers=256MB\nmax_wal_size=4GB\nlog_statement=none\n"
    "maintenance_work_mem=256MB\ncheckpoint_timeout=30min\n"
)


@contextmanager
def servers(version: str) -> Iterator[Pair]:
    home = Path(tempfile.mkdtemp(prefix="sw-bench-"))
    try:
        with running_pair(
            postgres_binaries()[version], home, make_certificates(home / "tls")
        ) as pair:
            for server in (pair.source, pair.target):
                with (server.home / "data" / "postgresql.conf").open("a") as conf:
                    conf.write(SETTINGS)
                server.run("pg_ctl", "restart", "--wait", "--pgdata=data", "--log=log")
            yield pair
    finally:
        shutil.rmtree(home, ignore_errors=True)


def fill(shard: TestShard, schema: str, rows: int) -> None:
    """Load rows: a fifth are customers; of a mixed shard near a third are events, few documents."""
    mixed = schema is MIXED
    customers, events, docs = rows // 5, rows * 3 // 11 * mixed, rows // 180 * mixed
    scattered = f"1 + i::bigint * 48271 % {customers}"  # as orders come, not one after the other
    key = f"{scattered}, i"
    with shard.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        for index in re.findall(r"CREATE INDEX (\w+)", schema):
            connection.execute(f"DROP INDEX {index}".encode())
        _load(
            connection, "customers", customers,
            "i, 'name ' || i, md5(i::text) || '@example.org', now()",
        )  # fmt: skip
        _load(
            connection, "orders", rows - customers - events - docs,
            f"{key}, i % 1000 / 7.0, (ARRAY['new', 'paid', 'sent'])[1 + i % 3],"
            f" now() - make_interval(secs => i), {'repeat(md5(i::text), 2)' if mixed else 'NULL'}",
        )  # fmt: skip
        if mixed:
            _load(
                connection, "events", events,
                f"{scattered}, md5(i::text), now(),"
                " jsonb_build_object('kind', i % 9, 'of', md5(i::text), 'at', i)",
            )  # fmt: skip
            body = "(SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 250) j)"
            _load(connection, "docs", docs, f"{key}, {body}")
        connection.execute(schema[schema.index("CREATE INDEX") :].encode())
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _load(connection: psycopg.Connection, table: str, rows: int, values: str) -> None:
    query = f"INSERT INTO {table} SELECT {values} FROM generate_series(1, {rows}) i"
    connection.execute(query.encode())


def show(what: str, seconds: float, rows: int, best: float) -> None:
    print(f"{what:58} {seconds:8.1f} s {rows / seconds / 1000:8.0f} k rows/s {seconds / best:6.2f}")


def move(world: MoveWorld) -> dict[str, float]:
    """Return the seconds of each step, up to a verified-equal target."""
    steps: dict[str, float] = {}

    def note(act: acts.Step) -> bool:
        steps[type(act).__name__] = time.perf_counter()
        return isinstance(act, acts.Arm)

    world.go(until=note)
    names, at = list(steps), list(steps.values())
    return {name: at[i + 1] - at[i] for i, name in enumerate(names[:-1])}


def measure_copy(pair: Pair, schema: str, rows: int) -> None:
    world = replace_mover(make_world(pair, schema, TABLES[schema], keys="80-"))
    fill(world.source, schema, 2 * rows)
    steps = move(world)
    total = sum(steps.values())
    names = [name for name, _ in TABLES[schema]]
    counts = " + ".join(f"(SELECT count(*) FROM {name})" for name in names)
    sizes = " + ".join(f"pg_total_relation_size('{name}')" for name in names)
    [(arrived, size)] = world.target.rows(f"SELECT {counts}, {sizes}")
    print(f"{arrived:,} of {2 * rows:,} rows move: {size / 1_048_576:.0f} MiB with indexes")
    rows = arrived
    show("a move: to a caught-up, indexed, verified target", total, rows, total)
    for name, seconds in steps.items():
        print(f"    {name:54} {seconds:8.1f} s")
    print(f"    verification: {rows / steps['Verify'] / 1e6:.2f} M rows/s, both sides at once")
    world.wish(Wish.ABORT)
    world.go()
    compare_with(pair, world, schema, (rows, size), (total, total - steps["Verify"]))


def compare_with(
    pair: Pair, world: MoveWorld, schema: str, moved: tuple[int, int], ours: tuple[float, float]
) -> None:
    """Time the yardsticks, and print our time as a part of each: verified, and as they are."""
    rows, size = moved
    floor = copy_files(pair.target.home, size)
    plain = new_shard(pair.target)
    plain.set_up()
    plain.apply(schema_file(schema))
    here, there = place_of(world.source), place_of(plain)
    filters = [f"{table} WHERE ({HALF.format(key)})" for table, key in TABLES[schema]]
    yardsticks = {"cp": floor, "tablesync": timed(lambda: tablesync(here, there, filters))}
    with plain.connect() as connection:
        names = ", ".join(name for name, _ in TABLES[schema])
        connection.execute(f"TRUNCATE {names}".encode())
    yardsticks["pg_restore"] = timed(lambda: dump_and_restore(here, there, pair.source.bin))
    folder = pair.target.home / "dump"
    yardsticks["pg_dump"] = timed(
        lambda: dump_then_restore(here, there, pair.source.bin, folder)
    )  # fmt: skip
    assert plain.rows("SELECT count(*) FROM orders") == world.source.rows(
        "SELECT count(*) FROM orders"
    )
    for name, words in YARDSTICKS.items():
        show(words, yardsticks[name], rows, ours[0])
    for name, seconds in yardsticks.items():
        parts = ours[0] / seconds, ours[1] / seconds
        print(f"move as a part of {name:39} {parts[0]:8.2f}, without verification {parts[1]:.2f}")


def place_of(shard: TestShard) -> Place:
    return Place(shard.primary, shard.login.superuser, shard.database)


YARDSTICKS = {
    "cp": "cp of as many bytes, synced (the floor)",
    "tablesync": "tablesync, one worker, indexes there",
    "pg_restore": "pg_dump | pg_restore of the whole shard",
    "pg_dump": "pg_dump -Fd -j2, then pg_restore -j2",
}


def replace_mover(world: MoveWorld) -> MoveWorld:
    world.mover = LogicalMover(Limits())
    return world


@contextmanager
def writers(world: MoveWorld) -> Iterator[Ledger]:
    """Write in a process of its own, which hears of a new owner within a millisecond."""
    forked = get_context("fork")
    moved, stop, answer = forked.Value("i", 0), forked.Value("i", 0), forked.Queue()
    child = forked.Process(target=_write, args=(world, moved, stop, answer))
    child.start()

    def tell() -> None:
        while not stop.value:
            moved.value = int(world.owner is Side.TARGET)
            time.sleep(0.0005)

    teller = threading.Thread(target=tell)
    teller.start()
    ledger = Ledger(world, ACCOUNTS)
    try:
        time.sleep(0.3)
        yield ledger
    finally:
        stop.value = 1
        ledger.acknowledged, ledger.unknown, ledger.failures = answer.get()
        teller.join()
        child.join()


def _write(world: MoveWorld, moved: Any, stop: Any, answer: Any) -> None:
    world.map_epoch = Epoch(99)  # the table's epoch trigger is measured, not provoked
    with Ledger(world, ACCOUNTS, pause_s=0.001) as ledger:
        while not stop.value:
            world.owner = Side.TARGET if moved.value else Side.SOURCE
            time.sleep(0.0005)
    answer.put((ledger.acknowledged, ledger.unknown, ledger.failures))


def measure_cuts(pair: Pair, cuts: int) -> None:
    pauses: list[float] = []
    acknowledged = 0
    begun = time.perf_counter()
    for _ in range(-(-cuts // 2)):
        world = replace_mover(make_world(pair, pause_max_ms=1000))
        load_accounts(world, ACCOUNTS)
        with writers(world) as ledger:
            world.go()
            time.sleep(0.3)
            world.wish(Wish.ROLLBACK)
            world.go()
        ledger.check()
        acknowledged += len(ledger.acknowledged)
        pauses += [p for p in world.move.pauses_ms if p is not None]
    rate = acknowledged / (time.perf_counter() - begun)
    ordered = sorted(pauses)
    print(
        f"pause of {len(pauses)} cuts, 2 tables, {rate:.0f} writes/s over all, ms: median"
        f" {statistics.median(ordered):.1f}, largest {ordered[-1]:.1f}; lost 0, extra 0"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--narrow", action="store_true", help="short rows with many indexes")
    parser.add_argument("--version", default=sorted(postgres_binaries())[0])
    chosen = parser.parse_args()
    replication_world.DEADLINE_S = 86_400.0
    print(f"PostgreSQL {chosen.version}, both shards on this host; load average {os.getloadavg()}")
    with servers(chosen.version) as pair:
        if chosen.cuts:
            measure_cuts(pair, chosen.cuts)
        if chosen.rows:
            measure_copy(pair, NARROW if chosen.narrow else MIXED, chosen.rows)


if __name__ == "__main__":
    main()
