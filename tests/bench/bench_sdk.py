"""What the client costs a query, beside plain psycopg and psycopg_pool where it is installed.

    .venv/bin/python -m tests.bench.bench_sdk

One PostgreSQL on loopback without TLS, one thread or task. Ways take turns in short rounds, so that
the machine's moods meet all alike; the median of the rounds' medians is printed, in microseconds.
psycopg_pool is no dependency: to see it, ``pip install --target DIR psycopg-pool`` and PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from reconciler.model.desired import KeyType
from reconciler.sdk import AsyncShards, Shards
from reconciler.sdk.dial import Purpose, options_of
from tests.edges.servers import (
    EtcdServer,
    etcd_binary,
    make_certificates,
    postgres_binaries,
    running_postgres,
)
from tests.sdk.scene import Scene, new_scene

ROUNDS, CALLS = 40, 100
READ = "SELECT id FROM entry WHERE id = %s"
KEY = 1


def measured(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return microseconds a call, by way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            taken = []
            for _ in range(CALLS):
                begun = time.perf_counter()
                call()
                taken.append(time.perf_counter() - begun)
            times[name].append(statistics.median(taken) * 1e6)
    return {name: statistics.median(seen) for name, seen in times.items()}


async def measured_async(ways: dict[str, Callable[[], Awaitable[object]]]) -> dict[str, float]:
    """Return microseconds a call, by way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            taken = []
            for _ in range(CALLS):
                begun = time.perf_counter()
                await call()
                taken.append(time.perf_counter() - begun)
            times[name].append(statistics.median(taken) * 1e6)
    return {name: statistics.median(seen) for name, seen in times.items()}


def show(title: str, found: dict[str, float]) -> None:
    floor = next(iter(found.values()))
    print(title)
    for name, microseconds in found.items():
        print(f"  {name:46} {microseconds:8.1f} µs  {microseconds - floor:+7.1f}")


def sync_ways(scene: Scene, shards: Shards, plain: psycopg.Connection) -> None:
    def plain_transaction() -> None:
        with plain.transaction():
            plain.execute(READ, ["x"])

    def sdk_transaction() -> None:
        with shards.transaction(KEY) as tx:
            tx.execute(READ, ["x"])

    statement: dict[str, Callable[[], object]] = {
        "plain psycopg, one connection": lambda: plain.execute(READ, ["x"]),
        "sdk: shards.execute": lambda: shards.execute(KEY, READ, ["x"]),
    }
    transaction: dict[str, Callable[[], object]] = {
        "plain psycopg, one connection": plain_transaction,
        "sdk: shards.transaction": sdk_transaction,
        "sdk: shards.run": lambda: shards.run(KEY, lambda tx: tx.execute(READ, ["x"])),
    }
    pool = other_pool(scene)
    if pool is not None:

        def pooled() -> None:
            with pool.connection() as connection:
                connection.execute(READ, ["x"])

        def pooled_transaction() -> None:
            with pool.connection() as connection, connection.transaction():
                connection.execute(READ, ["x"])

        statement["psycopg_pool"] = pooled
        transaction["psycopg_pool"] = pooled_transaction
    show("one statement (1 round trip)", measured(statement))
    show("BEGIN, one statement, COMMIT (3 round trips)", measured(transaction))
    if pool is not None:
        pool.close()


def other_pool(scene: Scene) -> Any:
    """Return psycopg_pool's pool to the same shard, or None."""
    try:
        module = importlib.import_module("psycopg_pool")
    except ImportError:
        return None
    options = plain_options(scene)
    return module.ConnectionPool("", kwargs=options, min_size=4, open=True)


def plain_options(scene: Scene) -> dict[str, Any]:
    owner = scene.map.owners[0]
    return options_of(scene.config(), owner, scene.map.epoch, Purpose.WRITE)


async def async_ways(scene: Scene) -> None:
    plain = await psycopg.AsyncConnection.connect(**plain_options(scene))
    async with plain, AsyncShards(scene.config()) as shards:

        async def plain_transaction() -> None:
            async with plain.transaction():
                await plain.execute(READ, ["x"])

        async def sdk_transaction() -> None:
            async with shards.transaction(KEY) as tx:
                await tx.execute(READ, ["x"])

        show(
            "async: one statement",
            await measured_async(
                {
                    "plain psycopg, one connection": lambda: plain.execute(READ, ["x"]),
                    "sdk: shards.execute": lambda: shards.execute(KEY, READ, ["x"]),
                }
            ),
        )
        show(
            "async: BEGIN, one statement, COMMIT",
            await measured_async(
                {
                    "plain psycopg, one connection": plain_transaction,
                    "sdk: shards.transaction": sdk_transaction,
                }
            ),
        )


def without_tls(scene: Scene) -> None:
    """Let the first shard be reached without TLS: its cost is not the client's."""
    first = scene.map.owners[0]
    members = tuple(
        replace(m, endpoint=replace(m.endpoint, postgres_tls=False)) for m in first.members
    )
    scene.publish(replace(scene.map, owners=(replace(first, members=members),)))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sw-bench-", dir="/tmp") as folder:
        home = Path(folder)
        tls = make_certificates(home / "tls")
        (home / "pg").mkdir()
        name, binaries = next(iter(postgres_binaries().items()))
        etcd = EtcdServer(etcd_binary(), home, tls)
        etcd.start()
        try:
            with running_postgres(binaries, home / "pg", tls) as server:
                print(f"PostgreSQL {name}; {ROUNDS} rounds of {CALLS} calls")
                scene = new_scene(etcd, (server, server), KeyType.BIGINT)
                without_tls(scene)
                plain = psycopg.connect(**plain_options(scene))
                with plain, Shards(scene.config()) as shards:
                    sync_ways(scene, shards, plain)
                asyncio.run(async_ways(scene))
        finally:
            etcd.stop()


if __name__ == "__main__":
    main()
