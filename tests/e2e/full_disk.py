"""The story of a full disk: ``python -m tests.e2e.full_disk FOLDER SPECS``.

A program of its own, because a small file system needs a mount, and without root that needs a user
namespace: the test starts this under unshare(1).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from reconciler.edges.local import lifecycle
from tests.e2e.scene import Scene
from tests.local_home import processes_in

_DISK = "600m"


def _fill(disk: Path, left_mib: int) -> None:
    """Leave only so much room: more than etcd needs, less than what comes next."""
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(free - (left_mib << 20)))


def tell(disk: Path, specs: Path) -> None:
    """Fill the disk before a member is made, and while PostgreSQL writes; go on with room."""
    scene = Scene(disk / "home", specs)
    scene.write("disk")
    ballast = disk / "ballast"
    up = scene.call("platform", "up")
    assert up.code == 0, up.told()
    _fill(disk, 20)

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
    _fill(disk, 50)
    full = scene.call("apply", "-f", "specs", "--yes")
    assert full.code == 1
    assert "No space left on device (SQLSTATE 53100)" in full.told()
    ballast.unlink()
    scene.settle_members("disk")
    again = scene.call("apply", "-f", "specs", "--yes")
    assert again.code == 0, again.told()
    scene.settle()
    assert scene.sql("disk", "select count(*) from big") == [(90000,)]


def main(disk: Path, specs: Path) -> None:
    """Mount the small disk, which ends with this program's namespace, and leave nothing running."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(disk)], check=True)
    try:
        tell(disk, specs)
    finally:
        if (disk / "home").exists():
            lifecycle.destroy(disk / "home")
        assert processes_in(disk) == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
