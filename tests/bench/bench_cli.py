"""Start-up of the command beside Python's own and click's: python -m tests.bench.bench_cli

Targets of the issue: --help and completion below 150 ms. Rendering is measured on plans made by
hand, 1,000 and 10,000 new shards.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from reconciler.model.errors import Position
from reconciler.plan.render import PlanReport, render_json, render_markdown, render_text
from tests.plan.render_cases import first

RUNS = 15
PROGRAM = [sys.executable, "-m", "reconciler.cli.main"]
COMPLETE = {
    "_SHARDWRIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "shardwright pl", "COMP_CWORD": "1",
}  # fmt: skip


def started(*command: str, **environment: str) -> float:
    """Return the median time of a process from start to end, in milliseconds."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        subprocess.run(
            command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=False
        )
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def taken(work: Callable[[], object]) -> float:
    """Return the best time of three calls, in milliseconds."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) * 1000


def rendered(report: PlanReport) -> list[tuple[str, float]]:
    """Measure each form of one plan."""
    steps = len(report.plan.steps)
    return [
        (f"text of {steps} steps", taken(lambda: render_text(report))),
        (f"Markdown of {steps} steps", taken(lambda: render_markdown(report))),
        (f"JSON of {steps} steps",
         taken(lambda: render_json(report, lambda p: Position(p.file, 1)))),
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    rows = [
        ("python -c pass (yardstick)", started(sys.executable, "-c", "pass")),
        ("python -c 'import click' (yardstick)", started(sys.executable, "-c", "import click")),
        ("shardwright --help (target 150)", started(*PROGRAM, "--help")),
        ("shardwright plan --help (target 150)", started(*PROGRAM, "plan", "--help")),
        ("completion of a command (target 150)", started(*PROGRAM, **COMPLETE)),
        ("shardwright version", started(*PROGRAM, "version")),
    ]
    for shards in (1_000, 10_000):
        rows += rendered(first(shards))
    for what, milliseconds in rows:
        print(f"{what:42} {milliseconds:9.1f} ms")


if __name__ == "__main__":
    main()
