"""``platform up | status | logs | down | destroy``: the home as a whole."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.edges.local import etcd_access, etcd_server, etcd_users, member, tls
from reconciler.edges.local.binaries import find_etcd
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import (
    Home,
    HomeRecord,
    NotAHome,
    ShardRecord,
    create_home,
    delete_home,
    locked,
    open_home,
    read_record,
    require_room,
    typed_os_errors,
    write_record,
)
from reconciler.edges.local.member import Member
from reconciler.edges.local.patroni_config import LOOP_WAIT_S
from reconciler.edges.local.platform import home_record, start_members
from reconciler.edges.local.ports import choose_ports
from reconciler.edges.local.process_identity import ProcessIdentity, started_at
from reconciler.edges.local.secrets_store import SecretsStore
from reconciler.model.errors import ProblemsFound, ReconcilerError

LOG_POLL_S = 0.2


class PartUnknown(ReconcilerError):
    """The platform has no part of this name.

    Parts are `etcd`, and each member by its name, with `namespace/` before it outside the default
    namespace. `member:supervisor` and `member:postgres` name the other logs of a member,
    `etcd:keeper` that of what keeps etcd running.
    """

    code = "LP131"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """etcd or a member; ``since`` in seconds since the epoch, ``ports`` as (what, port)."""

    name: str
    kind: str
    running: bool
    pid: int | None
    since: float | None
    ports: tuple[tuple[str, int], ...]
    version: str
    log: str
    stopped_on_purpose: bool = False


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """A home and its parts, etcd first, then members by shard and ordinal."""

    home: str
    parts: tuple[PartStatus, ...]

    @property
    def complete(self) -> bool:
        """Whether everything runs that is not stopped on purpose."""
        return all(part.running or part.stopped_on_purpose for part in self.parts)


def up(root: Path) -> PlatformStatus:
    """Start everything that is not stopped on purpose; returns when etcd answers.

    Creates the home when it is missing. A part that cannot be started keeps no other part from it.
    A home from before its etcd had users gets them; what users may becomes what the code says.
    Raises what ``create_home``, ``etcd_server.start``, ``etcd_access`` and ``member.start`` raise,
    at the end; as ProblemsFound when there is more than one problem.
    """
    home = create_home(root)
    problems: list[ReconcilerError] = []
    with locked(home) as lock:
        tls.ensure_certificates(home)
        with _collected(problems):
            _start_etcd(home, lock)
        for path in home.shard_records():
            with _collected(problems):
                _start_shard(home, path, lock, problems)
    if problems:
        raise problems[0] if len(problems) == 1 else ProblemsFound(tuple(problems))
    return status(home.root)


@contextlib.contextmanager
def _collected(problems: list[ReconcilerError]) -> Iterator[None]:
    try:
        yield
    except ReconcilerError as problem:
        problems.append(problem)


def _start_etcd(home: Home, lock: int) -> None:
    record = read_record(home.record, HomeRecord)
    if record is None:
        require_room(home, etcd_server.ROOM_BYTES, "etcd")
        client, peer = choose_ports(2, frozenset())
        record = HomeRecord(client, peer)
    etcd = find_etcd(record.etcd_version, record.etcd_path)
    if etcd_server.running(home) is None:
        record = etcd_server.remembered(record, etcd)
        write_record(home.record, record)
    environment = member.base_environment()
    etcd_server.start(home, record, etcd, lock, environment)
    if etcd_access.is_open(home, record):
        etcd_access.admit_users(home, record)
        _tell_members(home, lock)
        etcd_access.close(home, record)
    elif _mend_users(home, record, lock):
        etcd_server.stop(home)
        etcd_users.drop_key(home)
        etcd_server.start(home, record, etcd, lock, environment)
        etcd_users.note_new_key(home)


def _mend_users(home: Home, record: HomeRecord, lock: int) -> bool:
    """Bring etcd's users to what files and code say; tell whether its tokens have to end.

    Patronis read their password before etcd takes no other: they show it only when their token has
    ended.
    """
    locked = etcd_access.locked_out(home, record)
    if not (locked or etcd_access.differing(home, record)):
        return etcd_users.is_key_due(home)
    etcd_users.announce_new_key(home)
    if EtcdUser.PATRONI in locked:
        _tell_members(home, lock)
    etcd_access.mend_users(home, record, locked)
    return True


def _tell_members(home: Home, lock: int) -> None:
    """Let members that run know their login, before etcd asks for it, or for another password.

    Patroni reads its file again between two rounds; a supervisor only reads when it starts, and its
    death takes nothing down. All of them, whatever their files say: the last `platform up` may have
    ended between writing and telling.
    """
    told = False
    for shard in home.shards():
        running = [one for one in member.members_of(home, shard) if member.processes_of(one)]
        for one in running:
            member.write_files(one, home_record(home), SecretsStore(home))
            member.reload(one)
            member.end_supervisor(one)
        start_members(home, shard, tuple(one.record.ordinal for one in running), lock)
        told = told or bool(running)
    if told:
        time.sleep(LOOP_WAIT_S + 1)


def _start_shard(home: Home, path: Path, lock: int, problems: list[ReconcilerError]) -> None:
    shard = read_record(path, ShardRecord)
    if shard is None or shard.stopped:
        return
    for ordinal in (m.ordinal for m in shard.members):
        with _collected(problems):
            start_members(home, shard, (ordinal,), lock)


def etcd_in_use(root: Path) -> tuple[str, HomeRecord] | None:
    """Return the version of the etcd that serves a home, as it says, and the home's record.

    None when there is no home or its etcd does not run. Raises EtcdNotUp, HomeOfAnotherUser.
    """
    try:
        home = open_home(root)
    except NotAHome:
        return None
    record = read_record(home.record, HomeRecord)
    if record is None or etcd_server.running(home) is None:
        return None
    return etcd_server.serving_version(home, record), record


def etcd_shortfalls(root: Path) -> tuple[str, ...]:
    """Return in words why not everybody may just what is theirs in a home's etcd, which runs.

    Raises EtcdNotUp.
    """
    home = open_home(root)
    return etcd_access.shortfalls(home, home_record(home))


def down(root: Path) -> PlatformStatus:
    """Stop everything: members, standbys first, then etcd. Raises MemberNotStopped."""
    home = open_home(root)
    with locked(home):
        _stop_all(home)
    return status(home.root)


def destroy(root: Path) -> None:
    """Stop everything and delete the home. Raises NotAHome for any other folder."""
    home = open_home(root)
    with locked(home):
        _stop_all(home)
        delete_home(home)


def _stop_all(home: Home) -> None:
    member.stop([m for shard in home.shards() for m in member.members_of(home, shard)])
    etcd_server.stop(home)


def status(root: Path) -> PlatformStatus:
    """Return what runs. Raises NotAHome, RecordDamaged."""
    home = open_home(root)
    with typed_os_errors(home.root):
        record = read_record(home.record, HomeRecord)
        etcd = [_etcd_status(home, record)] if record else []
        members = [
            _member_status(one, shard)
            for shard in home.shards()
            for one in member.members_of(home, shard)
        ]
    return PlatformStatus(str(home.root), (*etcd, *members))


def _etcd_status(home: Home, record: HomeRecord) -> PartStatus:
    identity = etcd_server.running(home)
    return PartStatus(
        "etcd",
        "etcd",
        identity is not None,
        identity.pid if identity else None,
        _since(identity),
        (("clients", record.etcd_client_port), ("peers", record.etcd_peer_port)),
        record.etcd_version,
        str(etcd_server.log_path(home)),
    )


def _member_status(one: Member, shard: ShardRecord) -> PartStatus:
    identity = one.supervisor
    return PartStatus(
        _part_name(one),
        "member",
        identity is not None,
        identity.pid if identity else None,
        _since(identity),
        (("postgres", one.record.postgres_port), ("patroni", one.record.patroni_port)),
        shard.version,
        str(one.folder / "patroni.log"),
        shard.stopped,
    )


def _since(identity: ProcessIdentity | None) -> float | None:
    return started_at(identity) if identity else None


def _part_name(one: Member) -> str:
    namespace = one.shard.namespace
    return one.name if namespace == "default" else f"{namespace}/{one.name}"


def logs(root: Path, part: str, lines: int = 100, *, follow: bool = False) -> Iterator[str]:
    """Yield the last ``lines`` lines of a part's log, then with ``follow`` new ones for ever.

    Raises PartUnknown.
    """
    home = open_home(root)
    with typed_os_errors(home.root):
        path = _log_path(home, part)
    return _read_lines(path, lines, follow=follow)


def _log_path(home: Home, part: str) -> Path:
    paths = {"etcd": etcd_server.log_path(home), "etcd:keeper": home.etcd / "keeper.log"}
    for shard in home.shards():
        for one in member.members_of(home, shard):
            name = _part_name(one)
            paths[name] = one.folder / "patroni.log"
            paths[f"{name}:supervisor"] = one.folder / "supervisor.log"
            written = sorted((one.folder / "log").glob("*.log"), key=lambda p: p.stat().st_mtime)
            paths[f"{name}:postgres"] = written[-1] if written else one.folder / "log" / "none"
    if part not in paths:
        raise PartUnknown(part, f"there are: {', '.join(p for p in paths if ':' not in p)}")
    return paths[part]


def _read_lines(path: Path, lines: int, *, follow: bool) -> Iterator[str]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
        while follow:
            if line := file.readline():
                yield line.rstrip("\n")
            elif file.tell() > path.stat().st_size:
                file.seek(0)  # the log was cut because it had grown too large
            else:
                time.sleep(LOG_POLL_S)
