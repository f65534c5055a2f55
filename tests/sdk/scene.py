"""One database of two shards on real servers, its map in a real etcd, and a move's cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from reconciler.edges.etcd import EtcdStore
from reconciler.model.desired import KeyType
from reconciler.model.hashing import HASH_FUNCTIONS
from reconciler.model.keyspace import KeySet, parse_key_set
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    MemberName,
    Namespace,
    Scope,
    ShardName,
)
from reconciler.model.platform import Endpoint, TlsFiles
from reconciler.model.records import encode_routing, routing_key
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.sdk import Config, Limits
from tests.edges.servers import EtcdServer, PostgresServer
from tests.edges.shard import TestShard, new_shard, schema_file

TABLE = "public.entry"
MOVED = parse_key_set("40-80")
"""The keys that ``cut`` moves from the first shard to the second."""
_numbers = count()


@dataclass(slots=True)
class Scene:
    """A database sharded over ``shards``; ``map`` is what etcd has."""

    etcd: EtcdServer
    tls: TlsFiles
    shards: tuple[TestShard, TestShard]
    map: RoutingMap
    limits: Limits = field(default_factory=Limits)

    @property
    def store(self) -> EtcdStore:
        return EtcdStore((self.etcd.endpoint,), self.tls)

    @property
    def key(self) -> str:
        return routing_key(self.map.database)

    def config(self, **changes: Any) -> Config:
        wanted: dict[str, Any] = {
            "etcd_endpoints": (self.etcd.endpoint,),
            "database": self.map.database.name,
            "password": self.shards[0].app.password,
            "tls": self.tls,
            "limits": self.limits,
        }
        return Config(**{**wanted, **changes})

    def publish(self, routing: RoutingMap) -> None:
        self.put(encode_routing(routing))
        self.map = routing

    def put(self, value: bytes | None) -> None:
        """Write the map's record as the applier does, in a lease of its own."""
        store = self.store
        lease = store.acquire(f"/test/lease-{next(_numbers)}", "test", 60)
        store.write({self.key: (value, None)}, lease)

    def routed(self, *keys: KeySet, epoch: int | None = None) -> RoutingMap:
        """Return the next map, with these keys at the shards."""
        owners = tuple(replace(o, keys=k) for o, k in zip(self.map.owners, keys, strict=True))
        return replace(self.map, owners=owners, epoch=Epoch(epoch or self.map.epoch + 1))

    def guard(self, index: int, keys: KeySet, epoch: int) -> None:
        self.shards[index].guard(keys, (TABLE, "k"), key_type=self.map.key_type, epoch=epoch)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Let etcd be what it was before the block, as after a restore from a backup."""
        data, backup = self.etcd.home / "data", self.etcd.home / "backup"
        self.etcd.stop()
        shutil.copytree(data, backup)
        self.etcd.start()
        yield
        self.etcd.stop()
        shutil.rmtree(data)
        backup.rename(data)
        self.etcd.start()

    def fence(self) -> None:
        """Narrow the source: from here on nobody takes the moved keys."""
        self.guard(0, self.map.owners[0].keys - MOVED, self.map.epoch + 1)

    def open_target(self) -> None:
        """Bring the moved rows over, then let the target take their keys."""
        with self.shards[1].connect() as session, session.cursor() as cursor:
            session.execute("SET session_replication_role = replica")
            cursor.executemany("INSERT INTO entry VALUES (%s, %s)", self.rows(0, MOVED))
        self.guard(1, self.map.owners[1].keys | MOVED, self.map.epoch + 1)

    def switch(self) -> None:
        """Publish the map of the move."""
        first, second = (owner.keys for owner in self.map.owners)
        self.publish(self.routed(first - MOVED, second | MOVED))

    def cut(self) -> None:
        """Do all that moves the keys, in the order that keeps each owned at most once."""
        self.fence()
        self.open_target()
        self.switch()

    def require_epoch(self, index: int, epoch: int) -> None:
        """Refuse statements of sessions that know no epoch or an older one (3.3b)."""
        with self.shards[index].connect() as session:
            session.execute(
                'CREATE OR REPLACE TRIGGER "~shardwright_epoch" BEFORE INSERT OR UPDATE OR DELETE'
                " ON entry FOR EACH STATEMENT WHEN (coalesce(nullif(current_setting("
                f"'shardwright.epoch', true), ''), '0')::int < {epoch})"
                f" EXECUTE FUNCTION shardwright.reject('{epoch}', '-', 'k')"
            )

    def rows(self, index: int, keys: KeySet | None = None) -> list[tuple[Any, ...]]:
        """Return a shard's rows, or those of some keys."""
        name = HASH_FUNCTIONS[self.map.key_type]
        bounds = [r.sql_bounds for r in (keys or parse_key_set("-")).ranges]
        inside = " OR ".join(f"{name}(k, 0) BETWEEN '{a}' AND '{b}'" for a, b in bounds)
        return self.shards[index].rows(f"SELECT k, id FROM entry WHERE {inside}")

    def owned_rows(self) -> list[tuple[Any, ...]]:
        """Return all rows at their owners: what the application would see."""
        owners = enumerate(self.map.owners)
        return [row for index, owner in owners for row in self.rows(index, owner.keys)]

    def through(self, port: int) -> None:
        """Publish a map in which the first shard is reached at another port, without TLS."""
        member = RoutingMember(MemberName("proxy"), Endpoint("127.0.0.1", port, 0, False))
        first = replace(self.map.owners[0], members=(member,))
        owners = (first, *self.map.owners[1:])
        self.publish(replace(self.map, owners=owners, epoch=Epoch(self.map.epoch + 1)))


def new_scene(
    etcd: EtcdServer, servers: tuple[PostgresServer, PostgresServer], key_type: KeyType
) -> Scene:
    """Set up a database that is on both servers, half of the keys on each."""
    first = new_shard(servers[0])
    second = new_shard(servers[1])
    name = first.database
    second = replace(second, database=name, owner=first.owner, app=first.app)
    owners = []
    for index, (shard, keys) in enumerate(((first, "-80"), (second, "80-"))):
        shard.set_up()
        text = f"CREATE TABLE entry (k {key_type} NOT NULL, id text PRIMARY KEY)"
        shard.apply(schema_file(text))
        shard.guard(keys, (TABLE, "k"), key_type=key_type)
        member = RoutingMember(MemberName(f"{name}-s{index}-0"), shard.primary)
        scope = Scope(f"{name}-s{index}")
        owners.append(RoutingOwner(ShardName(f"s{index}"), scope, parse_key_set(keys), (member,)))
    database = DatabaseKey(Namespace("default"), DatabaseName(name))
    routing = RoutingMap(database, Epoch(1), key_type, ((TABLE, "k"),), (), tuple(owners))
    scene = Scene(etcd, servers[0].tls, (first, second), routing)
    scene.publish(routing)
    return scene
