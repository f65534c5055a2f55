"""A base backup unpacked as it comes: by what a program says at its end, and when it is stopped."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from reconciler.edges.local.clone import CloneFailed, _unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    return tmp_path


def unpack(folder: Path, program: str) -> int:
    """Unpack what a program sends; return how many bytes were told."""
    told: list[int] = []
    with (folder / "log").open("wb") as log:
        script = f"cd {shlex.quote(str(folder))}; {program}"
        _unpack(["/bin/sh", "-c", script], folder, {"PATH": "/usr/bin:/bin"}, log, told.append)
    return sum(told)


def test_what_a_program_sends_is_unpacked_and_told(folder: Path) -> None:
    assert unpack(folder, "tar cf - sent") >= 100_000
    assert (folder / "data" / "sent").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize(
    "program", ["tar cf - sent; echo 'it broke' >&2; exit 1", "tar cf - sent | head -c 50000"]
)
def test_a_backup_that_was_cut_short_or_failed_at_its_end_is_none(
    folder: Path, program: str
) -> None:
    """All its files may have come: what failed last is the WAL that it needs."""
    with pytest.raises(CloneFailed, match="it broke" if "broke" in program else None):
        unpack(folder, program)


def test_a_backup_that_is_held_back_for_good_is_ended(folder: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(_: int) -> None:
        raise Stopped

    with (folder / "log").open("wb") as log, pytest.raises(Stopped):
        _unpack(["/usr/bin/yes"], folder, {}, log, stop)
