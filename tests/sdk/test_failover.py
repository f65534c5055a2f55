"""kill -9 of a primary under the client's writers, on the local platform with Patroni."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.edges.etcd import EtcdStore
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.postgres import PostgresSql
from reconciler.model.access import Guarding, Login
from reconciler.model.desired import KeyType, ShardedTable
from reconciler.model.keyspace import parse_key_set
from reconciler.model.names import DatabaseKey, Epoch, FencingToken, MemberName, ShardName
from reconciler.model.platform import Credential
from reconciler.model.records import encode_routing, routing_key
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.sdk import Config, Shards
from reconciler.sdk.routes import Key
from tests.edges.shard import schema_file
from tests.local_home import fresh_home, members, wait_for
from tests.platform.failover_shard import FailoverShard
from tests.sdk.scene import TABLE
from tests.sdk.writers import WRITERS, AsyncWriters, SyncWriters

pytestmark = pytest.mark.platform
OWNER, APP = Credential("shop_owner", "of the owner"), Credential("shop_app", "of the app")
KEYS: list[Key] = list(range(1, 50))


@pytest.fixture
def shard() -> Iterator[FailoverShard]:
    with fresh_home() as root:
        yield FailoverShard(root)


@pytest.fixture
def config(shard: FailoverShard) -> Config:
    """A database of one shard on the platform: roles, table, guard and map as apply makes them."""
    platform, key = shard.platform, shard.blueprint.key
    found = members(platform, key)
    login = Login(
        key,
        found,
        platform.credential(key, "superuser"),
        platform.credential(key, "patroni_api"),
        platform.client_tls(),
    )
    primary = next(m.endpoint for m in found if m.name == shard.leader())
    edge, token, keys = PostgresSql(), FencingToken(1), parse_key_set("-")
    edge.set_up(login, primary, "shop", (OWNER, APP), token, 1)
    text = "CREATE TABLE entry (k bigint NOT NULL, id text PRIMARY KEY)"
    edge.apply_schema(login, primary, "shop", OWNER, schema_file(text), token)
    guarding = Guarding(KeyType.BIGINT, (ShardedTable(TABLE, "k"),), keys, Epoch(1))
    edge.install_guards(login, primary, "shop", guarding, token)
    database = DatabaseKey(key.namespace, shard.blueprint.database)
    owner = RoutingOwner(
        ShardName("s0"),
        key.scope,
        keys,
        tuple(RoutingMember(MemberName(m.name), m.endpoint) for m in found),
    )
    routing = RoutingMap(database, Epoch(1), KeyType.BIGINT, ((TABLE, "k"),), (), (owner,))
    writer = platform.etcd_login(EtcdUser.WRITER)
    store = EtcdStore(platform.etcd_endpoints(), platform.client_tls(), login=writer)
    lease = store.acquire("/shardwright/test", "test", 60)
    store.write({routing_key(database): (encode_routing(routing), 0)}, lease)
    return Config(
        platform.etcd_endpoints(),
        "shop",
        lambda scope: APP.password,
        tls=platform.client_tls(),
        etcd_login=platform.etcd_login(EtcdUser.READER),
    )


def test_writers_go_on_at_the_new_primary_and_nothing_acknowledged_is_lost(
    shard: FailoverShard, config: Config
) -> None:
    with SyncWriters(config, KEYS) as book, AsyncWriters(config, KEYS) as other:
        book.await_more()
        other.await_more()
        first = shard.leader()
        shard.kill(first, "supervisor", "patroni", "postgres")
        wait_for(lambda: shard.leader() not in ("", first), "another primary")
        book.await_more()
        other.await_more()
    with Shards(config) as shards:
        rows = shards.execute(1, "SELECT k, id FROM entry").fetchall()
    for one, name in ((book, "Sync"), (other, "Async")):
        one.check([row for row in rows if row[1].startswith(name)])
        assert len(one.unknown) + len(one.not_committed) <= WRITERS, "at most those in flight"


def test_reads_go_to_the_standby_when_that_is_allowed(shard: FailoverShard, config: Config) -> None:
    wait_for(shard.is_replayed, "the standby has the database too")
    with Shards(config) as shards:
        for standby_ok in (True, False):
            with shards.session(1, read_only=True, standby_ok=standby_ok) as session:
                there = session.execute("SELECT pg_is_in_recovery()").fetchone()
            assert there == (standby_ok,)
