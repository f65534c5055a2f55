"""Schema files on real servers: applied once, by the owner, whole or not at all."""

from __future__ import annotations

import threading

import pytest
from psycopg import errors as pg

from reconciler.edges.postgres import PostgresSql
from reconciler.edges.postgres_schema import SchemaFileChanged, SchemaFileFailed
from reconciler.edges.postgres_session import LockNotObtained, PostgresTimeouts
from reconciler.model.access import FencedOff
from reconciler.model.errors import Position
from reconciler.model.names import FencingToken
from reconciler.spec.statements import NotOneStatement, TransactionInSchemaFile
from tests.edges.shard import TestShard, schema_file

TABLES = """-- two tables and a function
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'it''s; fine');
CREATE TABLE orders (id bigserial, customer_id bigint REFERENCES customers, PRIMARY KEY (customer_id, id));
CREATE FUNCTION twice(x int) RETURNS int BEGIN ATOMIC SELECT x * 2; END;
DO $$ BEGIN PERFORM twice(2); END $$;
"""  # noqa: E501


TOKEN_OF_THE_NEXT = FencingToken(200)


def names(shard: TestShard) -> list[str]:
    return [table.name for table in shard.catalog().tables]


def test_a_file_is_applied_and_seen_with_its_tables_and_columns(shard: TestShard) -> None:
    file = schema_file(TABLES, "schema/001.sql")
    shard.apply(file)

    seen = shard.catalog()

    assert [(f.name, f.sha256) for f in seen.history] == [(file.name, file.sha256)]
    assert names(shard) == ["public.customers", "public.orders"]
    assert seen.tables[0].columns == (("id", "bigint"), ("name", "text"))
    assert seen.tables[0].rows == -1
    assert seen.tables[0].bytes > 0
    owners = shard.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == [(shard.owner.role,)]


def test_a_file_that_was_applied_is_not_applied_again(shard: TestShard) -> None:
    file = schema_file("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    for _ in range(3):
        shard.apply(file)
    assert shard.rows("SELECT count(*) FROM public.t") == [(1,)]
    assert len(shard.catalog().history) == 1


def test_files_are_noted_in_the_order_they_were_applied(shard: TestShard) -> None:
    for name in ("b.sql", "a.sql", "c.sql"):
        shard.apply(schema_file(f"CREATE TABLE {name[0]} ()", name))
    assert [file.name for file in shard.catalog().history] == ["b.sql", "a.sql", "c.sql"]


def test_a_file_that_changed_after_it_was_applied_is_refused(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t ()"))
    with pytest.raises(SchemaFileChanged, match=r"PG231.*001\.sql"):
        shard.apply(schema_file("CREATE TABLE t2 ()"))
    assert names(shard) == ["public.t"]


def test_a_failing_statement_leaves_nothing_and_is_named_with_its_line(shard: TestShard) -> None:
    text = "CREATE TABLE t (id int);\n\n-- second\nINSERT INTO t\n  VALUES ('é', nope);\n"
    with pytest.raises(SchemaFileFailed, match=r"SQLSTATE 42703") as caught:
        shard.apply(schema_file(text))
    assert caught.value.where == Position("001.sql", 5, 16)
    assert names(shard) == []
    assert shard.catalog().history == ()

    shard.apply(schema_file("CREATE TABLE t (id int)"))
    assert names(shard) == ["public.t"]


def test_an_error_without_a_position_names_the_line_of_its_statement(shard: TestShard) -> None:
    text = "CREATE TABLE t (id int UNIQUE);\nINSERT INTO t VALUES (1);\n  INSERT INTO t VALUES (1)"
    with pytest.raises(SchemaFileFailed, match=r"Key \(id\)=\(1\) already exists.*23505") as caught:
        shard.apply(schema_file(text))
    assert caught.value.where == Position("001.sql", 3, 3)


def test_a_deferred_constraint_that_fails_at_the_end_is_an_error_of_the_file(
    shard: TestShard,
) -> None:
    text = (
        "CREATE TABLE a (id int PRIMARY KEY);"
        "CREATE TABLE b (id int REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO b VALUES (1)"
    )
    with pytest.raises(SchemaFileFailed, match="23503"):
        shard.apply(schema_file(text))
    assert names(shard) == []


@pytest.mark.parametrize("word", ["COMMIT", "BEGIN", "END", "ROLLBACK", "START TRANSACTION"])
def test_a_file_with_a_transaction_of_its_own_is_refused_before_it_runs(
    shard: TestShard, word: str
) -> None:
    with pytest.raises(TransactionInSchemaFile, match=rf"PG232 001\.sql:2:1 .*it says {word}"):
        shard.apply(schema_file(f"CREATE TABLE t ();\n{word};\nCREATE TABLE u ()"))
    assert names(shard) == []
    assert shard.rows("SELECT count(*) FROM shardwright.schema_history") == [(0,)]


def test_a_procedure_cannot_commit_behind_our_back(shard: TestShard) -> None:
    text = (
        "CREATE TABLE t ();\n"
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;\nCALL p();"
    )
    with pytest.raises(SchemaFileFailed, match="2D000"):
        shard.apply(schema_file(text))
    assert names(shard) == []


def test_a_file_runs_as_the_owner_and_cannot_become_more(shard: TestShard) -> None:
    for text in (
        "RESET ROLE; CREATE ROLE evil SUPERUSER",
        "RESET SESSION AUTHORIZATION; ALTER ROLE postgres PASSWORD 'x'",
        "SET ROLE postgres",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ):
        with pytest.raises(SchemaFileFailed, match=r"SQLSTATE 42501"):
            shard.apply(schema_file(text))


def test_rows_in_a_copy_are_an_error_with_a_remedy(shard: TestShard) -> None:
    text = "CREATE TABLE t (id int);\nCOPY t FROM stdin;\n1\n\\.\n"
    with pytest.raises(SchemaFileFailed, match="INSERT"):
        shard.apply(schema_file(text))
    assert names(shard) == []


CONCURRENTLY = "-- shardwright: no-transaction\nCREATE INDEX CONCURRENTLY {name} ON t (id);\n"


def test_an_index_is_built_concurrently_outside_a_transaction(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t (id int)"))
    file = schema_file(CONCURRENTLY.format(name="i"), "002.sql", transactional=False)

    shard.apply(file)
    shard.apply(file)

    assert shard.rows(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.i'::regclass"
    ) == [(True,)]
    assert [f.name for f in shard.catalog().history] == ["001.sql", "002.sql"]


def test_a_statement_that_needs_no_transaction_says_how_to_mark_its_file(shard: TestShard) -> None:
    with pytest.raises(SchemaFileFailed, match="shardwright: no-transaction"):
        shard.apply(schema_file("CREATE TABLE t (id int); CREATE INDEX CONCURRENTLY ON t (id)"))


def test_a_file_without_a_transaction_holds_exactly_one_statement(shard: TestShard) -> None:
    for text in ("", "-- only words", "SELECT 1; SELECT 2"):
        with pytest.raises(NotOneStatement, match="PG233"):
            shard.apply(schema_file(text, transactional=False))


def test_a_failed_concurrent_build_says_what_it_may_have_left_and_can_be_run_again(
    shard: TestShard,
) -> None:
    shard.apply(schema_file("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)"))
    text = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (id)"
    file = schema_file(text, "002.sql", transactional=False)
    with pytest.raises(SchemaFileFailed, match=r"23505[\s\S]*INVALID index"):
        shard.apply(file)
    assert shard.rows("SELECT state FROM shardwright.schema_history WHERE name = '002.sql'") == [
        ("running",)
    ]
    assert len(shard.catalog().history) == 1

    with shard.connect(shard.owner) as connection:
        connection.execute("TRUNCATE t; DROP INDEX i")
    shard.apply(file)

    assert [f.name for f in shard.catalog().history] == ["001.sql", "002.sql"]


def test_a_file_whose_applier_died_before_the_note_is_applied_again(shard: TestShard) -> None:
    with shard.connect() as connection:
        connection.execute(
            "INSERT INTO shardwright.schema_history (name, sha256, state)"
            " VALUES ('001.sql', 'older', 'running')"
        )
    shard.apply(schema_file("CREATE TABLE t ()"))
    assert [f.name for f in shard.catalog().history] == ["001.sql"]


def test_an_applier_that_takes_over_waits_for_the_file_in_hand(shard: TestShard) -> None:
    """The former applier's file is whole when the next one may begin."""
    gate = shard.connect()
    gate.execute("SELECT pg_advisory_lock(7)")
    slow = schema_file("CREATE TABLE t (); SELECT pg_advisory_lock(7)")
    worker = threading.Thread(target=shard.apply, args=(slow,))
    worker.start()
    waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not shard.rows(waiting):
        pass
    hasty = PostgresSql(PostgresTimeouts(lock_ms=200))

    with pytest.raises(LockNotObtained, match="PG206"):
        hasty.apply_schema(
            shard.login, shard.primary, shard.database, shard.owner,
            schema_file("CREATE TABLE u ()", "002.sql"), TOKEN_OF_THE_NEXT,
        )  # fmt: skip

    gate.execute("SELECT pg_advisory_unlock(7)")
    worker.join()
    gate.close()
    shard.apply(schema_file("CREATE TABLE u ()", "002.sql"), token=TOKEN_OF_THE_NEXT)
    assert names(shard) == ["public.t", "public.u"]
    with pytest.raises(FencedOff):
        shard.apply(schema_file("CREATE TABLE v ()", "003.sql"))


def test_a_file_of_a_former_applier_that_begins_late_is_refused(shard: TestShard) -> None:
    """Announced by token 100; by the time the owner's session begins, 200 has taken over."""
    with shard.connect() as connection:
        connection.execute("SELECT shardwright.check_fence(200)")
    with shard.connect(shard.owner) as connection, pytest.raises(pg.Error, match="took over"):
        connection.execute("SELECT shardwright.begin_schema(100)")


def test_tables_are_folded_into_their_partitioned_root(shard: TestShard) -> None:
    shard.apply(
        schema_file(
            "CREATE TABLE e (id bigint, at date) PARTITION BY RANGE (at);"
            "CREATE TABLE e1 PARTITION OF e FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"
            "CREATE TABLE e2 PARTITION OF e FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');"
            "INSERT INTO e SELECT i, date '2020-06-01' + i FROM generate_series(1, 400) i;"
            'CREATE SCHEMA "Odd.Name"; CREATE TABLE "Odd.Name"."T" (x varchar(7));'
        )
    )
    with shard.connect() as connection:
        connection.execute("ANALYZE public.e1; ANALYZE public.e2")

    seen = {table.name: table for table in shard.catalog().tables}

    assert set(seen) == {"Odd.Name.T", "public.e"}
    assert seen["public.e"].rows == 400
    assert seen["public.e"].bytes > 16_000
    assert seen["Odd.Name.T"].columns == (("x", "character varying(7)"),)


def test_looking_changes_nothing_and_cannot(shard: TestShard) -> None:
    from reconciler.edges.postgres_session import NotPrimary, Target, session, superuser_options

    target = Target(
        shard.primary, shard.database, shard.login.superuser, shard.login.tls,
        PostgresTimeouts(), "shard shop-s0",
    )  # fmt: skip
    options = superuser_options(PostgresTimeouts(), read_only=True)
    with pytest.raises(NotPrimary), session(target, options) as connection:
        connection.execute("CREATE TABLE t ()")
