"""Comparisons of both sides: before the cut, of the cut itself, before the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.edges import replication_verify
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import Limits, NotReady
from reconciler.model.moves import EQUAL, Wish
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow.reshard_records import record_compared
from tests.edges.replication_world import (
    LEDGER,
    Ledger,
    MoveWorld,
    Pair,
    in_keys,
    kill,
    load_accounts,
    make_world,
    running_pair,
    start,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard

REFERENCE = "CREATE TABLE countries (code text PRIMARY KEY, name text);"


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "verify", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    world = make_world(pair, LEDGER + REFERENCE, reference=("public.countries",))
    load_accounts(world, 100)
    with world.source.connect() as connection:
        connection.execute("INSERT INTO countries VALUES ('is', 'Iceland'), ('fo', 'Faroes')")
    return world


def moved_id(world: MoveWorld) -> int:
    return next(i for i in range(1, 100) if in_keys(world.move.keys, i))


def tamper(shard: TestShard, statement: str) -> None:
    """Change rows past the guard and the streams' notice of it at the other side."""
    with shard.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement)


def test_a_reference_table_is_compared_as_well(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Verify))
    tamper(world.target, "UPDATE countries SET name = 'Island' WHERE code = 'is'")

    found = world.mover.verify(world.move, *world.seats, TOKEN)

    assert found.tables == ("public.countries",)
    assert found.samples == (
        "public.countries: source has (is,Iceland)",
        "public.countries: target has (is,Island)",
    )


def test_a_comparison_counts_for_a_while_and_until_a_restart(pair: Pair, world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert world.view().verified

    old = replace(world, mover=LogicalMover(Limits(verified_s=0)))
    assert not old.view().verified

    kill(pair.target)
    start(pair.target)
    assert not world.view().verified


def test_a_comparison_lets_writers_go_when_a_lock_is_not_free(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Verify))
    monkeypatch.setattr(replication_verify, "HOLD_ATTEMPTS_MAX", 3)
    with world.source.connect() as connection, connection.transaction():
        connection.execute("SET application_name = 'the batch'")
        connection.execute("UPDATE accounts SET balance = balance")

        told = r"public\.accounts was never free of writers.*; who writes: the batch \d+ of "
        with pytest.raises(NotReady, match=told):
            world.mover.verify(world.move, *world.seats, TOKEN)

    found = world.mover.verify(world.move, *world.seats, TOKEN)
    assert (found.equal, found.held_ms > 0) == (True, True)


def test_a_cut_is_compared_as_of_the_cut_and_later_once_its_snapshots_are_lost(
    world: MoveWorld,
) -> None:
    world.go(until=lambda act: isinstance(act, acts.VerifyCut))
    assert world.view().cut_held
    number = moved_id(world)
    with world.target.connect(world.target.app) as connection:
        connection.execute("SET shardwright.epoch = 8")
        connection.execute("UPDATE accounts SET balance = 5 WHERE id = %s", [number])

    found = world.mover.verify_cut(world.move, *world.seats, TOKEN)
    assert (found.equal, found.later) == (True, False)
    assert not world.view().cut_held

    found = world.mover.verify_cut(world.move, *world.seats, TOKEN)
    assert (found.equal, found.later) == (True, True)
    tamper(world.source, f"UPDATE accounts SET balance = 6 WHERE id = {number}")
    found = world.mover.verify_cut(world.move, *world.seats, TOKEN)
    assert (found.equal, found.tables) == (False, ("public.accounts",))
    assert [text.partition(f"id={number}: ")[2][:10] for text in found.samples] == [
        "target has",
        "source has",
    ]
    assert not world.mover.verify_back(world.move, *world.seats, TOKEN).equal
    assert not world.view().verified_back


def test_snapshots_whose_sessions_ended_are_lost(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.VerifyCut))
    ended = world.source.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'shardwright move %' AND state = 'idle in transaction'"
    )
    assert ended == [(True,)]

    found = world.mover.verify_cut(world.move, *world.seats, TOKEN)

    assert (found.equal, found.later) == (True, True)


def test_a_row_that_was_lost_before_the_cut_is_shown_and_comes_back_with_a_rollback(
    world: MoveWorld,
) -> None:
    number = moved_id(world)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    tamper(world.target, f"DELETE FROM accounts WHERE id = {number}")
    world.go(until=lambda act: isinstance(act, acts.VerifyCut))

    found = world.mover.verify_cut(world.move, *world.seats, TOKEN)
    world.move = record_compared(world.move, found)

    assert f"id={number}: source has" in world.move.cut_compared
    with Ledger(world, 100, threads=1) as ledger:
        world.wish(Wish.ROLLBACK)
        world.go()
        ledger.wait_for(20)
    assert world.source.rows(f"SELECT id FROM accounts WHERE id = {number}") == [(number,)]
    world.nothing_left()


def test_a_rollback_compares_before_its_cut(world: MoveWorld) -> None:
    world.go()
    assert world.move.cut_compared == EQUAL
    world.wish(Wish.ROLLBACK)
    world.go()
    back = world.done[world.done.index("VerifyCut") + 1 :]
    assert back[:2] == ["VerifyBack", "RollBackCut"]
