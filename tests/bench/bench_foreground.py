"""What a move costs those who write meanwhile, and what a small one costs at all.

    .venv/bin/python -m tests.bench.bench_foreground [--rows 1000000] [--version system-15]

One writer, 200 updates a second by key at the source, in a process of its own: its p99 while
nothing else happens, during a copy of half the shard held by the throttle (commits at most 1.5
times as slow), and during one that is not. Then moves of nothing and of 1,000 rows, from the first
look to the new owner, the median of five. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from multiprocessing import get_context
from random import Random
from typing import Any

from reconciler.model.moves import Stage, Wish
from reconciler.workflow import reshard_acts as acts
from tests.bench.bench_move import NARROW, TABLES, fill, replace_mover, servers
from tests.edges.replication_world import MoveWorld, Pair, load_accounts, make_world
from tests.edges.servers import postgres_binaries

RATE, IDLE_S, RATIO = 200, 10.0, 1.5
_fork = get_context("fork")


def write(world: MoveWorld, rows: int, stop: Any, answer: Any) -> None:
    random, waits = Random(1), []  # noqa: S311
    with world.source.connect(world.source.app) as session:
        session.execute(f"SET shardwright.epoch = {world.map_epoch}")
        due = time.perf_counter()
        while not stop.value:
            due = max(due + 1 / RATE, time.perf_counter() - 0.1)
            time.sleep(max(0.0, due - time.perf_counter()))
            begun = time.perf_counter()
            session.execute(
                "UPDATE customers SET made = now() WHERE id = %s", [random.randint(1, rows // 4)]
            )
            waits.append((time.perf_counter() - begun) * 1000)
    answer.put(waits)


class Writer:
    """Writes as long as the block lasts; ``waits`` are its latencies in ms."""

    def __init__(self, world: MoveWorld, rows: int) -> None:
        self._stop, self._answer = _fork.Value("i", 0), _fork.Queue()
        self._process = _fork.Process(
            target=write, args=(world, rows, self._stop, self._answer)
        )  # fmt: skip
        self.waits: list[float] = []

    def __enter__(self) -> Writer:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        self.waits = sorted(self._answer.get())
        self._process.join()


def foreground(pair: Pair, rows: int) -> None:
    world = replace_mover(make_world(pair, NARROW, TABLES[NARROW]))
    fill(world.source, NARROW, rows)
    first = world.move
    p99 = tell("nothing else", world, rows, lambda: time.sleep(IDLE_S))
    for what, ratio in (("a throttled copy", RATIO), ("a copy without throttle", 0.0)):
        world.move = replace(first, latency_ratio_max=ratio)
        world.go(until=lambda act: isinstance(act, acts.Copy))
        tell(what, world, rows, lambda: world.perform(acts.Copy()), p99)
        world.wish(Wish.ABORT)
        world.go()


def tell(what: str, world: MoveWorld, rows: int, during: Any, idle_ms: float = 0) -> float:
    begun = time.perf_counter()
    with Writer(world, rows) as writer:
        during()
    waits, seconds = writer.waits, time.perf_counter() - begun
    p99 = waits[len(waits) * 99 // 100]
    beside = f", {p99 / idle_ms:.2f} x idle" if idle_ms else ""
    print(
        f"p99 of a write during {what:26} {p99:8.1f} ms (median {statistics.median(waits):.1f},"
        f" {len(waits)} writes in {seconds:.0f} s){beside}",
        flush=True,
    )
    return p99


def small(pair: Pair, rows: int) -> None:
    times = []
    for _ in range(5):
        world = replace_mover(make_world(pair))
        load_accounts(world, rows)
        begun = time.perf_counter()
        world.go()
        times.append(time.perf_counter() - begun)
        assert world.move.stage is Stage.SWITCHED
        world.finish()
    print(
        f"move of a shard with {rows:,} rows, half of them: {statistics.median(times):6.2f} s,"
        f" largest {max(times):.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--version", default=sorted(postgres_binaries())[0])
    chosen = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} before; both shards and the writer on this host")
    with servers(chosen.version) as pair:
        for rows in (0, 2_000):
            small(pair, rows)
        foreground(pair, chosen.rows)


if __name__ == "__main__":
    main()
