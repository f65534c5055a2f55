"""What a daemon with many databases costs while nothing changes, and what one change costs then.

    .venv/bin/python -m tests.bench.bench_daemon [--databases 1000] [--seconds 60] [--asking]

Its databases are not provisioned: by default their specs say ``suspend: true``; with ``--asking``
they wait for an approval instead, so that each routine look makes a whole plan. etcd is real. CPU
is the daemon's own, beside that of a bare YAML parse of all specs, once an interval of 30 s.
Nothing is asserted.
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
from reconciler.cli.session import Session
from reconciler.edges.local import lifecycle
from reconciler.engine.status import STATUS, read_statuses
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
    parser.add_argument("--databases", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--asking", action="store_true")
    chosen = parser.parse_args()
    with fresh_home() as home, tempfile.TemporaryDirectory(prefix="sw-bench-") as temporary:
        folder = Path(temporary)
        specs = folder / "specs"
        (specs / "schema").mkdir(parents=True)
        (specs / "schema" / "001.sql").write_text(TABLES)
        for number in range(chosen.databases):
            write(specs, number, "16MB", asking=chosen.asking)
        lifecycle.up(home)
        world = wiring.open_reading_world(load_settings(Session(home=str(home))))
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


def measure(chosen: argparse.Namespace, specs: Path, store: object, process: psutil.Process,
            log: Path) -> None:  # fmt: skip
    def statuses() -> dict[object, object]:
        return read_statuses(store.read(STATUS))  # type: ignore[attr-defined, return-value]

    first = wait("all have a status", lambda: len(statuses()) == chosen.databases)
    print(f"{chosen.databases} databases, {'asking' if chosen.asking else 'suspended'}: all have a"
          f" status after {first:.1f} s, {cpu_s(process):.1f} s of CPU")  # fmt: skip
    time.sleep(INTERVAL_S)
    before, keys = cpu_s(process), len(store.read("/shardwright/"))  # type: ignore[attr-defined]
    files, began = process.num_fds(), time.perf_counter()
    time.sleep(chosen.seconds)
    took = time.perf_counter() - began
    share = (cpu_s(process) - before) / took
    parse = timed_parse(specs)
    print(f"idle: {share:.1%} of a core, {process.memory_info().rss / 2**20:.0f} MiB,"
          f" {process.num_fds()} files ({files} before), etcd keys"
          f" {len(store.read('/shardwright/'))} ({keys} before)")  # type: ignore[attr-defined]  # fmt: skip
    print(
        f"a YAML parse of all specs takes {parse:.2f} s, once an interval of {INTERVAL_S} s"
        f" {parse / INTERVAL_S:.1%} of a core: the daemon {share * INTERVAL_S / parse:.1f} x that"
    )
    reload(chosen, specs, log)


def in_force(log: Path) -> int:
    return log.read_text().count('"revision in force"')


def timed_parse(specs: Path) -> float:
    texts = [path.read_text() for path in specs.glob("*.yaml")]
    begun = time.process_time()
    for text in texts:
        yaml.load(text, Loader=yaml.CSafeLoader)
    return time.process_time() - begun


def reload(chosen: argparse.Namespace, specs: Path, log: Path) -> None:
    """Change one document; its revision is in force as the log says."""
    times = []
    for memory in ("21MB", "22MB", "23MB"):
        known = log.read_text().count('"revision in force"')
        write(specs, 7, memory, asking=chosen.asking)
        times.append(
            wait(
                "in force", lambda known=known: log.read_text().count('"revision in force"') > known
            )
        )
        time.sleep(1)
    print(f"one of them changed: in force after {', '.join(f'{t * 1000:.0f}' for t in times)} ms")
    address = next(
        json.loads(line)["address"] for line in log.read_text().splitlines() if "listening" in line
    )
    with urllib.request.urlopen(address + "/metrics") as answer:  # noqa: S310
        size = len(answer.read())
    print(f"/metrics: {size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
