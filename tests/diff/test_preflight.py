"""What stands in the way of a move is in the plan: a refusal, or a wait for what passes."""

from __future__ import annotations

from dataclasses import replace

from reconciler.diff.changes import ApplySchema, Difference, MoveKeys
from reconciler.diff.refusals import MovedTableNotMade, MoveRefused
from reconciler.model.desired import Database, SchemaFile, Shard
from reconciler.model.moves import NumberBlock, Obstacle, Preflight
from reconciler.model.observed import ObservedState, Unseen
from reconciler.plan.planner import make_plan
from tests.diff.seen import difference, only, refused, there
from tests.worlds import database, desired, schema_file, shard, with_database

TWO = (shard("s0", "-80"), shard("s1", "80-"))
SPLIT = (shard("s0", "-40"), shard("s1", "80-"), shard("s2", "40-80"))
UNLOGGED = Obstacle("public.orders", "it is unlogged", "ALTER TABLE … SET LOGGED")


def told(wanted: Database, seen: ObservedState, found: tuple[Obstacle, ...] | Unseen) -> Difference:
    move = only(difference(wanted, seen), MoveKeys)
    preflight = Preflight(move.source_scope, move.target_scope, move.keys, found)
    return difference(wanted, with_database(seen, preflights=(preflight,)))


def test_an_obstacle_is_a_refusal_with_table_reason_and_cure() -> None:
    found = told(database(*SPLIT), there(database(*TWO)), (UNLOGGED,))

    refusal = refused(found, MoveRefused)
    assert refusal.problem == "public.orders: it is unlogged"
    assert refusal.remedy == UNLOGGED.cure
    assert MoveKeys not in {type(change) for change in found.changes}


def test_a_move_without_obstacles_begins() -> None:
    assert only(told(database(*SPLIT), there(database(*TWO)), ()), MoveKeys)


def test_a_move_says_what_sequences_will_give_out_and_a_plan_does_not_go_stale_by_it() -> None:
    wanted, seen = database(*SPLIT), there(database(*TWO))
    move = only(difference(wanted, seen), MoveKeys)
    block = NumberBlock("public.s", (8, 90), (91, 100))
    where = (move.source_scope, move.target_scope, move.keys)
    digests = set()
    for blocks in ((block,), (replace(block, source=(9, 90)),)):
        looked = with_database(seen, preflights=(Preflight(*where, (), blocks),))
        found = difference(wanted, looked)
        assert only(found, MoveKeys).blocks == blocks
        digests.add(make_plan(desired(wanted), looked, found).digest)
    assert len(digests) == 1


def test_an_obstacle_that_passes_only_waits() -> None:
    obstacle = replace(UNLOGGED, passing=True)

    found = told(database(*SPLIT), there(database(*TWO)), (obstacle,))

    assert found.refusals == ()
    (still,) = found.standstills
    assert still.reason == "public.orders: it is unlogged; ALTER TABLE … SET LOGGED"


def test_an_obstacle_waits_for_a_schema_file_of_the_same_plan_that_may_cure_it() -> None:
    files = (schema_file("schema/001.sql"), schema_file("schema/002.sql", "alter table"))

    found = told(database(*SPLIT, files=files), there(database(*TWO)), (UNLOGGED,))

    assert found.refusals == ()
    assert {type(c) for c in found.changes} >= {ApplySchema}
    assert [still.subject for still in found.standstills] == ["move 40-80 from s0 to s2"]


def test_a_source_that_could_not_be_asked_is_not_taken_for_free() -> None:
    silent = Unseen("postgres", "shop-s0", "silent")

    found = told(database(*SPLIT), there(database(*TWO)), silent)

    assert [still.unseen for still in found.standstills] == [True]
    assert MoveKeys not in {type(change) for change in found.changes}


MADE = "create table if not exists customers (id bigint primary key)"


def lands(*files: SchemaFile, shards: tuple[Shard, ...] = TWO) -> Database:
    """Return a database with a reference table, lands."""
    one = database(*shards, files=files)
    return replace(one, sharding=replace(one.sharding, reference=("public.lands",)))


def lacking(wanted: Database, seen: ObservedState) -> list[tuple[str, str]]:
    """Return what no file makes for a target: shard and table, and where it is declared."""
    return [
        (r.problem.partition(",")[0], "/".join(map(str, r.place.path if r.place else ())))
        for r in difference(wanted, seen).refusals
        if r.kind is MovedTableNotMade
    ]


def test_keys_do_not_set_out_to_a_new_shard_that_no_file_gives_their_tables() -> None:
    one = schema_file("1.sql", MADE)

    assert lacking(lands(one, shards=SPLIT), there(lands(one))) == [
        ("s2 has no table lands", "spec/sharding/reference")
    ]
    assert [table for table, _ in lacking(lands(shards=SPLIT), there(lands()))] == [
        "s2 has no table customers", "s2 has no table lands",
    ]  # fmt: skip


def test_a_file_that_makes_the_table_lets_the_keys_go() -> None:
    one, cure = schema_file("1.sql", MADE), schema_file("2.sql", "create table lands (code text)")

    assert lacking(lands(one, cure, shards=SPLIT), there(lands(one))) == []
    unclear = schema_file("2.sql", "select make_all_tables()")
    assert lacking(lands(one, unclear, shards=SPLIT), there(lands(one))) == []


def test_a_shard_that_serves_keys_has_its_reference_tables_already() -> None:
    shifted = (shard("s0", "-40"), shard("s1", "40-"))
    one, more = schema_file("1.sql", MADE), schema_file("2.sql", "create index on customers (id)")

    assert lacking(lands(one, more, shards=shifted), there(lands(one))) == []


def test_a_table_without_a_file_is_no_matter_while_no_keys_move() -> None:
    one = schema_file("1.sql", MADE)

    assert difference(lands(one), there(lands(one))).refusals == ()
