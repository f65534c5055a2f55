"""The routing map as its record in etcd, and where that is.

Apart from the other records (``engine.records``), because clients read this one: ``reconciler.sdk``
may import the model and nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from reconciler.model.desired import KeyType
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import parse_key_set
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    MemberName,
    Namespace,
    Scope,
    ShardName,
)
from reconciler.model.platform import Endpoint
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner

ROOT = "/shardwright/v1/"
DATABASES = ROOT + "databases/"
ROUTERS = ROOT + "routers/"
"""Apart from the databases' own records: it is all that a router's user of etcd may write."""


class RecordUnreadable(ReconcilerError):
    """A record in etcd is not what Shardwright writes.

    It was edited by hand, or written by a later version. Nothing is derived from it, and nothing
    of its database is changed.
    """

    code = "ET201"


def routing_key(database: DatabaseKey) -> str:
    """Return where a database's routing map is."""
    return f"{DATABASES}{database.namespace}/{database.name}/routing"


def routers_key(database: DatabaseKey, router: str = "") -> str:
    """Return where a router's record is; without a router, the prefix of all."""
    return f"{ROUTERS}{database.namespace}/{database.name}/{router}"


def router_epoch(key: str, value: bytes) -> Epoch:
    """Return the epoch that a router sends statements by. Raises RecordUnreadable."""
    try:
        return Epoch(int(json.loads(value)["epoch"]))
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def encode_routing(routing: RoutingMap) -> bytes:
    """Return a routing map as its record."""
    owners = [
        {
            "shard": owner.shard,
            "scope": owner.scope,
            "keys": str(owner.keys),
            "members": [
                {
                    "name": member.name,
                    "host": member.endpoint.host,
                    "port": member.endpoint.postgres_port,
                    "patroni": member.endpoint.patroni_port,
                    "tls": member.endpoint.postgres_tls,
                }
                for member in owner.members
            ],
        }
        for owner in routing.owners
    ]
    return dump_record(
        {
            "namespace": routing.database.namespace,
            "database": routing.database.name,
            "epoch": routing.epoch,
            "keyType": routing.key_type.value,
            "tables": dict(routing.tables),
            "reference": list(routing.reference),
            "owners": owners,
        }
    )


BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading somebody's JSON can raise: the last two by 1e999, and by a bomb of brackets."""


def decode_routing(key: str, value: bytes, version: int) -> RoutingMap:
    """Read a routing map. Raises RecordUnreadable."""
    try:
        data = json.loads(value)
        return RoutingMap(
            database=DatabaseKey(Namespace(data["namespace"]), DatabaseName(data["database"])),
            epoch=Epoch(int(data["epoch"])),
            key_type=KeyType(data["keyType"]),
            tables=tuple((str(t), str(k)) for t, k in data["tables"].items()),
            reference=tuple(data["reference"]),
            owners=tuple(_owner(owner) for owner in data["owners"]),
            version=version,
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def _owner(data: dict[str, Any]) -> RoutingOwner:
    return RoutingOwner(
        ShardName(data["shard"]),
        Scope(data["scope"]),
        parse_key_set(data["keys"]),
        tuple(RoutingMember(MemberName(m["name"]), _endpoint(m)) for m in data["members"]),
    )


def _endpoint(data: dict[str, Any]) -> Endpoint:
    return Endpoint(data["host"], int(data["port"]), int(data["patroni"]), bool(data["tls"]))


def dump_record(data: object) -> bytes:
    """Return a record's JSON as it is stored: compact, UTF-8."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def unreadable(key: str, problem: Exception) -> RecordUnreadable:
    """Return the error for a record that could not be decoded."""
    return RecordUnreadable(
        f"etcd key {key}",
        f"cannot be read: {type(problem).__name__}: {problem}",
        remedy="use the version of Shardwright that wrote it, or restore etcd from its backup",
    )
