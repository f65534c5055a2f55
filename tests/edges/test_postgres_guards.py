"""The standing guard on real servers: it refuses every row of another shard, however it comes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from reconciler.edges import postgres_guards
from reconciler.edges.postgres_guards import ForeignRows, GuardImpossible
from reconciler.edges.postgres_session import LockNotObtained
from reconciler.model.desired import KeyType
from reconciler.model.hashing import position_of_key
from reconciler.model.keyspace import KeySet, parse_key_set
from reconciler.model.names import Epoch
from reconciler.model.observed import ObservedGuard
from tests.edges.shard import TestShard, schema_file

TABLE = ("public.t", "id")


def keys_of(where: str, count: int = 3) -> list[int]:
    """Return bigint keys whose position is in ``where``."""
    wanted = parse_key_set(where)
    found = (i for i in range(10_000) if position_of_key("bigint", str(i)) in wanted)
    return [next(found) for _ in range(count)]


OWN, FOREIGN = keys_of("-80"), keys_of("80-")
A, B, C = OWN
X = FOREIGN[0]


@pytest.fixture
def guarded(shard: TestShard) -> TestShard:
    """A shard that owns -80, with rows A and B; row X came past the guard, as by replication."""
    shard.apply(schema_file("CREATE TABLE t (id bigint PRIMARY KEY, v text)"))
    shard.guard("-80", TABLE)
    with shard.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("INSERT INTO public.t VALUES (%s), (%s), (%s)", [A, B, X])
    return shard


@pytest.mark.parametrize(
    ("row", "keys", "words"),
    [
        (X, "-80", rf"public\.t: it holds a row of key '{X}' \(id\), and this shard owns -80"),
        (None, "-80", "a row without a key"),
        (None, "-", "a row without a key"),
        (A, "none", "this shard owns no keys"),
    ],
)
def test_a_table_with_rows_of_another_shard_is_not_guarded_for_the_first_time(
    shard: TestShard, row: int | None, keys: str, words: str
) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    with shard.connect() as connection:
        connection.execute("INSERT INTO public.t VALUES (%s)", [row])

    with pytest.raises(ForeignRows, match=words):
        shard.guard(keys, TABLE)

    assert shard.catalog().guards == ()


def test_a_table_with_only_its_own_rows_is_guarded(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    with shard.connect() as connection:
        connection.execute("INSERT INTO public.t VALUES (%s), (%s)", [A, B])

    shard.guard("-80", TABLE)

    assert len(shard.catalog().guards) == 1


def test_a_foreign_row_that_came_in_before_the_guard_stood_is_seen_behind_it(
    shard: TestShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    look = postgres_guards._refuse_foreign_rows
    looks: list[str] = []

    def look_and_write(*arguments: Any) -> None:
        look(*arguments)
        looks.append("")
        if len(looks) == 1:
            write(shard, f"INSERT INTO t VALUES ({X})")

    monkeypatch.setattr(postgres_guards, "_refuse_foreign_rows", look_and_write)
    with pytest.raises(ForeignRows):
        shard.guard("-80", TABLE)

    assert shard.catalog().guards == ()
    write(shard, f"INSERT INTO t VALUES ({X})")


def test_a_table_sharded_again_is_looked_at_again(guarded: TestShard) -> None:
    guarded.apply(schema_file("CREATE TABLE u (id bigint)", "002.sql"))
    guarded.guard("-80", ("public.u", "id"))

    with pytest.raises(ForeignRows):
        guarded.guard("-80", TABLE, ("public.u", "id"))


def write(shard: TestShard, statement: str) -> None:
    with shard.connect(shard.app) as connection:
        connection.execute(statement)


def test_rows_of_the_shard_itself_pass(guarded: TestShard) -> None:
    for statement in (
        f"INSERT INTO t VALUES ({C}, 'c')",
        f"UPDATE t SET v = 'x' WHERE id = {A}",
        f"INSERT INTO t VALUES ({A}) ON CONFLICT (id) DO UPDATE SET v = 'y'",
        f"DELETE FROM t WHERE id = {C}",
        f"UPDATE t SET id = {C} WHERE id = {A}",
    ):
        write(guarded, statement)


MERGE = f"""
MERGE INTO t USING (VALUES ({X}, 'm')) s (id, v) ON t.id = s.id
 WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)
"""


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO t VALUES ({FOREIGN[1]}, 'x')",
        f"INSERT INTO t SELECT {FOREIGN[1]}",
        f"INSERT INTO t VALUES ({C}), ({FOREIGN[1]})",
        f"UPDATE t SET v = 'x' WHERE id = {X}",
        f"UPDATE t SET id = {FOREIGN[1]} WHERE id = {A}",
        f"UPDATE t SET id = {C} WHERE id = {X}",
        "UPDATE t SET v = 'x'",
        f"DELETE FROM t WHERE id = {X}",
        "DELETE FROM t",
        f"INSERT INTO t VALUES ({FOREIGN[1]}) ON CONFLICT DO NOTHING",
        f"INSERT INTO t VALUES ({X}) ON CONFLICT (id) DO UPDATE SET v = 'y'",
        MERGE,
        MERGE.replace(str(X), str(FOREIGN[2])),
        f"WITH d AS (DELETE FROM t WHERE id = {X} RETURNING 1) SELECT * FROM d",
    ],
)
def test_a_row_of_another_shard_is_refused(guarded: TestShard, statement: str) -> None:
    before = guarded.rows("SELECT * FROM public.t ORDER BY id")
    with pytest.raises(psycopg.Error, match="does not own that key") as caught:
        write(guarded, statement)
    assert caught.value.sqlstate == "PS001"
    assert caught.value.diag.message_hint == "reload routes"
    assert guarded.rows("SELECT * FROM public.t ORDER BY id") == before


def test_a_copy_of_a_foreign_row_is_refused(guarded: TestShard) -> None:
    with guarded.connect(guarded.app) as connection:
        cursor = connection.cursor()
        with pytest.raises(psycopg.Error) as caught, cursor.copy("COPY t (id) FROM STDIN") as copy:
            copy.write(f"{C}\n{FOREIGN[1]}\n")
    assert caught.value.sqlstate == "PS001"


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_a_snapshot_older_than_the_guard_is_refused(
    shard: TestShard, isolation: str
) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint PRIMARY KEY, v text)"))
    with shard.connect(shard.app) as old:
        old.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        old.execute("SELECT 1 FROM pg_class LIMIT 1")
        shard.guard("-80", TABLE)
        with pytest.raises(psycopg.Error) as caught:
            old.execute(f"INSERT INTO t VALUES ({X})")
    assert caught.value.sqlstate == "PS001"


def test_a_guard_is_seen_with_its_keys_column_and_epoch(guarded: TestShard) -> None:
    expected = ObservedGuard("public.t", "id", parse_key_set("-80"), Epoch(1))
    assert guarded.catalog().guards == (expected,)


def test_a_guard_that_says_this_already_is_not_touched(guarded: TestShard) -> None:
    look = "SELECT oid, xmin::text FROM pg_trigger ORDER BY oid"
    before = guarded.rows(look)
    with guarded.connect(guarded.app) as writer:
        writer.execute("BEGIN")
        writer.execute(f"INSERT INTO t VALUES ({C})")
        guarded.guard("-80", TABLE)  # would wait for the writer if it took a lock
        writer.execute("COMMIT")
    assert guarded.rows(look) == before


def test_a_guard_follows_new_keys_and_a_new_epoch(guarded: TestShard) -> None:
    guarded.guard("-20,80-", TABLE, epoch=2)

    assert guarded.catalog().guards == (
        ObservedGuard("public.t", "id", parse_key_set("-20,80-"), Epoch(2)),
    )
    low, middle = keys_of("-20", 5)[-1], keys_of("20-80", 5)[-1]
    write(guarded, f"INSERT INTO t VALUES ({low}), ({FOREIGN[1]})")
    with pytest.raises(psycopg.Error, match="epoch 2"):
        write(guarded, f"INSERT INTO t VALUES ({middle})")


def test_a_shard_without_keys_refuses_everything(guarded: TestShard) -> None:
    guarded.guard(KeySet(), TABLE)
    for statement in (f"INSERT INTO t VALUES ({C})", f"DELETE FROM t WHERE id = {A}"):
        with pytest.raises(psycopg.Error, match="does not own"):
            write(guarded, statement)
    assert guarded.catalog().guards[0].keys == KeySet()


@pytest.mark.parametrize("keys", ["-", "-80"])
def test_a_null_key_is_refused_also_by_the_owner_of_everything(shard: TestShard, keys: str) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    shard.guard(keys, TABLE)
    with pytest.raises(psycopg.Error, match="does not own"):
        write(shard, "INSERT INTO t VALUES (NULL)")
    write(shard, f"INSERT INTO t VALUES ({A})")


def test_every_key_is_taken_by_exactly_one_of_two_neighbours(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    half, rest = parse_key_set("-3a5c"), parse_key_set("3a5c-")
    shard.guard(half, TABLE)
    taken = {key: int(_is_taken(shard, key)) for key in range(60)}
    shard.guard(rest, TABLE)
    for key in taken:
        taken[key] += int(_is_taken(shard, key))
    assert set(taken.values()) == {1}


def _is_taken(shard: TestShard, key: int) -> bool:
    try:
        write(shard, f"INSERT INTO t VALUES ({key})")
    except psycopg.Error:
        return False
    return True


CASES: list[tuple[KeyType, str, list[str]]] = [
    (KeyType.INT, "int", [str(i) for i in range(-20, 20)]),
    (KeyType.INT, "bigint", [str(i) for i in range(-20, 20)]),
    (KeyType.BIGINT, "int", [str(i) for i in range(-20, 20)]),
    (KeyType.TEXT, "text", [f"é{i}" for i in range(40)]),
    (KeyType.TEXT, "varchar(9)", [f"漢{i}" for i in range(40)]),
    (KeyType.UUID, "uuid", [str(UUID(int=i << 64 | i)) for i in range(40)]),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{k}-in-{c}" for k, c, _ in CASES])
def test_the_guard_and_the_router_agree_on_every_key_of_every_type(
    shard: TestShard, case: tuple[KeyType, str, list[str]]
) -> None:
    key_type, column, values = case
    keys = parse_key_set("20-60,a0-b8")
    shard.apply(schema_file(f'CREATE TABLE "T" ("Key" {column})'))
    shard.guard(keys, ("public.T", "Key"), key_type=key_type)
    accepted = []
    with shard.connect(shard.app) as connection:
        for value in values:
            try:
                connection.execute(f'INSERT INTO "T" VALUES (%s::{column})', [value])
                accepted.append(value)
            except psycopg.Error as error:
                if error.sqlstate != "PS001":
                    raise

    assert accepted == [v for v in values if position_of_key(key_type, v) in keys]
    assert 0 < len(accepted) < len(values)


@pytest.mark.parametrize(
    "damage",
    [
        'DROP TRIGGER "~shardwright_guard_u" ON public.t',
        'ALTER TABLE public.t DISABLE TRIGGER "~shardwright_guard_i"',
        "ALTER TABLE public.t DISABLE TRIGGER ALL",
        'ALTER TABLE public.t ENABLE REPLICA TRIGGER "~shardwright_guard_d"',
        'CREATE OR REPLACE TRIGGER "~shardwright_guard_i" BEFORE INSERT ON public.t FOR EACH ROW'
        " WHEN (false) EXECUTE FUNCTION shardwright.reject('2', '-80', 'id')",
        'CREATE OR REPLACE TRIGGER "~shardwright_guard_u" BEFORE UPDATE OF v ON public.t'
        " FOR EACH ROW WHEN (false) EXECUTE FUNCTION shardwright.reject('1', '-80', 'id')",
        'CREATE OR REPLACE TRIGGER "~shardwright_guard_d" BEFORE INSERT ON public.t FOR EACH ROW'
        " WHEN (false) EXECUTE FUNCTION shardwright.reject('1', '-80', 'id')",
    ],
)
def test_a_damaged_guard_is_no_guard_and_is_mended(guarded: TestShard, damage: str) -> None:
    with guarded.connect() as connection:
        connection.execute(damage)
    assert guarded.catalog().guards == ()

    guarded.guard("-80", TABLE)

    assert len(guarded.catalog().guards) == 1
    for statement in (
        f"INSERT INTO t VALUES ({FOREIGN[1]})",
        f"UPDATE t SET v = 'x' WHERE id = {X}",
        f"DELETE FROM t WHERE id = {X}",
    ):
        with pytest.raises(psycopg.Error, match="does not own"):
            write(guarded, statement)


def test_a_partitioned_tables_guard_stands_on_every_partition(shard: TestShard) -> None:
    shard.apply(
        schema_file(
            "CREATE TABLE t (id bigint, at int) PARTITION BY RANGE (at);"
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
            "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);"
        )
    )
    shard.guard("-80", TABLE)
    assert [guard.table for guard in shard.catalog().guards] == ["public.t"]
    shard.apply(
        schema_file("CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)", "002.sql")
    )
    for table, at in (("t", 5), ("t1", 5), ("t2", 15), ("t3", 25), ("t", 25)):
        with pytest.raises(psycopg.Error, match="does not own"):
            write(shard, f"INSERT INTO {table} VALUES ({X}, {at})")
    write(shard, f"INSERT INTO t VALUES ({A}, 5)")
    write(shard, f"UPDATE t SET at = 15 WHERE id = {A}")

    with shard.connect(shard.owner) as connection:
        connection.execute('ALTER TABLE t2 DISABLE TRIGGER "~shardwright_guard_i"')
    assert shard.catalog().guards == ()
    shard.guard("-80", TABLE, epoch=2)
    assert [guard.epoch for guard in shard.catalog().guards] == [2]
    with pytest.raises(psycopg.Error, match="does not own"):
        write(shard, f"INSERT INTO t2 VALUES ({X}, 15)")


def test_a_generated_key_is_guarded_too(shard: TestShard) -> None:
    shard.apply(
        schema_file(
            "CREATE TABLE t (doc jsonb,"
            " id bigint GENERATED ALWAYS AS ((doc->>'id')::bigint) STORED)"
        )
    )
    shard.guard("-80", TABLE)
    assert len(shard.catalog().guards) == 1
    write(shard, f"""INSERT INTO t VALUES ('{{"id": {A}}}')""")
    with pytest.raises(psycopg.Error, match="does not own"):
        write(shard, f"""INSERT INTO t VALUES ('{{"id": {X}}}')""")
    with pytest.raises(psycopg.Error, match="does not own"):
        write(shard, f"""UPDATE t SET doc = '{{"id": {X}}}'""")


def test_an_application_trigger_that_changes_the_key_is_seen_through(shard: TestShard) -> None:
    shard.apply(
        schema_file(
            "CREATE TABLE t (id bigint);"
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN NEW.id := {X}; RETURN NEW; END $$;"
            "CREATE TRIGGER zz BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();"
        )
    )
    shard.guard("-80", TABLE)
    with pytest.raises(psycopg.Error, match="does not own"):
        write(shard, f"INSERT INTO t VALUES ({A})")


def test_a_table_that_is_no_longer_sharded_loses_its_guard(guarded: TestShard) -> None:
    guarded.apply(schema_file("CREATE TABLE u (id bigint)", "002.sql"))
    guarded.guard("-80", ("public.u", "id"))
    assert [guard.table for guard in guarded.catalog().guards] == ["public.u"]
    write(guarded, f"INSERT INTO t VALUES ({FOREIGN[1]})")


@pytest.mark.parametrize(
    ("create", "table", "words"),
    [
        ("CREATE TABLE u ()", "public.t", "no such table"),
        ("CREATE TABLE t (k int)", "public.t", "no column id"),
        ("CREATE TABLE t (id text)", "public.t", "is text; sharding type bigint takes int4, int8"),
        ("CREATE TABLE t (id numeric)", "public.t", "is numeric"),
        ("CREATE VIEW t AS SELECT 1::bigint AS id", "public.t", "no such table"),
    ],
)
def test_a_table_that_cannot_be_guarded_is_named(
    shard: TestShard, create: str, table: str, words: str
) -> None:
    shard.apply(schema_file(create))
    with pytest.raises(GuardImpossible, match=rf"PG220.*{words}"):
        shard.guard("-80", (table, "id"))


def test_a_writer_that_stays_is_named_as_a_lock_and_writers_are_not_held_up(
    guarded: TestShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_guards, "ATTEMPTS_MAX", 2)
    monkeypatch.setattr(postgres_guards, "PAUSE_S", 0.01)
    with guarded.connect(guarded.app) as writer:
        writer.execute("BEGIN")
        writer.execute(f"INSERT INTO t VALUES ({C})")
        with pytest.raises(LockNotObtained, match=r"PG206.*table public\.t.*2 attempts") as caught:
            guarded.guard("-40", TABLE)
        writer.execute("COMMIT")
    assert caught.value.transient

    guarded.guard("-40", TABLE)
    assert guarded.catalog().guards[0].keys == parse_key_set("-40")


def test_replicated_rows_pass_the_guard(guarded: TestShard) -> None:
    """Resharding copies rows in as a replica; the guard must be an ORIGIN trigger."""
    with guarded.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"INSERT INTO public.t VALUES ({FOREIGN[1]})")
