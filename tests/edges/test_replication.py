"""A move of keys between two real servers, from a new target to nothing left, under writers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.model.desired import CopyDriver
from reconciler.model.hashing import position_of_key
from reconciler.model.moves import Wish
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow.phase import Wait
from reconciler.workflow.reshard import decide
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import postgres_binaries
from tests.local_home import wait_for


@pytest.fixture(scope="module", params=sorted(postgres_binaries()))
def pair(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[Pair]:
    """Servers of each version, since each replicates in its own way."""
    binaries = postgres_binaries()[request.param]
    with running_pair(binaries, home / f"move-{request.param}", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    return make_world(pair)


@pytest.mark.parametrize("copy", [CopyDriver.OWN, CopyDriver.NATIVE])
def test_a_move_to_a_new_shard_loses_nothing_and_leaves_nothing(
    pair: Pair, copy: CopyDriver
) -> None:
    world = make_world(pair, copy=copy)
    load_accounts(world, 2000)
    before = world.source.rows(INDEXES)

    with Ledger(world, 2000) as ledger:
        ledger.wait_for(100)
        world.go()
        ledger.wait_for(200)
        world.finish()
        ledger.wait_for(200)

    ledger.check()
    world.nothing_left()
    assert world.target.rows(INDEXES) == before
    assert world.copied[-1].bytes_done == world.copied[-1].bytes_total > 0
    follow = ["Subscribe"] if copy is CopyDriver.OWN else []  # tablesync follows from the first
    assert world.done == [
        "PrepareTarget", "Hold", "Publish", "Copy", "BuildIndexes", *follow, "Verify",
        "DivideSequences", "Arm", "Cut", "WriteMap", "Record", "Reverse", "VerifyCut", "Clean",
        "Prune", "Record", "EndMove",
    ]  # fmt: skip


def test_a_rolled_back_move_keeps_what_was_written_at_the_target(world: MoveWorld) -> None:
    load_accounts(world, 500)

    with Ledger(world, 500) as ledger:
        world.go()
        ledger.wait_for(200)
        world.wish(Wish.ROLLBACK)
        world.go()
        ledger.wait_for(200)

    ledger.check()
    world.nothing_left()
    assert world.target.rows("SELECT FROM accounts") == []
    assert "RollBackCut" in world.done


def test_every_call_may_be_made_twice(world: MoveWorld) -> None:
    load_accounts(world, 300)
    world.twice = True

    with Ledger(world, 300) as ledger:
        world.go()
        ledger.wait_for(50)
        world.wish(Wish.ROLLBACK)
        world.go()
        ledger.wait_for(50)

    ledger.check()
    world.nothing_left()


@pytest.mark.parametrize("copy", [CopyDriver.OWN, CopyDriver.NATIVE])
def test_a_move_into_a_serving_shard_keeps_its_rows(pair: Pair, copy: CopyDriver) -> None:
    world = make_world(pair, keys="80-", source_keys="80-", target_keys="-80", copy=copy)
    load_accounts(world, 1000)

    with Ledger(world, 1000) as ledger:
        ledger.wait_for(50)
        world.go()
        ledger.wait_for(100)
        world.finish()

    ledger.check()
    world.nothing_left()
    assert world.source.rows("SELECT FROM accounts") == []
    assert len(world.target.rows("SELECT FROM accounts")) == 1000


def test_an_aborted_move_leaves_the_target_as_it_was(world: MoveWorld) -> None:
    load_accounts(world, 300)
    before = world.target.rows(INDEXES)
    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))
    assert world.target.rows(INDEXES) != before

    world.wish(Wish.ABORT)
    world.go()

    world.nothing_left()
    assert world.target.rows(INDEXES) == before
    assert world.target.rows("SELECT FROM accounts") == []


def test_keys_of_every_kind_come_back_as_they_were(pair: Pair) -> None:
    world = make_world(pair, KEYS, (("public.slots", "id"),))
    with world.source.connect() as connection:
        connection.execute(
            "INSERT INTO slots (id, rank, during) SELECT i, i, int4range(i, i + 1)"
            " FROM generate_series(1, 500) i"
        )
    before = world.target.rows(INDEXES)
    assert sum(any(w in str(row) for w in ("EXCLUDE", "DEFERRABLE")) for row in before) == 3

    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))
    assert world.target.rows(INDEXES) == []
    world.go()

    assert world.target.rows(INDEXES) == before
    assert world.target.rows("SELECT count(*) > 200 FROM slots") == [(True,)]


def test_an_abort_before_anything_was_published_leaves_no_note(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Publish))

    world.wish(Wish.ABORT)
    world.go()

    world.nothing_left()


def test_a_wait_says_that_the_apply_worker_fails(world: MoveWorld) -> None:
    load_accounts(world, 100)
    world.go(until=lambda act: isinstance(act, acts.Verify))
    key = next(k for k in range(1000, 2000) if position_of_key("bigint", str(k)) in world.move.keys)
    for shard in (world.target, world.source):
        with shard.connect() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("INSERT INTO accounts (id, note) VALUES (%s, 'twice')", [key])

    def failing() -> bool:
        decision = decide(world.move, world.view(), datetime.now(UTC))
        return isinstance(decision, Wait) and "the apply worker of s1 fails" in decision.reason

    assert wait_for(failing, "a wait that says so")


INDEXES = """
SELECT pg_get_indexdef(i.indexrelid), obj_description(i.indexrelid), '' FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
UNION ALL SELECT conname, pg_get_constraintdef(oid), convalidated::text FROM pg_constraint
   WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f', 'x')
ORDER BY 1, 2
"""

KEYS = """
CREATE TABLE slots (
  id bigint PRIMARY KEY, rank bigint NOT NULL, during int4range,
  CONSTRAINT slots_rank UNIQUE (id, rank) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT slots_late UNIQUE (id) INCLUDE (rank) DEFERRABLE,
  CONSTRAINT slots_apart EXCLUDE USING gist (during WITH &&)
);
COMMENT ON CONSTRAINT slots_rank ON slots IS 'checked at the end';
"""
