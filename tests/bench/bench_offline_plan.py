"""A pull request's check over many databases against a state file, beside a bare YAML parse.

    .venv/bin/python -m tests.bench.bench_offline_plan [--databases 1000]

One of the databases gets more memory. The real command runs in a process of its own, a clone with
two commits and a state file of all shards at hand. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from reconciler import spec
from reconciler.engine.snapshot import encode_state
from reconciler.model.desired import Revision
from reconciler.spec.documents import Documents, SourceFile
from tests.cli.calls import SHARDWRIGHT, SHOP, TABLES
from tests.worlds import settled

AT = "2026-11-26T12:00:00.000+00:00"
PARSE = """
import sys, time, yaml
from pathlib import Path
texts = [p.read_text() for p in sorted(Path(sys.argv[1]).glob("*.yaml"))]
begun = time.perf_counter()
for text in texts: yaml.load(text, Loader=yaml.CSafeLoader)
print(time.perf_counter() - begun)
"""
GIT = ("git", "-c", "user.name=K", "-c", "user.email=k@e.org", "-c", "commit.gpgsign=false")


def prepare(folder: Path, databases: int) -> Path:
    """Write specs and a state in which all of them are applied; return the state's file."""
    specs = folder / "clone" / "specs"
    (specs / "schema").mkdir(parents=True)
    (specs / "schema" / "001.sql").write_text(TABLES)
    for number in range(databases):
        text = SHOP.replace("name: shop", f"name: shop{number:05}")
        (specs / f"shop{number:05}.yaml").write_text(text)
    commit(folder / "clone", "init", "-q", "-b", "main")
    commit(folder / "clone", "add", "-A")
    commit(folder / "clone", "commit", "-q", "-m", "base")
    files = tuple(
        SourceFile(str(path.relative_to(folder / "clone")), path.read_bytes())
        for path in sorted(specs.rglob("*"))
        if path.is_file()
    )
    loaded = spec.read(Documents("bench", Revision("main@sha1:" + "0" * 40), files, root="specs/"))
    state = folder / "state.json"
    state.write_bytes(encode_state(replace(settled(loaded.desired), looked_at=AT), "bench"))
    changed = specs / "shop00007.yaml"
    changed.write_text(changed.read_text().replace("work_mem: 16MB", "work_mem: 32MB"))
    commit(folder / "clone", "checkout", "-q", "-b", "topic")
    commit(folder / "clone", "commit", "-q", "-am", "more memory")
    return state


def commit(folder: Path, *words: str) -> None:
    subprocess.run([*GIT, *words], cwd=folder, check=True)


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--databases", type=int, default=1000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sw-bench-") as home:
        folder = Path(home)
        state = prepare(folder, chosen.databases)
        times, cpus, parses = [], [], []
        for _ in range(3):
            command = [
                *SHARDWRIGHT,
                "plan",
                "--base",
                "main",
                "--path",
                "specs",
                "--state",
                str(state),
            ]
            begun, before = time.perf_counter(), children_cpu_s()
            ended = subprocess.run(
                command, cwd=folder / "clone", capture_output=True, text=True, check=True
            )
            times.append(time.perf_counter() - begun)
            cpus.append(children_cpu_s() - before)
            parse = [sys.executable, "-c", PARSE, str(folder / "clone" / "specs")]
            parses.append(float(subprocess.check_output(parse)))
        print(ended.stdout.strip().splitlines()[-2])
        ours, bare = statistics.median(times), statistics.median(parses)
        print(
            f"offline plan of a pull request over {chosen.databases} databases, state"
            f" {state.stat().st_size / 1e6:.1f} MB: {ours:.2f} s,"
            f" {statistics.median(cpus):.2f} s of CPU; bare YAML parse of the specs"
            f" {bare:.2f} s, {ours / bare:.1f} x (both sides are read: 2 parses)"
        )


if __name__ == "__main__":
    main()
