"""Moves of keys are called what the edit that asks for them is called."""

from __future__ import annotations

import dataclasses

import pytest

from reconciler.model.desired import CopyDriver, Place
from reconciler.model.keyspace import KeyRange, KeySet, parse_key_set
from reconciler.model.moves import CopyChoice, NumberBlock
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
)
from reconciler.plan.actions import MoveKeyRange
from reconciler.plan.render_moves import describe_moves, move_notes, move_title
from reconciler.plan.render_report import Owners, ShownDatabase

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))


def owners(text: str) -> Owners:
    """``s0=-80 s1=80-`` as owners."""
    pairs = (word.split("=") for word in text.split())
    return tuple((ShardName(shard), parse_key_set(keys)) for shard, keys in pairs)


def move(
    source: str, target: str, keys: KeySet, tables: tuple[tuple[str, int, int], ...] | None = ()
) -> MoveKeyRange:
    scopes = [ScopeKey(SHOP.namespace, Scope(f"shop-{name}")) for name in (source, target)]
    return MoveKeyRange(
        SHOP, ShardName(source), ShardName(target), scopes[0], scopes[1], keys, tables, 100, 3600
    )


@pytest.mark.parametrize(
    ("before", "after", "moves", "text"),
    [
        ("s0=-80 s1=80-", "s0=-40 s2=40-80 s1=80-", [("s0", "s2", "40-80")],
         "split s0 (-80) into s0 (-40) and s2 (40-80)"),
        ("s0=-80 s1=80-", "s0=-", [("s1", "s0", "80-")], "merge s1 (80-) into s0 (-)"),
        ("s0=-80 s1=80-", "s0=-60 s1=60-", [("s0", "s1", "60-80")],
         "rebalance s0 (-80 → -60) and s1 (80- → 60-)"),
        ("s0=-", "a=-40 b=40-", [("s0", "a", "-40"), ("s0", "b", "40-")],
         "split s0 (-) into a (-40) and b (40-)"),
        ("s0=-", "s9=-", [("s0", "s9", "-")], "replace s0 (-) by s9 (-)"),
        ("s0=-80 s1=80-", "a=-40 b=40-", [("s0", "a", "-40"), ("s0", "b", "40-80"),
         ("s1", "b", "80-")], "reshard s0 (-80) and s1 (80-) into a (-40) and b (40-)"),
    ],
)  # fmt: skip
def test_a_group_of_moves_has_the_name_of_its_edit(
    before: str, after: str, moves: list[tuple[str, str, str]], text: str
) -> None:
    known = ShownDatabase(SHOP, Place("shop.yaml"), owners(before), owners(after))
    assert describe_moves([move(s, t, parse_key_set(k)) for s, t, k in moves], known) == text


def test_one_key_taken_out_is_an_isolation() -> None:
    key = KeySet((KeyRange(5, 6),))
    known = ShownDatabase(SHOP, None, owners("s0=-"), (*owners("s0=01-"), (ShardName("s9"), key)))
    assert describe_moves([move("s0", "s9", key)], known) == "isolate 1 key of s0 in s9"


def test_a_move_says_its_bytes_rows_and_tables() -> None:
    tables = (("a", 1 << 30, 2_000_000), ("b", 1 << 30, -1))
    text = move_title(move("s0", "s1", parse_key_set("80-"), tables))
    assert text == "move 80- from s0 to s1: 2 GiB, 2 M rows in 2 tables"


def test_a_move_from_a_silent_shard_does_not_invent_a_size() -> None:
    text = move_title(move("s0", "s1", parse_key_set("80-"), None))
    assert text == "move 80- from s0 to s1: size unknown, s0 did not answer"


def test_a_move_says_how_long_writers_wait_how_long_it_is_reversible_and_how_rows_come() -> None:
    own = move("s0", "s1", parse_key_set("80-"))
    limits = "writes to the range wait at most 100 ms; reversible for 60 min, then pruned from s0"
    assert move_notes(own) == (limits, "rows come by a parallel binary copy")
    divided = dataclasses.replace(
        own, blocks=(NumberBlock("public.o_id_seq", (41, 900), (901, 1000)),)
    )
    assert move_notes(divided)[2:] == (
        "sequence o_id_seq, as it stands: s0 keeps 41 to 900, s1 gets 901 to 1,000",
    )
    many = dataclasses.replace(own, blocks=divided.blocks * 7)
    assert move_notes(many)[7:] == ("2 more sequences divided in the same way",)
    native = dataclasses.replace(own, copying=CopyChoice(CopyDriver.NATIVE))
    by_tablesync = "rows come by tablesync, as asked for: slower, resumes by itself"
    assert move_notes(native) == (limits, by_tablesync)
    physical = dataclasses.replace(own, copying=CopyChoice(CopyDriver.PHYSICAL, "most of it moves"))
    assert move_notes(physical)[1] == (
        "s1 is made anew as a physical copy of s0, then left with these keys only: most of it moves"
    )
