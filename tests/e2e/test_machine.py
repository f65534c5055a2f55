"""A disk that is full, a clock that jumps."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.edges.local import lifecycle
from tests.e2e.scene import Scene
from tests.local_home import processes_in

pytestmark = pytest.mark.platform
_DISK = "600m"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a small file system of its own; only root may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        if (folder / "home").exists():
            lifecycle.destroy(folder / "home")
        assert processes_in(folder) == {}
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def _fill(disk: Path, left_mib: int) -> None:
    """Leave only so much room: more than etcd needs, less than what comes next."""
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(free - (left_mib << 20)))


def test_a_full_disk_is_a_clear_error_and_work_goes_on_with_room(
    small_disk: Path, tmp_path: Path
) -> None:
    scene = Scene(small_disk / "home", tmp_path)
    scene.write("disk")
    ballast = small_disk / "ballast"
    assert scene.call("platform", "up").code == 0
    _fill(small_disk, 20)

    full = scene.call("apply", "-f", "specs", "--yes")

    assert full.code == 1
    assert "disk" in full.told().lower() or "room" in full.told().lower()
    ballast.unlink()
    again = scene.call("apply", "-f", "specs", "--yes")
    assert again.code == 0, again.told()
    scene.settle()
    # While it runs: PostgreSQL has no room for what a schema file writes.
    text = (scene.specs / "disk.yaml").read_text()
    scene.write(
        "disk", text,
        _002="create unlogged table big as select repeat('x', 1000) from generate_series(1, 90000)",
    )  # fmt: skip
    _fill(small_disk, 50)
    full = scene.call("apply", "-f", "specs", "--yes")
    assert full.code == 1
    assert "No space left on device (SQLSTATE 53100)" in full.told()
    ballast.unlink()
    scene.settle_members("disk")
    again = scene.call("apply", "-f", "specs", "--yes")
    assert again.code == 0, again.told()
    scene.settle()
    assert scene.sql("disk", "select count(*) from big") == [(90000,)]


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
