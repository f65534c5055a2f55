"""A look at a Git repository that has not changed: fetch, read, observe, plan; beside git itself.

``python -m tests.bench.bench_fetch [--no-platform]``. The repository is on this machine, so that
the network has no part in it; ``git ls-remote`` is the least that any tool has to ask, ``git
fetch`` what one with a clone does. With a platform: the demo's shop, two shards of two members on
real servers, is applied once and then planned again and again with nothing to do.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from reconciler import settings, spec
from reconciler.edges.local import lifecycle
from reconciler.edges.local.platform import LocalPlatform
from reconciler.engine.loop import act, look
from reconciler.engine.observe import login_of, observe, primary_of
from reconciler.engine.saved import SourceRequest
from reconciler.engine.world import World
from reconciler.wiring import fetch, open_world
from tests.local_home import connect, fresh_home, wait_for

RUNS = 15
SPECS = Path(__file__).parents[2] / "specs/shop"
GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@example", "-c", "gc.auto=0")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True)


def repository(folder: Path, documents: int) -> Path:
    """A repository with the demo's shop in ``specs``, as often as asked for."""
    specs = folder / "specs"
    shutil.copytree(SPECS, specs)
    text = (specs / "shop.yaml").read_text()
    for number in range(1, documents):
        name = f"shop{number}"
        (specs / f"{name}.yaml").write_text(text.replace("name: shop", f"name: {name}"))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "specs")
    return folder


def measured(what: str, work: Callable[[], object], target: str = "") -> float:
    """Print the median and the worst of some runs, once warm, in milliseconds."""
    work()
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1000)
    median = statistics.median(times)
    print(f"{what:58} {median:8.1f} {max(times):8.1f} {target:>7}", flush=True)
    return median


def measure_fetch(home: Path, documents: int) -> SourceRequest:
    there = repository(home / f"repository-{documents}", documents)
    clone = home / f"clone-{documents}"
    git(home, "clone", "-q", "--bare", str(there), str(clone))
    print(f"{documents} documents")
    measured("  git ls-remote (yardstick)", lambda: git(home, "ls-remote", str(there), "main"))
    measured("  git fetch, no change (yardstick)", lambda: git(clone, "fetch", "-q", "origin"))
    request = SourceRequest("specs", str(there), "main")
    measured("  fetch, no change", lambda: fetch(request))
    documents_there = fetch(request)
    measured("  read and resolve", lambda: spec.read(documents_there))
    return request


def select_one(world: World) -> None:
    """Ask every primary one after another, each on a connection of its own."""
    platform = world.eyes.platform
    assert isinstance(platform, LocalPlatform)
    for shard in platform.observe():
        primary = primary_of(shard, world.eyes.patroni.view(login_of(platform, shard)))
        assert primary is not None
        with connect(platform, shard.key, primary) as session:
            session.execute("select 1")


def measure_plan(request: SourceRequest) -> None:
    with fresh_home() as root:
        lifecycle.up(root)
        chosen = settings.load({"home": str(root)}, {})

        def world() -> World:
            return open_world(chosen)

        def plan() -> int:
            return len(look(world(), spec.read(fetch(request))).plan.steps)

        outlook = look(world(), spec.read(fetch(request)))
        act(world(), outlook, lambda _event: None, threading.Event())
        wait_for(lambda: plan() == 0 or None, "nothing to do")
        here = world()
        loaded = spec.read(fetch(request))
        keys = [database.key for database in loaded.desired.databases]
        shards = len(here.eyes.platform.observe())
        print(f"the demo: {shards} shards of 2 members, real servers, nothing to do")
        seen = measured("  observe all shards", lambda: observe(here.eyes, keys))
        floor = measured("  connect + select 1, all shards (yardstick)", lambda: select_one(here))
        print(f"{'  connect + select 1, a shard (yardstick)':58} {floor / shards:8.1f}")
        print(f"{'  observe, a shard':58} {seen / shards:8.1f} {'':8} {'50':>7}")
        measured("  observe, plan and check", lambda: look(here, loaded))
        measured("  no-change fetch, read, observe, plan and check", plan, "300")
        command = [sys.executable, "-m", "reconciler.cli.main", "--home", str(root), "plan"]
        command += ["--git", request.git, "--ref", "main", "--path", request.path]
        measured(
            "  the command: shardwright plan --git",
            lambda: subprocess.run(command, check=True, capture_output=True),
            "1000",
        )


def main(arguments: list[str]) -> None:
    print(f"{'milliseconds':58} {'median':>8} {'worst':>8} {'target':>7}")
    with tempfile.TemporaryDirectory(prefix="sw-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        measure_fetch(Path(folder), 1000)
        request = measure_fetch(Path(folder), 1)
        if "--no-platform" not in arguments:
            measure_plan(request)


if __name__ == "__main__":
    main(sys.argv[1:])
