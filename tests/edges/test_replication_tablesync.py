"""Faults while PostgreSQL's tablesync brings the rows of a move: it goes on by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.edges.replication_copy import CopyStopped
from reconciler.edges.replication_ends import NotReady
from reconciler.edges.replication_streams import drop_slots
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress, Side, Wish
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    kill,
    load_accounts,
    make_world,
    running_pair,
    seat,
    start,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN
from tests.edges.test_replication import INDEXES
from tests.edges.test_replication_faults import SIDES, go_on, server_of


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    """One version; ``test_replication`` has moves of this kind on every one."""
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "sync", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    world = make_world(pair, copy=CopyDriver.NATIVE)
    load_accounts(world, 600)
    return world


def hold_a_table(world: MoveWorld) -> Callable[[], None]:
    """Keep tablesync from loading the accounts; returns what lets it go on."""
    holder = world.target.connect()
    holder.execute(HOLD)
    holder.execute("SELECT pg_advisory_lock(1)")

    def release() -> None:
        holder.close()
        with world.target.connect() as connection:
            connection.execute("DROP FUNCTION held CASCADE")

    return release


HOLD = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
CREATE TRIGGER held BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION held();
ALTER TABLE accounts ENABLE ALWAYS TRIGGER held;
"""


def let_it_begin(world: MoveWorld) -> None:
    """Begin the copy, and stop waiting for it as soon as a worker of it has a slot."""
    deadline = time.monotonic() + 60

    def begun() -> bool:
        assert time.monotonic() < deadline
        return bool(world.source.rows(SYNC_SLOTS))

    with pytest.raises(CopyStopped, match="goes on by itself"):
        world.mover.copy(world.move, *world.seats, TOKEN, lambda p: None, begun)


SYNC_SLOTS = """
SELECT slot_name FROM pg_replication_slots
 WHERE database = current_database() AND slot_name ~ '^pg_[0-9]+_sync_'
"""


@pytest.mark.parametrize("side", SIDES)
def test_a_server_killed_while_tablesync_copies_does_not_make_it_start_over(
    pair: Pair, world: MoveWorld, side: Side
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Copy))
    release = hold_a_table(world)

    with Ledger(world, 600) as ledger:
        let_it_begin(world)
        slot = world.view().forward.slot_name
        killed = threading.Event()

        def tell(_: CopyProgress) -> None:
            if not killed.is_set():
                killed.set()
                kill(server_of(pair, side))

        with pytest.raises(ReconcilerError):
            world.mover.copy(world.move, *world.seats, TOKEN, tell, lambda: False)
        start(server_of(pair, side))
        release()
        go_on(world)
        ledger.wait_for(100)
        assert world.target.rows("SELECT slot FROM shardwright.moved") == [(slot,)]
        world.wish(Wish.ROLLBACK)
        go_on(world)

    ledger.check()
    world.nothing_left()
    assert world.source.rows(SYNC_SLOTS) == []


def test_an_aborted_tablesync_leaves_no_slot_and_no_row(world: MoveWorld) -> None:
    before = world.target.rows(INDEXES)
    world.go(until=lambda act: isinstance(act, acts.Copy))
    release = hold_a_table(world)
    let_it_begin(world)
    assert any("slot pg_" in str(one) for one in world.mover.sweep(seat(world.source)))
    release()

    world.wish(Wish.ABORT)
    go_on(world)

    world.nothing_left()
    assert world.source.rows(SYNC_SLOTS) == []
    assert world.target.rows(INDEXES) == before
    assert world.target.rows("SELECT FROM accounts") == []


def test_tablesync_whose_slot_is_gone_starts_over(world: MoveWorld) -> None:
    """As after a failover of the source: its standby knows no slots."""
    world.go(until=lambda act: isinstance(act, acts.Copy))
    release = hold_a_table(world)
    let_it_begin(world)
    ends = world.mover._ends(world.move, *world.seats, TOKEN)

    with pytest.raises(NotReady, match="is gone"):
        world.mover.copy(
            world.move,
            *world.seats,
            TOKEN,
            lambda p: drop_slots(ends.source, ends.forward, TOKEN),
            lambda: False,
        )
    release()
    go_on(world)

    assert "Clean" in world.done[: world.done.index("Copy")]
    world.finish()
    world.nothing_left()


def test_a_reference_table_without_a_key_is_said_before_anything_begins(pair: Pair) -> None:
    schema = "CREATE TABLE t (id bigint PRIMARY KEY); CREATE TABLE rates (value int);"
    world = make_world(
        pair,
        schema,
        (("public.t", "id"),),
        reference=("public.rates",),
        copy=CopyDriver.NATIVE,
    )

    (obstacle,) = world.mover.preflight(world.move, *world.seats)

    assert obstacle.table == "public.rates"
    assert "resharding.copy: own" in obstacle.cure
