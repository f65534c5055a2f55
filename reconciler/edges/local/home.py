"""The home: one folder with everything of one local platform.

It carries a marker, belongs to one user (mode 0700) and is changed under one lock. Two homes
share nothing: each has its own ports, certificates, passwords and processes. Records are JSON,
replaced as a whole and synced, so that a power failure leaves either the old or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from reconciler.edges.local.json_records import decode_record
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import MemberName, Scope, ScopeKey, member_name
from reconciler.model.platform import Resources

MARKER = ".shardwright-home"
LOCK_WAIT_S = 90.0
"""How long a change waits for another one of the same home: longer than stopping a shard takes."""
LOCK_POLL_S = 0.02


class HomeUnusable(ReconcilerError):
    """The home folder cannot be created, read or written.

    The local platform keeps data, certificates and passwords in its home; without a folder that it
    may write there is nothing it can do. The place is chosen by --home or SHARDWRIGHT_HOME.
    """

    code = "LP101"


class HomeOfAnotherUser(ReconcilerError):
    """The home belongs to another user of this machine.

    Processes started by one user on the data of another would leave files that neither can use, and
    passwords would change hands. Each user has a home of their own.
    """

    code = "LP102"


class NotAHome(ReconcilerError):
    """The folder is not a Shardwright home: its marker file is missing.

    A home is deleted as a whole by `platform destroy`, so a folder counts as a home only when it
    was created as one. A folder that holds other files is never taken over.
    """

    code = "LP103"


class HomeBusy(ReconcilerError):
    """Another command is changing this home, and did not finish in time.

    Changes of one home take turns. The holder is named by its process id; the lock ends with it.
    """

    code = "LP104"
    transient = True


class RecordDamaged(ReconcilerError):
    """A record file of the home cannot be understood.

    Records are written as a whole, so this comes from an edit by hand, or from a newer version of
    Shardwright.
    """

    code = "LP105"


class DiskFull(ReconcilerError):
    """The file system of the home has no room left.

    etcd and PostgreSQL stop when they cannot write. Checked before anything is started, so that a
    member is not left half created.
    """

    code = "LP106"


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """What was chosen once for a home: etcd's ports, and the etcd that wrote its data.

    ``etcd_replaced`` names the etcd that ran here before, when it had to be replaced.
    """

    etcd_client_port: int
    etcd_peer_port: int
    etcd_version: str = ""
    etcd_path: str = ""
    etcd_replaced: str = ""


@dataclass(frozen=True, slots=True, order=True)
class MemberRecord:
    """A member's ports, chosen when it was created."""

    ordinal: int
    postgres_port: int
    patroni_port: int


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard as it was last asked for, with its members sorted by ordinal.

    ``tls`` says whether its PostgreSQL speaks TLS; ``swapping`` names the clone that is to become
    the data of its first member, empty when none is.
    """

    namespace: str
    database: str
    scope: str
    version: str
    instances: int
    synchronous: bool
    parameters: tuple[tuple[str, str], ...]
    resources: Resources
    members: tuple[MemberRecord, ...] = ()
    stopped: bool = False
    tls: bool = True
    swapping: str = ""

    def member(self, ordinal: int) -> MemberRecord | None:
        """Return the member with this ordinal."""
        return next((m for m in self.members if m.ordinal == ordinal), None)


Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths inside a home; ``root`` is absolute and free of symbolic links."""

    root: Path

    @property
    def record(self) -> Path:
        """The file of the ``HomeRecord``."""
        return self.root / "home.json"

    @property
    def tls(self) -> Path:
        """The folder of the certificates."""
        return self.root / "tls"

    @property
    def etcd(self) -> Path:
        """The folder of etcd: data, log, identity of its process."""
        return self.root / "etcd"

    @property
    def secrets(self) -> Path:
        """The folder of the passwords."""
        return self.root / "secrets"

    def shard_dir(self, key: ScopeKey) -> Path:
        """Return the folder of one shard."""
        return self.root / "shards" / key.namespace / key.scope

    def shard_record(self, key: ScopeKey) -> Path:
        """Return the file of a shard's ``ShardRecord``."""
        return self.shard_dir(key) / "shard.json"

    def member_dir(self, key: ScopeKey, member: MemberName) -> Path:
        """Return the folder of one member."""
        return self.shard_dir(key) / member

    def shard_records(self) -> tuple[Path, ...]:
        """Return the files of all shard records, sorted by namespace and scope."""
        return tuple(sorted((self.root / "shards").glob("*/*/shard.json")))

    def shards(self) -> tuple[ShardRecord, ...]:
        """Read all shard records, sorted by namespace and scope. Raises RecordDamaged."""
        found = (read_record(path, ShardRecord) for path in self.shard_records())
        return tuple(record for record in found if record is not None)


def open_home(root: Path) -> Home:
    """Return an existing home. Raises NotAHome, HomeOfAnotherUser, HomeUnusable."""
    root = root.expanduser().absolute()
    with typed_os_errors(root):
        if not (root / MARKER).is_file():
            raise NotAHome(
                str(root),
                "no Shardwright home" if root.exists() else "there is no such folder",
                remedy="name the right folder with --home, or create one: shardwright platform up",
            )
        _check_owner(root)
        return Home(root.resolve())


def create_home(root: Path) -> Home:
    """Return the home, created when the folder is missing or empty.

    Raises NotAHome for a folder with other files, HomeOfAnotherUser, HomeUnusable, DiskFull.
    """
    root = root.expanduser().absolute()
    with typed_os_errors(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(root)
        if not (root / MARKER).exists():
            if any(not entry.name.startswith(MARKER) for entry in root.iterdir()):
                raise NotAHome(
                    str(root),
                    "the folder holds other files",
                    remedy="choose an empty or a new folder with --home",
                )
            root.chmod(0o700)
            # Not under the lock yet, so another first call may do the same at this moment.
            write_file(root / MARKER, b'{"format": 1}\n', draft=f"draft-{os.getpid()}")
    return Home(root.resolve())


def delete_home(home: Home) -> None:
    """Delete the home, its marker last: until then an interrupted deletion can be repeated."""
    for entry in home.root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARKER:
            entry.unlink()
    (home.root / MARKER).unlink()
    home.root.rmdir()


def _check_owner(root: Path) -> None:
    owner = root.stat().st_uid
    if owner != os.geteuid():
        raise HomeOfAnotherUser(
            str(root),
            f"belongs to uid {owner}, this is uid {os.geteuid()}",
            remedy="run as that user, or choose another folder with --home or SHARDWRIGHT_HOME",
        )


@contextlib.contextmanager
def locked(home: Home, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
    """Hold the home's lock; yields its descriptor, which a started process may inherit.

    Raises HomeBusy when another process holds it for longer than ``wait_s`` seconds, NotAHome when
    the home was deleted meanwhile.
    """
    with typed_os_errors(home.root):
        lock = _open_lock(home)
    try:
        _acquire(lock, home, time.monotonic() + wait_s)
        with typed_os_errors(home.root):
            _require_same(lock, home)
            yield lock
    finally:
        # Closed, not unlocked: a process that is being started keeps the lock until it is recorded.
        os.close(lock)


def _open_lock(home: Home) -> int:
    try:
        return os.open(home.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise _deleted(home) from None


def _require_same(lock: int, home: Home) -> None:
    """Refuse a lock whose file is gone: it was waited for while its holder deleted the home."""
    try:
        same = os.path.samestat(os.fstat(lock), (home.root / "lock").stat())
    except FileNotFoundError:
        same = False
    if not same:
        raise _deleted(home)


def _deleted(home: Home) -> NotAHome:
    return NotAHome(
        str(home.root),
        "it was deleted by another command meanwhile",
        remedy="create a new one: shardwright platform up",
    )


def _acquire(lock: int, home: Home, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
                raise HomeBusy(
                    str(home.root),
                    f"process {holder} is changing this home",
                    remedy=f"wait for it, or see what it does: ps -fp {holder}",
                ) from None
            time.sleep(LOCK_POLL_S)
    with contextlib.suppress(OSError):  # the holder's name is only for the message above
        os.pwrite(lock, f"{os.getpid():<31}\n".encode(), 0)


@contextlib.contextmanager
def typed_os_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's errors about the home into DiskFull or HomeUnusable."""
    try:
        yield
    except OSError as problem:
        subject = str(problem.filename or place)
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                subject,
                "no space left on the file system",
                remedy="free some space, or move the home",
            ) from problem
        raise HomeUnusable(
            subject,
            problem.strerror or type(problem).__name__,
            remedy="choose a folder you may write with --home or SHARDWRIGHT_HOME",
        ) from problem


def room_of(home: Home, key: ScopeKey) -> int:
    """Return the bytes of disk that a shard has left: the least of its members' and the home's.

    A member's folder, its data or its WAL may be a mount, or lead to another disk.
    """
    with typed_os_errors(home.root):
        found = [shutil.disk_usage(home.root).free]
        for member in home.shard_dir(key).glob("*/"):
            for place in (member, member / "data", member / "data" / "pg_wal"):
                with contextlib.suppress(FileNotFoundError):  # it is being made, or removed
                    found.append(shutil.disk_usage(place).free)
    return min(found)


def require_room(home: Home, wanted_bytes: int, purpose: str) -> None:
    """Raise DiskFull unless the home's file system has room for ``purpose``."""
    space = os.statvfs(home.root)
    free = space.f_bavail * space.f_frsize
    if free < wanted_bytes:
        raise DiskFull(
            str(home.root),
            f"{free >> 20} MiB free, {wanted_bytes >> 20} MiB wanted for {purpose}",
            remedy="free some space, or choose a home on a larger file system",
        )


def write_file(path: Path, content: bytes, mode: int = 0o600, *, draft: str = "draft") -> None:
    """Replace a file as a whole and durably; ``draft`` ends the name of what it is made from."""
    drafted = path.with_name(f"{path.name}.{draft}")
    handle = os.open(drafted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(handle)
    drafted.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_record(path: Path, record: object) -> None:
    """Write a record durably; its folder is created when missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Read a record; None when the file is missing. Raises RecordDamaged."""
    try:
        return decode_record(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as problem:
        raise RecordDamaged(
            str(path), str(problem), remedy="restore the file, or use the version that wrote it"
        ) from problem


def member_names(record: ShardRecord) -> tuple[MemberName, ...]:
    """Return the names of a shard's members, by ordinal."""
    return tuple(member_name(Scope(record.scope), m.ordinal) for m in record.members)
