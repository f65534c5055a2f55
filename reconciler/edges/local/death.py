"""Is all of a PostgreSQL dead, surely? Which processes belong to it, and who is attached to it.

Facts about Linux and PostgreSQL used here:

* A pidfd becomes readable when the process ends (pidfd_open(2)); no polling.
* PostgreSQL's backends each call setsid(2), so neither group nor session finds them. What does:
  their working directory is the data directory, and each is attached to the System V segment that
  is named in line 7 of ``postmaster.pid``; it exists for exactly this question (PostgreSQL's
  ``PGSharedMemoryIsInUse``). ``/proc/sysvipc/shm`` counts the attached without any privilege, also
  from another user namespace, where ``/proc/PID/cwd`` may not be read.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.edges.local.process_identity import (
    ProcessIdentity,
    identity_of,
    is_alive,
    send_signal,
    wait_until_gone,
)
from reconciler.workflow.failover import Survivors


@dataclass(frozen=True, slots=True)
class Segment:
    """The System V shared memory segment that a running postmaster owns."""

    key: int
    shmid: int


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running postmaster and the segment that all of its children are attached to."""

    process: ProcessIdentity
    segment: Segment | None


def open_pidfd(process: ProcessIdentity) -> int | None:
    """Open a pidfd for exactly this process; None when it is dead."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):  # checked after opening: the id cannot have been reused in between
        return fd
    os.close(fd)
    return None


def command_of(pid: int) -> tuple[str, ...]:
    """Return a process's arguments; empty when it is gone (or a kernel thread)."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0"))


def find_by_arguments(*wanted: str) -> tuple[ProcessIdentity, ...]:
    """Find live processes that have all of these as arguments, sorted by id."""
    pids = (pid for pid in _pids() if set(wanted) <= set(command_of(pid)))
    found = (process for pid in pids if (process := identity_of(pid)))
    return tuple(sorted(found, key=lambda p: p.pid))


def find_postmaster(data_dir: Path) -> Postmaster | None:
    """Return the postmaster that runs in ``data_dir``, as its ``postmaster.pid`` says, if true.

    A stale file is no postmaster: the process must carry the data directory among its arguments,
    or in its working directory. A negative id is a single-user server, which serves nobody.
    """
    lines = _pid_file(data_dir)
    try:
        pid = int(lines[0])
    except (ValueError, IndexError):
        return None
    process = identity_of(pid)  # a negative id is nobody's
    if process is None or not (str(data_dir) in command_of(pid) or _in_directory(pid, data_dir)):
        return None
    return Postmaster(process, _segment(lines))


def last_segment(data_dir: Path) -> Segment | None:
    """Return the segment of the server that ran last, if it did not end cleanly."""
    return _segment(_pid_file(data_dir))


def attached(segment: Segment | None) -> Survivors:
    """Tell whether any process is attached to the segment; one that was removed has nobody."""
    if segment is None:
        return Survivors.UNKNOWN
    try:
        table = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except OSError:
        return Survivors.UNKNOWN
    for row in table:  # key shmid perms size cpid lpid nattch …: proc_sysvipc(5)
        fields = row.split()
        if int(fields[1]) == segment.shmid and int(fields[0]) == segment.key:
            return Survivors.SOME if int(fields[6]) else Survivors.NONE
    return Survivors.NONE


def children_of(parent: int) -> tuple[ProcessIdentity, ...]:
    """Return the live children of a process, zombies left out."""
    found = (identity_of(pid) for pid in _pids() if _parent_of(pid) == parent)
    return tuple(process for process in found if process)


def processes_in(data_dir: Path) -> tuple[ProcessIdentity, ...]:
    """Return the live processes whose working directory is ``data_dir``, as far as can be seen."""
    found = [identity_of(pid) for pid in _pids() if _in_directory(pid, data_dir)]
    return tuple(process for process in found if process)


def may_work_in(pid: int, folder: Path) -> bool:
    """Whether a process works in this folder or below, or cannot be asked."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return True


def kill_all(processes: tuple[ProcessIdentity, ...], *, within_s: float) -> bool:
    """Kill with -9 and wait for the end of each, at most ``within_s`` seconds in all."""
    for process in processes:
        with contextlib.suppress(PermissionError):
            send_signal(process, signal.SIGKILL)
    return not wait_until_gone(processes, within_s)


def reap() -> tuple[tuple[int, int], ...]:
    """Collect all ended children: pairs of id and wait status."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return tuple(ended)
        if pid == 0:
            return tuple(ended)
        ended.append((pid, status))


def become_subreaper() -> None:
    """Adopt orphaned descendants: PostgreSQL becomes ours, as Patroni daemonizes it (prctl(2)).

    Raises OSError when the kernel refuses.
    """
    import ctypes

    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _parent_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    # The name in parentheses may hold anything; the parent is the second field after it (proc(5)).
    return int(text[text.rindex(")") + 2 :].split()[1])


def _in_directory(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def _pid_file(data_dir: Path) -> list[str]:
    try:
        return (data_dir / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _segment(lines: list[str]) -> Segment | None:
    """Read line 7 of ``postmaster.pid``: key and id of the segment (miscinit.c, pidfile.h)."""
    try:
        key, shmid = (int(number) for number in lines[6].split())
    except (ValueError, IndexError):
        return None
    return Segment(key, shmid)
