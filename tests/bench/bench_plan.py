"""Planning for thousands of shards: diff, plan, fingerprints, policies and the text, once warm.

``python -m tests.bench.bench_plan [SHARDS…]`` (1,000 and 10,000). One database holds all shards.
Each line is a process of its own, so that the memory is its own too: its peak, with Python, the
library of policies and the observed state that it plans for. Beside it, what Python takes to copy
(``copy.deepcopy``) and to write down (``repr``) the very state that is planned for.
"""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from reconciler.cli.report import report_of
from reconciler.diff.diff import diff
from reconciler.engine.world import Outlook
from reconciler.model.desired import Database, DesiredState
from reconciler.model.observed import ObservedState
from reconciler.plan.planner import make_plan
from reconciler.plan.render_text import render_text
from reconciler.policy.check import check_plan, check_spec
from reconciler.policy.rules import PolicySet, compile_policies, policy_document
from reconciler.settings import Settings
from reconciler.spec.decode import decode_file
from reconciler.spec.loaded import Loaded
from reconciler.spec.manifest_other import Policy
from tests.worlds import NOTHING, database, desired, schema_file, settled, shard, tiles

POLICIES = Path(__file__).parents[2] / "policies"
NOON = datetime(2026, 1, 14, 12, tzinfo=UTC)
RUNS = 3
TARGETS = {1_000: (1.5, 200), 10_000: (15.0, 1024)}
"""Seconds and MiB for a plan with nothing to do, by the number of shards."""
TABLES = (("public.customers", "id"), ("public.orders", "customer_id"), ("public.lines", "c_id"))
FILES = tuple(schema_file(f"schema/{i:03}.sql") for i in range(3))

World = tuple[DesiredState, ObservedState]


def fleet(shards: int, **other: object) -> Database:
    """A database of so many shards of two members, three tables and three schema files."""
    return database(*tiles(shards), **({"tables": TABLES, "files": FILES} | other))  # type: ignore[arg-type]


def nothing_to_do(shards: int) -> World:
    wanted = desired(fleet(shards))
    return wanted, settled(wanted)


def all_restart(shards: int) -> World:
    """A parameter that needs a restart, and one more schema file, on every shard."""
    files = (*FILES, schema_file("schema/003.sql"))
    after = fleet(shards, files=files, parameters=(("max_connections", "200"),))
    return desired(after, revision="r2"), settled(desired(fleet(shards)))


def all_split(shards: int) -> World:
    """Every second half of a shard moves to a new one: as many moves as shards."""
    before = fleet(shards)
    halves = tuple(
        replace(half, name=kept.name if i % 2 == 0 else half.name)
        for i, half in enumerate(
            replace(tile, name=shard(f"h{i}", tile.keys).name)
            for i, tile in enumerate(tiles(shards * 2))
        )
        for kept in (before.shards[i // 2],)
    )
    return desired(replace(before, shards=halves), revision="r2"), settled(desired(before))


def first_apply(shards: int) -> World:
    return desired(fleet(shards)), NOTHING


CASES: dict[str, Callable[[int], World]] = {
    "nothing to do": nothing_to_do,
    "restart and schema file on all": all_restart,
    "every shard is split": all_split,
    "first apply": first_apply,
}


@dataclass(frozen=True, slots=True)
class Measure:
    """What one process found: best times in seconds, its peak in MiB."""

    total_s: float
    parts_s: dict[str, float]
    repr_s: float
    deepcopy_s: float
    steps: int
    peak_mib: int
    state_mib: int
    """The peak before planning: Python, the policies and the observed state."""


def policies() -> PolicySet:
    """Compile the default set."""
    sources = {f"policies/{p.name}": p.read_bytes() for p in sorted(POLICIES.glob("*.yaml"))}
    found = [pair for path, data in sources.items() for pair in decode_file(path, data).manifests]
    return compile_policies(
        tuple(policy_document(m, place) for place, m in found if isinstance(m, Policy)), sources
    )


def plan_once(world: World, rules: PolicySet) -> tuple[dict[str, float], Outlook]:
    """Plan, check and show; return the seconds of each part, and what was planned."""
    wanted, seen = world
    clock, parts = [time.perf_counter()], {}

    def lap(name: str) -> None:
        clock.append(time.perf_counter())
        parts[name] = clock[-1] - clock[-2]

    difference = diff(wanted, seen)
    lap("diff")
    plan = make_plan(wanted, seen, difference)
    lap("plan")
    verdict = check_spec(rules, wanted, NOON).joined(check_plan(rules, wanted, plan, NOON))
    lap("policies")
    outlook = Outlook(Loaded(wanted), seen, difference, plan, rules, verdict)
    render_text(report_of(outlook, Settings(home="")))
    lap("text")
    return parts, outlook


def measure(case: str, shards: int) -> Measure:
    world, rules = CASES[case](shards), policies()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    best: dict[str, float] = {}
    steps = 0
    for _ in range(1 + RUNS):  # the first one warms up, and is never the best
        parts, outlook = plan_once(world, rules)
        steps = len(outlook.plan.steps)
        if not best or sum(parts.values()) < sum(best.values()):
            best = parts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    state = world[1] if world[1].databases else world[0]
    return Measure(
        sum(best.values()),
        best,
        taken(lambda: repr(state)),
        taken(lambda: copy.deepcopy(state)),
        steps,
        peak,
        before,
    )


def taken(work: Callable[[], object]) -> float:
    """Return the best time of three calls, in seconds."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def measured_apart(case: str, shards: int) -> Measure:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_plan", "--one", case, str(shards)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Measure(**json.loads(output))


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(json.dumps(asdict(measure(arguments[1], int(arguments[2])))))
        return
    sizes = [int(a) for a in arguments] or list(TARGETS)
    print(
        f"{'plan':32} {'shards':>7} {'steps':>7} {'seconds':>8} {'MiB':>5} {'state':>6}"
        f" {'deepcopy':>9} {'repr':>6}  parts"
    )
    for case in CASES:
        found = {size: measured_apart(case, size) for size in sizes}
        for size, it in found.items():
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in it.parts_s.items())
            print(
                f"{case:32} {size:7} {it.steps:7} {it.total_s:8.2f} {it.peak_mib:5}"
                f" {it.state_mib:6}"
                f" {it.total_s / it.deepcopy_s:8.2f}x {it.total_s / it.repr_s:5.2f}x  {parts}",
                flush=True,
            )
        low, high = min(sizes), max(sizes)
        growth = (found[high].total_s / high) / (found[low].total_s / low)
        print(f"{case:32} time per shard, {high} to {low} shards: {growth:.2f} (1 is linear)")
    for size in sizes:
        if size in TARGETS:
            print(
                "target for nothing to do: {} shards < {} s, < {} MiB".format(size, *TARGETS[size])
            )


if __name__ == "__main__":
    main(sys.argv[1:])
