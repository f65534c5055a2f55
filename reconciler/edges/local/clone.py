"""A shard made anew as a physical copy of another one: cloned beside its data, then put in place.

Nothing of the shard changes while it is cloned: a base backup goes into a folder beside the data of
its first member, and a server of its own recovers there up to a position; only the superuser of the
source may log in. Then the shard is stopped and the clone takes the place of its data (``swap``).

A clone keeps the system identifier of its source; nothing here tells shards apart by it.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from reconciler.edges.local import member, tls
from reconciler.edges.local.controldata import control_data
from reconciler.edges.local.death import find_postmaster
from reconciler.edges.local.home import (
    ShardRecord,
    read_record,
    typed_os_errors,
    write_file,
    write_record,
)
from reconciler.edges.local.launch import launch
from reconciler.edges.local.member import Member
from reconciler.edges.local.platform import LocalPlatform, start_members
from reconciler.edges.local.ports import LOOPBACK, choose_ports
from reconciler.edges.local.process_identity import (
    MEMBER_DIR_VARIABLE,
    send_signal,
    wait_until_gone,
)
from reconciler.edges.local.swap import (
    CLONE_SUFFIX,
    clone_folder,
    clones_of,
    discard_clones,
    processes_in_clone,
)
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import ScopeKey
from reconciler.model.platform import Credential, Endpoint

STOP_TIMEOUT_S = 60.0
FLUSH_TIMEOUT_S = 3600.0
_FORGOTTEN = ("patroni.dynamic.json", "postmaster.opts", "postgresql.auto.conf")
"""Files of the source that mean nothing to its copy; ALTER SYSTEM's go with its shard."""
_OF_A_STANDBY = ("recovery_", "primary_", "restore_command", "archive_cleanup_command")
_OF_NO_CRASH = {
    # One that dies is thrown away, so nothing is flushed before its end, and no page written twice.
    "fsync": "off",
    "full_page_writes": "off",
    # Nobody decodes its WAL, and deletions need not hold the keys for that.
    "wal_level": "replica",
    "autovacuum": "off",
}
_WORDS = 400
_BUFFER_BYTES = 1 << 18


class CloneFailed(ReconcilerError):
    """A physical copy of a shard could not be made, or its server did not come up.

    Nothing of either shard was changed. The next attempt begins with a new copy.
    """

    code = "LP132"
    transient = True


class LocalClones:
    """Physical copies of shards on the local platform. Names tell what a clone is for."""

    def __init__(self, platform: LocalPlatform) -> None:
        self._platform = platform

    def take(
        self,
        target: ScopeKey,
        source: ScopeKey,
        at: Endpoint,
        name: str,
        pace: Callable[[int], None],
    ) -> None:
        """Take a base backup of ``source``, whose primary is ``at``, beside the target's data.

        ``pace`` is told the bytes that came, and may hold them back or raise to end it. Raises
        CloneFailed, DiskFull.
        """
        self.discard(target)
        one, folder = self._place(target, name)
        with typed_os_errors(folder):
            (folder / "data").mkdir(mode=0o700, parents=True)
            passfile = self._passfile(folder, source, at)
            with (folder / "log").open("wb") as log:
                command = [
                    f"{member.bin_dir(one)}/pg_basebackup",
                    f"--dbname={self._conninfo(source, at, passfile)}",
                    *("--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast"),
                    "--no-manifest",
                ]
                _unpack(command, folder, _environment(one), log, pace)
            for forgotten in _FORGOTTEN:
                (folder / "data" / forgotten).unlink(missing_ok=True)
            (folder / "data" / "postgresql.auto.conf").touch(mode=0o600)
            (folder / "data" / "standby.signal").touch(mode=0o600)
            _forget_recovery(folder / "data" / "postgresql.conf")

    def serve(
        self, target: ScopeKey, source: ScopeKey, at: Endpoint, name: str, until: str
    ) -> tuple[Endpoint, Credential]:
        """Start the clone's server, which recovers up to just before an LSN and is promoted.

        Returns where it listens and as whom to log in; nobody else can. Raises CloneFailed,
        NoPortFree, UserNamespaceRefused.
        """
        one, folder = self._place(target, name)
        (port,) = choose_ports(1, self._platform.taken_ports())
        endpoint = dataclasses.replace(one.endpoint, postgres_port=port)
        superuser = self._platform.credential(source, "superuser")
        kind = "hostssl" if endpoint.postgres_tls else "host"
        hba = f"{kind} all {superuser.role} {LOOPBACK}/32 scram-sha-256\n"
        write_file(folder / "hba.conf", hba.encode())
        passfile = self._passfile(folder, source, at)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(port),
            "unix_socket_directories": "",
            "hba_file": str(folder / "hba.conf"),
            "logging_collector": "off",
            "archive_mode": "off",
            **_OF_NO_CRASH,
            "synchronous_standby_names": "",
            # The source's own subscriptions are copied as well, and must not follow a second time.
            "max_logical_replication_workers": "0",
            "primary_conninfo": self._conninfo(source, at, passfile),
            "recovery_target_lsn": until,
            # The record at the position is the first that the slot will send (resharding.md, 7).
            "recovery_target_inclusive": "off",
            "recovery_target_action": "promote",
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        program = [f"{member.bin_dir(one)}/postgres", "-D", str(folder / "data"), *options]
        with self._platform.changing() as lock:
            launch(
                [*member.as_ordinary_user(), *program],
                record=folder / "server.json",
                log=folder / "log",
                folder=folder / "data",
                lock=lock,
                environment=_environment(one),
            )
        return endpoint, superuser

    def check_alive(self, target: ScopeKey, name: str) -> None:
        """Raise CloneFailed, with the last words of its log, when the clone's server has ended."""
        one, folder = self._place(target, name)
        if not processes_in_clone(one, folder):
            raise _failed(folder)

    def close(self, target: ScopeKey, name: str) -> None:
        """Stop the clone's server cleanly, and flush what it wrote. Raises CloneFailed."""
        one, folder = self._place(target, name)
        server = find_postmaster(folder / "data")
        if server is None or not send_signal(server.process, signal.SIGINT):
            raise _failed(folder)
        if wait_until_gone([server.process], STOP_TIMEOUT_S):
            raise CloneFailed(str(folder), "its server does not end", remedy="apply again")
        _flush(one, folder)

    def logins(self, target: ScopeKey) -> tuple[Credential, ...]:
        """Return the target's logins of PostgreSQL, which its copy is to have."""
        return self._platform.logins(target)

    def put_in_place(self, target: ScopeKey, name: str) -> Endpoint:
        """Stop the target, give it the clone as its data, and start it; does not wait for health.

        Returns where its first member listens, which gets the clone.

        The clone's server must have been stopped. May be repeated. Raises FencedOff and what
        starting a shard raises.
        """
        with self._platform.changing() as lock:
            path = self._platform.home.shard_record(target)
            shard = read_record(path, ShardRecord)
            if shard is None or shard.stopped:
                raise CloneFailed(str(target), "it was stopped or removed meanwhile")
            if not (self._place(target, name)[1] / "data").is_dir():
                raise CloneFailed(str(target), "its clone is gone", remedy="apply again")
            shard = dataclasses.replace(shard, swapping=name)
            write_record(path, shard)
            ordinals = tuple(m.ordinal for m in shard.members)
            start_members(self._platform.home, shard, ordinals, lock)
        return self._place(target, name)[0].endpoint

    def discard(self, target: ScopeKey) -> None:
        """End and delete every clone of a shard that has not taken its place."""
        with self._platform.changing():
            shard = read_record(self._platform.home.shard_record(target), ShardRecord)
            if shard is None or shard.swapping or not shard.members:
                return
            discard_clones(member.members_of(self._platform.home, shard)[0])

    def left(self, target: ScopeKey) -> tuple[str, ...]:
        """Return the names of the clones beside the target's data."""
        shard = read_record(self._platform.home.shard_record(target), ShardRecord)
        if shard is None or not shard.members:
            return ()
        folders = clones_of(member.members_of(self._platform.home, shard)[0])
        return tuple(folder.name.removesuffix(CLONE_SUFFIX) for folder in folders)

    def _place(self, target: ScopeKey, name: str) -> tuple[Member, Path]:
        one = member.members_of(self._platform.home, self._platform.shard(target))[0]
        return one, clone_folder(one, name)

    def _conninfo(self, source: ScopeKey, at: Endpoint, passfile: Path) -> str:
        role = self._platform.credential(source, "replication").role
        ca = tls.server_files(self._platform.home).ca
        secured = (
            f"sslmode=verify-full sslrootcert='{ca}'" if at.postgres_tls else "sslmode=disable"
        )
        return f"host={at.host} port={at.postgres_port} user={role} passfile='{passfile}' {secured}"

    def _passfile(self, folder: Path, source: ScopeKey, at: Endpoint) -> Path:
        login = self._platform.credential(source, "replication")
        line = f"{at.host}:{at.postgres_port}:*:{login.role}:{login.password}\n"
        write_file(folder / "passfile", line.encode())
        return folder / "passfile"


def _unpack(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    log: IO[bytes],
    pace: Callable[[int], None],
) -> None:
    """Run a base backup that writes a tar, and unpack it below ``folder`` as it comes."""
    backup = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=folder,
        start_new_session=True,
    )
    assert backup.stdout is not None  # noqa: S101  it was asked for
    try:
        stream = cast("IO[bytes]", _Paced(backup.stdout, pace))
        # Its buffers are of one size, else the larger is copied over and over.
        tar_of: Any = tarfile.open  # typeshed does not know of copybufsize
        with tar_of(
            fileobj=stream, mode="r|", bufsize=_BUFFER_BYTES, copybufsize=_BUFFER_BYTES
        ) as tar:
            tar.extractall(folder / "data", filter=_as_mine)  # noqa: S202  our own server's
        backup.stdout.read()
        if backup.wait() != 0:
            raise _failed(folder)
    except tarfile.TarError:
        backup.wait()
        raise _failed(folder) from None
    finally:
        backup.kill()
        backup.stdout.close()
        backup.wait()


def _flush(one: Member, folder: Path) -> None:
    """Write to the disk what the clone's server, which must have ended cleanly, left in memory."""
    bin_dir, data = member.bin_dir(one), folder / "data"
    try:
        state = control_data(bin_dir, data).get("Database cluster state")
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [*member.as_ordinary_user(), f"{bin_dir}/initdb", "--sync-only", "-D", str(data)],
                env=_environment(one),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                timeout=FLUSH_TIMEOUT_S,
                check=True,
            )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        raise _failed(folder) from None
    if state != "shut down":
        raise CloneFailed(str(folder), f"its server left it {state}", remedy="apply again")


def _forget_recovery(conf: Path) -> None:
    """Take out how the source once recovered, which Patroni leaves there after a promotion.

    PostgreSQL refuses two kinds of targets even where one of them is empty, and the slot that it
    had at its former primary is not there any more.
    """
    lines = conf.read_text().splitlines(keepends=True)
    kept = (line for line in lines if not line.startswith(_OF_A_STANDBY))
    write_file(conf, "".join(kept).encode())


class _Paced:
    """A stream that tells what was read of it."""

    def __init__(self, stream: IO[bytes], pace: Callable[[int], None]) -> None:
        self._stream, self._pace = stream, pace

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._pace(len(data))
        return data


def _as_mine(entry: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Give a file to whoever unpacks it; the server sees its owner through a user namespace."""
    safe = tarfile.tar_filter(entry, folder)
    return safe.replace(mode=entry.mode, uid=os.geteuid(), gid=os.getegid(), uname="", gname="")


def _environment(one: Member) -> dict[str, str]:
    return {**member.base_environment(), MEMBER_DIR_VARIABLE: str(one.folder)}


def _failed(folder: Path) -> CloneFailed:
    try:
        lines = (folder / "log").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = lines[-1][:_WORDS] if lines else "it ended without a word"
    return CloneFailed(str(folder), words, remedy="apply again")
