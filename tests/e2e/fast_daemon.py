"""``shardwright`` whose daemon may look as often as its configuration says, and hardly rests.

A day of routine looks, every 30 s, is 2,880 rounds; here they follow one upon the other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from reconciler.cli.main import main
from reconciler.daemon import config, daemon
from reconciler.model.records import ROOT
from tests.e2e.test_daemon import Running, World
from tests.local_home import wait_for

PROGRAM = [sys.executable, "-m", "tests.e2e.fast_daemon"]
DAY = 24 * 3600 // 30
FAST = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  interval: 10ms
  sources:
    - git: {{url: "{repository}", branch: main, interval: 100ms}}
"""
ROUNDS = "controller_runtime_reconcile_total"


@dataclass(frozen=True, slots=True)
class Held:
    """What a daemon holds after so many rounds; ``records``: its keys in etcd, and their versions.

    ``memory`` in bytes.
    """

    rounds: int
    looks: int
    memory: int
    files: int
    threads: int
    records: dict[str, int]


def held_after(daemon: Running, world: World, rounds: int) -> Held:
    """Wait until it has made so many rounds, and return what it holds then."""
    wait_for(lambda: daemon.count(ROUNDS) >= rounds or None, f"{rounds} rounds", 1800)
    process = psutil.Process(daemon.process.pid)
    found = world.scene.world().eyes.store.read(ROOT)
    return Held(
        int(daemon.count(ROUNDS)), int(daemon.count("shardwright_source_fetches_total")),
        process.memory_info().rss, fewest(process.num_fds), fewest(process.num_threads),
        {key: item.version for key, item in found.items()},
    )  # fmt: skip


def fewest(count: Callable[[], int]) -> int:
    """Count some times: a look, or an answer to our own question, has some open while it runs."""
    counts = [count()]
    for _ in range(9):
        time.sleep(0.05)
        counts.append(count())
    return min(counts)


if __name__ == "__main__":
    config.INTERVAL_S_MIN = 0.0
    daemon.REQUESTS_S = 0.01
    main()
