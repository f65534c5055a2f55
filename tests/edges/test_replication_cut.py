"""What a cut must not take back, leave closed or rest on, each clause met on real servers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.edges import replication_cut, replication_streams
from reconciler.edges.postgres_session import PostgresUnreachable, StatementRefused
from reconciler.edges.replication_ends import NotReady, open_session, take_over
from reconciler.edges.replication_guards import read_guards
from reconciler.edges.replication_ready import LAG_BYTES_MAX
from reconciler.edges.replication_seal import advance_slot
from reconciler.model.access import FencedOff
from reconciler.model.names import Epoch, FencingToken
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    MoveWorld,
    Pair,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard
from tests.edges.test_replication_standbys import (
    STANDBY,
    before,
    successor,
    wait_until,
    with_standby,
)


class Died(Exception):
    """Stands for the applier's death."""


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "cut", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> Iterator[MoveWorld]:
    """A move whose next act is the cut."""
    world = make_world(pair, pause_max_ms=400)
    load_accounts(world, 100)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    yield world
    for side in world.seats:
        world.mover.remove(world.move.id, side, FencingToken(TOKEN + 9))


def guards_of(shard: TestShard) -> Any:
    with shard.connect() as connection:
        return read_guards(connection)


def back_out(*_: Any) -> None:
    raise replication_cut._BackOut("test")


# Backing out, and what is never taken back -------------------------------------------------------


def test_a_cut_that_backs_out_refuses_whom_an_earlier_move_refused(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys may be of another shard for long, and their stale clients be there still."""
    with world.source.connect() as connection:
        connection.execute("SELECT setval('shardwright.epoch', 7)")

    monkeypatch.setattr(replication_cut, "_open_first", back_out)
    result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert not result.opened
    assert world.view().source_refuses_below == 7


def test_a_cut_that_backs_out_leaves_the_guards_as_they_were(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = guards_of(world.source)
    monkeypatch.setattr(replication_cut, "_open_first", back_out)

    result = world.mover.cut(world.move, *world.seats, TOKEN, Epoch(20))

    assert (result.opened, guards_of(world.source)) == (False, was)
    with world.source.connect(world.source.app) as never_told:
        never_told.execute("UPDATE accounts SET balance = balance")


def test_a_cut_that_backs_out_takes_the_fence_of_one_that_died_away_too(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = world.move.source_keys - world.move.keys
    world.source.guard(keys, *((t.name, t.key) for t in world.move.tables), epoch=8)
    monkeypatch.setattr(replication_cut, "_open_first", back_out)

    assert not world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch).opened

    assert world.view().fenced == ()


def test_a_cut_that_backs_out_waits_for_a_lock_for_longer_than_writers_may_wait(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would let them go on."""
    with world.source.connect() as other:

        def hold_and_back_out(*_: Any) -> None:
            other.execute("BEGIN; LOCK TABLE accounts IN ROW EXCLUSIVE MODE")
            threading.Timer(2.0, lambda: other.execute("COMMIT")).start()
            back_out()

        monkeypatch.setattr(replication_cut, "_open_first", hold_and_back_out)
        result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert not result.opened
    assert world.view().fenced == ()


def test_a_cut_that_fails_before_it_opens_gives_the_keys_back(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = f"{world.move.prefix}_rev"
    drop = lambda: world.target.rows(f"SELECT pg_drop_replication_slot('{slot}')")  # noqa: E731
    before(monkeypatch, "_seal", drop)

    with pytest.raises(StatementRefused, match=slot):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert (world.view().fenced, world.view().opened) == ((), ())


def test_an_opening_that_takes_too_long_makes_the_cut_back_out(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replication_cut._open_first

    def slow(run: Any, openings: Any) -> None:
        run.there.execute("SET statement_timeout = '50ms'")
        first(run, openings)

    monkeypatch.setattr(replication_cut, "_open_first", slow)
    with world.target.connect() as other:
        other.execute("BEGIN; LOCK TABLE accounts IN ROW EXCLUSIVE MODE")
        result = world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert "could not be opened in time" in result.reason
    assert (world.view().fenced, world.view().opened) == ((), ())


def test_keys_whose_opening_got_no_answer_are_not_given_back(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happened, and its session is gone: both sides would accept them."""
    first = replication_cut._open_first

    def without_answer(run: Any, openings: Any) -> None:
        with world.target.connect() as other:
            other.execute("SET search_path = pg_catalog")
            first(replace(run, there=other), openings)
        world.target.rows(f"SELECT pg_terminate_backend({run.there.info.backend_pid})")
        first(run, openings)

    monkeypatch.setattr(replication_cut, "_open_first", without_answer)
    with pytest.raises(PostgresUnreachable):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    seen = world.view()
    assert seen.opened == seen.fenced != ()
    monkeypatch.undo()
    world.go()
    assert world.map_epoch == world.move.epoch


def test_a_cut_that_finds_a_table_open_does_not_move_the_way_back_past_its_writes(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback would lack them."""

    def only_first(run: Any, openings: Any) -> None:
        raise Died

    way = replication_cut.forward_way
    serving = lambda *given: replace(way(*given), alone=False)  # noqa: E731
    monkeypatch.setattr(replication_cut, "forward_way", serving)
    monkeypatch.setattr(replication_cut, "_open_others", only_first)
    with pytest.raises(Died):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
    monkeypatch.undo()
    assert len(world.view().opened) == 1
    slot = f"slot_name = '{world.move.prefix}_rev'"
    query = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE {slot}"
    was = world.target.rows(query)
    with world.target.connect() as client, world.source.connect() as forgetful:
        client.execute("UPDATE accounts SET balance = 1")
        forgetful.execute("SELECT setval('shardwright.epoch', 1, false)")

    assert world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch).opened

    assert len(world.view().opened) == 2
    assert world.target.rows(query) == was
    assert world.view().source_refuses_below == world.move.epoch


# What it rests on --------------------------------------------------------------------------------


def test_a_member_whose_walsender_only_starts_does_not_follow_yet(world: MoveWorld) -> None:
    """Nor one that is being copied: neither has a position that it has flushed."""
    world.source = with_standby(world.source)
    at = world.source
    with psycopg.connect(
        host=at.primary.host,
        port=at.primary.postgres_port,
        user=at.login.superuser.role,
        password=at.login.superuser.password,
        dbname=at.database,
        sslrootcert=at.login.tls.ca,
        application_name=STANDBY,
        replication="database",
        autocommit=True,
    ):
        query = f"SELECT state FROM pg_stat_replication WHERE application_name = '{STANDBY}'"
        wait_until(lambda: at.rows(query) == [("startup",)])
        with pytest.raises(NotReady, match=f"{STANDBY} may be promoted and does not follow"):
            world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


def test_a_cut_without_the_trigger_that_refuses_stale_clients_does_not_begin(
    world: MoveWorld,
) -> None:
    with world.source.connect() as connection:
        connection.execute('DROP TRIGGER "~shardwright_epoch" ON entries')

    with pytest.raises(NotReady, match="a trigger of the move is missing"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


def test_a_cut_whose_sequences_count_alike_does_not_begin(world: MoveWorld) -> None:
    with world.target.connect() as connection:
        connection.execute("ALTER SEQUENCE entries_id_seq MINVALUE 1 NO MAXVALUE RESTART 1")

    with pytest.raises(NotReady, match="is not divided"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


def test_a_cut_whose_target_is_far_behind_does_not_begin(world: MoveWorld) -> None:
    with world.target.connect() as other, world.source.connect() as client:
        other.execute("BEGIN; LOCK TABLE accounts IN SHARE MODE")
        client.execute("UPDATE accounts SET note = repeat(md5(random()::text), 3000)")
        wait_until(lambda: (world.view().forward.lag_bytes or 0) > LAG_BYTES_MAX)

        with pytest.raises(NotReady, match=f"B behind, more than {LAG_BYTES_MAX}"):
            world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

        other.execute("ROLLBACK")
    assert world.view().fenced == ()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM shardwright.moved", "the target has no note of it"),
        ("UPDATE shardwright.moved SET slot = slot || 'x'", "the slot of the copy is gone"),
    ],
)
def test_a_cut_rests_on_the_note_of_its_copy(world: MoveWorld, statement: str, said: str) -> None:
    with world.target.connect() as connection:
        connection.execute(statement)

    with pytest.raises(NotReady, match=said):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


def test_a_cut_with_a_slot_of_an_earlier_copy_does_not_begin(world: MoveWorld) -> None:
    """Which of them the target follows is not known."""
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    world.source.rows(f"SELECT pg_create_logical_replication_slot('{ends.new_slot()}', 'pgoutput')")

    with pytest.raises(NotReady, match="the stream does not run"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


def test_a_way_back_that_has_lost_wal_is_none(world: MoveWorld) -> None:
    lost = f"SELECT FROM pg_replication_slots WHERE slot_name = '{world.move.prefix}_rev'"
    with world.target.connect() as connection:

        def is_lost() -> bool:
            connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
            return connection.execute(f"{lost} AND wal_status = 'lost'").fetchone() is not None

        connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            wait_until(is_lost)
        finally:
            connection.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
            connection.execute("SELECT pg_reload_conf()")

    with pytest.raises(NotReady, match="the slot of the way back is gone"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().fenced == ()


# The way back's slot -----------------------------------------------------------------------------


def test_a_slot_that_stops_at_what_is_flushed_is_no_way_back(world: MoveWorld) -> None:
    """Its rows would be sent back to where they came from."""
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
    ((walwriter,),) = world.target.rows(query)
    os.kill(walwriter, signal.SIGSTOP)
    try:
        with open_session(ends.target, synchronous_commit="off") as connection:
            connection.execute("SELECT pg_logical_emit_message(true, 'test', 'applied')")
            with pytest.raises(NotReady, match="did not advance"):
                advance_slot(connection, ends.reverse, psycopg.sql.SQL("SELECT 1"), TOKEN)
    finally:
        os.kill(walwriter, signal.SIGCONT)


def test_an_applier_superseded_while_it_advances_a_slot_leaves_it(world: MoveWorld) -> None:
    """The target's own writes may be behind it by then."""
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    query = "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE NOT active"
    slots = world.target.rows(query)
    taken_over = psycopg.sql.SQL(f"SELECT shardwright.check_fence({TOKEN + 1})")

    with open_session(ends.target) as connection, pytest.raises(psycopg.Error, match="took over"):
        advance_slot(connection, ends.reverse, taken_over, TOKEN)

    assert world.target.rows(query) == slots


def test_an_applier_superseded_just_before_its_slot_is_made_makes_none(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made late, it would pass for a way back without gaps."""
    slot = f"{world.move.prefix}_rev"
    world.target.rows(f"SELECT pg_drop_replication_slot('{slot}')")

    def then_superseded(connection: psycopg.Connection, token: FencingToken) -> None:
        take_over(connection, token)
        successor(world.target)

    monkeypatch.setattr(replication_streams, "take_over", then_superseded)
    with pytest.raises(FencedOff):
        world.mover.arm(world.move, *world.seats, TOKEN)

    query = f"SELECT slot_name FROM pg_replication_slots WHERE slot_name = '{slot}'"
    assert world.target.rows(query) == []


def test_a_superseded_applier_notes_nothing_beside_a_slot(world: MoveWorld) -> None:
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    successor(world.target)
    note = psycopg.sql.SQL("UPDATE shardwright.moved SET cut_timeline = 'x'")

    with open_session(ends.target) as connection, pytest.raises(psycopg.Error, match="took over"):
        advance_slot(connection, ends.reverse, note, TOKEN)

    assert world.target.rows("SELECT cut_timeline FROM shardwright.moved") == [("",)]


# Superseded appliers -----------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["opens", "gives back"])
def test_a_former_applier_does_nothing_more_once_its_successor_has_looked(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """The successor finds the fences of the former as it would make them, and changes none."""
    cut, first = world.mover.cut, replication_cut._open_first
    token, opened = FencingToken(TOKEN + 1), []

    def superseded(run: Any, openings: Any) -> None:
        def go_on() -> None:
            with pytest.raises(psycopg.Error, match="took over"):
                first(run, openings) if half == "opens" else replication_cut._give_back(run)

        monkeypatch.undo()
        before(monkeypatch, "check_ready", go_on)
        opened.append(cut(world.move, *world.seats, token, world.move.epoch).opened)
        raise replication_cut._BackOut("test")

    monkeypatch.setattr(replication_cut, "_open_first", superseded)
    with pytest.raises(FencedOff):
        cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert opened == [True]
    assert world.view().opened == world.view().fenced != ()


def test_a_former_applier_is_refused_before_an_opening_is_finished(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could let the source accept again what it was seen to refuse."""
    token = FencingToken(TOKEN + 1)
    assert world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch).opened
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    real = read_guards
    seen: list[str] = []

    def then_go_on(connection: psycopg.Connection) -> Any:
        guards = real(connection)
        with open_session(ends.source) as former, pytest.raises(psycopg.Error, match="took over"):
            former.execute("SELECT shardwright.check_fence(%s)", [TOKEN])
        seen.append("refused")
        return guards

    monkeypatch.setattr(replication_cut, "read_guards", then_go_on)
    world.mover.finish_opening(world.move, *world.seats, token)

    assert seen
