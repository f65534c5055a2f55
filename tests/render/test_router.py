"""A routing map in each router's language, against what it has to be word by word."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest

from reconciler.model.desired import KeyType
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
from reconciler.model.platform import Endpoint
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.render.router import RENDERERS, render_pgdog, render_reference, render_spqr
from reconciler.render.router.problems import RouterCannot


def owner(number: int, keys: str) -> RoutingOwner:
    member = RoutingMember(
        MemberName(f"shop-s{number}-0"), Endpoint("10.0.0.1", 5432 + number, 8008)
    )
    name = Scope(f"shop-s{number}")
    return RoutingOwner(ShardName(f"s{number}"), name, parse_key_set(keys), (member,))


SHOP = RoutingMap(
    DatabaseKey(Namespace("default"), DatabaseName("shop")),
    Epoch(7),
    KeyType.BIGINT,
    (("public.orders", "customer_id"), ("public.customers", "id")),
    ("public.countries",),
    (owner(0, "-40,c0-"), owner(1, "40-c0")),
)
ALONE = replace(SHOP, owners=(owner(0, "-"),))


def test_the_reference_router_reads_ranges_in_order() -> None:
    assert json.loads(render_reference(SHOP)) == {
        "database": "shop",
        "epoch": 7,
        "keyType": "bigint",
        "hash": "PostgreSQL extended, seed 0",
        "tables": {"public.customers": "id", "public.orders": "customer_id"},
        "reference": ["public.countries"],
        "ranges": [
            {"keys": "-40", "shard": "s0"},
            {"keys": "40-c0", "shard": "s1"},
            {"keys": "c0-", "shard": "s0"},
        ],
        "shards": {"s0": ["10.0.0.1:5432"], "s1": ["10.0.0.1:5433"]},
    }


def test_spqr_gets_its_ranges_from_the_last_to_the_first() -> None:
    assert render_spqr(SHOP) == (
        "-- Shardwright: shop, epoch 7\n"
        'CREATE SHARD "s0" WITH HOSTS "10.0.0.1:5432";\n'
        'CREATE SHARD "s1" WITH HOSTS "10.0.0.1:5433";\n'
        "CREATE DISTRIBUTION shop COLUMN TYPES integer;\n"
        "ALTER DISTRIBUTION shop ATTACH RELATION public.customers DISTRIBUTION KEY shard_hash;\n"
        "ALTER DISTRIBUTION shop ATTACH RELATION public.orders DISTRIBUTION KEY shard_hash;\n"
        'CREATE KEY RANGE "shop_2" FROM 4611686018427387904 ROUTE TO "s0"'
        " FOR DISTRIBUTION shop;\n"
        'CREATE KEY RANGE "shop_1" FROM -4611686018427387904 ROUTE TO "s1"'
        " FOR DISTRIBUTION shop;\n"
        'CREATE KEY RANGE "shop_0" FROM -9223372036854775808 ROUTE TO "s0"'
        " FOR DISTRIBUTION shop;\n"
        "CREATE REFERENCE TABLE public.countries;\n"
    )


def test_spqr_is_not_given_a_gap() -> None:
    with pytest.raises(RouterCannot, match="nobody owns"):
        render_spqr(replace(SHOP, owners=(owner(0, "-40"), owner(1, "80-"))))


def test_pgdog_gets_open_ends_where_the_key_space_ends() -> None:
    text = render_pgdog(SHOP, "shard_hash")
    read = tomllib.loads(text)
    assert [(d["port"], d["shard"]) for d in read["databases"]] == [(5432, 0), (5433, 1)]
    assert read["sharded_tables"] == [
        {"database": "shop", "column": "shard_hash", "data_type": "bigint"}
    ]
    common = {"database": "shop", "column": "shard_hash", "kind": "range"}
    assert read["sharded_mappings"] == [
        {**common, "end": -(1 << 62), "shard": 0},
        {**common, "start": 1 << 62, "shard": 0},
        {**common, "start": -(1 << 62), "end": 1 << 62, "shard": 1},
    ]


def test_pgdog_is_not_trusted_to_hash_as_we_do() -> None:
    with pytest.raises(RouterCannot, match="partition hash"):
        render_pgdog(SHOP)


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_every_router_takes_a_database_of_one_shard(name: str) -> None:
    assert "shop" in RENDERERS[name](ALONE)


def test_a_shard_without_keys_owns_nothing_anywhere() -> None:
    empty = replace(owner(1, "-"), keys=KeySet())
    routing = replace(SHOP, owners=(owner(0, "-"), empty))
    assert '"s1"' not in render_spqr(routing).split("CREATE KEY RANGE", 1)[1]
    assert "5433" not in render_pgdog(routing)
