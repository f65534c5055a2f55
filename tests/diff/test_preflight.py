"""What stands in the way of a move is in the plan: a refusal, or a wait for what passes."""

from __future__ import annotations

from dataclasses import replace

from reconciler.diff.changes import ApplySchema, Difference, MoveKeys
from reconciler.diff.refusals import MoveRefused
from reconciler.model.desired import Database
from reconciler.model.moves import Obstacle, Preflight
from reconciler.model.observed import ObservedState, Unseen
from tests.diff.seen import difference, only, refused, there
from tests.worlds import database, schema_file, shard, with_database

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
