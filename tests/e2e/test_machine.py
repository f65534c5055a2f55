"""A disk that is full, a clock that jumps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reconciler.engine.operations import Operation
from tests.cli.calls import DEADLINE_S
from tests.e2e.scene import Scene, key_of
from tests.local_home import processes_in, wait_for

pytestmark = pytest.mark.platform
_CLOCK = Path(__file__).parents[1] / "clock"


def test_a_full_disk_is_a_clear_error_and_work_goes_on_with_room(tmp_path: Path) -> None:
    disk = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    story = [sys.executable, "-m", "tests.e2e.full_disk", str(disk), str(tmp_path)]
    try:
        told = subprocess.run([*namespace, *story], capture_output=True, text=True, check=False)
        assert told.returncode == 0, f"{told.stdout}\n{told.stderr}"
    finally:
        assert processes_in(disk) == {}
        disk.rmdir()


def test_a_clock_set_back_during_an_apply_changes_nothing_but_times(scene: Scene) -> None:
    scene.write("clock")
    offset = scene.folder / "offset"
    clock = {"PYTHONPATH": str(_CLOCK), "SHARDWRIGHT_TEST_CLOCK": str(offset)}

    going = scene.call.start("apply", "-f", "specs", "--yes", **clock)
    wait_for(lambda: _applies(scene, "clock"), "the apply has begun")
    offset.write_text("-3600")
    told, wrong = going.communicate(timeout=DEADLINE_S)

    assert going.returncode == 0, told + wrong
    scene.settle()
    (done,) = _applies(scene, "clock")
    assert done.result == "done"
    assert done.ended_at < done.started_at
    # The next apply is later by its token, whatever the clock says; its lease is etcd's.
    scene.edit("clock", "work_mem: 16MB", "work_mem: 14MB")
    again = scene.call.start("apply", "-f", "specs", "--yes", **clock)
    told, wrong = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, told + wrong
    assert scene.sql("clock", "show work_mem") == [("14MB",)]
    scene.applied()


def _applies(scene: Scene, database: str) -> list[Operation]:
    return [o for o in scene.operations() if key_of(database) in o.databases]
