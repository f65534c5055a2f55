"""A disk that is full, a clock that jumps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.scene import Scene
from tests.local_home import processes_in

pytestmark = pytest.mark.platform


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


@dataclass
class JumpingClock:
    """The machine's clock, set back by an hour after some readings."""

    real: object
    readings: int = 0
    given: list[datetime] = field(default_factory=list)

    def now(self) -> datetime:
        self.readings += 1
        now = datetime.now(UTC)
        if self.readings > 6:
            now -= timedelta(hours=1)
        self.given.append(now)
        return now

    def sleep(self, seconds: float) -> None:
        self.real.sleep(seconds)  # type: ignore[attr-defined]


def test_a_clock_set_back_during_an_apply_changes_nothing_but_times(scene: Scene) -> None:
    scene.write("clock")
    clock = JumpingClock(scene.world().clock)

    ended = scene.apply(scene.world(clock=clock))

    assert not ended.failed
    assert clock.given[-1] < clock.given[0]
    scene.settle()
    operations = {o.id: o for o in scene.operations()}
    last = operations[max(operations, key=lambda id_: operations[id_].version)]
    assert last.result == "done"
    # The next apply is later by its token, whatever the clock says.
    scene.edit("clock", "work_mem: 16MB", "work_mem: 14MB")
    scene.applied()
    assert scene.sql("clock", "show work_mem") == [("14MB",)]
