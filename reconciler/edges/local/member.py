"""A member on this machine: its folder, its files, and starting and stopping its processes.

A member is one supervisor process, the parent of its Patroni and with it of its PostgreSQL. As root
everything runs in a user namespace of its own, because PostgreSQL refuses uid 0: there uid 0 is
seen as an ordinary user, while files stay readable and writable as before, also under /root.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reconciler.edges.local import etcd_users, tls
from reconciler.edges.local.binaries import PostgresBinaries, find_postgres
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import (
    Home,
    HomeRecord,
    MemberRecord,
    ShardRecord,
    write_file,
    write_record,
)
from reconciler.edges.local.launch import launch
from reconciler.edges.local.patroni_config import (
    MemberLogins,
    MemberPlace,
    patroni_config,
    patroni_namespace,
)
from reconciler.edges.local.ports import LOOPBACK, require_free
from reconciler.edges.local.process_identity import (
    MEMBER_DIR_VARIABLE,
    ProcessIdentity,
    is_alive,
    processes_of_member,
    read_identity,
    send_signal,
    wait_until_gone,
)
from reconciler.edges.local.secrets_store import SecretsStore
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import (
    DatabaseName,
    MemberName,
    Namespace,
    Scope,
    ScopeKey,
    member_name,
)
from reconciler.model.platform import Endpoint, ShardBlueprint

ROOM_BYTES = 192 << 20
"""Free space needed for a new member: an empty PostgreSQL with its first log segments, twice."""
STOP_TIMEOUT_S = 75.0
"""How long a member may take to stop cleanly; its supervisor itself gives up after 60 s."""
KILL_TIMEOUT_S = 10.0
PREFERRED_USER = 1000
UNSHARE_TIMEOUT_S = 10.0


class UserNamespaceRefused(ReconcilerError):
    """PostgreSQL refuses to run as root, and this machine lets root make no user namespace.

    As root the members run in a user namespace where they are an ordinary user. Containers often
    forbid to make one.
    """

    code = "LP125"


class MemberNotStopped(ReconcilerError):
    """Processes of a member are still there after they were killed.

    The kernel does not end a process that waits for a device, for example for a disk that hangs.
    """

    code = "LP126"
    transient = True


@dataclass(frozen=True, slots=True)
class Member:
    """One member of one shard of one home."""

    home: Home
    shard: ShardRecord
    record: MemberRecord

    @property
    def key(self) -> ScopeKey:
        """The shard's identity."""
        return ScopeKey(Namespace(self.shard.namespace), Scope(self.shard.scope))

    @property
    def name(self) -> MemberName:
        """``shop-s0-1``."""
        return member_name(Scope(self.shard.scope), self.record.ordinal)

    @property
    def folder(self) -> Path:
        """The member's folder."""
        return self.home.member_dir(self.key, self.name)

    @property
    def data_dir(self) -> Path:
        """PostgreSQL's data directory."""
        return self.folder / "data"

    @property
    def endpoint(self) -> Endpoint:
        """Where the member listens."""
        ports = self.record
        return Endpoint(LOOPBACK, ports.postgres_port, ports.patroni_port, self.shard.tls)

    @property
    def supervisor(self) -> ProcessIdentity | None:
        """The running supervisor; None when it does not run. Reads two files."""
        identity = read_identity(self.folder / "supervisor.json")
        return identity if is_alive(identity) else None


def members_of(home: Home, shard: ShardRecord) -> tuple[Member, ...]:
    """Return a shard's members by ordinal."""
    return tuple(Member(home, shard, record) for record in shard.members)


def write_files(member: Member, ports: HomeRecord, secrets: SecretsStore) -> None:
    """Write ``member.json`` and ``patroni.yml``. Raises PostgresMissing."""
    import yaml

    postgres = find_postgres(member.shard.version)
    member.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (member.folder / "log").mkdir(mode=0o700, exist_ok=True)
    write_record(member.folder / "member.json", _description(member, postgres, ports))
    config = patroni_config(
        _blueprint(member.shard),
        _place(member, postgres),
        MemberLogins(
            superuser=secrets.ensure(member.key, "superuser"),
            replication=secrets.ensure(member.key, "replication"),
            rewind=secrets.ensure(member.key, "rewind"),
            patroni_api=secrets.ensure(member.key, "patroni_api"),
            etcd=etcd_users.credential(member.home, EtcdUser.PATRONI),
        ),
        ports.etcd_client_port,
    )
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_file(member.folder / "patroni.yml", text.encode())


def start(member: Member, lock: int) -> None:
    """Start the member's supervisor unless it runs; its files must be there.

    Raises PortTaken, UserNamespaceRefused, NotStarted. A Patroni or PostgreSQL that outlived its
    supervisor is left as it is: the new supervisor takes it over.
    """
    if member.supervisor is not None:
        return
    if not processes_of(member):
        require_free(member.record.postgres_port, f"{member.name} PostgreSQL")
        require_free(member.record.patroni_port, f"{member.name} Patroni")
    launch_supervisor(member, lock)


def launch_supervisor(member: Member, lock: int) -> None:
    """Start the supervisor without asking whose the ports are: a peer's namespace cannot see it.

    Raises UserNamespaceRefused, NotStarted.
    """
    program = [sys.executable, "-m", "reconciler.edges.local.supervisor", str(member.folder)]
    launch(
        [*as_ordinary_user(), *program],
        record=member.folder / "supervisor.json",
        log=member.folder / "supervisor.log",
        folder=member.folder,
        lock=lock,
        environment={
            **base_environment(),
            "HOME": str(member.folder),
            MEMBER_DIR_VARIABLE: str(member.folder),
        },
    )


def reload(member: Member) -> None:
    """Let the running Patroni read its file again; it does so within its ``loop_wait``.

    By a signal and not through its API, whose password may be what has changed. One that is just
    being started reads the new file anyway.
    """
    patroni = read_identity(member.folder / "patroni.json")
    if patroni is not None:
        send_signal(patroni, signal.SIGHUP)


def end_supervisor(member: Member) -> None:
    """Kill the supervisor and nothing else; the next one takes over what runs."""
    supervisor = member.supervisor
    if supervisor is not None and send_signal(supervisor, signal.SIGKILL):
        wait_until_gone([supervisor], KILL_TIMEOUT_S)


def stop(members: Sequence[Member]) -> None:
    """Stop members cleanly, standbys before primaries; kill what does not stop in time.

    The standbys go first, so that none of them takes over while the primary shuts down. Raises
    MemberNotStopped.
    """
    standbys = [m for m in members if (m.data_dir / "standby.signal").exists()]
    _stop_at_once(standbys)
    _stop_at_once([m for m in members if m not in standbys])


def _stop_at_once(members: Sequence[Member]) -> None:
    supervisors = [s for m in members if (s := m.supervisor) is not None]
    for supervisor in supervisors:
        send_signal(supervisor, signal.SIGTERM)
    for late in wait_until_gone(supervisors, STOP_TIMEOUT_S):
        send_signal(late, signal.SIGKILL)
    for member in members:
        _end_strays(member)


def _end_strays(member: Member) -> None:
    """End what outlived its supervisor: Patroni (with PostgreSQL), else PostgreSQL, else all."""
    _ask_to_end(read_identity(member.folder / "patroni.json"), signal.SIGTERM)
    _ask_to_end(_postmaster(member), signal.SIGINT)  # a fast shutdown
    left = processes_of(member)
    for process in left:
        send_signal(process, signal.SIGKILL)
    if stuck := wait_until_gone(left, KILL_TIMEOUT_S):
        raise MemberNotStopped(
            member.name,
            f"processes do not end: {', '.join(str(p.pid) for p in stuck)}",
            remedy="see what they wait for: ps -o pid,stat,wchan,cmd -p PID",
        )


def _ask_to_end(process: ProcessIdentity | None, number: signal.Signals) -> None:
    if process is not None and send_signal(process, number):
        wait_until_gone([process], STOP_TIMEOUT_S)


def _postmaster(member: Member) -> ProcessIdentity | None:
    try:
        pid = int((member.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return next((p for p in processes_of(member) if p.pid == pid), None)


def processes_of(member: Member) -> tuple[ProcessIdentity, ...]:
    """Return all live processes of a member, its supervisor included when it runs."""
    found = processes_of_member(member.folder, bin_dir(member))
    supervisor = member.supervisor
    return found if supervisor is None or supervisor in found else (supervisor, *found)


def database_of(shard_folder: Path) -> DatabaseName | None:
    """Return the database of a shard as its members' descriptions name it; None when none does."""
    names = (_described(path.parent, "database") for path in shard_folder.glob("*/member.json"))
    return next((DatabaseName(name) for name in sorted(filter(None, names))), None)


def bin_dir(member: Member) -> Path:
    """Return where the member's programs were when it was started last."""
    return Path(_described(member.folder, "bin_dir") or "/nonexistent")


def _described(folder: Path, field: str) -> str:
    """Return one text of a ``member.json``; empty when it cannot be read."""
    import msgspec

    try:
        return str(msgspec.json.decode((folder / "member.json").read_bytes())[field])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return ""


def base_environment() -> dict[str, str]:
    """Return the environment of every part: nothing of the starter's but its path.

    Variables such as PGOPTIONS or PATRONI_SCOPE in a person's shell must not change a server.
    """
    package_root = Path(__file__).resolve().parents[3]
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(package_root),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


@cache
def as_ordinary_user() -> tuple[str, ...]:
    """Return the prefix of a command that must not see root. Raises UserNamespaceRefused."""
    if os.geteuid() != 0:
        return ()
    user = _ordinary_user()
    prefix = ("unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}")
    try:
        done = subprocess.run(
            [*prefix, "true"],
            capture_output=True,
            text=True,
            timeout=UNSHARE_TIMEOUT_S,
            check=False,
        )
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        raise UserNamespaceRefused(
            "user namespace",
            problem,
            remedy="run as an ordinary user, or let this container make user namespaces "
            "(sysctl user.max_user_namespaces > 0, seccomp profile without a ban on unshare), "
            "and install util-linux",
        )
    return prefix


def _ordinary_user() -> pwd.struct_passwd:
    """Return a user to be seen as; it must have an entry, because initdb looks its own name up."""
    users = sorted(pwd.getpwall(), key=lambda user: (user.pw_uid != PREFERRED_USER, user.pw_uid))
    for user in users:
        if user.pw_uid != 0:
            return user
    raise UserNamespaceRefused(
        "/etc/passwd", "has no user but root", remedy="create an ordinary user: useradd shardwright"
    )


def _blueprint(shard: ShardRecord) -> ShardBlueprint:
    return ShardBlueprint(
        Namespace(shard.namespace),
        DatabaseName(shard.database),
        Scope(shard.scope),
        shard.version,
        shard.instances,
        shard.synchronous,
        shard.parameters,
        shard.resources,
    )


def _place(member: Member, postgres: PostgresBinaries) -> MemberPlace:
    files = tls.server_files(member.home)
    return MemberPlace(
        name=member.name,
        endpoint=member.endpoint,
        data_dir=str(member.data_dir),
        bin_dir=postgres.bin_dir,
        log_dir=str(member.folder / "log"),
        pgpass=str(member.folder / "pgpass"),
        ca=files.ca,
        server_cert=files.cert,
        server_key=files.key,
    )


def _description(
    member: Member, postgres: PostgresBinaries, ports: HomeRecord
) -> dict[str, object]:
    """Return what the supervisor reads; no secrets."""
    files = tls.server_files(member.home)
    server_tls = {"ca": files.ca, "cert": files.cert, "key": files.key}
    login = etcd_users.login(member.home, EtcdUser.PATRONI)
    return {
        "scope": member.shard.scope,
        "namespace": member.shard.namespace,
        "member": member.name,
        "database": member.shard.database,
        "patroni_bin": [sys.executable, "-m", "patroni"],
        "patroni_config": str(member.folder / "patroni.yml"),
        "data_dir": str(member.data_dir),
        "bin_dir": postgres.bin_dir,
        "etcd": {
            "endpoints": [f"https://{LOOPBACK}:{ports.etcd_client_port}"],
            **server_tls,
            "user": login.user,
            "password_file": login.password_file,
        },
        "patroni_prefix": patroni_namespace(member.shard.namespace),
        "rest": {"host": member.endpoint.host, "port": member.endpoint.patroni_port},
        "tls": server_tls,
    }
