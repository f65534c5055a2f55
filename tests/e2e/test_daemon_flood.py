"""A thousand push events a second at a daemon that works: it works on, and believes the right ones.

The flood comes from a process of its own (``flood.py``): wrongly signed, right, sent again, a
megabyte long, too long, no HTTP, and callers that leave.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_daemon import Running, World, world
from tests.e2e.test_daemon_orders import HOOKED
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]
LOOKS = "shardwright_source_fetches_total"
RATE, SECONDS = 1000, 10
GROWTH_BYTES_MAX = 24 << 20
"""What a daemon may be larger by after a second flood than after a first: a leak of one kilobyte an
event, or one body in fifty kept, would be more."""


def _flood(daemon: Running, world: World, seconds: int) -> subprocess.Popen[str]:
    repository = f"file://{world.scene.specs}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.flood", daemon.address, "of the forge", repository,
         str(RATE), str(seconds)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_flood_of_push_events_holds_back_no_probe_and_no_edit_and_leaves_nothing(
    world: World,
) -> None:
    scene = world.scene
    world.config.write_text(HOOKED.format(repository=scene.specs))
    (scene.folder / "secret").write_bytes(b"of the forge\n")
    scene.write("flooded")
    world.commit("flooded")
    daemon = world.start()
    world.await_ready("flooded")
    _flood(daemon, world, 3).communicate(timeout=120)
    process = psutil.Process(daemon.process.pid)
    before, looks = process.memory_info().rss, daemon.count(LOOKS)

    scene.edit("flooded", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("more memory, which only a push tells: the source polls once an hour")
    flood = _flood(daemon, world, SECONDS)
    probes = 0
    while flood.poll() is None:
        assert daemon.page("/healthz") == (200, "ok\n")  # whoever is not let in waits, a moment
        assert daemon.page("/readyz") == (200, "ready\n")
        probes += 1
        if probes == 5:  # by then it has been heard, and what it asks for is done meanwhile
            wait_for(
                lambda: scene.sql("flooded", "show work_mem") == [("21MB",)] or None,
                "the edit",
                120,
            )
    came = json.loads(flood.communicate()[0])["came"]

    # Each kind was answered as it should be, however many of them there were.
    assert came.get("right: 202", 0) > RATE, came
    assert came.get("again: 202", 0) > RATE / 2, came
    assert not [one for one in came if re.match("(wrong|too long): 2|(right|again): 4", one)], came
    assert {"wrong: 403", "too long: 413", "long: 202", "long: 403"} <= came.keys(), came
    # Thousands were believed, and the source looked at most twice a second.
    assert daemon.count(LOOKS) - looks < came["right: 202"] / 10
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX
    assert "Traceback" not in daemon.log_file.read_text()
    assert len(daemon.lines()) < 200
    world.await_ready("flooded")
