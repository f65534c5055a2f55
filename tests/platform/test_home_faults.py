"""A home under races, damaged records, and parts that cannot be started."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.edges.local import lifecycle
from reconciler.edges.local.home import (
    Home,
    NotAHome,
    RecordDamaged,
    create_home,
    delete_home,
    locked,
    open_home,
    room_of,
)
from reconciler.edges.local.launch import NotStarted, launch
from reconciler.edges.local.member import base_environment
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.local.ports import PortTaken
from reconciler.model.errors import ProblemsFound
from reconciler.model.names import FencingToken, Namespace, Scope, ScopeKey
from tests.local_home import blueprint


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home")


def test_who_waited_for_a_home_that_was_deleted_meanwhile_is_told(home: Home) -> None:
    waiting: list[object] = []

    def wait() -> None:
        try:
            with locked(home, wait_s=60):
                waiting.append("entered")
        except NotAHome as problem:
            waiting.append(problem)

    with locked(home):
        thread = threading.Thread(target=wait)
        thread.start()
        while not _waits_for(home.root / "lock"):
            time.sleep(0.01)
        (home.root / "lock").unlink()
        create_home(home.root)
    thread.join()
    assert "deleted by another command" in str(waiting[0])
    delete_home(home)
    with pytest.raises(NotAHome, match="deleted by another command"), locked(home):
        pass


def _waits_for(path: Path) -> bool:
    """Whether the file is open more than once in this process."""
    links = Path("/proc/self/fd").iterdir()
    return sum(1 for link in links if link.exists() and link.samefile(path)) > 1


def test_first_calls_at_the_same_moment_make_one_home(tmp_path: Path) -> None:
    program = (
        "import sys; from reconciler.edges.local.home import *; create_home(Path(sys.argv[1]))"
    )
    for number in range(3):
        root = str(tmp_path / f"home-{number}")
        calls = [subprocess.Popen([sys.executable, "-c", program, root]) for _ in range(4)]
        assert [call.wait() for call in calls] == [0, 0, 0, 0]
        assert open_home(Path(root)).root == Path(root)


def test_a_damaged_fence_is_a_typed_error_with_a_remedy(home: Home) -> None:
    (home.root / "fence").write_text("seven\n")
    with pytest.raises(RecordDamaged, match="no fencing token") as caught:
        LocalPlatform(home.root).fence(FencingToken(8))
    assert "delete the file" in caught.value.remedy


def test_a_machine_without_another_process_is_not_the_homes_fault(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(home.root))  # a folder: exec fails in the starter
    with locked(home) as lock, pytest.raises(NotStarted, match="Permission denied"):
        launch(
            ["true"],
            record=home.root / "none.json",
            log=home.root / "none.log",
            folder=home.root,
            lock=lock,
            environment=base_environment(),
        )


@pytest.mark.platform
def test_a_broken_part_keeps_no_other_from_starting_and_all_problems_are_told(
    new_home: Path,
) -> None:
    lifecycle.up(new_home)
    platform, home = LocalPlatform(new_home), open_home(new_home)
    for scope in ("a", "b", "c"):
        platform.ensure_members(blueprint(scope, instances=1), (0,))
    ports = {p.name: p.ports[0][1] for p in lifecycle.down(new_home).parts}
    damaged = home.shard_record(blueprint("b").key)
    whole = damaged.read_bytes()
    damaged.write_text("{}")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", ports["a-0"]))
        stranger.listen()
        with pytest.raises(ProblemsFound) as caught:
            lifecycle.up(new_home)
    assert [type(problem) for problem in caught.value.problems] == [RecordDamaged, PortTaken]
    (unreadable,) = (s for s in platform.observe() if s.unreadable)
    assert unreadable.key.scope == "b"
    assert str(damaged) in unreadable.unreadable
    assert {s.database for s in platform.observe()} == {"shop"}
    damaged.write_bytes(whole)
    running = {part.name for part in lifecycle.status(new_home).parts if part.running}
    assert running == {"etcd", "c-0"}
    assert lifecycle.up(new_home).complete


def test_the_room_of_a_shard_is_that_of_the_disks_that_its_members_are_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard's folder, its data or its WAL may be a mount of its own."""
    free = {"shop-s0-0": 90, "shop-s1-0": 80, "pg_wal": 70}

    def usage(place: Path) -> Any:
        if not place.exists():
            raise FileNotFoundError(place)
        return SimpleNamespace(free=min(free.get(part, 100) for part in place.parts))

    monkeypatch.setattr("reconciler.edges.local.home.shutil.disk_usage", usage)
    s0, s1 = (ScopeKey(Namespace("default"), Scope(f"shop-{n}")) for n in ("s0", "s1"))
    assert room_of(home, s0) == 100
    for key in (s0, s1):
        (home.shard_dir(key) / f"{key.scope}-0").mkdir(parents=True)
    assert (room_of(home, s0), room_of(home, s1)) == (90, 80)
    (home.shard_dir(s1) / "shop-s1-0" / "data" / "pg_wal").mkdir(parents=True)
    assert (room_of(home, s0), room_of(home, s1)) == (90, 70)
