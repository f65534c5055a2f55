"""Keeps the home's etcd running: ``python -m reconciler.edges.local.etcd_keeper ETCD_FOLDER``.

etcd holds the leases of all primaries, so its death must not wait for a person. The keeper watches
the recorded process through a pidfd and starts ``command.json`` again when it has ended. etcd is no
child of it: a killed keeper takes nothing down, and the next one finds what runs. A killed keeper
is started again by members' supervisors (``supervisor_peers``); one that is ended on purpose loses
its record, ``keeper.json``, under the home's lock.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from reconciler.edges.local.home import write_record
from reconciler.edges.local.launch import LAUNCH_TIMEOUT_S, NotStarted, launch
from reconciler.edges.local.process_identity import (
    ProcessIdentity,
    is_alive,
    read_identity,
    send_signal,
    wait_until_gone,
)
from reconciler.edges.local.supervisor_files import MemberHeld, bound_log, hold, record_path, say
from reconciler.workflow.failover import LIVED_S, restart_delay_s

END_TIMEOUT_S = 5.0
_TICK_MS = 60_000
_POLL_S = 0.02
PROCESS, KEEPER = "process", "keeper"
LOG = "etcd.log"


def running(folder: Path, name: str = PROCESS) -> ProcessIdentity | None:
    """Return the identity of the running etcd, or of its keeper; None when it does not run."""
    identity = read_identity(record_path(folder, name))
    return identity if is_alive(identity) else None


def start_etcd(folder: Path, lock: int, environment: Mapping[str, str]) -> None:
    """Start etcd as ``command.json`` says; the lock is held until it is recorded.

    Raises NotStarted.
    """
    try:
        command = msgspec.json.decode((folder / "command.json").read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError) as error:
        raise NotStarted(str(folder), str(error), remedy="shardwright platform up") from error
    launch(
        command,
        record=record_path(folder, PROCESS),
        log=folder / LOG,
        folder=folder,
        lock=lock,
        environment=environment,
    )


def start_keeper(folder: Path, lock: int, environment: Mapping[str, str]) -> None:
    """Start the keeper unless it runs; under the home's lock. Raises NotStarted."""
    if running(folder, KEEPER) is None:
        launch(
            [sys.executable, "-m", __name__, str(folder)],
            record=record_path(folder, KEEPER),
            log=folder / "keeper.log",
            folder=folder,
            lock=lock,
            environment=environment,
        )


def end_keeper(folder: Path) -> None:
    """End the keeper, and wait until an etcd that it was just starting is recorded."""
    if keeper := running(folder, KEEPER):
        send_signal(keeper, signal.SIGTERM)
        if wait_until_gone([keeper], END_TIMEOUT_S):
            send_signal(keeper, signal.SIGKILL)
            wait_until_gone([keeper], END_TIMEOUT_S)
    record_path(folder, KEEPER).unlink(missing_ok=True)
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while folder.exists() and time.monotonic() < deadline:
        try:
            hold(folder).close()
            return
        except MemberHeld:
            time.sleep(_POLL_S)


def write_command(folder: Path, command: Sequence[str]) -> None:
    """Write what the keeper starts."""
    write_record(folder / "command.json", list(command))


def keep(folder: Path, lock: int) -> None:
    """Start etcd again whenever it has ended; returns when its folder is gone."""
    short_lives = 0
    while (folder / "command.json").exists():
        began = time.monotonic()
        if etcd := running(folder):
            _wait_for_end(etcd, folder / LOG)
            short_lives = 0 if time.monotonic() - began >= LIVED_S else short_lives + 1
            say(f"etcd, pid {etcd.pid}, has ended")
            time.sleep(restart_delay_s(max(0, short_lives - 1)))
            continue
        try:
            start_etcd(folder, lock, os.environ)
            say("started etcd")
        except (NotStarted, OSError) as error:
            short_lives += 1
            say(f"etcd cannot be started: {error}")
            time.sleep(restart_delay_s(short_lives))


def _wait_for_end(etcd: ProcessIdentity, log: Path) -> None:
    try:
        pidfd = os.pidfd_open(etcd.pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        while is_alive(etcd) and not poller.poll(_TICK_MS):
            bound_log(log)
    finally:
        os.close(pidfd)


def main(arguments: list[str]) -> int:
    """Keep the etcd of this folder; 3: another keeper does."""
    folder = Path(arguments[0]).resolve()
    try:
        lock = hold(folder)
    except MemberHeld as error:
        sys.stderr.write(f"{error}\n")
        return 3
    with lock:
        keep(folder, lock.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
