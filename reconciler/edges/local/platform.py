"""The local platform behind the engine's port: shards and members as processes of this machine.

Every change takes place under the home's lock and, once an applier has named its fencing token,
only while no higher token is known. Records are written before processes are started, so that what
runs is always known; each call may be repeated, and does what is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from reconciler.edges.local import etcd_server, etcd_users, member, tls
from reconciler.edges.local.binaries import find_postgres
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import (
    Home,
    HomeRecord,
    MemberRecord,
    RecordDamaged,
    ShardRecord,
    locked,
    open_home,
    read_record,
    require_room,
    room_of,
    typed_os_errors,
    write_file,
    write_record,
)
from reconciler.edges.local.member import Member
from reconciler.edges.local.patroni_config import patroni_namespace
from reconciler.edges.local.ports import LOOPBACK, choose_ports
from reconciler.edges.local.secrets_store import PATRONI_ROLES, SecretsStore
from reconciler.edges.local.swap import finish_swap
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.names import (
    DatabaseName,
    FencingToken,
    MemberName,
    Namespace,
    Scope,
    ScopeKey,
    member_ordinal,
)
from reconciler.model.platform import (
    Credential,
    PlatformMember,
    PlatformShard,
    Resources,
    ShardBlueprint,
    TlsFiles,
)


class ShardUnknown(ReconcilerError):
    """There is no such shard on this platform."""

    code = "LP128"


class VersionFixed(ReconcilerError):
    """A shard's major version cannot be changed in place.

    The data directory of one major version of PostgreSQL cannot be opened by another. Keys are
    moved to a shard of the new version instead.
    """

    code = "LP129"


class LocalPlatform:
    """Runs shards in one home; see ``engine.ports.Platform``.

    Raises NotAHome when the folder was not created by ``platform up``.
    """

    name: str = "local"
    not_applied: tuple[str, ...] = (
        "resources.cpu",
        "resources.memory",
        "storage.size",
        "storage.class",
    )

    def __init__(self, root: Path) -> None:
        self.home = open_home(root)
        self._secrets = SecretsStore(self.home)
        self._token: int | None = None

    def observe(self) -> tuple[PlatformShard, ...]:
        """Return all shards, sorted by key, from the home's records and ``/proc``.

        One whose record is damaged is returned as unreadable. Raises RecordDamaged when not even
        its database can be told.
        """
        with typed_os_errors(self.home.root):
            return tuple(
                dataclasses.replace(seen, staged=self._secrets.staged(seen.key))
                for path in self.home.shard_records()
                if (seen := _seen(self.home, path)) is not None
            )

    def ensure_members(self, blueprint: ShardBlueprint, ordinals: tuple[int, ...]) -> None:
        """Create those that are missing, start those that do not run; does not wait for health.

        Raises VersionFixed, PostgresMissing, EtcdNotUp, PortTaken, DiskFull, NotStarted.
        """
        tls_built_in = find_postgres(blueprint.version).tls
        with self.changing() as lock:
            self._require_etcd()
            shard = self._recorded(blueprint, ordinals, tls_built_in)
            start_members(self.home, shard, ordinals, lock)

    def remove_member(self, key: ScopeKey, name: MemberName) -> None:
        """Stop a member and delete its data; nothing happens when it is gone."""
        with self.changing():
            shard = read_record(self.home.shard_record(key), ShardRecord)
            gone = shard.member(member_ordinal(name)) if shard else None
            if shard is None or gone is None:
                return
            shard = finish_swap(self.home, self._ports(), shard)
            leaving = Member(self.home, shard, gone)
            member.stop([leaving])
            if etcd_server.running(self.home):  # a killed Patroni leaves its key until the ttl
                prefix = f"{patroni_namespace(key.namespace)}/{key.scope}"
                etcd_server.delete_patronis(self.home, self._ports(), f"{prefix}/members/{name}")
            if leaving.folder.exists():
                shutil.rmtree(leaving.folder)
            rest = tuple(m for m in shard.members if m != gone)
            write_record(self.home.shard_record(key), dataclasses.replace(shard, members=rest))

    def stop_shard(self, key: ScopeKey) -> None:
        """Stop all members on purpose, keep the data, and remember it."""
        with self.changing():
            shard = self.shard(key)
            if not shard.stopped:
                self._write(dataclasses.replace(shard, stopped=True))
            member.stop(member.members_of(self.home, shard))

    def start_shard(self, key: ScopeKey) -> None:
        """Start a shard that was stopped on purpose."""
        with self.changing() as lock:
            self._require_etcd()
            shard = dataclasses.replace(self.shard(key), stopped=False)
            self._write(shard)
            start_members(self.home, shard, tuple(m.ordinal for m in shard.members), lock)

    def destroy_shard(self, key: ScopeKey) -> None:
        """Stop a shard and delete all of it: data, passwords, Patroni's keys in etcd."""
        with self.changing():
            record = self.home.shard_record(key)
            shard = read_record(record, ShardRecord)
            if shard is None:
                return
            prefix = f"{patroni_namespace(key.namespace)}/{key.scope}/"
            # Interrupted half-way, it must not be started again as an empty shard.
            self._write(dataclasses.replace(shard, stopped=True))
            member.stop(member.members_of(self.home, shard))
            etcd_server.delete_patronis(self.home, self._ports(), prefix, prefix=True)
            for one in member.members_of(self.home, shard):
                shutil.rmtree(one.folder, ignore_errors=True)
            self._secrets.delete(key)
            # The record goes last: as long as it is there, this call can be repeated.
            shutil.rmtree(record.parent)

    def credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the current login of a role. Raises CredentialMissing."""
        with typed_os_errors(self.home.root):
            return self._secrets.read(key, role)

    def credential_file(self, key: ScopeKey, role: str) -> Path:
        """Return the file of mode 0600 that holds a role's password."""
        return self._secrets.file(key, role)

    def logins(self, key: ScopeKey) -> tuple[Credential, ...]:
        """Return all current logins of a shard's PostgreSQL, sorted by role."""
        with typed_os_errors(self.home.root):
            roles = (role for role in self._secrets.roles(key) if role != "patroni_api")
            return tuple(self._secrets.read(key, role) for role in roles)

    def ensure_credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the current login, generated when there is none."""
        with self.changing():
            return self._secrets.ensure(key, role)

    def stage_credential(self, key: ScopeKey, role: str) -> Credential:
        """Return the next login of a rotation; the same one until it is promoted."""
        with self.changing():
            return self._secrets.stage(key, role)

    def promote_credential(self, key: ScopeKey, role: str) -> None:
        """Make the staged login the current one; Patroni learns within seconds what it uses."""
        with self.changing():
            self._secrets.promote(key, role)
            shard = read_record(self.home.shard_record(key), ShardRecord)
            if shard is not None and role in PATRONI_ROLES:
                for one in member.members_of(self.home, shard):
                    member.write_files(one, self._ports(), self._secrets)
                    member.reload(one)

    def client_tls(self) -> TlsFiles:
        """Return the client certificate for PostgreSQL, Patroni and etcd."""
        return tls.client_files(self.home)

    def etcd_endpoints(self) -> tuple[str, ...]:
        """Return etcd's client addresses."""
        return (f"https://{LOOPBACK}:{self._ports().etcd_client_port}",)

    def etcd_login(self, user: EtcdUser) -> EtcdLogin:
        """Return how a user logs in at etcd."""
        return etcd_users.login(self.home, user)

    def psql_path(self, version: str) -> str:
        """Return the psql of a major version. Raises PostgresMissing."""
        return str(Path(find_postgres(version).bin_dir) / "psql")

    def free_bytes(self, key: ScopeKey) -> int | None:
        """Return how much disk a shard has left."""
        return room_of(self.home, key)

    def fence(self, token: FencingToken) -> None:
        """Refuse from now on every holder of a lower token. Raises FencedOff when this is lower."""
        self._token = token
        with self.changing():
            if token > self._highest_token():
                write_file(self._fence_path, f"{token}\n".encode())

    @contextlib.contextmanager
    def changing(self) -> Iterator[int]:
        """Hold the home's lock, yielding its descriptor. Raises FencedOff, HomeBusy."""
        with locked(self.home) as lock:
            highest = self._highest_token()
            if self._token is not None and self._token < highest:
                raise FencedOff(
                    f"token {self._token}",
                    f"a holder with token {highest} has taken over",
                    remedy="let the other one finish, then plan again",
                )
            yield lock

    @property
    def _fence_path(self) -> Path:
        return self.home.root / "fence"

    def _highest_token(self) -> int:
        """Return the highest token that was ever named. Raises RecordDamaged."""
        try:
            return int(self._fence_path.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as problem:
            raise RecordDamaged(
                str(self._fence_path),
                f"holds no fencing token: {problem}",
                remedy="while nobody applies, delete the file: the next apply writes it again",
            ) from None

    def _ports(self) -> HomeRecord:
        return home_record(self.home)

    def shard(self, key: ScopeKey) -> ShardRecord:
        """Return a shard's record. Raises ShardUnknown."""
        shard = read_record(self.home.shard_record(key), ShardRecord)
        if shard is None:
            there = ", ".join(str(s.key) for s in self.observe()) or "none"
            raise ShardUnknown(str(key), f"not on this platform; there are: {there}")
        return shard

    def _require_etcd(self) -> None:
        if etcd_server.running(self.home) is None:
            raise etcd_server.EtcdNotUp(
                "etcd", "it does not run", remedy="start it: shardwright platform up"
            )

    def _recorded(
        self, blueprint: ShardBlueprint, ordinals: tuple[int, ...], tls_built_in: bool
    ) -> ShardRecord:
        """Write the shard as it is asked for, with ports for its new members."""
        known = read_record(self.home.shard_record(blueprint.key), ShardRecord)
        if known is not None and known.version != blueprint.version:
            raise VersionFixed(
                str(blueprint.key),
                f"runs PostgreSQL {known.version}, asked for {blueprint.version}",
                remedy="add a shard of the new version and move the keys to it",
            )
        members = known.members if known else ()
        new = sorted(set(ordinals) - {m.ordinal for m in members})
        if new:
            require_room(self.home, member.ROOM_BYTES * len(new), f"{len(new)} new members")
        ports = choose_ports(2 * len(new), self.taken_ports())
        added = [MemberRecord(o, ports[2 * i], ports[2 * i + 1]) for i, o in enumerate(new)]
        shard = ShardRecord(
            blueprint.namespace,
            blueprint.database,
            blueprint.scope,
            blueprint.version,
            blueprint.instances,
            blueprint.synchronous,
            # Those of the bootstrap: later ones are Patroni's, and here they would be stale.
            known.parameters if known else blueprint.parameters,
            blueprint.resources,
            tuple(sorted([*members, *added])),
            tls=known.tls if known else tls_built_in,
            swapping=known.swapping if known else "",
        )
        if shard != known:
            self._write(shard)
        return shard

    def taken_ports(self) -> frozenset[int]:
        """Return the ports that belong to a part of this home."""
        ports = self._ports()
        of_members = [
            port
            for shard in self.home.shards()
            for one in shard.members
            for port in (one.postgres_port, one.patroni_port)
        ]
        return frozenset([ports.etcd_client_port, ports.etcd_peer_port, *of_members])

    def _write(self, shard: ShardRecord) -> None:
        key = ScopeKey(Namespace(shard.namespace), Scope(shard.scope))
        write_record(self.home.shard_record(key), shard)


def home_record(home: Home) -> HomeRecord:
    """Return the home's record. Raises EtcdNotUp when the platform was never up."""
    record = read_record(home.record, HomeRecord)
    if record is None:
        raise etcd_server.EtcdNotUp(
            str(home.root), "was never up", remedy="start it: shardwright platform up"
        )
    return record


def start_members(home: Home, shard: ShardRecord, ordinals: tuple[int, ...], lock: int) -> None:
    """Start the members that do not run, their files written anew from the records.

    Those that run are left alone: their Patroni has read its file. A clone that is to take the
    place of the shard's data does so first.
    """
    shard = finish_swap(home, home_record(home), shard)
    for one in member.members_of(home, shard):
        if one.record.ordinal in ordinals and one.supervisor is None:
            member.write_files(one, home_record(home), SecretsStore(home))
            member.start(one, lock)


def _seen(home: Home, path: Path) -> PlatformShard | None:
    try:
        record = read_record(path, ShardRecord)
    except RecordDamaged as damage:
        database = member.database_of(path.parent)
        if database is None:
            raise
        key = ScopeKey(Namespace(path.parent.parent.name), Scope(path.parent.name))
        return PlatformShard(
            key, database, "", (), synchronous=False, resources=Resources(),
            unreadable=f"its record {path} is damaged: {damage.problem}",
        )  # fmt: skip
    return None if record is None else _observed(home, record)


def _observed(home: Home, shard: ShardRecord) -> PlatformShard:
    return PlatformShard(
        ScopeKey(Namespace(shard.namespace), Scope(shard.scope)),
        DatabaseName(shard.database),
        shard.version,
        tuple(
            PlatformMember(one.name, one.endpoint, one.supervisor is not None)
            for one in member.members_of(home, shard)
        ),
        shard.synchronous,
        shard.resources,
        shard.stopped,
    )
