"""What a daemon with many databases costs while nothing changes, and what one change costs then.

    .venv/bin/python -m tests.bench.bench_daemon [--databases 1000 10000] [--seconds 60] [--asking]

Its databases are not provisioned: by default their specs say ``suspend: true``; with ``--asking``
they wait for an approval instead, so that each routine look makes a whole plan. etcd is real. CPU
is the daemon's own, beside that of a bare YAML parse of all specs, once an interval of 30 s. A
reload is one document's change, until its revision is in force and until its status says so; one
that finds no change is what a poll costs. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import yaml

from reconciler import wiring
from reconciler.cli.configured import load_settings
from reconciler.edges.local import lifecycle
from reconciler.engine.ports import Store
from reconciler.engine.saved import SourceRequest
from reconciler.engine.status import STATUS, read_statuses, status_key
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.wiring import fetch_news
from tests.cli.calls import SHARDWRIGHT, SHOP, TABLES
from tests.local_home import fresh_home

IDLE = {False: "  suspend: true\n", True: "  autoApply: {online: approval, destroy: never}\n"}
INTERVAL_S = 30


def write(folder: Path, number: int, memory: str, *, asking: bool) -> None:
    text = SHOP.replace("name: shop", f"name: shop{number:05}").replace("16MB", memory)
    (folder / f"shop{number:05}.yaml").write_text(text + IDLE[asking])


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def wait(what: str, look: object, seconds: float = 900) -> float:
    begun = time.perf_counter()
    while not look():  # type: ignore[operator]
        assert time.perf_counter() - begun < seconds, what
        time.sleep(0.02)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--databases", type=int, nargs="+", default=[1000])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--asking", action="store_true")
    chosen = parser.parse_args()
    for databases in chosen.databases:
        run(argparse.Namespace(**vars(chosen) | {"databases": databases}))


def run(chosen: argparse.Namespace) -> None:
    with fresh_home() as home, tempfile.TemporaryDirectory(prefix="sw-bench-") as temporary:
        folder = Path(temporary)
        specs = folder / "specs"
        (specs / "schema").mkdir(parents=True)
        (specs / "schema" / "001.sql").write_text(TABLES)
        for number in range(chosen.databases):
            write(specs, number, "16MB", asking=chosen.asking)
        lifecycle.up(home)
        world = wiring.open_reading_world(load_settings(str(home)))
        store = world.eyes.store
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [*SHARDWRIGHT, "--home", str(home), "run", "-f", str(specs),
                 "--listen", "127.0.0.1:0"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            measure(chosen, specs, store, psutil.Process(daemon.pid), folder / "log")
        finally:
            daemon.terminate()
            print(f"stopped with {daemon.wait(30)}")


def measure(chosen: argparse.Namespace, specs: Path, store: Store, process: psutil.Process,
            log: Path) -> None:  # fmt: skip
    def statuses() -> dict[object, object]:
        return read_statuses(store.read(STATUS))  # type: ignore[return-value]

    first = wait("all have a status", lambda: len(statuses()) == chosen.databases)
    print(f"{chosen.databases} databases, {'asking' if chosen.asking else 'suspended'}: all have a"
          f" status after {first:.1f} s, {cpu_s(process):.1f} s of CPU")  # fmt: skip
    time.sleep(INTERVAL_S)
    before, keys = cpu_s(process), len(store.read("/shardwright/"))
    files, began = process.num_fds(), time.perf_counter()
    time.sleep(chosen.seconds)
    took = time.perf_counter() - began
    share = (cpu_s(process) - before) / took
    parse = timed_parse(specs)
    print(f"idle: {share:.1%} of a core, {process.memory_info().rss / 2**20:.0f} MiB,"
          f" {process.num_fds()} files ({files} before), etcd keys"
          f" {len(store.read('/shardwright/'))} ({keys} before)")  # fmt: skip
    print(
        f"a YAML parse of all specs takes {parse:.2f} s, once an interval of {INTERVAL_S} s"
        f" {parse / INTERVAL_S:.1%} of a core: the daemon {share * INTERVAL_S / parse:.1f} x that"
    )
    reload(chosen, specs, log, store)


def in_force(log: Path) -> int:
    return log.read_text().count('"revision in force"')


def shown(seconds: list[float]) -> str:
    return ", ".join(f"{one * 1000:.0f}" for one in seconds)


def timed_parse(specs: Path) -> float:
    texts = [path.read_text() for path in specs.glob("*.yaml")]
    begun = time.process_time()
    for text in texts:
        yaml.load(text, Loader=yaml.CSafeLoader)
    return time.process_time() - begun


def reload(chosen: argparse.Namespace, specs: Path, log: Path, store: Store) -> None:
    """Change one document; its revision is in force as the log says, and its status follows."""
    times, told = [], []
    shop = status_key(DatabaseKey(Namespace("default"), DatabaseName("shop00007")))
    for memory in ("21MB", "22MB", "23MB"):
        known = in_force(log)
        write(specs, 7, memory, asking=chosen.asking)
        begun, before = time.perf_counter(), store.read(shop)
        wait("in force", lambda known=known: in_force(log) > known)
        times.append(time.perf_counter() - begun)
        wait("told", lambda before=before: store.read(shop) != before)
        told.append(time.perf_counter() - begun)
        time.sleep(1)
    print(f"one of them changed: in force after {shown(times)} ms, told after {shown(told)} ms")
    request = SourceRequest(str(specs))
    documents = fetch_news(request, "")
    assert documents is not None
    polls = []
    for _ in range(3):
        begun = time.perf_counter()
        assert fetch_news(request, str(documents.revision)) is None
        polls.append(time.perf_counter() - begun)
    print(f"a look that finds no change: {shown(polls)} ms")
    address = next(
        json.loads(line)["address"] for line in log.read_text().splitlines() if "listening" in line
    )
    with urllib.request.urlopen(address + "/metrics") as answer:  # noqa: S310
        size = len(answer.read())
    print(f"/metrics: {size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
