"""The files between the platform and a member's supervisor, all in the member's folder.

``member.json`` is what to run (written by the platform); ``supervisor.json`` and ``patroni.json``
name the running processes, for the platform and for the peers; ``supervisor.lock`` is held by the
one supervisor that may act.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from reconciler.edges.local.home import write_record
from reconciler.edges.local.process_identity import ProcessIdentity
from reconciler.edges.local.supervisor_etcd import EtcdAccess, ScopeStore
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin

#: A log that has grown past this is kept as ``NAME.1`` and started anew.
LOG_BYTES_MAX = 16 * 1024 * 1024


class MemberUnreadable(ReconcilerError):
    """A member's description, ``member.json``, is missing or is not what the platform writes.

    The supervisor starts Patroni from it and finds etcd by it; without it there is nothing to do.
    """

    code = "LP141"


class MemberHeld(ReconcilerError):
    """Another live supervisor holds this member.

    Two parents of one PostgreSQL would each act on its death. The first one stays.
    """

    code = "LP142"


@dataclass(frozen=True, slots=True)
class Member:
    """What a supervisor runs: one member, as its ``member.json`` says.

    ``stop_timeout_s`` bounds a clean stop; after it everything is killed.
    """

    folder: Path
    scope: str
    name: str
    patroni_command: tuple[str, ...]
    patroni_config: str
    data_dir: Path
    bin_dir: str
    etcd: EtcdAccess
    patroni_prefix: str
    api_url: str
    stop_timeout_s: float = 60.0

    @property
    def store(self) -> ScopeStore:
        """Patroni's keys of this member's scope; one store, which keeps its login."""
        return _store(self.etcd, self.patroni_prefix, self.scope)


@cache
def _store(etcd: EtcdAccess, prefix: str, scope: str) -> ScopeStore:
    return ScopeStore(etcd, prefix, scope)


def read_member(folder: Path) -> Member:
    """Read ``member.json``. Raises MemberUnreadable."""
    path = folder / "member.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        etcd = raw["etcd"]
        return Member(
            folder=folder,
            scope=raw["scope"],
            name=raw["member"],
            patroni_command=tuple(raw["patroni_bin"]),
            patroni_config=raw["patroni_config"],
            data_dir=Path(raw["data_dir"]).resolve(),
            bin_dir=raw["bin_dir"],
            etcd=EtcdAccess(
                tuple(etcd["endpoints"]),
                etcd.get("ca", ""),
                etcd.get("cert", ""),
                etcd.get("key", ""),
                EtcdLogin(etcd["user"], etcd["password_file"]) if "user" in etcd else None,
            ),
            patroni_prefix=raw["patroni_prefix"].rstrip("/"),
            api_url=f"https://{raw['rest']['host']}:{raw['rest']['port']}",
            stop_timeout_s=float(raw.get("stop_timeout_s", 60.0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MemberUnreadable(
            str(path), f"{type(error).__name__}: {error}", remedy="run `shardwright platform up`"
        ) from error


def hold(folder: Path) -> TextIO:
    """Take the member's lock for as long as the returned file is open. Raises MemberHeld.

    The file is not inherited, so the lock ends with this process however it dies.
    """
    lock = (folder / "supervisor.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise MemberHeld(str(folder), "another supervisor runs") from error
    return lock


def record_path(folder: Path, name: str) -> Path:
    """Return the file with the identity of ``supervisor`` or ``patroni``."""
    return folder / f"{name}.json"


def record(folder: Path, name: str, process: ProcessIdentity) -> None:
    """Record a running process for the platform and the peers; they could still search for it."""
    try:
        write_record(record_path(folder, name), process)
    except OSError as error:  # a full disk must not end the one who watches over a primary
        say(f"{name}.json not written: {error.strerror}")


def bound_log(path: Path) -> None:
    """Keep a log below its bound: copy it to ``NAME.1`` and cut it, as its writers append to it."""
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
    except FileNotFoundError:
        return
    except OSError as error:
        say(f"log {path.name} is not bounded: {error.strerror}")


def say(text: str) -> None:
    """Write one line with the UTC time to stdout, which the starter sent to supervisor.log."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    try:
        sys.stdout.write(f"{stamp} {' '.join(text.split())}\n")
        sys.stdout.flush()
    except OSError:
        return  # likewise
