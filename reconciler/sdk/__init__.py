"""The client of a sharded database, for applications with psycopg 3: sync and async.

::

    from reconciler.sdk import Config, Shards

    config = Config(
        etcd_endpoints=("https://etcd-0:2379",),
        database="shop",
        password=lambda scope: read_secret(scope),
        tls=TlsFiles(ca="ca.pem", cert="client.pem", key="client.key"),
        etcd_login=EtcdLogin("shardwright-reader", "reader.password"),  # where etcd knows users
    )
    with Shards(config) as shards:
        with shards.transaction(42) as tx:
            tx.execute("INSERT INTO orders (customer_id, id) VALUES (%s, %s)", [42, 1])

It needs psycopg and ``reconciler.model``, nothing else of Shardwright. What it promises: work goes
to the owner of its key; while keys move it waits instead of failing; a write whose outcome nobody
knows is never repeated; while etcd is away it goes on with the last routing map.
"""

from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.platform import TlsFiles
from reconciler.model.records import RecordUnreadable
from reconciler.sdk.async_shards import AsyncShards
from reconciler.sdk.config import Config, Limits
from reconciler.sdk.errors import (
    ConfigInvalid,
    FenceTimeout,
    KeyRefused,
    KeyTypeMismatch,
    NoMap,
    NoOwner,
    NotOpen,
    OutcomeUnknown,
    PasswordRefused,
    PoolExhausted,
    ReadLost,
    ShardUnreachable,
    TransactionAborted,
    TransactionEnded,
    TransactionLost,
)
from reconciler.sdk.shards import Shards

__all__ = [
    "AsyncShards",
    "Config",
    "ConfigInvalid",
    "EtcdLogin",
    "FenceTimeout",
    "KeyRefused",
    "KeyTypeMismatch",
    "Limits",
    "NoMap",
    "NoOwner",
    "NotOpen",
    "OutcomeUnknown",
    "PasswordRefused",
    "PoolExhausted",
    "ReadLost",
    "RecordUnreadable",
    "ShardUnreachable",
    "Shards",
    "TlsFiles",
    "TransactionAborted",
    "TransactionEnded",
    "TransactionLost",
]
