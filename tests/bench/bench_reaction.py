"""From a commit to the first write of what it asks for; what a poll costs that finds nothing new.

    .venv/bin/python -m tests.bench.bench_reaction [--runs 10] [--seconds 60]

A real daemon, one shard on real servers, a repository on this machine. The first write is the
journal's: the intent of the apply, in etcd, as another process reads it. Beside it what Git itself
takes to say that there is a new commit (``git ls-remote``). The CPU of a poll is the daemon's and
its children's while it polls every second, less the same while it polls once an hour. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from reconciler.edges.local import lifecycle
from reconciler.engine.records import OPERATIONS
from tests.e2e.scene import Scene
from tests.e2e.test_daemon import Running, World
from tests.e2e.test_daemon_orders import HOOKED, push
from tests.local_home import fresh_home, wait_for

SECRET = b"of the forge"
LOOKS = "shardwright_source_fetches_total"


class Editor:
    """Commits one edit after another, and sees when each is begun."""

    def __init__(self, world: World) -> None:
        self.world, self.count = world, 16

    def first_write_s(self, tell: Callable[[], object]) -> float:
        """Commit an edit, tell of it, and return the time from then to the first write."""
        scene, now = self.world.scene, f"{self.count}MB"
        self.count += 1
        scene.edit("shop", f"work_mem: {now}", f"work_mem: {self.count}MB")
        store = scene.world().eyes.store
        known = store.read(OPERATIONS).keys()
        self.world.commit(f"{self.count} MB")
        begun = time.perf_counter()
        tell()
        while not store.read(OPERATIONS).keys() - known:
            time.sleep(0.002)
        took = time.perf_counter() - begun
        wait_for(
            lambda: scene.sql("shop", "show work_mem") == [(f"{self.count}MB",)] or None, "the edit"
        )
        time.sleep(1.5)  # it looks once more, and rests
        return took


def start(world: World, interval: str) -> Running:
    """Start a daemon that polls so often, and wait until it has nothing to do."""
    text = HOOKED.format(repository=world.scene.specs)
    world.config.write_text(text.replace("interval: 1h", f"interval: {interval}"))
    daemon = world.start()
    world.await_ready("shop")
    return daemon


def end(daemon: Running) -> None:
    daemon.process.terminate()
    daemon.process.wait(30)


def cpu_s(daemon: Running) -> float:
    """Return the CPU seconds of a daemon and of the children that ended."""
    times = psutil.Process(daemon.process.pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def idle_cpu_s(daemon: Running, seconds: int) -> tuple[float, float]:
    """Return what it uses of the CPU in so many seconds, and how often it looked meanwhile."""
    before, looks = cpu_s(daemon), daemon.count(LOOKS)
    time.sleep(seconds)
    return cpu_s(daemon) - before, daemon.count(LOOKS) - looks


def ls_remote(world: World) -> tuple[float, float]:
    """Return the time and the CPU of a question to Git, in seconds, the median of some."""
    times, used = [], []
    for _ in range(15):
        before, begun = psutil.Process().cpu_times(), time.perf_counter()
        subprocess.run(
            ["git", "ls-remote", f"file://{world.scene.specs}", "main"],
            check=True, capture_output=True,
        )  # fmt: skip
        times.append(time.perf_counter() - begun)
        after = psutil.Process().cpu_times()
        used.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
    return statistics.median(times), statistics.mean(used)


def show(what: str, times: list[float], beside: float) -> None:
    print(
        f"{what}: median {statistics.median(times) * 1000:.0f} ms, largest"
        f" {max(times) * 1000:.0f} ms of {len(times)}; git ls-remote {beside * 1000:.1f} ms",
        flush=True,
    )


def measure(world: World, runs: int, seconds: int) -> None:
    editor, (asked_s, asked_cpu_s) = Editor(world), ls_remote(world)

    daemon = start(world, "1h")
    pushes = [
        editor.first_write_s(lambda: push(daemon, world, SECRET)) for _ in range(runs)
    ]  # fmt: skip
    show("webhook to first write", pushes, asked_s)
    still, _ = idle_cpu_s(daemon, seconds)
    end(daemon)

    daemon = start(world, "1s")
    show(
        "commit to first write, polling at 1 s",
        [editor.first_write_s(lambda: None) for _ in range(runs)], asked_s,
    )  # fmt: skip
    polling, looks = idle_cpu_s(daemon, seconds)
    end(daemon)
    print(
        f"CPU of a poll that finds nothing new: {(polling - still) / looks * 1000:.1f} ms"
        f" ({looks:.0f} polls; the daemon without them {still / seconds:.1%} of a core);"
        f" git ls-remote {asked_cpu_s * 1000:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=60)
    chosen = parser.parse_args()
    with fresh_home() as home, tempfile.TemporaryDirectory(prefix="sw-bench-") as temporary:
        lifecycle.up(home)
        world = World(Scene(home, Path(temporary)))
        (world.scene.folder / "secret").write_bytes(SECRET)
        world.scene.write("shop")
        world.commit("shop")
        try:
            measure(world, chosen.runs, chosen.seconds)
        finally:
            for daemon in world.daemons:
                if daemon.process.poll() is None:
                    end(daemon)


if __name__ == "__main__":
    main()
