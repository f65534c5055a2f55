"""Validate 1,000 documents, from the start of the process; printed beside a bare YAML parse.

``python tests/bench/bench_validate.py [DOCUMENTS]``; targets: 1,000 in < 1 s and < 150 MiB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

_MEASURE = """
import resource, sys, time
start = time.perf_counter()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{{time.perf_counter() - start:.3f}} {{peak:.0f}}")
"""
_BODIES = {
    "validate (read, check, resolve)": (
        "from reconciler.edges.folder import read_folder\n"
        "from reconciler import spec\n"
        "found = spec.read(read_folder({folder!r}))\n"
        "assert len(found.desired.databases) == {count}\n"
    ),
    "validate, all with one problem": (
        "from reconciler.edges.folder import read_folder\n"
        "from reconciler import spec\n"
        "from reconciler.model.errors import ProblemsFound\n"
        "try: spec.read(read_folder({bad!r}))\n"
        "except ProblemsFound as found: assert len(found.problems) == {count}\n"
    ),
    "yardstick: yaml.CSafeLoader alone": (
        "import pathlib, yaml\n"
        "for path in pathlib.Path({folder!r}).glob('*.yaml'):\n"
        "    list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))\n"
    ),
}
SHOP = Path(__file__).parents[2] / "specs/shop"


def main(count: int) -> None:
    """Print one line for each measured thing: seconds and peak MiB, both from process start."""
    text = (SHOP / "shop.yaml").read_text()
    with tempfile.TemporaryDirectory() as home:
        good, bad = Path(home, "good"), Path(home, "bad")
        for folder in (good, bad):
            (folder / "schema").mkdir(parents=True)
            (folder / "schema/1.sql").write_text("select 1;")
        for number in range(count):
            document = text.replace("name: shop", f"name: shop{number}")
            (good / f"{number}.yaml").write_text(document)
            (bad / f"{number}.yaml").write_text(document.replace('"80-"', '"7f-"'))
        print(f"{count} documents, {len(text)} bytes each")
        for name, body in _BODIES.items():
            filled = body.format(folder=str(good), bad=str(bad), count=count)
            command = [sys.executable, "-c", _MEASURE.format(body=filled)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds, peak = output.split()
            print(f"{name:36} {float(seconds) * 1000:8.0f} ms {peak:>6} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
