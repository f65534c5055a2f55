"""Start a program that outlives its starter, and record its identity before it begins.

Run as ``python -m reconciler.edges.local.launch RECORD LOG FOLDER LOCK_FD PROGRAM [ARGUMENT...]``.
The record is written by the new process itself before it becomes the program, and the inherited
lock of the home is held until then: a starter killed half-way leaves no process unknown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from reconciler.edges.local.home import write_record
from reconciler.edges.local.process_identity import identity_of
from reconciler.model.errors import ReconcilerError

LAUNCH_TIMEOUT_S = 30.0
LOG_BYTES_MAX = 16 << 20
"""A log larger than this is set aside as ``.1`` when its program starts again."""


class NotStarted(ReconcilerError):
    """A program of the platform could not be started.

    The operating system refused to run it: the file is missing or not executable, or a limit of
    processes or memory is reached.
    """

    code = "LP124"


def launch(
    command: Sequence[str],
    *,
    record: Path,
    log: Path,
    folder: Path,
    lock: int,
    environment: Mapping[str, str],
) -> None:
    """Start ``command`` in a session of its own; returns when it runs and is recorded.

    Raises NotStarted. ``lock`` is the descriptor of the home's lock.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(f"{log.name}.1"))
    launcher = [sys.executable, "-m", __name__, str(record), str(log), str(folder), str(lock)]
    try:
        done = subprocess.run(
            [*launcher, *command],
            env=dict(environment),
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LAUNCH_TIMEOUT_S,
            check=False,
        )
        problem = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"did not start within {LAUNCH_TIMEOUT_S:.0f} s"
    except OSError as error:  # no process to be had: nothing is wrong with the home
        problem = error.strerror or type(error).__name__
    if problem:
        raise NotStarted(command[0], problem, remedy=f"see {log}")


def main(arguments: Sequence[str]) -> int:
    """Fork, record, become the program; report a failure through a pipe that closes on exec."""
    record, log, folder, lock, *command = arguments
    report, tell = os.pipe()  # neither end survives exec (PEP 446)
    if os.fork() == 0:
        try:
            _become(Path(record), Path(log), folder, int(lock), command)
        except BaseException as problem:  # no frame of the parent may run in this copy of it
            os.write(tell, f"{type(problem).__name__}: {problem}".encode())
            os._exit(127)
    os.close(tell)
    with os.fdopen(report) as pipe:
        problem_text = pipe.read()
    if problem_text:
        sys.stderr.write(f"{problem_text}\n")
    return 1 if problem_text else 0


def _become(record: Path, log: Path, folder: str, lock: int, command: list[str]) -> NoReturn:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    write_record(record, identity_of(os.getpid()))
    os.set_inheritable(lock, False)
    os.execvp(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
