"""Moves that are cut off, refused, or met by a fault: nothing is lost, and each says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.edges.postgres_session import LockNotObtained
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_copy import CopyStopped
from reconciler.edges.replication_ends import DiskShort, Limits, NotReady
from reconciler.edges.replication_guards import (
    GuardsForbid,
    change_guards,
    narrowed,
    read_guards,
)
from reconciler.edges.replication_streams import SlotBlocked
from reconciler.model.access import FencedOff, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress, Move, Side, Wish
from reconciler.model.names import FencingToken
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow.phase import Wait
from reconciler.workflow.reshard import decide
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    in_keys,
    kill,
    load_accounts,
    make_world,
    running_pair,
    seat,
    start,
)
from tests.edges.servers import SUPERUSER_PASSWORD, postgres_binaries
from tests.edges.shard import TOKEN

SIDES = [Side.SOURCE, Side.TARGET]
VERSIONS = [name for name in sorted(postgres_binaries()) if name != "wheel-18"]


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[Pair]:
    binaries = postgres_binaries()[request.param]
    with running_pair(binaries, home / f"faults-{request.param}", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    world = make_world(pair)
    load_accounts(world, 600)
    return world


def server_of(pair: Pair, side: Side) -> Any:
    return pair.source if side is Side.SOURCE else pair.target


def go_on(world: MoveWorld) -> None:
    """As the engine does: a transient error means to look again."""
    deadline = time.monotonic() + 120
    while not _went(world):
        if time.monotonic() > deadline:
            raise AssertionError(f"it never got through: {world.reasons[-3:]}")
        time.sleep(0.1)


def _went(world: MoveWorld) -> bool:
    try:
        world.go()
    except ReconcilerError as error:
        if error.transient:
            world.reasons.append(str(error))
            return False
        raise
    return True


@pytest.mark.parametrize("side", SIDES)
def test_a_server_killed_while_rows_are_copied_makes_the_copy_start_over(
    pair: Pair, world: MoveWorld, side: Side
) -> None:
    world.mover = LogicalMover(Limits(chunk_bytes=8192, workers=1))
    world.go(until=lambda act: isinstance(act, acts.Copy))
    killed = threading.Event()

    def tell(progress: CopyProgress) -> None:
        if progress.rows_done > 50 and not killed.is_set():
            killed.set()
            kill(server_of(pair, side))

    with Ledger(world, 600) as ledger:
        with pytest.raises(ReconcilerError):
            world.mover.copy(world.move, *world.seats, TOKEN, tell, lambda: False)
        assert killed.is_set()
        view = world.view()
        assert (view.source if side is Side.SOURCE else view.target) is not None
        start(server_of(pair, side))
        go_on(world)
        ledger.wait_for(100)

    ledger.check()
    world.finish()
    world.nothing_left()


@pytest.mark.parametrize("side", SIDES)
def test_a_server_killed_while_the_target_follows_loses_nothing(
    pair: Pair, world: MoveWorld, side: Side
) -> None:
    with Ledger(world, 600) as ledger:
        world.go(until=lambda act: isinstance(act, acts.Verify))
        kill(server_of(pair, side))
        start(server_of(pair, side))
        ledger.wait_for(50)
        go_on(world)
        ledger.wait_for(100)

    ledger.check()
    assert world.done.count("Copy") == 1


@pytest.mark.parametrize("side", SIDES)
def test_a_server_killed_between_fence_and_opening_loses_nothing(
    pair: Pair, world: MoveWorld, side: Side
) -> None:
    with Ledger(world, 600) as ledger:
        world.go(until=lambda act: isinstance(act, acts.Cut))
        fence(world, tables=1)
        kill(server_of(pair, side))
        start(server_of(pair, side))
        go_on(world)
        ledger.wait_for(100)

    ledger.check()
    world.finish()
    world.nothing_left()


def fence(world: MoveWorld, tables: int) -> None:
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    with world.source.connect() as connection:
        changes = narrowed(
            world.move, read_guards(connection), ends.move.source_keys, world.move.epoch
        )
        change_guards(connection, ends.source, world.move, changes[:tables], TOKEN)


def test_a_fence_whose_cut_died_is_taken_away_while_nothing_is_open(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    fence(world, tables=2)
    assert set(world.view().fenced) == {"public.accounts", "public.entries"}

    world.mover.unfence(world.move, *world.seats, TOKEN)

    assert world.view().fenced == ()


def cut_again(
    mover: LogicalMover, move: Move, source: Seat, target: Seat, token: FencingToken
) -> None:
    mover.cut(move, source, target, token, move.epoch)


@pytest.mark.parametrize("again", [LogicalMover.finish_opening, cut_again])
def test_an_opening_whose_cut_died_is_finished_and_cannot_be_taken_back(
    world: MoveWorld, again: Callable[..., object]
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    with world.target.connect() as connection:
        changes = narrowed(world.move, read_guards(connection), world.move.keys, world.move.epoch)
        change_guards(connection, ends.target, world.move, changes[1:], TOKEN)
    assert world.view().opened == ("public.accounts",)

    with pytest.raises(GuardsForbid, match=r"accepts the keys in public\.accounts"):
        world.mover.unfence(world.move, *world.seats, TOKEN)
    again(world.mover, world.move, *world.seats, TOKEN)

    assert set(world.view().opened) == {"public.accounts", "public.entries"}


def test_nothing_is_opened_while_the_source_accepts_the_keys(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))

    with pytest.raises(GuardsForbid, match=r"in public\.accounts, public\.entries"):
        world.mover.finish_opening(world.move, *world.seats, TOKEN)
    with pytest.raises(GuardsForbid, match="rows are not deleted"):
        world.mover.prune(world.move, Side.SOURCE, *world.seats, TOKEN, lambda: False)

    assert world.view().opened == ()


def test_a_lock_that_the_holds_wait_for_is_told_with_its_holder(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Hold))
    with world.source.connect() as connection:
        connection.execute("SET application_name = 'the blocker'")
        connection.execute("BEGIN")
        connection.execute("UPDATE entries SET mark = mark")

        with pytest.raises(LockNotObtained, match="not free of writers: the blocker"):
            world.mover.hold(world.move, *world.seats, TOKEN)

        connection.execute("ROLLBACK")
    world.go()


def test_a_cut_that_a_long_transaction_blocks_backs_out_and_names_it(world: MoveWorld) -> None:
    world.move = replace(world.move, pause_max_ms=100)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    with world.source.connect() as connection:
        connection.execute("SET application_name = 'the blocker'")
        connection.execute("BEGIN")
        connection.execute("UPDATE entries SET mark = mark")

        result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

        assert not result.opened
        assert "public.entries was not free of writers" in result.reason
        assert "the blocker" in result.reason
        assert world.view().fenced == ()
        connection.execute("ROLLBACK")
    with Ledger(world, 600) as ledger:
        ledger.wait_for(50)
        world.move = replace(world.move, pause_max_ms=5000)
        world.go()
        ledger.wait_for(50)
    ledger.check()


def test_a_cut_waits_for_a_stream_that_runs(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    with world.target.connect() as connection:
        connection.execute(f"ALTER SUBSCRIPTION {world.move.prefix}_fwd DISABLE")
        wait_until(lambda: not world.view().forward.slot_active)

        with pytest.raises(NotReady, match="does not run"):
            world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

        assert world.view().fenced == ()
        world.mover.subscribe(world.move, *world.seats, TOKEN)
    world.go()
    assert "Cut" in world.done


def test_a_target_that_does_not_apply_in_time_makes_the_cut_back_out(world: MoveWorld) -> None:
    world.move = replace(world.move, pause_max_ms=200)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    with world.target.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE shardwright.beat IN SHARE MODE")

        result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

        assert not result.opened
        assert "had not applied everything in time" in result.reason
        assert (world.view().fenced, world.view().opened) == ((), ())


def test_verification_finds_a_difference_and_shows_both_sides(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Verify))
    ids = [i for i in range(1, 600) if in_keys(world.move.keys, i)]
    with world.target.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE accounts SET balance = 77 WHERE id = %s", [ids[0]])
        connection.execute("DELETE FROM accounts WHERE id = %s", [ids[1]])

    found = world.mover.verify(world.move, *world.seats, TOKEN)

    assert not found.equal
    assert found.tables == ("public.accounts",)
    assert any(f"id={ids[0]}: target has ({ids[0]},77" in text for text in found.samples)
    assert any(f"id={ids[1]}: source has" in text for text in found.samples)
    assert not world.view().verified


def test_a_comparison_under_writers_is_exact(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Verify))
    with Ledger(world, 600, pause_s=0) as ledger:
        ledger.wait_for(100)
        for _ in range(5):
            found = world.mover.verify(world.move, *world.seats, TOKEN)
            assert found.equal, found
    assert world.view().verified


def test_a_slot_that_has_to_wait_says_for_whom(world: MoveWorld) -> None:
    world.mover = LogicalMover(Limits(slot_wait_ms=300))
    world.go(until=lambda act: isinstance(act, acts.Copy))
    with world.source.connect() as connection:
        connection.execute("SET application_name = 'the writer'")
        connection.execute("BEGIN")
        connection.execute("UPDATE accounts SET balance = 1 WHERE id = 1")

        with pytest.raises(SlotBlocked, match="the writer"):
            world.mover.copy(world.move, *world.seats, TOKEN, lambda p: None, lambda: False)

    world.go()
    assert "Cut" in world.done


def test_a_slot_whose_wal_runs_out_is_given_up_and_a_lost_one_starts_over(
    pair: Pair, world: MoveWorld
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Subscribe))
    assert world.view().forward.endangered == ""
    try:
        set_source(pair, "max_slot_wal_keep_size = '1MB'")
        with world.source.connect() as connection:
            connection.execute("CHECKPOINT")
            for _ in range(3):
                connection.execute("SELECT pg_logical_emit_message(false, '', 'x')")
                connection.execute("SELECT pg_switch_wal()")
            endangered = world.view().forward.endangered
            connection.execute("CHECKPOINT")
        lost = world.view().forward
    finally:
        set_source(pair, "")
    assert "max_slot_wal_keep_size" in endangered
    assert lost.slot_lost

    with Ledger(world, 600) as ledger:
        world.go()
        ledger.wait_for(50)

    ledger.check()
    assert world.done.count("Copy") == 2


def set_source(pair: Pair, line: str) -> None:
    """Set one parameter of the source that needs no restart, or none."""
    (pair.source.home / "data" / "postgresql.auto.conf").write_text(f"{line}\n")
    pair.source.run("pg_ctl", "reload", "--pgdata=data")


def test_a_disk_that_fills_ends_the_copy_and_later_it_is_done(world: MoveWorld) -> None:
    """The room at the target is told by a counter: filling a real disk would harm others."""
    room = {"shop-s0": 1 << 40, "shop-s1": 1 << 40}
    limits = Limits(chunk_bytes=8192, workers=1)
    world.mover = LogicalMover(limits, room=lambda key: room[key.scope])
    world.go(until=lambda act: isinstance(act, acts.Copy))

    def tell(progress: CopyProgress) -> None:
        room["shop-s1"] = 1 << 20

    with pytest.raises(DiskShort, match="s1 has 1 MiB of disk left"):
        world.mover.copy(world.move, *world.seats, TOKEN, tell, lambda: False)
    assert world.view().copied == ""
    with pytest.raises(DiskShort):
        world.mover.copy(world.move, *world.seats, TOKEN, lambda p: None, lambda: False)
    assert world.target.rows("SELECT count(*) FROM accounts") == [(0,)]

    room["shop-s1"] = 1 << 40
    world.go(until=lambda act: isinstance(act, acts.Cut))
    room["shop-s0"] = 1 << 20
    assert "s0 has 1 MiB of disk left" in world.view().obstacles[0]
    world.wish(Wish.ABORT)
    world.go()
    world.nothing_left()


def test_a_copy_that_is_asked_to_stop_stops(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Copy))

    with pytest.raises(CopyStopped):
        world.mover.copy(world.move, *world.seats, TOKEN, lambda p: None, lambda: True)

    view = world.view()
    assert (view.copied, view.copy_begun) == ("", True)
    world.wish(Wish.ABORT)
    world.go()
    world.nothing_left()


def test_a_superseded_applier_changes_nothing(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    with world.source.connect() as source, world.target.connect() as target:
        for connection in (source, target):
            connection.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])
    mover, where = world.mover, (world.move, *world.seats, FencingToken(TOKEN))

    with pytest.raises(FencedOff):
        mover.cut(*where, world.move.epoch)
    with pytest.raises(FencedOff):
        mover.refuse_stale(world.move, Side.SOURCE, world.move.epoch, *world.seats, TOKEN)
    for call in (mover.publish, mover.unfence, mover.clean, mover.reverse):
        if call == mover.unfence:
            fence_by_successor(world)
        with pytest.raises(FencedOff):
            call(*where)

    view = world.view()
    assert view.opened == ()
    assert view.forward.subscribed
    assert view.forward.published


def fence_by_successor(world: MoveWorld) -> None:
    world.source.guard(
        "-80", ("public.accounts", "id"), ("public.entries", "account_id"), epoch=8, token=TOKEN + 1
    )


@pytest.mark.parametrize("side", SIDES)
def test_cleaning_does_what_it_can_while_one_side_is_down(
    pair: Pair, world: MoveWorld, side: Side
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    kill(server_of(pair, side))
    try:
        with pytest.raises(ReconcilerError):
            world.mover.clean(world.move, *world.seats, TOKEN)
        other = world.target if side is Side.SOURCE else world.source
        left = world.mover.sweep(seat(other))
    finally:
        start(server_of(pair, side))
    assert [text for text in left if not str(text).startswith("note ")] == []

    world.mover.clean(world.move, *world.seats, TOKEN)
    world.mover.prune(world.move, Side.TARGET, *world.seats, TOKEN, lambda: False)
    world.nothing_left()


def test_what_is_left_of_a_move_without_a_record_can_be_swept_from_each_side(
    world: MoveWorld,
) -> None:
    indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    before = world.target.rows(indexes)
    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))
    world.mover.arm(world.move, *world.seats, TOKEN)
    found = [one for side in world.seats for one in world.mover.sweep(side)]
    assert {one.move for one in found} == {world.move.id}
    assert {one.what.split()[0] for one in found} == {
        "publication", "slot", "trigger", "note", "definitions",
    }  # fmt: skip

    for side in world.seats:
        world.mover.remove(world.move.id, side, TOKEN)

    world.nothing_left()
    assert world.target.rows(indexes) == before != []


def test_no_password_is_in_a_log_or_an_error(pair: Pair, world: MoveWorld) -> None:
    world.go()
    for shard in (pair.source, pair.target):
        log = (shard.home / "log").read_text()
        assert SUPERUSER_PASSWORD not in log
        assert "odd characters" not in log
    assert "odd characters" not in repr(world.mover._ends(world.move, *world.seats, TOKEN))
    query = "SELECT query FROM pg_stat_activity"
    assert not any("odd characters" in str(row) for row in world.source.rows(query))


def test_foreign_ddl_is_an_obstacle_before_the_cut(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert world.view().obstacles == ()
    with world.source.connect() as connection:
        connection.execute("ALTER TABLE accounts ADD COLUMN colour text")

    assert world.view().obstacles == (
        "public.accounts has other columns at s1 than at s0: colour text is only at s0",
    )
    with world.target.connect() as connection:
        connection.execute("ALTER TABLE accounts ADD COLUMN colour int")
    assert world.view().obstacles == (
        "public.accounts has other columns at s1 than at s0: colour is text at s0, integer at s1",
    )


def test_a_stream_that_foreign_ddl_stops_says_which_and_what_can_be_done(
    world: MoveWorld,
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Verify))
    with world.source.connect() as connection:
        connection.execute("ALTER TABLE accounts ADD COLUMN colour text")
        connection.execute("SET shardwright.epoch = 100")
        connection.execute("UPDATE accounts SET balance = 1")

    def told() -> str:
        decision = decide(world.move, world.view(), datetime.now(UTC))
        return decision.reason if isinstance(decision, Wait) else ""

    wait_until(lambda: "the apply worker of s1 fails" in told())
    assert "at s0: colour text is only at s0; its server's log says more" in told()
    assert f"`shardwright operation abort {world.move.id}`, then `retry " in told()

    with world.source.connect() as connection:  # what was written with it still stands in the WAL
        connection.execute("ALTER TABLE accounts DROP COLUMN colour")
    with world.target.connect() as connection:
        connection.execute("ALTER TABLE accounts ADD COLUMN colour text")
    wait_until(lambda: "fails" not in told())
    with world.target.connect() as connection:
        connection.execute("ALTER TABLE accounts DROP COLUMN colour")
    world.go()
    world.finish()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE accounts ALTER balance SET DEFAULT 7", "column balance 7 not null"),
        ("ALTER TABLE accounts ADD CHECK (balance > -9)", "constraint accounts_balance_check"),
        ("CREATE INDEX late ON accounts (balance)", "CREATE INDEX late"),
    ],
)
def test_every_foreign_ddl_is_an_obstacle_before_the_cut(
    world: MoveWorld, statement: str, said: str
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert world.view().obstacles == ()
    with world.source.connect() as connection:
        connection.execute(statement)

    (found,) = world.view().obstacles
    assert found.startswith("public.accounts is not the same at s0 and s1")
    assert said in found


def test_a_side_that_is_down_is_unseen(world: MoveWorld) -> None:
    world.target = world.target.at(1)

    view = world.view()

    assert view.target is not None
    assert view.source is None
    assert (view.opened, view.copied, view.prepared) == ((), "", False)


def test_a_stopped_prune_says_how_many_rows_are_left(world: MoveWorld) -> None:
    world.mover = LogicalMover(Limits(prune_pages=1))
    world.go()
    world.mover.clean(world.move, *world.seats, TOKEN)
    calls = iter([False, False, True])

    left = world.mover.prune(world.move, Side.SOURCE, *world.seats, TOKEN, lambda: next(calls))

    moved = [i for i in range(1, 601) if in_keys(world.move.keys, i)]
    assert 0 < left < len(moved)
    assert world.mover.prune(world.move, Side.SOURCE, *world.seats, TOKEN, lambda: False) == 0
    kept = world.source.rows("SELECT id FROM accounts")
    assert not any(in_keys(world.move.keys, i) for (i,) in kept)
    assert len(kept) + len(moved) == 600


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
