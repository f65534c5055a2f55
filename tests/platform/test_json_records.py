"""Records are read by many threads at once, the first time too."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
from dataclasses import make_dataclass
from reconciler.edges.local.json_records import decode_record

sys.setswitchinterval(1e-6)
for _ in range(50):
    inner = make_dataclass("Inner", [(f"a{i}", int) for i in range(8)])
    kind = make_dataclass("Kind", [(f"f{i}", tuple[inner, ...]) for i in range(8)])
    data = str({f"f{i}": [{f"a{j}": 1 for j in range(8)}] for i in range(8)}).replace("'", '"')
    gate = threading.Barrier(8)

    def read():
        gate.wait()
        assert decode_record(data.encode(), kind).f0[0].a7 == 1

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_meet_a_kind_of_record_at_once_do_not_crash_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
