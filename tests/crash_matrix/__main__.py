"""``make crash-matrix RUNS=… SEED=…``: so many runs from a seed on, a line each, then the sums.

A run's seed says everything about it, so that ``RUNS=1 SEED=…`` runs it again. The exit code is 1
when one failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from reconciler.edges.local import lifecycle
from tests.crash_matrix.plan import make_trial
from tests.crash_matrix.stage import staged
from tests.crash_matrix.trial import Outcome, run_trial
from tests.local_home import fresh_home


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(prog="crash-matrix")
    parser.add_argument("--runs", type=int, default=13)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    outcomes: list[Outcome] = []
    seeds = list(range(wanted.seed, wanted.seed + wanted.runs))
    while seeds:  # a failed run leaves its stage in doubt: the next one has a new one
        _on_one_stage(seeds, outcomes)
    _sums(outcomes)
    return 1 if any(outcome.problem for outcome in outcomes) else 0


def _on_one_stage(seeds: list[int], outcomes: list[Outcome]) -> None:
    with fresh_home() as home, tempfile.TemporaryDirectory(prefix="sw-") as folder:
        lifecycle.up(home)
        with staged(home, Path(folder)) as stage:
            while seeds:
                outcome = run_trial(stage, make_trial(seeds.pop(0)))
                outcomes.append(outcome)
                print(outcome.line(), flush=True)
                if outcome.problem:
                    return


def _sums(outcomes: list[Outcome]) -> None:
    for title, name in (("fault", _fault), ("struck", _place), ("way", _way)):
        print(f"\n{title:<28} {'runs':>5} {'failed':>6} {'longest wait':>13}")
        for group in sorted({name(o) for o in outcomes}):
            mine = [o for o in outcomes if name(o) == group]
            failed = sum(bool(o.problem) for o in mine)
            longest = max(o.longest_s for o in mine)
            print(f"{group:<28} {len(mine):>5} {failed:>6} {longest:>11.1f} s")
    written = sum(o.acknowledged for o in outcomes)
    unknown, failed = sum(o.unknown for o in outcomes), sum(bool(o.problem) for o in outcomes)
    print(f"\n{len(outcomes)} runs, {failed} failed; {written:,} acknowledged, {unknown:,} unknown")


_fault: Callable[[Outcome], str] = lambda o: str(o.trial.strike.fault)  # noqa: E731
_way: Callable[[Outcome], str] = lambda o: f"{o.trial.what}, {o.trial.course}"  # noqa: E731


def _place(outcome: Outcome) -> str:
    return outcome.trial.strike.act if outcome.struck else "(not reached)"


if __name__ == "__main__":
    sys.exit(main())
