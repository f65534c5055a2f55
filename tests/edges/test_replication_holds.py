"""What is refused while keys move, and to stale clients from then on, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.edges import replication_cut, replication_holds
from reconciler.edges.replication_ends import NotReady
from reconciler.edges.replication_holds import release
from reconciler.model.access import FencedOff
from reconciler.model.moves import Side, Stage, Wish
from reconciler.model.names import Epoch
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    LEDGER,
    LEDGER_TABLES,
    MoveWorld,
    Pair,
    in_keys,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard

PARTITIONED = """
CREATE TABLE log (id bigint, day int, body text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (1) TO (2);
"""


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "holds", tls) as servers:
        yield servers


def keys_of(world: MoveWorld, *, moving: bool) -> Iterator[int]:
    return (k for k in range(1, 10**6) if in_keys(world.move.keys, k) is moving)


def out_of_line(shard: TestShard, table: str, key: int) -> None:
    """Insert a row whose value is stored out of line and is not in the WAL of an UPDATE."""
    with shard.connect() as connection:
        connection.execute(
            f"INSERT INTO {table} SELECT %s, 1, (SELECT string_agg(md5(i::text), '')"
            " FROM generate_series(1, 500) i)",
            [key],
        )


def refused(shard: TestShard, statement: str, role: str = "app") -> str:
    """Return the SQLSTATE that a statement is refused with; the superuser has no role here."""
    who = {"app": shard.app, "owner": shard.owner, "superuser": None}[role]
    with shard.connect(who) as session:
        session.execute("SET shardwright.epoch = 100")
        with pytest.raises(psycopg.Error) as caught:
            session.execute(statement)
    return str(caught.value.sqlstate)


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_a_key_does_not_change_over_the_border_while_a_stream_may_live(
    pair: Pair, back: bool
) -> None:
    """Passed on, it would reach the other side without what it left alone out of line."""
    world = make_world(
        pair, PARTITIONED, (("public.log", "id"),), source_keys="40-", target_keys="-40"
    )
    world.go(until=lambda act: isinstance(act, acts.Copy))
    shard = world.source
    if back:
        world.go()
        shard = world.target
    staying = (
        k
        for k in range(1, 10**6)
        if in_keys(world.move.target_keys if back else world.move.source_keys, k)
        and not in_keys(world.move.keys, k)
    )
    stays, other = next(staying), next(staying)
    goes = next(keys_of(world, moving=True))
    out_of_line(shard, "log", stays)

    for role in ("app", "owner", "superuser"):
        assert refused(shard, f"UPDATE log SET id = {goes} WHERE id = {stays}", role) == "PS006"
    with shard.connect() as connection:
        connection.execute(f"UPDATE log SET id = {other} WHERE id = {stays}")
    world.finish()
    assert shard.rows("SELECT id, length(body) FROM log") == [(other, 16000)]
    world.nothing_left()
    if not back:
        return
    with shard.connect() as connection:
        connection.execute(f"UPDATE log SET id = {goes} WHERE id = {other}")


def test_nobody_truncates_what_moves_and_a_partition_that_comes_later_is_held_too(
    pair: Pair,
) -> None:
    world = make_world(pair, PARTITIONED, (("public.log", "id"),))
    world.go(until=lambda act: isinstance(act, acts.Cut))
    for role in ("owner", "superuser"):
        for shard in (world.source, world.target):
            for table in ("log", "log_1"):
                assert refused(shard, f"TRUNCATE {table}", role) == "PS006"

    for shard in (world.source, world.target):
        with shard.connect() as connection:
            connection.execute("CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (2) TO (3)")
    assert not world.view().held
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert world.done.count("Hold") == 2
    assert world.done.count("Verify") == 2, "what was compared without it proves nothing"

    world.go()
    for shard in (world.source, world.target):
        assert refused(shard, "TRUNCATE log_2", "superuser") == "PS006"
    with world.target.connect() as connection:
        ends = world.mover._ends(world.move, *world.seats, TOKEN)
        with pytest.raises(NotReady, match="its triggers stay"):
            release(ends.target, world.move, TOKEN)
    world.finish()
    world.nothing_left()
    with world.source.connect() as connection:
        connection.execute("TRUNCATE log")


def test_an_aborted_move_holds_nothing_any_more(pair: Pair) -> None:
    world = make_world(pair)
    world.go(until=lambda act: isinstance(act, acts.Publish))
    assert refused(world.source, "TRUNCATE accounts CASCADE", "owner") == "PS006"
    world.wish(Wish.ABORT)
    world.go()
    world.nothing_left()
    with world.source.connect(world.source.owner) as connection:
        connection.execute("TRUNCATE accounts CASCADE")


class Stop(Exception):
    """Stands for the applier's death."""


def dies(before: str) -> Callable[[acts.Step], bool]:
    return lambda act: type(act).__name__ == before


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_no_stale_update_of_a_row_born_at_the_new_owner_is_acknowledged(
    pair: Pair, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The applier dies after each act; between any two, who knows an older map is refused."""
    world = make_world(pair)
    load_accounts(world, 50)
    world.go(until=dies("Cut"))
    world.map_epoch = world.next_epoch(0)  # another move took the epoch that was planned
    if back:
        world.go()
        world.wish(Wish.ROLLBACK)
        world.go(until=dies("RollBackCut"))
        world.map_epoch = world.next_epoch(0)
    loser, gainer = (world.target, world.source) if back else (world.source, world.target)
    old = world.map_epoch
    born = (k for k in keys_of(world, moving=True) if k > 100)

    def die(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(replication_cut, "_open_others", die)
        with pytest.raises(Stop):
            world.go()
    while world.move.stage is not Stage.ENDED:
        step = next_act(world)
        if step is None:
            world.wish(Wish.FINISH)
            continue
        key = next(born)
        with gainer.connect() as connection:
            connection.execute("INSERT INTO accounts (id) VALUES (%s)", [key])
        for statement in (
            f"UPDATE accounts SET balance = 1 WHERE id = {key}",
            f"DELETE FROM accounts WHERE id = {key}",
        ):
            assert stale(loser, old, statement) == "PS001", (step, statement)
        world.perform(step)
    with loser.connect(loser.app) as session:
        session.execute(f"SET shardwright.epoch = {world.map_epoch}")
        session.execute("UPDATE accounts SET balance = balance WHERE id = -1")
    world.nothing_left()


def next_act(world: MoveWorld) -> acts.Step | None:
    """Return what the workflow wants to be done next; None when it soaks."""
    found: list[acts.Step] = []

    def note(act: acts.Step) -> bool:
        found.append(act)
        return True

    world.go(until=note)
    return found[0] if found else None


def stale(shard: TestShard, epoch: int, statement: str) -> str | None:
    with shard.connect(shard.app) as session, suppress(psycopg.errors.NoData):
        session.execute(f"SET shardwright.epoch = {epoch}")
        try:
            session.execute(statement)
        except psycopg.Error as error:
            return error.sqlstate
    return None


def test_a_lost_way_back_leaves_stale_clients_refused(pair: Pair) -> None:
    world = make_world(pair, LEDGER, LEDGER_TABLES)
    load_accounts(world, 20)
    world.go(until=dies("Reverse"))
    with world.target.connect() as connection:
        connection.execute(f"SELECT pg_drop_replication_slot('{world.move.prefix}_rev')")
    assert stale(world.source, 7, "UPDATE accounts SET balance = 0 WHERE id = -1") == "PS001"
    world.finish()
    assert stale(world.source, 7, "UPDATE accounts SET balance = 0 WHERE id = -1") == "PS001"
    assert stale(world.source, 8, "UPDATE accounts SET balance = 0 WHERE id = -1") is None
    world.nothing_left()


def test_a_cut_that_cannot_refuse_stale_clients_opens_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(pair)
    load_accounts(world, 50)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    drain = replication_cut._drain
    with world.source.connect() as other:

        def drain_and_supersede(run: Any, beat: int) -> None:
            drain(run, beat)
            other.execute("UPDATE shardwright.fencing SET token = token + 1")  # at this side only

        monkeypatch.setattr(replication_cut, "_drain", drain_and_supersede)
        with pytest.raises(FencedOff):
            world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)

    assert world.view().opened == ()
    assert world.source.rows("SELECT is_called FROM shardwright.epoch") == [(False,)]


def ready_to_cut(pair: Pair) -> MoveWorld:
    world = make_world(pair)
    load_accounts(world, 20)
    world.go(until=dies("Cut"))
    assert world.view().held
    return world


@pytest.mark.parametrize("half", ["slot", "publication"])
def test_triggers_stay_while_either_half_of_a_stream_is_there(pair: Pair, half: str) -> None:
    world = ready_to_cut(pair)
    name = f"{world.move.prefix}_rev"
    with world.target.connect() as connection:
        if half == "slot":
            connection.execute(f"DROP PUBLICATION {name}")
        else:
            connection.execute(f"SELECT pg_drop_replication_slot('{name}')")

    with pytest.raises(NotReady, match=f": {half} {name} is still there"):
        release(world.mover._ends(world.move, *world.seats, TOKEN).target, world.move, TOKEN)

    assert world.view().held


def verified(world: MoveWorld) -> str:
    ((text,),) = world.target.rows("SELECT verified FROM shardwright.moved")
    return str(text)


@pytest.mark.parametrize("state", ["DISABLE", "ENABLE REPLICA"])
def test_a_trigger_that_does_not_fire_for_clients_is_none_and_is_mended(
    pair: Pair, state: str
) -> None:
    world = ready_to_cut(pair)
    with world.source.connect() as connection:
        connection.execute(f'ALTER TABLE accounts {state} TRIGGER "~{world.move.prefix}_truncate"')

    assert not world.view().held
    world.mover.hold(world.move, *world.seats, TOKEN)
    assert world.view().held
    assert refused(world.source, "TRUNCATE accounts CASCADE", "superuser") == "PS006"


def test_an_epoch_trigger_of_an_earlier_form_is_replaced(pair: Pair) -> None:
    """It had its epoch as an argument, which says nothing of what a cut sets."""
    world = ready_to_cut(pair)
    with world.source.connect() as connection:
        connection.execute(
            'CREATE OR REPLACE TRIGGER "~shardwright_epoch" BEFORE UPDATE ON accounts'
            " EXECUTE FUNCTION shardwright.reject_stale('7')"
        )

    assert not world.view().held
    world.mover.hold(world.move, *world.seats, TOKEN)
    assert world.view().held


def test_a_table_of_the_same_name_elsewhere_is_not_held(pair: Pair) -> None:
    world = ready_to_cut(pair)
    with world.source.connect() as connection:
        connection.execute("CREATE SCHEMA other; CREATE TABLE other.accounts (id bigint)")
    assert world.view().held


def test_what_was_compared_is_forgotten_before_what_was_missing_is_there_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An applier that dies in between must not leave both."""
    world = ready_to_cut(pair)
    assert verified(world)
    with world.source.connect() as connection:
        connection.execute(f'DROP TRIGGER "~{world.move.prefix}_key" ON accounts')

    def die(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(replication_holds, "_make", die)
        with pytest.raises(Stop):
            world.mover.hold(world.move, *world.seats, TOKEN)
    assert verified(world) == ""


def test_a_superseded_applier_neither_holds_nor_forgets(pair: Pair) -> None:
    world = ready_to_cut(pair)
    was = verified(world)
    for shard in (world.source, world.target):
        with shard.connect() as connection:
            connection.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])
            connection.execute(f'DROP TRIGGER "~{world.move.prefix}_key" ON accounts')

    with pytest.raises(FencedOff):
        world.mover.hold(world.move, *world.seats, TOKEN)

    assert verified(world) == was
    assert not world.view().held


def test_stale_clients_are_refused_also_where_a_trigger_was_taken_away(pair: Pair) -> None:
    world = ready_to_cut(pair)
    with world.source.connect() as connection:
        connection.execute('DROP TRIGGER "~shardwright_epoch" ON accounts')

    world.mover.refuse_stale(world.move, Side.SOURCE, Epoch(9), *world.seats, TOKEN)

    statement = "DELETE FROM accounts WHERE id = -1"
    assert [stale(world.source, epoch, statement) for epoch in (8, 9)] == ["PS001", None]
    assert world.view().source_refuses_below == 9
