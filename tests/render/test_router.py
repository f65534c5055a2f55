"""A routing map in each router's language, against what it has to be word by word."""

from __future__ import annotations

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
from reconciler.model.records import decode_routing
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.render.router import DRIVERS
from reconciler.render.router.driver import RunStatements, SendSignal, WriteFile
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


def test_the_reference_router_reads_the_record_itself() -> None:
    file, signal = DRIVERS["reference"]("").steps(SHOP)
    assert isinstance(file, WriteFile)
    assert decode_routing(file.name, file.text.encode(), 0) == replace(SHOP, version=0)
    assert signal == SendSignal("HUP")


def spqr(routing: RoutingMap) -> list[str]:
    (step,) = DRIVERS["spqr"]("").steps(routing)
    assert isinstance(step, RunStatements)
    return list(step.statements)


def pgdog(routing: RoutingMap, key_column: str = "") -> str:
    file, *then = DRIVERS["pgdog"](key_column).steps(routing)
    assert isinstance(file, WriteFile)
    assert then == [RunStatements((s,)) for s in ("MAINTENANCE ON", "RELOAD", "MAINTENANCE OFF")]
    return file.text


def test_spqr_gets_its_ranges_from_the_last_to_the_first() -> None:
    assert spqr(SHOP) == [
        'CREATE SHARD "s0" WITH HOSTS "10.0.0.1:5432"',
        'CREATE SHARD "s1" WITH HOSTS "10.0.0.1:5433"',
        "CREATE DISTRIBUTION shop COLUMN TYPES integer",
        "ALTER DISTRIBUTION shop ATTACH RELATION public.customers DISTRIBUTION KEY shard_hash",
        "ALTER DISTRIBUTION shop ATTACH RELATION public.orders DISTRIBUTION KEY shard_hash",
        'CREATE KEY RANGE "shop_2" FROM 4611686018427387904 ROUTE TO "s0" FOR DISTRIBUTION shop',
        'CREATE KEY RANGE "shop_1" FROM -4611686018427387904 ROUTE TO "s1" FOR DISTRIBUTION shop',
        'CREATE KEY RANGE "shop_0" FROM -9223372036854775808 ROUTE TO "s0" FOR DISTRIBUTION shop',
        "CREATE REFERENCE TABLE public.countries",
    ]


def test_spqr_is_not_given_a_gap() -> None:
    with pytest.raises(RouterCannot, match="nobody owns"):
        spqr(replace(SHOP, owners=(owner(0, "-40"), owner(1, "80-"))))


def test_pgdog_gets_open_ends_where_the_key_space_ends() -> None:
    text = pgdog(SHOP, "shard_hash")
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
        pgdog(SHOP)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_every_router_takes_a_database_of_one_shard(name: str) -> None:
    assert "shop" in repr(DRIVERS[name]("").steps(ALONE)[0])


def test_a_shard_without_keys_owns_nothing_anywhere() -> None:
    empty = replace(owner(1, "-"), keys=KeySet())
    routing = replace(SHOP, owners=(owner(0, "-"), empty))
    assert not [s for s in spqr(routing) if '"s1"' in s and "KEY RANGE" in s]
    assert "5433" not in pgdog(routing)
