"""What would go wrong with a move is said before anything begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges import replication_preflight
from reconciler.edges.replication import LogicalMover
from reconciler.model.platform import TlsFiles
from tests.edges.replication_world import Pair, in_keys, make_world, running_pair
from tests.edges.servers import postgres_binaries


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    name = sorted(postgres_binaries())[0]
    with running_pair(postgres_binaries()[name], home / "preflight", tls) as servers:
        yield servers


OBSTACLES = [
    ("ALTER TABLE entries DROP CONSTRAINT entries_pkey", "no primary key"),
    (
        "ALTER TABLE entries DROP CONSTRAINT entries_pkey;"
        " ALTER TABLE entries ADD PRIMARY KEY (id)",
        "no part of its replica identity",
    ),
    ("ALTER TABLE entries SET UNLOGGED", "it is unlogged"),
    ("SELECT lo_create(0)", "large objects"),
    (
        "ALTER TABLE entries ADD COLUMN extra int",
        "its columns differ between the shards: extra integer is only at s0",
    ),
    (
        "CREATE TABLE lone (id int PRIMARY KEY);"
        " ALTER TABLE entries ADD COLUMN l int REFERENCES lone",
        "foreign key without the shard key: entries_l_fkey",
    ),
    (
        "CREATE TABLE lone (a bigint REFERENCES accounts (id))",
        "is referred to by a foreign key without the shard key: lone_a_fkey",
    ),
]


@pytest.mark.parametrize(("statement", "reason"), OBSTACLES)
def test_what_would_go_wrong_is_said_before_anything_begins(
    pair: Pair, statement: str, reason: str
) -> None:
    world = make_world(pair)
    with world.source.connect() as connection:
        connection.execute(statement)

    obstacles = world.mover.preflight(world.move, *world.seats)

    assert any(reason in o.reason and o.cure for o in obstacles), obstacles


def test_rows_that_are_at_the_target_already_are_an_obstacle(pair: Pair) -> None:
    world = make_world(pair)
    moved = next(i for i in range(1, 99) if in_keys(world.move.keys, i))
    with world.target.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"INSERT INTO accounts (id) VALUES ({moved})")

    (found,) = world.mover.preflight(world.move, *world.seats)

    assert (found.table, found.reason) == ("public.accounts", "s1 has rows of 80- already")


def test_a_prepared_transaction_is_an_obstacle(pair: Pair) -> None:
    world = make_world(pair)
    with world.target.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT pg_current_xact_id()")
        connection.execute("PREPARE TRANSACTION 'forgotten'")
        try:
            found = world.mover.preflight(world.move, *world.seats)
        finally:
            connection.execute("ROLLBACK PREPARED 'forgotten'")

    assert any("forgotten" in o.reason for o in found)


def test_a_shard_without_obstacles_has_none(pair: Pair) -> None:
    world = make_world(pair)
    assert world.mover.preflight(world.move, *world.seats) == ()


def test_what_the_source_alone_tells_is_said_before_there_is_a_target(pair: Pair) -> None:
    world = make_world(pair)
    source, _ = world.seats
    assert world.mover.preflight(world.move, source, None) == ()
    with world.source.connect() as connection:
        connection.execute("ALTER TABLE entries SET UNLOGGED; DROP INDEX accounts_balance")

    (found,) = world.mover.preflight(world.move, source, None)

    assert (found.table, found.passing) == ("public.entries", False)


def test_a_reference_table_that_is_not_there_is_an_obstacle(pair: Pair) -> None:
    world = make_world(pair, reference=("public.countries",))

    (found,) = world.mover.preflight(world.move, world.seats[0], None)

    assert (found.table, found.reason) == ("public.countries", "it is not at s0")


def test_a_sequence_that_cannot_be_divided_is_an_obstacle(pair: Pair) -> None:
    world = make_world(pair)
    for shard in (world.source, world.target):
        with shard.connect() as connection:
            connection.execute("CREATE SEQUENCE short AS smallint START 32766")
    world.source.rows("SELECT nextval('short')")

    for target in (None, world.seats[1]):
        (found,) = world.mover.preflight(world.move, world.seats[0], target)
        assert found.reason == (
            "sequence public.short: it has 1 values left, which are to be divided"
        )


def test_a_partition_that_is_a_foreign_table_is_an_obstacle(pair: Pair) -> None:
    schema = """
    CREATE TABLE parts (id bigint, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    """
    world = make_world(pair, schema, (("public.parts", "id"),))
    with world.source.connect() as connection:
        connection.execute(
            "CREATE TABLE elsewhere (id bigint NOT NULL, at int NOT NULL);"
            "CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER IF NOT EXISTS away"
            " FOREIGN DATA WRAPPER file_fdw; ALTER TABLE parts DROP CONSTRAINT parts_pkey;"
            "CREATE FOREIGN TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)"
            " SERVER away OPTIONS (filename '/dev/null')"
        )

    found = world.mover.preflight(world.move, world.seats[0], None)

    assert "its partition public.parts_2 is a foreign table" in [o.reason for o in found]


@pytest.mark.parametrize(
    ("full", "said"), [("shop-s0", "keeps WAL without a"), ("shop-s1", "rows")]
)
def test_a_disk_with_too_little_room_is_an_obstacle(pair: Pair, full: str, said: str) -> None:
    world = make_world(pair)
    world.mover = LogicalMover(room=lambda key: 1 << (20 if key.scope == full else 40))

    (found,) = world.mover.preflight(world.move, *world.seats)

    assert "1 MiB of disk left" in found.reason
    assert said in found.reason


def test_slots_that_are_used_up_are_an_obstacle(pair: Pair) -> None:
    world = make_world(pair)
    query = "SELECT current_setting('max_replication_slots')::int - count(*)"
    with world.source.connect() as connection:
        free = connection.execute(f"{query} FROM pg_replication_slots").fetchone()
        assert free is not None
        names = [f"taken_{n}" for n in range(free[0])]
        try:
            for name in names:
                connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
            found = world.mover.preflight(world.move, *world.seats)
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name ~ '^taken_'"
            )

    assert [(o.cure, "no slots left" in o.reason) for o in found] == [
        (
            "drop those that nobody uses (pg_replication_slots), or raise max_replication_slots",
            True,
        )
    ]


def test_a_long_transaction_only_delays(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_preflight, "LONG_TRANSACTION_S", 0)
    world = make_world(pair)
    with world.source.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT pg_current_xact_id()")
        found = world.mover.preflight(world.move, world.seats[0], None)

    assert ["long transactions" in o.reason and o.passing for o in found] == [True]


def test_a_server_without_logical_wal_is_an_obstacle(pair: Pair) -> None:
    world = make_world(pair)
    conf = pair.source.home / "data" / "postgresql.auto.conf"
    before = conf.read_text()
    try:
        conf.write_text(before + "wal_level = replica\n")
        pair.source.run("pg_ctl", "restart", "--wait", "--pgdata=data", "--log=log")
        found = world.mover.preflight(world.move, world.seats[0], None)
    finally:
        conf.write_text(before)
        pair.source.run("pg_ctl", "restart", "--wait", "--pgdata=data", "--log=log")

    assert ["wal_level = logical" in o.cure and not o.passing for o in found] == [True]
