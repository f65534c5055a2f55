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
from tests.e2e.scene import TWO, Scene
from tests.local_home import processes_in

_DISK = "900m"
_SMALL, _ROOMY = "200m", "700m"


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
    _move_to_a_small_disk(scene)


def _move_to_a_small_disk(scene: Scene) -> None:
    """Keys go to a shard that is on a disk of its own, once that has room."""
    small = scene.home / "shards" / "default" / "disk-s1"
    small.mkdir(parents=True)
    _mount(small, _SMALL)
    scene.edit("disk", "[notes, more, half, lost, big]", "[big]")  # a move copies what is named
    scene.applied()
    scene.edit("disk", '{name: s0, keys: ["-"]}', "{}\n    - {}".format(*TWO))

    short = scene.call("apply", "-f", "specs", "--yes")
    assert short.code == 1, short.told()
    assert "MiB of disk left" in short.told(), short.told()
    stalled = scene.call("get", "disk").told()
    assert "Stalled=True" in stalled
    assert "MiB of disk left" in " ".join(stalled.split())

    subprocess.run(["mount", "-o", f"remount,size={_ROOMY}", str(small)], check=True)
    again = scene.call("apply", "-f", "specs", "--yes")
    assert again.code == 0, again.told()
    assert {str(o.keys) for o in scene.routing("disk").owners} == {"-80", "80-"}


def _mount(place: Path, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)


def main(disk: Path, specs: Path) -> None:
    """Mount the small disk, which ends with this program's namespace, and leave nothing running."""
    _mount(disk, _DISK)
    try:
        tell(disk, specs)
    finally:
        if (disk / "home").exists():
            Scene(disk / "home", specs).call("platform", "down")
            for small in (disk / "home" / "shards").glob("*/*"):  # a mount point cannot be removed
                if small.is_mount():
                    subprocess.run(["umount", str(small)], check=True)
            lifecycle.destroy(disk / "home")
        assert processes_in(disk) == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
