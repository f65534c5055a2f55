"""How long the README's two commands take: ``make demo`` and ``make test``, after the downloads.

``python -m tests.bench.bench_commands [demo] [test]`` (both). Beside the demo, what its own
provisioning takes of it: the time in which PostgreSQL and Patroni start, whoever starts them.
Beside the tests, the sum of what each of them took: what they would take one after another.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]


def timed(*command: str) -> tuple[float, str]:
    """Run a command of the checkout; return its seconds and what it wrote."""
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.stdout.write(done.stdout[-4000:] + done.stderr[-4000:])
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return seconds, done.stdout


def demo() -> None:
    """Time the demo, and how much of it was the first provisioning."""
    seconds, shown = timed("make", "demo", "DEMO_ARGS=--down")
    provisioned = re.search(r"provisioned\s+(\d+) s", shown)
    inside = provisioned[1] if provisioned else "?"
    print(f"make demo  {seconds:.0f} s, of which provisioning {inside} s", flush=True)


def test() -> None:
    """Time the tests, and the sum of what each took."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        seconds, _ = timed("make", "test", f"PYTEST_ARGS=--junitxml={report}")
        cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - pytest's own file
    alone = sum(float(case.get("time", "0")) for case in cases)
    print(f"make test  {seconds:.0f} s, {len(cases)} tests, one after another {alone:.0f} s")


if __name__ == "__main__":
    for name in sys.argv[1:] or ("demo", "test"):
        {"demo": demo, "test": test}[name]()
