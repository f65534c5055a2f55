"""Which process is ours: known by its id and its start, never by its name.

A process id alone is used again after a while; an id together with the start time (``proc(5)``,
field 22 of ``/proc/PID/stat``, in clock ticks since boot) and the boot's id is not. A recorded id
with another start time is somebody else's process. Signals go through a pidfd, which stays with
the process it was opened for, so that no check can be overtaken by a reuse of the id.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from reconciler.edges.local.json_records import decode_record

MEMBER_DIR_VARIABLE = "SHARDWRIGHT_MEMBER_DIR"
"""Environment variable that marks the Python processes of a member with the member's folder."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot; ``start_time`` in clock ticks since boot."""

    pid: int
    start_time: int
    boot_id: str


@cache
def boot_id() -> str:
    """Return the id that the kernel gave this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identity_of(pid: int) -> ProcessIdentity | None:
    """Return the identity of a live process; None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name, field 2, is in parentheses and may itself hold spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessIdentity(pid, int(fields[19]), boot_id())


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Say whether exactly this process still runs."""
    return identity is not None and identity_of(identity.pid) == identity


def read_identity(path: Path) -> ProcessIdentity | None:
    """Read a recorded identity; None when there is none, or none that can be read."""
    try:
        return decode_record(path.read_bytes(), ProcessIdentity)
    except (OSError, msgspec.MsgspecError):
        return None


def started_at(identity: ProcessIdentity) -> float:
    """Return when the process started, in seconds since the epoch."""
    boot = next(
        float(line.split()[1])
        for line in Path("/proc/stat").read_text().splitlines()
        if line.startswith("btime ")
    )
    return boot + identity.start_time / os.sysconf("SC_CLK_TCK")


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(identity.pid)
        try:
            if is_alive(identity):
                signal.pidfd_send_signal(handle, number)
                return True
        finally:
            os.close(handle)
    return False


def wait_until_gone(
    identities: Iterable[ProcessIdentity], timeout_s: float
) -> tuple[ProcessIdentity, ...]:
    """Wait until all have ended; return those that still run after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    waiting = [identity for identity in identities if not _ends_before(identity, deadline)]
    return tuple(waiting)


def _ends_before(identity: ProcessIdentity, deadline: float) -> bool:
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(identity):
            return True
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(left_ms))
    finally:
        os.close(handle)


def processes_of_member(member_dir: Path, bin_dir: Path) -> tuple[ProcessIdentity, ...]:
    """Return every live process of a member, also those whose supervisor was killed.

    Python processes (supervisor, Patroni) carry the member's folder in their environment; programs
    of PostgreSQL work in the member's folder and are files of its version's folder. A person's
    shell that happens to stand in the folder is neither.
    """
    mark = f"{MEMBER_DIR_VARIABLE}={member_dir}".encode()
    programs = bin_dir.resolve()
    return tuple(
        identity
        for name in os.listdir("/proc")
        if name.isdecimal()
        and int(name) != os.getpid()
        and _belongs(Path("/proc") / name, member_dir, programs, mark)
        and (identity := identity_of(int(name))) is not None
    )


def _belongs(process: Path, member_dir: Path, programs: Path, mark: bytes) -> bool:
    try:
        if Path(os.readlink(process / "exe")).is_relative_to(programs):
            return Path(os.readlink(process / "cwd")).is_relative_to(member_dir)
        return mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile, or belongs to another user
        return False
