"""The rows of a move by bytes and by rows, beside how else they could come, in one table.

    .venv/bin/python -m tests.bench.bench_seed [--rows 5000000]

Half of a shard of twice as many rows goes to a new shard of the same platform by a physical copy,
then the other half to another one by our own copier. The time is that of a move from its first act
to a caught-up, indexed, verified-equal target; durable commits, the shards otherwise idle. Beside
it one-worker tablesync of as many rows into a target with its indexes, ``pg_dump | pg_restore`` of
the shard, and ``cp`` of as many bytes as the rows take at their target by rows, and of the shard's,
each with a sync. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from reconciler.edges.local import lifecycle
from reconciler.edges.local.binaries import find_postgres
from reconciler.engine.logbook import read_logbook
from reconciler.engine.observe import primary_of
from reconciler.engine.wishes import moves_under_way
from tests.bench.bench_move import HALF, NARROW, TABLES
from tests.bench.yardsticks import Place, copy_files, dump_and_restore, tablesync, timed
from tests.e2e.scene import Scene, spec_text
from tests.local_home import fresh_home

VERSION = "16"
INDEXES = NARROW[NARROW.index("CREATE INDEX") :]
FILL = """
SET session_replication_role = replica;
DROP INDEX customers_email, orders_made, orders_state;
INSERT INTO customers SELECT i, 'name ' || i, md5(i::text) || '@example.org', now()
  FROM generate_series(1, {customers}) i;
INSERT INTO orders SELECT 1 + i % {customers}, i, i % 1000 / 7.0,
    (ARRAY['new', 'paid', 'sent'])[1 + i % 3], now() - make_interval(secs => i)
  FROM generate_series(1, {orders}) i;
{indexes}
"""
PARAMETERS = (
    "{shared_buffers: 256MB, max_wal_size: 4GB, maintenance_work_mem: 256MB,"
    " checkpoint_timeout: 30min}"
)
LAST = "Verify"


BEFORE = '{name: s0, keys: ["-"]}'


UPPER = '{name: s1, keys: ["80-"]}'
BY_BYTES = ('{name: s0, keys: ["-80"]}', UPPER)
BY_ROWS = ('{name: s2, keys: ["-80"]}', UPPER)


def text_of(name: str, copy: str, *shards: str) -> str:
    more = f"  resharding: {{copy: {copy}, pauseMax: 60s, throttle: {{latencyMax: 1000x}}}}\n"
    return spec_text(
        name,
        *shards,
        tables="{customers: id, orders: customer_id}",
        reference="[]",
        parameters=PARAMETERS,
        more=more,
    )


@contextmanager
def filled(of_all: int) -> Iterator[Scene]:
    """Give a platform with the database ``big``, filled, and ``plain``, empty."""
    with fresh_home() as home, tempfile.TemporaryDirectory() as folder:
        lifecycle.up(home)
        scene = Scene(home, Path(folder))
        for name in ("big", "plain"):
            (scene.specs / name).mkdir(parents=True)
            (scene.specs / name / "001.sql").write_text(NARROW)
            scene.write(name, text_of(name, "auto", BEFORE))
        scene.applied()
        customers = of_all // 4
        orders = of_all - customers
        fill = FILL.format(customers=customers, orders=orders, indexes=INDEXES)
        with place_of(scene, "big").connect() as session:
            session.execute(fill.encode())
            session.execute("VACUUM ANALYZE")
            session.execute("CHECKPOINT")
        os.sync()
        yield scene


def place_of(scene: Scene, name: str, shard: str = "s0") -> Place:
    primary = primary_of(scene.shard(name, shard), scene.view(name, shard))
    assert primary is not None
    return Place(primary, scene.login(name, shard).superuser, name)


def move(scene: Scene, copy: str, target: str, shards: tuple[str, ...]) -> float:
    """Move keys; print the seconds of each act, return those up to a verified-equal target."""
    scene.write("big", text_of("big", copy, *shards))
    ended = scene.apply()
    assert not ended.failed, scene.failures()
    store = scene.world().eyes.store
    (under_way,) = [m for m in moves_under_way(store) if m.target == target]
    assert under_way.copy == copy
    lines = read_logbook(store, under_way).lines
    names = [line.act for line in lines]
    lines = lines[: names.index(LAST) + 1]
    first = datetime.fromisoformat(lines[0].begun_at)
    for line in lines:
        begun, over = datetime.fromisoformat(line.begun_at), datetime.fromisoformat(line.ended_at)
        at, taken = (begun - first).total_seconds(), (over - begun).total_seconds()
        print(f"    at {at:6.1f} s {line.act:24} {taken:8.1f} s")
    return (datetime.fromisoformat(lines[-1].ended_at) - first).total_seconds()


def show(what: str, seconds: float, rows: int, *ours: float) -> None:
    parts = "".join(f" {one / seconds:8.2f}" for one in ours)
    print(f"{what:52} {seconds:8.1f} s {rows / seconds / 1000:8.0f} k rows/s{parts}", flush=True)


def measure(of_all: int) -> None:
    with filled(of_all) as scene:
        by_bytes = move(scene, "physical", "s1", BY_BYTES)
        print(f"by bytes: {by_bytes:.1f} s", flush=True)
        by_rows = move(scene, "own", "s2", BY_ROWS)
        print(f"by rows: {by_rows:.1f} s", flush=True)
        compare(scene, of_all, (by_bytes, by_rows))


def compare(scene: Scene, of_all: int, ours: tuple[float, float]) -> None:
    here, gone, plain = (
        place_of(scene, "big"),
        place_of(scene, "big", "s2"),
        place_of(scene, "plain"),
    )
    size = "pg_total_relation_size('customers') + pg_total_relation_size('orders')"
    count = "(SELECT count(*) FROM customers) + (SELECT count(*) FROM orders)"
    with gone.connect() as session:
        ((rows, moved),) = session.execute(f"SELECT {count}, {size}".encode()).fetchall()
    with here.connect() as session:
        ((whole,),) = session.execute(f"SELECT {size}".encode()).fetchall()
    print(f"{rows:,} of {of_all:,} rows moved: {moved / 1e6:.0f} of {whole / 1e6:.0f} MB")
    print(f"{'as a part of this:':80} by bytes  by rows")
    show("a move by bytes", ours[0], rows, *ours)
    show("a move by rows", ours[1], rows, *ours)
    show("cp of the moved bytes, synced", copy_files(scene.home, moved), rows, *ours)
    show("cp of the shard's bytes, synced", copy_files(scene.home, whole), rows, *ours)
    filters = [f"{table} WHERE ({HALF.format(key)})" for table, key in TABLES[NARROW]]
    taken = timed(lambda: tablesync(here, plain, filters))
    show("tablesync, one worker, indexes there", taken, rows, *ours)
    with plain.connect() as session:
        session.execute("TRUNCATE customers, orders")
    programs = Path(find_postgres(VERSION).bin_dir)
    taken = timed(lambda: dump_and_restore(here, plain, programs))
    show("pg_dump | pg_restore of the shard", taken, rows, *ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    chosen = parser.parse_args()
    print(f"PostgreSQL {VERSION}, both shards on this host; load average {os.getloadavg()}")
    measure(2 * chosen.rows)


if __name__ == "__main__":
    main()
