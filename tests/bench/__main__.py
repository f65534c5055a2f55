"""All benchmarks, one after the other, then one table.

``python -m tests.bench [NAME…]``; a name is that of a module without ``bench_``. Each runs in a
process of its own and prints its own figures as it goes; nothing is asserted, and none runs under
pytest. Ends with 1 when a benchmark failed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.figures import FIGURES, line_of

NAMES = sorted(
    path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
)


def run(name: str) -> tuple[str, int]:
    """Run one benchmark, show its output as it comes, and return it with its exit code."""
    print(f"\n== {name}", flush=True)
    command = [sys.executable, "-u", "-m", f"tests.bench.bench_{name}"]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return "".join(lines), process.returncode


def main(arguments: list[str]) -> int:
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}\n")
        return 2
    outputs, failed = {}, []
    for name in arguments or NAMES:
        outputs[name], code = run(name)
        if code:
            failed.append(name)
    print(f"\n{'figure':56} {'value':>12} {'target':>8} {'':6} {'ratio':>8}  yardstick")
    for figure in FIGURES:
        if figure.bench in outputs:
            print(line_of(figure, outputs))
    for name in failed:
        print(f"bench_{name} FAILED: its figures are missing or not whole")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
