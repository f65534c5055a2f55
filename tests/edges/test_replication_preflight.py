"""What would go wrong with a move is said before anything begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    ("GRANT TRUNCATE ON entries TO PUBLIC", "PUBLIC may TRUNCATE it"),
    ("ALTER TABLE entries ADD COLUMN extra int", "its columns differ between the shards: extra"),
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
