"""How much data may be between the shards of a database at once: ``rollout.bytesMax``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff.changes import MoveKeys
from reconciler.model.desired import Database, Rollout
from reconciler.model.moves import Move, Stage, bytes_of
from reconciler.model.names import Scope
from reconciler.model.observed import Unseen
from reconciler.plan.moves import begin_move
from reconciler.plan.steps_database import move_action
from tests.diff.seen import difference, there
from tests.worlds import catalog_of, database, routing_of, shard, with_database, with_shard

BEFORE = (shard("s0", "-80"), shard("s1", "80-"))
AFTER = (shard("s0", "-40"), shard("s1", "80-c0"), shard("s2", "40-80"), shard("s3", "c0-"))
FIRST, SECOND = "40-80", "c0-"


def _wanted(most: int | None) -> Database:
    return replace(database(*AFTER), rollout=Rollout(bytes_max=most))


SEEN = there(database(*BEFORE))
BOTH = {str(c.keys): c for c in difference(_wanted(None), SEEN).changes if isinstance(c, MoveKeys)}
EACH = bytes_of(BOTH[FIRST].tables) or 0


def _begun(most: int | None, moves: tuple[Move, ...] = ()) -> tuple[set[str], list[str]]:
    """The moves that begin, and what those that wait are told."""
    found = difference(_wanted(most), with_database(SEEN, moves=moves))
    begun = {str(c.keys) for c in found.changes if isinstance(c, MoveKeys)}
    return begun, [still.reason for still in found.standstills]


def _move(stage: Stage) -> Move:
    """A move of other keys between other shards of the database."""
    change = replace(BOTH[FIRST], source_scope=BOTH[SECOND].target_scope)
    move = begin_move(move_action(change), routing_of(SEEN), "2026-01-01T12:00:00+00:00")
    elsewhere = replace(move.source_scope, scope=Scope("shop-s8"))
    move = replace(
        move, source_scope=elsewhere, target_scope=replace(elsewhere, scope=Scope("shop-s9"))
    )
    return replace(move, stage=stage, switched_at="2026-01-01T12:00:00+00:00")


def test_moves_that_together_have_no_more_than_the_limit_begin_together() -> None:
    assert EACH > 0
    assert _begun(2 * EACH) == ({FIRST, SECOND}, [])
    assert _begun(None) == ({FIRST, SECOND}, [])


def test_a_move_that_would_be_too_much_waits_for_the_earlier_ones_of_its_plan() -> None:
    begun, (reason,) = _begun(2 * EACH - 1)
    assert begun == {FIRST}
    assert "rollout.bytesMax" in reason


def test_a_move_of_more_than_the_limit_goes_alone() -> None:
    assert _begun(1)[0] == {FIRST}


@pytest.mark.parametrize("stage", [Stage.BEFORE, Stage.SWITCHED, Stage.BACK])
def test_a_move_counts_until_its_window_is_over(stage: Stage) -> None:
    under_way = _move(stage)
    assert under_way.moved_bytes == EACH

    begun, reasons = _begun(2 * EACH, (under_way,))

    assert begun == {FIRST}
    assert any(f"`shardwright operation finish {under_way.id}`" in why for why in reasons)


def test_a_move_that_has_ended_counts_no_more() -> None:
    assert _begun(2 * EACH, (_move(Stage.ENDED),))[0] == {FIRST, SECOND}


def test_what_nobody_knows_the_size_of_goes_alone() -> None:
    old = replace(_move(Stage.SWITCHED), moved_bytes=None)
    assert _begun(9 * EACH, (old,))[0] == set()
    assert _begun(None, (old,))[0] == {FIRST, SECOND}


def test_a_move_whose_size_was_not_seen_waits_anyway() -> None:
    dark = with_shard(SEEN, catalog=Unseen("postgres", "shop-s0", "silent"))
    assert not isinstance(catalog_of(SEEN), Unseen)
    found = difference(_wanted(9 * EACH), dark)
    assert {str(c.keys) for c in found.changes if isinstance(c, MoveKeys)} == {SECOND}
