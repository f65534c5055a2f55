"""Keys, tables and clients of every kind, moved between two real servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from reconciler.model.desired import KeyType
from reconciler.model.moves import CopyProgress, Wish
from reconciler.model.platform import TlsFiles
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    in_keys,
    load_accounts,
    make_world,
    running_pair,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard

VERSIONS = [name for name in sorted(postgres_binaries()) if name != "wheel-18"]


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[Pair]:
    binaries = postgres_binaries()[request.param]
    with running_pair(binaries, home / f"kinds-{request.param}", tls) as servers:
        yield servers


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_writers_of_every_isolation_level_lose_nothing(pair: Pair, isolation: str) -> None:
    world = make_world(pair)
    load_accounts(world, 500)

    with Ledger(world, 500, isolation=isolation) as ledger:
        world.go()
        ledger.wait_for(100)
        world.finish()

    ledger.check()


def test_a_stale_client_that_never_hears_of_the_new_map_loses_nothing(pair: Pair) -> None:
    world = make_world(pair)
    load_accounts(world, 500)

    stale = Ledger(world, 500, stale=True, threads=1, name="stale")
    with Ledger(world, 500) as ledger, stale:
        world.go()
        ledger.wait_for(200)

    assert stale.refused > 0
    assert stale.acknowledged
    assert stale.failures == []
    ledger.acknowledged += stale.acknowledged
    ledger.unknown += stale.unknown
    ledger.check()


@pytest.mark.parametrize(
    ("key_type", "column", "values"),
    [
        (KeyType.UUID, "uuid", [UUID(int=i * 7919) for i in range(200)]),
        (KeyType.TEXT, "text", [f"clé-{i}" for i in range(200)]),
        (KeyType.INT, "int", list(range(-100, 100))),
    ],
)
def test_keys_of_every_type_find_their_shard(
    pair: Pair, key_type: KeyType, column: str, values: list[object]
) -> None:
    schema = f"CREATE TABLE t (n int, k {column}, v text, PRIMARY KEY (n, k))"
    world = make_world(pair, schema, (("public.t", "k"),), key_type=key_type)
    with world.source.connect() as connection:
        for value in values:
            connection.execute("INSERT INTO t VALUES (1, %s, repeat('v', 3000))", [value])

    world.go()
    world.finish()

    for shard, there in ((world.source, False), (world.target, True)):
        kept = {str(k) for (k,) in shard.rows("SELECT k FROM t")}
        assert kept == {
            str(v) for v in values if in_keys(world.move.keys, v, key_type.value) is there
        }


ODD = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE odd (
  id bigint NOT NULL, part int NOT NULL, moods mood[], place point, body json, note text,
  amount numeric, twice bigint GENERATED ALWAYS AS (id * 2) STORED, gone int,
  PRIMARY KEY (id, part)) PARTITION BY RANGE (part);
CREATE TABLE odd_low PARTITION OF odd FOR VALUES FROM (0) TO (10);
CREATE TABLE odd_high PARTITION OF odd FOR VALUES FROM (10) TO (20);
ALTER TABLE odd DROP COLUMN gone;
CREATE TABLE "Odd Name" ("The Key" bigint PRIMARY KEY, "%" text);
"""
FILL = """
INSERT INTO odd SELECT i, i % 20, ARRAY['sad', 'glad']::mood[], point(i, 1), '{"a": 1}',
  (SELECT string_agg(md5((i + j)::text), '') FROM generate_series(1, 300) j), i / 7.0
  FROM generate_series(1, 400) i
"""
SUM = "SELECT id, part, moods::text, place::text, body::text, md5(note), amount, twice FROM odd"


def test_partitions_odd_types_and_odd_names_move(pair: Pair) -> None:
    world = make_world(pair, ODD, (("public.odd", "id"), ("public.Odd Name", "The Key")))
    with world.source.connect() as connection:
        connection.execute(FILL)
        connection.execute("INSERT INTO \"Odd Name\" SELECT i, '%s' FROM generate_series(1, 99) i")
    before = sorted(world.source.rows(SUM))

    world.go(until=lambda act: type(act).__name__ == "Verify")
    with world.source.connect() as connection:
        connection.execute("UPDATE odd SET amount = amount + 1, part = part WHERE id % 3 = 0")
        connection.execute("DELETE FROM odd WHERE id % 5 = 0")
    changed = sorted(world.source.rows(SUM))
    world.go()
    world.finish()

    after = world.source.rows(SUM) + world.target.rows(SUM)
    assert sorted(after) == changed != before
    assert all(in_keys(world.move.keys, row[0]) for row in world.target.rows(SUM))
    names = world.source.rows('SELECT FROM "Odd Name"') + world.target.rows(
        'SELECT FROM "Odd Name"'
    )
    assert len(names) == 99


def test_a_new_shard_gets_the_reference_tables_whole(pair: Pair) -> None:
    schema = """
    CREATE TABLE countries (code text PRIMARY KEY);
    CREATE TABLE rates (value int);
    CREATE TABLE customers (id bigint PRIMARY KEY, country text REFERENCES countries);
    INSERT INTO countries VALUES ('fr');
    """
    reference = ("public.countries", "public.rates")
    world = make_world(pair, schema, (("public.customers", "id"),), reference=reference)
    with world.source.connect() as connection:
        connection.execute("INSERT INTO countries VALUES ('de')")
        connection.execute("INSERT INTO rates VALUES (1), (2)")
        connection.execute("INSERT INTO customers SELECT i, 'de' FROM generate_series(1, 50) i")

    world.go(until=lambda act: type(act).__name__ == "Verify")
    with world.source.connect() as connection:
        connection.execute("INSERT INTO countries VALUES ('it')")
        connection.execute("UPDATE rates SET value = 3")
    world.go()

    assert sorted(world.target.rows("SELECT code FROM countries")) == [("de",), ("fr",), ("it",)]
    assert sorted(world.target.rows("SELECT value FROM rates")) == [(1,), (2,)]
    assert world.source.rows("SELECT count(*) FROM countries") == [(3,)]


def test_no_value_of_a_sequence_is_given_out_twice(pair: Pair) -> None:
    """Both sides go on for more than any margin, after the cut and after the way back."""
    schema = """
    CREATE TABLE t (id bigint PRIMARY KEY, v int GENERATED ALWAYS AS IDENTITY);
    CREATE SEQUENCE down INCREMENT -3 CACHE 10;
    CREATE SEQUENCE plain;
    CREATE TABLE narrow (id int DEFAULT nextval('plain'));
    """
    world = make_world(pair, schema, (("public.t", "id"),))
    shards, given = (world.source, world.target), dict.fromkeys(SEQUENCES, 0)
    seen: dict[str, set[int]] = {name: set() for name in SEQUENCES}

    def take(*from_: TestShard) -> None:
        for shard in from_:
            for name in SEQUENCES:
                query = f"SELECT nextval('{name}') FROM generate_series(1, 15000)"
                seen[name].update(value for (value,) in shard.rows(query))
                given[name] += 15000

    take(world.source)
    world.go(until=lambda act: type(act).__name__ == "Cut")
    take(world.source)
    world.go()
    take(*shards)
    world.wish(Wish.ROLLBACK)
    world.go()
    take(*shards)
    assert {name: len(values) for name, values in seen.items()} == given
    assert max(seen["plain"]) < 2**31, "the column that it fills is an int"
    assert max(seen["t_v_seq"]) < 2**31
    with world.source.connect() as connection:
        connection.execute("INSERT INTO t (id) VALUES (-1)")


@pytest.mark.parametrize("new", [True, False])
def test_the_blocks_that_a_plan_tells_are_those_that_the_shards_get(pair: Pair, new: bool) -> None:
    schema = "CREATE TABLE t (id bigint PRIMARY KEY);"
    schema += "CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -1"
    world = make_world(pair, schema, (("public.t", "id"),))
    world.source.rows("SELECT nextval('up'), nextval('down') FROM generate_series(1, 40)")
    source, target = world.seats

    told = world.mover.number_blocks(world.move, source, None if new else target)
    world.go(until=lambda act: type(act).__name__ == "Cut")

    query = "SELECT nextval('{0}'), CASE WHEN increment_by > 0 THEN max_value ELSE min_value END"
    query += " FROM pg_sequences WHERE sequencename = '{0}'"
    down, up = (
        tuple(shard.rows(query.format(name))[0] for shard in (world.source, world.target))
        for name in ("down", "up")
    )
    assert [(b.sequence, (b.source, b.target)) for b in told] == [
        ("public.down", down), ("public.up", up),
    ]  # fmt: skip
    assert up[0][0] == 41


def test_progress_ends_with_every_row_counted(pair: Pair) -> None:
    world = make_world(pair)
    load_accounts(world, 300)
    seen: list[CopyProgress] = []
    world.go(until=lambda act: type(act).__name__ == "Copy")

    world.mover.copy(world.move, *world.seats, TOKEN, seen.append, lambda: False)

    moved = [i for i in range(1, 301) if in_keys(world.move.keys, i)]
    assert seen[-1].rows_done == len(moved)
    assert seen[-1].bytes_done == seen[-1].bytes_total > 0


def test_a_throttled_copy_is_whole(pair: Pair) -> None:
    world = make_world(pair)
    load_accounts(world, 300)
    world.move = replace(world.move, latency_ratio_max=1.1)
    with Ledger(world, 300) as ledger:
        world.go()
        ledger.wait_for(50)
    ledger.check()


SEQUENCES = ("t_v_seq", "down", "plain")


def test_after_a_move_only_clients_that_know_the_epoch_may_update_or_delete(pair: Pair) -> None:
    world = make_world(pair)
    load_accounts(world, 100)
    world.go()
    stays = next(i for i in range(1, 100) if not in_keys(world.move.keys, i))

    statements = (
        f"UPDATE accounts SET balance = 5 WHERE id = {stays}",
        f"DELETE FROM entries WHERE account_id = {stays}",
        f"INSERT INTO accounts (id) VALUES ({stays}) ON CONFLICT (id) DO UPDATE SET balance = 6",
    )
    for epoch, allowed in ((None, False), ("7", False), ("", False), ("8", True), ("99", True)):
        for statement in statements:
            assert _may(world, statement, epoch) is allowed, (epoch, statement)
        plain = f"INSERT INTO entries (account_id, mark) VALUES ({stays}, 'e{epoch}')"
        assert _may(world, plain, epoch)


def _may(world: MoveWorld, statement: str, epoch: str | None) -> bool:
    with world.source.connect(world.source.app) as connection:
        if epoch is not None:
            connection.execute(f"SET shardwright.epoch = '{epoch}'")
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            if error.sqlstate == "PS001":
                return False
            raise
    return True
