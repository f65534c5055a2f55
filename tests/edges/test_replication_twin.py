"""A twin of a source put right, and when the target may be given up for it, on real servers.

The twin is made by hand: what a base backup would bring, on the server of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from reconciler.edges import replication_twin
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_copy import CopyStopped
from reconciler.edges.replication_ends import DiskShort, Ends, Limits, NotReady, install
from reconciler.edges.replication_guards import GuardsForbid, read_guards
from reconciler.edges.replication_seed import _note_whole, _position, _refuse_loss, seed_rows
from reconciler.edges.replication_seed_facts import SeedRefused
from reconciler.edges.replication_twin import Seed, put_right
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress
from reconciler.model.names import FencingToken, ScopeKey
from reconciler.model.platform import Credential, Endpoint, TlsFiles
from tests.edges.replication_world import MoveWorld, Pair, in_keys, make_world, running_pair
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard, schema_file

TABLES = (("public.accounts", "id"), ("public.loose", "id"))
SCHEMA = """
CREATE TABLE accounts (id bigint PRIMARY KEY, note text);
CREATE TABLE loose (id bigint, account bigint REFERENCES accounts (id));
"""
OTHER = "m0000aaaa"
SEED = Seed("the_slot", "0/123", "00000007", "5")
ROWS = 200


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "twin", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    world = make_world(pair, SCHEMA, TABLES, reference=("public.countries",))
    world.mover = LogicalMover(Limits(prune_pages=1))
    ends = ends_of(world)
    for at in (ends.source, ends.target):
        install(at, TOKEN)
    return world


@pytest.fixture
def twin(world: MoveWorld) -> Iterator[TestShard]:
    """The target's database as the source's physical copy: it accepts what the source does."""
    shard = world.target
    shard.apply(schema_file("CREATE TABLE countries (code text)", "002.sql"))
    shard.guard("-", *TABLES, epoch=7)
    with shard.connect() as connection:
        connection.execute(
            "SET session_replication_role = replica;"
            f"INSERT INTO accounts SELECT i, repeat('x', 500) FROM generate_series(1, {ROWS}) i;"
            "INSERT INTO loose SELECT i, i FROM generate_series(1, 20) i;"
            "INSERT INTO loose VALUES (NULL, 1); INSERT INTO countries VALUES ('is');"
            "SELECT setval('shardwright.epoch', 7);"
            f"INSERT INTO shardwright.moved (move_id) VALUES ('{OTHER}'), ('{world.move.id}');"
            f"INSERT INTO shardwright.move_ddl VALUES ('{OTHER}', 1, '', '');"
            "INSERT INTO shardwright.beat VALUES ('lane', 1);"
            f"CREATE PUBLICATION shardwright_{OTHER}_fwd; CREATE PUBLICATION theirs;"
            f'CREATE TRIGGER "~shardwright_{OTHER}_truncate" BEFORE TRUNCATE ON accounts'
            f" EXECUTE FUNCTION shardwright.reject_held('{OTHER}');"
            f'CREATE TRIGGER "~shardwright_{world.move.id}_truncate" BEFORE TRUNCATE ON accounts'
            f" EXECUTE FUNCTION shardwright.reject_held('{world.move.id}')"
        )
    with shard.connect_to_maintenance() as elsewhere, shard.connect() as here:
        for number, connection in enumerate((here, elsewhere)):
            follow(connection, f"shardwright_{OTHER}_{number}")
            connection.execute(f"CREATE TABLE held_{number} (); BEGIN; LOCK TABLE held_{number}")
            connection.execute(f"PREPARE TRANSACTION 'of {shard.database} {number}'")
        try:
            yield shard
        finally:
            for connection in (here, elsewhere):
                forget(connection, shard)
            elsewhere.execute("DROP TABLE IF EXISTS held_1")


def follow(connection: psycopg.Connection, name: str) -> None:
    """Make a subscription that runs, of a publisher that is not there."""
    connection.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p"
        " WITH (connect = false, slot_name = 'of_the_source')"
    )
    connection.execute(f"ALTER SUBSCRIPTION {name} ENABLE")


def forget(connection: psycopg.Connection, shard: TestShard) -> None:
    mine = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    names = f"SELECT subname FROM pg_subscription WHERE subdbid = {mine}"
    for (name,) in connection.execute(names).fetchall():
        connection.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
        connection.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        connection.execute(f"DROP SUBSCRIPTION {name}")
    held = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    for (gid,) in connection.execute(held).fetchall():
        connection.execute(f"ROLLBACK PREPARED '{gid}'")


def ends_of(world: MoveWorld, token: int = TOKEN) -> Ends:
    return world.mover._ends(world.move, *world.seats, FencingToken(token))


def clone_of(world: MoveWorld) -> Server:
    return replace(ends_of(world).target, name="the copy")


def logins(shard: TestShard) -> tuple[Credential, ...]:
    return (Credential(shard.app.role, "another"), Credential("nobody_there", "x"))


def right(world: MoveWorld, stopping: Callable[[], bool] = lambda: False) -> None:
    put_right(ends_of(world), clone_of(world), SEED, logins(world.target), stopping)


def noted(shard: TestShard) -> list[object]:
    return [row[0] for row in shard.rows("SELECT move_id FROM shardwright.moved ORDER BY 1")]


def count(shard: TestShard) -> int:
    return int(shard.rows("SELECT count(*) FROM accounts")[0][0])


# Put right ---------------------------------------------------------------------------------------


def test_a_twin_becomes_a_shard_that_owns_nothing_follows_nobody_and_has_the_rows_that_move(
    world: MoveWorld, twin: TestShard
) -> None:
    right(world)

    moving = sum(in_keys(world.move.keys, i) for i in range(1, ROWS + 1))
    assert 0 < count(twin) == moving < ROWS
    assert twin.rows("SELECT count(*) FROM loose WHERE id IS NULL") == [(0,)]
    assert twin.rows("SELECT code FROM countries") == [("is",)]
    with twin.connect() as connection:
        guards = read_guards(connection).values()
    assert {(guard.table, str(guard.keys), guard.epoch) for guard in guards} == {
        (table, "none", 7) for table, _ in TABLES
    }
    mine = f"shop{'%'}"
    assert twin.rows(f"SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'of {mine}'") == []
    assert twin.rows(f"SELECT subname FROM pg_subscription WHERE subname ~ '{OTHER}'") == []
    assert twin.rows("SELECT pubname FROM pg_publication") == [("theirs",)]
    assert twin.rows("SELECT tgname FROM pg_trigger WHERE tgname ~ '_truncate$'") == [
        (f"~shardwright_{world.move.id}_truncate",)
    ]


def test_a_twin_keeps_no_note_but_its_own_and_takes_the_logins_of_the_target(
    world: MoveWorld, twin: TestShard
) -> None:
    right(world)

    assert twin.rows(
        "SELECT move_id, begun, slot, seeded, lsn::text, source_timeline FROM shardwright.moved"
    ) == [(world.move.id, True, "", "the_slot", "0/123", "00000007")]
    assert twin.rows("SELECT count(*) FROM shardwright.beat") == [(0,)]
    assert twin.rows("SELECT count(*) FROM shardwright.move_ddl") == [(0,)]
    assert twin.rows("SELECT is_called FROM shardwright.epoch") == [(False,)]
    assert twin.rows("SELECT password_generation FROM shardwright.meta") == [(5,)]
    with twin.connect(logins(twin)[0]):
        pass
    with pytest.raises(psycopg.OperationalError):
        twin.connect(twin.app)


def test_a_twin_with_rows_of_nobody_is_left_as_it_is(world: MoveWorld, twin: TestShard) -> None:
    with twin.connect() as connection:
        connection.execute("CREATE TABLE outbox AS SELECT 1 AS id")

    with pytest.raises(SeedRefused, match=r"rows of public\.outbox came along"):
        right(world)

    assert count(twin) == ROWS
    assert OTHER in noted(twin)


def test_a_twin_that_accepts_the_keys_loses_no_row(
    world: MoveWorld, twin: TestShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it were the source itself that was reached."""
    monkeypatch.setattr(replication_twin, "_refuse_everything", lambda *_: None)

    with pytest.raises(GuardsForbid, match="rows are not deleted"):
        right(world)

    assert count(twin) == ROWS


def test_a_twin_whose_copy_is_stopped_is_noted_by_nobody(world: MoveWorld, twin: TestShard) -> None:
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(len(asked))
        return len(asked) > 2

    with pytest.raises(CopyStopped):
        right(world, stopping)

    assert sum(in_keys(world.move.keys, i) for i in range(1, ROWS + 1)) < count(twin)
    assert OTHER in noted(twin)
    with twin.connect(twin.app):
        pass


# The target, until it is given up ----------------------------------------------------------------


def test_a_target_that_came_to_own_keys_is_not_given_up(world: MoveWorld) -> None:
    """What it serves would be gone; no row need be there for that."""
    ends = ends_of(world)
    _refuse_loss(ends)
    world.target.guard("00-01", TABLES[1], epoch=7)

    with pytest.raises(SeedRefused, match=r"rows of public\.loose of s1 would be lost"):
        _refuse_loss(ends)


def test_a_copy_is_whole_only_as_the_one_that_is_noted_and_by_its_own_applier(
    world: MoveWorld,
) -> None:
    with world.target.connect() as connection:
        connection.execute(
            "INSERT INTO shardwright.moved (move_id, seeded) VALUES (%s, 'a')", [world.move.id]
        )
        with pytest.raises(NotReady, match="another copy"):
            _note_whole(ends_of(world), "b")
        connection.execute("SELECT shardwright.check_fence(%s)", [TOKEN + 1])
        with pytest.raises(FencedOff):
            _note_whole(ends_of(world), "a")
        assert world.target.rows("SELECT slot FROM shardwright.moved") == [("",)]

        _note_whole(ends_of(world, TOKEN + 1), "a")
    assert world.target.rows("SELECT slot FROM shardwright.moved") == [("a",)]


def test_a_copy_recovers_to_a_position_behind_which_something_is_on_the_disk(
    world: MoveWorld,
) -> None:
    """Else recovery would wait there for a source that is idle."""
    position = _position(ends_of(world).source)

    behind = f"SELECT pg_current_wal_flush_lsn() > '{position}'"
    assert world.source.rows(behind) == [(True,)]


class CopyDied(ReconcilerError):
    """Nothing recovers any more."""

    code = "XX001"


class Dying:
    """A platform whose copies die; it has none of a target's data in its hands."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.done: list[str] = []

    def take(
        self,
        target: ScopeKey,
        source: ScopeKey,
        at: Endpoint,
        name: str,
        pace: Callable[[int], None],
    ) -> None:
        self.done.append("take")
        pace(self.size)

    def serve(
        self, target: ScopeKey, source: ScopeKey, at: Endpoint, name: str, until: str
    ) -> tuple[Endpoint, Credential]:
        self.done.append("serve")
        return replace(at, postgres_port=1), Credential("postgres", "x")

    def check_alive(self, target: ScopeKey, name: str) -> None:
        raise CopyDied(name, "it ended")

    def close(self, target: ScopeKey, name: str) -> None:
        self.done.append("close")

    def logins(self, target: ScopeKey) -> tuple[Credential, ...]:
        return ()

    def put_in_place(self, target: ScopeKey, name: str) -> Endpoint:
        raise AssertionError(name)

    def discard(self, target: ScopeKey) -> None:
        self.done.append("discard")

    def left(self, target: ScopeKey) -> tuple[str, ...]:
        return ()


def seed(world: MoveWorld, clones: Dying, stopping: Callable[[], bool] = lambda: False) -> None:
    told: list[CopyProgress] = []
    seed_rows(ends_of(world), clones, told.append, stopping)


def test_a_copy_whose_server_died_while_it_recovered_is_not_waited_for(world: MoveWorld) -> None:
    clones = Dying()
    with pytest.raises(CopyDied):
        seed(world, clones)
    assert clones.done == ["take", "serve"]


def test_a_copy_in_place_counts_until_its_slot_was_read(world: MoveWorld) -> None:
    """A target that failed over may lack what it had confirmed, and that never comes again."""
    clones, slot = Dying(), ends_of(world).new_slot()
    with world.source.connect() as source, world.target.connect() as target:
        source.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        query = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ((lsn,),) = world.source.rows(query)
        values = [world.move.id, slot, lsn]
        target.execute(
            "INSERT INTO shardwright.moved (move_id, seeded, lsn) VALUES (%s, %s, %s)", values
        )

        seed(world, clones)
        assert (clones.done, world.view().copied) == ([], slot)

        target.execute("UPDATE shardwright.moved SET slot = ''")
        source.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        source.execute(f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")
        with pytest.raises(CopyDied):
            seed(world, clones)
        assert clones.done == ["take", "serve"]
        assert world.target.rows("SELECT slot, seeded FROM shardwright.moved") == [("", "")]
        assert slot not in [
            name for (name,) in world.source.rows("SELECT slot_name FROM pg_replication_slots")
        ]


def test_a_copy_is_stopped_while_its_bytes_come(world: MoveWorld) -> None:
    clones = Dying(1)
    with pytest.raises(CopyStopped, match="while the shard was copied"):
        seed(world, clones, lambda: True)
    assert clones.done == ["take"]


@pytest.mark.parametrize("later", [False, True])
def test_a_copy_that_finds_too_little_disk_is_given_up(world: MoveWorld, later: bool) -> None:
    """Before it begins, and while its bytes come: it grows with what is written meanwhile."""
    asked: list[ScopeKey] = []

    def room(scope: ScopeKey) -> int:
        asked.append(scope)
        return 1 << 50 if later and len(asked) <= 2 else 0

    world.mover = LogicalMover(room=room)
    clones = Dying(1)
    with pytest.raises(DiskShort):
        seed(world, clones)
    assert clones.done == (["take"] if later else [])
