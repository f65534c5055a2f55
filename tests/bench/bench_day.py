"""A day's rounds of a daemon to which nothing happens, one upon the other: what it holds.

    .venv/bin/python -m tests.bench.bench_day [--rounds 2880]

2,880 rounds are a look every 30 s for 24 hours. One shard, all servers real. The yardstick of what
is held is the same daemon after its first 300 rounds. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from reconciler.edges.local import lifecycle
from tests.e2e.fast_daemon import DAY, FAST, PROGRAM, Held, held_after
from tests.e2e.scene import Scene
from tests.e2e.test_daemon import World
from tests.local_home import fresh_home

WARM = 300


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=DAY)
    chosen = parser.parse_args()
    with fresh_home() as home, tempfile.TemporaryDirectory(prefix="sw-bench-") as temporary:
        lifecycle.up(home)
        world = World(Scene(home, Path(temporary)))
        world.scene.write("idle")
        world.commit("idle")
        world.config.write_text(FAST.format(repository=world.scene.specs))
        daemon = world.start(PROGRAM, PYTHONPATH=str(Path(__file__).parents[2]))
        try:
            world.await_ready("idle")
            warm, begun = held_after(daemon, world, WARM), time.perf_counter()
            show(warm)
            for part in (4, 2, 1):
                last = held_after(daemon, world, WARM + chosen.rounds // part)
                show(last)
            took = time.perf_counter() - begun
        finally:
            daemon.process.terminate()
            daemon.process.wait(30)
    written = sum(warm.records.get(key) != version for key, version in last.records.items())
    print(
        f"{last.rounds - warm.rounds} rounds and {last.looks - warm.looks} looks in {took:.0f} s:"
        f" memory grew by {(last.memory - warm.memory) / 2**20:.1f} MiB, files by"
        f" {last.files - warm.files}, threads by {last.threads - warm.threads}, etcd keys by"
        f" {len(last.records) - len(warm.records)}, {written} were written"
    )


def show(held: Held) -> None:
    print(
        f"after {held.rounds:5} rounds, {held.looks:5} looks: {held.memory / 2**20:6.1f} MiB,"
        f" {held.files} files, {held.threads} threads, {len(held.records)} etcd keys", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
