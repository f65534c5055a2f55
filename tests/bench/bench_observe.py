"""What observing one shard costs: PostgreSQL's catalogs, beside a bare ``select 1``, and etcd.

    .venv/bin/python -m tests.bench.bench_observe

One server of each kind, 20 tables, warm after the first look. Nothing is asserted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.edges.etcd import EtcdStore
from tests.edges.servers import (
    EtcdServer,
    etcd_binary,
    make_certificates,
    postgres_binaries,
    running_postgres,
)
from tests.edges.shard import TestShard, new_shard, schema_file

LOOKS = 30


def milliseconds(look: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(LOOKS):
        start = time.perf_counter()
        look()
        times.append((time.perf_counter() - start) * 1000)
    return times


def show(what: str, look: Callable[[], object]) -> None:
    start = time.perf_counter()
    look()
    first = (time.perf_counter() - start) * 1000
    times = sorted(milliseconds(look))
    worst = times[int(len(times) * 0.95)]
    print(f"{what:58} {first:8.1f} {statistics.median(times):8.1f} {worst:8.1f}")


def select_one(shard: TestShard) -> None:
    with shard.connect() as connection:
        connection.execute("select 1")


def measure_postgres(shard: TestShard) -> None:
    shard.set_up()
    names = [f"t{i}" for i in range(20)]
    columns = "(id bigint PRIMARY KEY, a text, b int, c timestamptz, d jsonb)"
    shard.apply(schema_file(";".join(f"CREATE TABLE {name} {columns}" for name in names)))
    shard.guard("-80", *((f"public.{name}", "id") for name in names))
    show("  connect + select 1 (the floor)", lambda: select_one(shard))
    show("  catalog: 20 guarded tables, 100 columns", shard.catalog)


def main() -> None:
    print(f"{'milliseconds':58} {'first':>8} {'median':>8} {'p95':>8}")
    with tempfile.TemporaryDirectory(prefix="sw-bench-") as folder:
        home = Path(folder)
        tls = make_certificates(home / "tls")
        for name, binaries in postgres_binaries().items():
            (home / name).mkdir()
            with running_postgres(binaries, home / name, tls) as server:
                print(f"PostgreSQL {name}, {'TLS' if server.with_tls else 'no TLS'}, scram")
                measure_postgres(new_shard(server))
        etcd = EtcdServer(etcd_binary(), home, tls)
        etcd.start()
        try:
            measure_etcd(EtcdStore((etcd.endpoint,), tls))
        finally:
            etcd.stop()


def measure_etcd(store: EtcdStore) -> None:
    lease = store.acquire("/lease", "bench", 60)
    for start in range(0, 1000, 100):
        store.write({f"/r/{i:04}": (b"x" * 500, 0) for i in range(start, start + 100)}, lease)
    print("etcd, TLS with client certificate")
    show("  read 1,000 records of 500 bytes", lambda: store.read("/r/"))
    show("  write one record under a lease", lambda: store.write({"/w": (b"x", None)}, lease))
    show("  keep a lease alive", lambda: store.keep_alive(lease))


if __name__ == "__main__":
    main()
