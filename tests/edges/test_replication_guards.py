"""What a move must refuse by itself, whatever was decided: each guard, met on real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.edges import replication_streams, replication_sweep
from reconciler.edges.postgres import PostgresSql
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import Ends, Limits, NotReady
from reconciler.edges.replication_guards import change_guards, narrowed, read_guards
from reconciler.edges.replication_streams import (
    FilterVoid,
    _refuse_void,
    create_subscription,
    drop_publication,
    drop_slots,
    drop_subscription,
    follow_again,
    is_subscribed,
    publish_forward,
    stop_following,
)
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress, Side, Wish
from reconciler.model.names import FencingToken
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
from tests.edges.shard import TOKEN
from tests.local_home import wait_for


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]  # the guards are ours; one version tells
    with running_pair(postgres_binaries()[name], home / "guards", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> Iterator[MoveWorld]:
    world = make_world(pair)
    load_accounts(world, 300)
    yield world
    for side in world.seats:  # else their slots are used up
        world.mover.remove(world.move.id, side, FencingToken(TOKEN + 9))


def test_a_row_filter_that_a_schema_voided_is_refused(world: MoveWorld) -> None:
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    with world.source.connect() as connection:
        connection.execute(
            "CREATE PUBLICATION void FOR TABLES IN SCHEMA public, TABLE accounts WHERE (id > 5),"
            " TABLE shardwright.beat WHERE (lane = 'x')"
            if _installed(world)
            else ""
        )
        with pytest.raises(FilterVoid, match=r"public\.accounts"):
            _refuse_void(connection, "void", ["public.accounts"], ends.source)


def _installed(world: MoveWorld) -> bool:
    world.mover.prepare_target(world.move, *world.seats, TOKEN)
    return True


def test_a_guard_that_changed_since_it_was_read_is_not_overwritten(world: MoveWorld) -> None:
    world.mover.prepare_target(world.move, *world.seats, TOKEN)
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    with world.source.connect() as connection:
        connection.execute("SET search_path = pg_catalog")
        changes = narrowed(
            world.move, read_guards(connection), world.move.source_keys, world.move.epoch
        )
        world.source.guard("-c0", ("public.accounts", "id"), ("public.entries", "account_id"))

        with pytest.raises(psycopg.Error, match="was changed meanwhile"):
            change_guards(connection, ends.source, world.move, changes, TOKEN)

        kept = read_guards(connection)
    assert {str(guard.keys) for guard in kept.values()} == {"-c0"}


def test_a_fence_takes_only_its_own_keys_away(world: MoveWorld) -> None:
    """Another move of the same shard may have taken others since this one was recorded."""
    world.go(until=lambda act: isinstance(act, acts.Cut))
    world.source.guard("40-", ("public.accounts", "id"), ("public.entries", "account_id"))

    assert world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch).opened

    with world.source.connect() as connection:
        assert {str(g.keys) for g in read_guards(connection).values()} == {"40-80"}


@pytest.mark.parametrize("column", ["timeline", "cut_timeline"])
def test_a_side_that_failed_over_since_is_not_cut_over(world: MoveWorld, column: str) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    if column == "cut_timeline":
        world.go()
        world.mover.reverse(world.move, *world.seats, TOKEN)
    cut = world.mover.cut if column == "timeline" else world.mover.roll_back_cut
    wait_for_streams(world)
    with world.target.connect() as connection:
        connection.execute(f"UPDATE shardwright.moved SET {column} = '000000FF'")

    with pytest.raises(NotReady, match="failed over"):
        cut(world.move, *world.seats, TOKEN, world.move.epoch)

    view = world.view()
    assert (view.forward.gap, view.reverse.gap) == (column == "timeline", column != "timeline")
    assert bool(view.fenced) is (column != "timeline")


def wait_for_streams(world: MoveWorld) -> None:
    deadline = time.monotonic() + 60
    while not (world.view().forward.slot_active or world.view().reverse.slot_active):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cut_without_a_way_back_does_not_begin(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    with world.target.connect() as connection:
        connection.execute(f"SELECT pg_drop_replication_slot('{world.move.prefix}_rev')")

    with pytest.raises(NotReady, match="the way back is gone"):
        world.mover.cut(world.move, *world.seats, TOKEN, world.move.epoch)
    assert world.view().fenced == ()


def test_a_superseded_applier_neither_copies_nor_prunes(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Copy))
    raise_token(world)
    with pytest.raises(FencedOff):
        world.mover.copy(world.move, *world.seats, TOKEN, lambda p: None, lambda: False)
    with pytest.raises(FencedOff):
        world.mover.prune(world.move, Side.TARGET, *world.seats, TOKEN, lambda: False)
    with pytest.raises(FencedOff):
        world.mover.arm(world.move, *world.seats, TOKEN)
    with pytest.raises(FencedOff):
        world.mover.prepare_target(world.move, *world.seats, TOKEN)


def test_an_applier_superseded_while_it_copies_copies_no_further(world: MoveWorld) -> None:
    world.mover = LogicalMover(Limits(chunk_bytes=8192, workers=1))
    world.go(until=lambda act: isinstance(act, acts.Copy))
    seen: list[CopyProgress] = []

    def tell(progress: CopyProgress) -> None:
        seen.append(progress)
        raise_token(world)

    with pytest.raises(FencedOff):
        world.mover.copy(world.move, *world.seats, TOKEN, tell, lambda: False)

    assert len(seen) == 1
    assert world.view().copied == ""


def test_an_applier_that_hangs_while_it_copies_holds_nothing_once_it_is_superseded(
    world: MoveWorld,
) -> None:
    """Neither the fence at the target, nor tables, nor a snapshot at the source."""
    ours = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'shardwright move %'"
    later, hung = PostgresSql(), threading.Event()
    world.go(until=lambda act: isinstance(act, acts.Copy))

    def hang(_: CopyProgress) -> None:
        assert world.source.rows(ours)
        assert world.target.rows(ours)
        for at in (world.source, world.target):
            later.fence(at.login, at.primary, at.database, FencingToken(TOKEN))
            assert at.rows(ours), "its own"
            later.fence(at.login, at.primary, at.database, FencingToken(TOKEN + 1))
            wait_for(lambda at=at: not at.rows(ours), "its sessions are gone")  # type: ignore[misc]
        hung.set()

    world.mover = LogicalMover(Limits(chunk_bytes=8192, workers=1))
    with pytest.raises(ReconcilerError):
        world.mover.copy(world.move, *world.seats, TOKEN, hang, lambda: False)

    assert hung.is_set()
    assert world.view().copied == ""


OBJECTS = """
SELECT 'publication', pubname, '' FROM pg_publication
UNION ALL SELECT 'slot', slot_name, active_pid::text FROM pg_replication_slots
UNION ALL SELECT 'subscription', subname, subenabled::text FROM pg_subscription
UNION ALL SELECT 'trigger', tgname, tgrelid::regclass::text FROM pg_trigger ORDER BY 1, 2, 3
"""


@pytest.mark.parametrize(
    "call",
    [
        publish_forward,
        lambda ends: stop_following(ends.target, ends.forward, ends.token),
        lambda ends: drop_subscription(ends.target, ends.forward, ends.token),
        lambda ends: drop_publication(ends.source, ends.forward, ends.token),
        lambda ends: drop_slots(ends.source, ends.forward, ends.token),
        lambda ends: drop_slots(ends.target, ends.reverse, ends.token),
        lambda ends: follow_again(ends.target, ends.source, ends.forward, "none", ends.token),
        lambda ends: create_subscription(
            ends.source, ends.target, ends.reverse, ends.reverse, ends, origin="0/1"
        ),
    ],
)
def test_a_superseded_applier_touches_no_stream(
    world: MoveWorld, call: Callable[[Ends], None]
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    if "follow_again" in call.__code__.co_names:
        with world.target.connect() as connection:
            connection.execute(f"ALTER SUBSCRIPTION {world.move.prefix}_fwd DISABLE")
        wait_for(lambda: not world.view().forward.slot_active, "its worker ended")
    else:
        wait_for_streams(world)
    raise_token(world)
    was = [shard.rows(OBJECTS) for shard in (world.source, world.target)]

    with pytest.raises(FencedOff):
        call(world.mover._ends(world.move, *world.seats, TOKEN))

    assert [shard.rows(OBJECTS) for shard in (world.source, world.target)] == was


def test_an_applier_superseded_while_it_ends_who_follows_a_slot_drops_none(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    ends = world.mover._ends(world.move, *world.seats, TOKEN)

    def superseded(*errors: type[BaseException]) -> Any:
        raise_token(world)
        return suppress(*errors)

    monkeypatch.setattr(replication_streams, "suppress", superseded)
    with pytest.raises(FencedOff):
        drop_slots(ends.target, ends.reverse, TOKEN)

    assert world.view().reverse.slot


def test_an_applier_superseded_while_it_stops_a_subscription_does_not_drop_it(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor may follow again by then, and a drop would take the slot along."""
    world.go(until=lambda act: isinstance(act, acts.Cut))
    ends = world.mover._ends(world.move, *world.seats, TOKEN)

    def then_superseded(*given: Any) -> None:
        stop_following(*given)
        raise_token(world)

    monkeypatch.setattr(replication_streams, "stop_following", then_superseded)
    with pytest.raises(FencedOff):
        drop_subscription(ends.target, ends.forward, TOKEN)

    assert is_subscribed(ends.target, ends.forward)


@pytest.mark.parametrize(
    ("after", "left"), [("drop_publication", "trigger"), ("refresh_noted", "note")]
)
def test_an_applier_superseded_while_it_sweeps_sweeps_no_further(
    world: MoveWorld, monkeypatch: pytest.MonkeyPatch, after: str, left: str
) -> None:
    world.go(until=lambda act: isinstance(act, acts.Publish))
    real = getattr(replication_sweep, after)

    def then_superseded(*given: Any) -> None:
        real(*given)
        if given[1] == f"{world.move.prefix}_fwd":
            return  # the other one's comes next
        with world.target.connect() as connection:
            connection.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])

    monkeypatch.setattr(replication_sweep, after, then_superseded)
    with pytest.raises(FencedOff):
        world.mover.remove(world.move.id, world.seats[1], TOKEN)

    found = [one.what.split()[0] for one in world.mover.sweep(world.seats[1])]
    assert left in found


def raise_token(world: MoveWorld) -> None:
    for shard in (world.source, world.target):
        with shard.connect() as connection:
            connection.execute("SELECT shardwright.check_fence(%s)", [FencingToken(TOKEN + 1)])


def test_a_finished_move_cannot_be_rolled_back_and_an_ended_one_leaves_the_guard(
    world: MoveWorld,
) -> None:
    world.go()
    world.wish(Wish.FINISH)
    world.go()
    with world.source.connect() as connection:
        assert {str(g.keys) for g in read_guards(connection).values()} == {"-80"}
        left = connection.execute("SELECT count(*) FROM accounts").fetchone()
        known = "SELECT reltuples::int FROM pg_class WHERE oid = 'accounts'::regclass"
        assert connection.execute(known).fetchone() == left, "the pruned table was vacuumed"
    with world.target.connect() as connection:
        assert {str(g.keys) for g in read_guards(connection).values()} == {"80-"}
    world.nothing_left()
