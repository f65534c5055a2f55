"""Guards and tables of one shard: what they say, and what they have to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff import refusals
from reconciler.diff.changes import (
    ChangeGuards,
)
from reconciler.model.desired import KeyType, ShardedTable, Sharding
from reconciler.model.names import Epoch
from reconciler.model.observed import AppliedFile, ObservedGuard, ObservedTable
from reconciler.plan.actions import InstallGuards, Risk
from reconciler.plan.planner import make_plan
from tests.diff.seen import difference, names, only, refused, there
from tests.worlds import (
    catalog_of,
    database,
    desired,
    routing_of,
    schema_file,
    shard,
    with_database,
    with_shard,
)

ONE = database(shard("s0", "-"))
FILES = tuple(schema_file(f"schema/{n:03}.sql") for n in range(3))
RUNNING = there(ONE)


def guards(**changes: object) -> tuple[ObservedGuard, ...]:
    return tuple(replace(g, **changes) for g in catalog_of(RUNNING).guards)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "standing",
    [
        (),
        guards(keys=shard("x", "-80").keys),
        guards(epoch=Epoch(2)),
        guards(column="other"),
        (*guards(), *guards(table="public.stranger")),
    ],
    ids=["missing", "other keys", "a later epoch", "another column", "a stray one"],
)
def test_guards_that_do_not_say_what_the_shard_owns_are_changed(
    standing: tuple[ObservedGuard, ...],
) -> None:
    change = only(difference(ONE, with_shard(RUNNING, catalog={"guards": standing})), ChangeGuards)

    assert change.keys == ONE.shards[0].keys
    assert change.tables == ONE.sharding.tables
    assert change.epoch == 1


def test_a_guard_of_an_earlier_epoch_with_the_same_keys_is_fine() -> None:
    routing = replace(routing_of(RUNNING), epoch=Epoch(4))

    assert names(difference(ONE, with_database(RUNNING, routing=routing))) == []


def test_guards_say_what_the_routing_map_says_and_not_what_the_spec_asks() -> None:
    """Keys change hands by moves only: a guard that ran ahead would refuse rows that are there."""
    wanted = database(shard("s0", "-80"), shard("s1", "80-"))
    seen = with_shard(RUNNING, catalog={"guards": ()})

    assert only(difference(wanted, seen), ChangeGuards).keys == ONE.shards[0].keys


def test_a_table_that_no_file_will_make_is_refused() -> None:
    seen = with_shard(RUNNING, catalog={"tables": (), "guards": ()})

    found = difference(ONE, seen)

    assert "public.customers" in refused(found, refusals.ShardedTableMissing).problem
    assert "ChangeGuards" not in names(found)


def test_a_table_that_a_file_may_still_make_is_waited_for() -> None:
    seen = with_shard(there(replace(ONE, schema=())), catalog={"tables": (), "guards": ()})

    found = difference(ONE, seen)

    assert found.refusals == ()
    assert names(found) == ["ApplySchema", "ChangeGuards"]


@pytest.mark.parametrize(
    ("key_type", "column", "fits"),
    [
        (KeyType.BIGINT, "bigint", True),
        (KeyType.BIGINT, "integer", True),
        (KeyType.BIGINT, "smallint", True),
        (KeyType.BIGINT, "numeric(10,0)", False),
        (KeyType.BIGINT, "text", False),
        (KeyType.INT, "integer", True),
        (KeyType.INT, "bigint", False),
        (KeyType.TEXT, "text", True),
        (KeyType.TEXT, "character varying(20)", True),
        (KeyType.TEXT, "character(20)", False),
        (KeyType.UUID, "uuid", True),
        (KeyType.UUID, "text", False),
    ],
)
def test_a_key_column_must_hash_as_the_key_type_does(
    key_type: KeyType, column: str, fits: bool
) -> None:
    wanted = replace(ONE, sharding=Sharding(key_type, ONE.sharding.tables))
    table = ObservedTable("public.customers", 0, 0, (("id", column),))

    found = difference(wanted, with_shard(there(wanted), catalog={"tables": (table,)}))

    assert [r.kind for r in found.refusals] == ([] if fits else [refusals.ShardKeyUnfit])


def test_a_key_column_that_does_not_exist_is_refused() -> None:
    table = ObservedTable("public.customers", 0, 0, (("number", "bigint"),))

    found = difference(ONE, with_shard(RUNNING, catalog={"tables": (table,)}))

    assert "public.customers.id does not exist" in refused(found, refusals.ShardKeyUnfit).problem


def test_a_table_that_nobody_shards_is_remarked_once_for_all_shards() -> None:
    wanted = database()
    seen = there(wanted)
    for scope in ("shop-s0", "shop-s1"):
        tables = (*catalog_of(seen, scope).tables, ObservedTable("public.audit", 1, 1))
        seen = with_shard(seen, scope, catalog={"tables": tables})

    found = difference(wanted, seen)

    assert [remark.text for remark in found.remarks] == [
        "public.audit has no shard key and is not declared a reference table"
    ]
    assert names(found) == []


def test_a_reference_table_is_no_news() -> None:
    wanted = replace(ONE, sharding=replace(ONE.sharding, reference=("public.countries",)))
    tables = (*catalog_of(RUNNING).tables, ObservedTable("public.countries", 1, 1))

    assert difference(wanted, with_shard(RUNNING, catalog={"tables": tables})).remarks == ()


def test_a_schema_history_in_another_order_than_the_spec_is_the_same() -> None:
    history = tuple(AppliedFile(f.name, f.sha256) for f in reversed(FILES))
    seen = with_shard(there(replace(ONE, schema=FILES)), catalog={"history": history})

    assert names(difference(replace(ONE, schema=FILES), seen)) == []


def test_a_table_that_left_the_spec_while_it_is_guarded_is_named() -> None:
    both = replace(ONE, sharding=replace(ONE.sharding, tables=(
        *ONE.sharding.tables, ShardedTable("public.accounts", "id"),
    )))  # fmt: skip

    found = difference(ONE, there(both))

    assert only(found, ChangeGuards).dropped == ("public.accounts",)
    assert any("public.accounts left sharding.tables" in r.text for r in found.remarks)
    planned = make_plan(desired(ONE), there(both), found)
    (step,) = (s for s in planned.steps if isinstance(s.action, InstallGuards))
    assert step.risk is Risk.DATA_MOVE
    assert step.title.startswith("stop guarding public.accounts on {shard}: its rows may then")


def test_a_guard_that_moves_to_another_column_leaves_no_table() -> None:
    seen = with_shard(RUNNING, catalog={"guards": guards(column="other")})

    assert only(difference(ONE, seen), ChangeGuards).dropped == ()
