"""Statements find their shard by key, hint or setting; or are refused with a reason."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at
from tests.sdk.scene import Scene

INSERT = "INSERT INTO entry (k, id) VALUES (%s, %s)"
HERE, THERE = key_at(0), key_at(1)


def shards_with(scene: Scene, ident: str) -> list[int]:
    return [index for index in (0, 1) if ident in {row[1] for row in scene.rows(index)}]


@pytest.mark.parametrize("prepare", [False, True])
def test_rows_go_to_the_owner_of_their_key(
    router: RunningRouter, scene: Scene, prepare: bool
) -> None:
    with router.connect() as client:
        for key, ident in ((HERE, "a"), (THERE, "b"), (HERE, "c"), (THERE, "d")):
            client.execute(INSERT, [key, ident], prepare=prepare)
        for key, idents in ((HERE, ["a", "c"]), (THERE, ["b", "d"])):
            query = "SELECT id FROM entry WHERE k = %s ORDER BY id"
            rows = client.execute(query, [key], prepare=prepare).fetchall()
            assert [row[0] for row in rows] == idents
    assert shards_with(scene, "a") == shards_with(scene, "c") == [0]
    assert shards_with(scene, "b") == shards_with(scene, "d") == [1]


def test_a_literal_key_and_binary_parameters_are_read(router: RunningRouter, scene: Scene) -> None:
    with router.connect() as client:
        client.execute(f"INSERT INTO entry (k, id) VALUES ({THERE}, 'x')")
        with client.cursor(binary=True) as cursor:
            cursor.execute("SELECT id FROM entry WHERE k = %b", [THERE])
            assert cursor.fetchall() == [("x",)]


@pytest.mark.parametrize(
    "text",
    [
        f"/* shard_key: {THERE} */ SELECT count(*) FROM entry",
        f"SELECT count(*) FROM entry /* shard_key: '{THERE}' */",
        "/* shard: s1 */ SELECT count(*) FROM entry",
    ],
)
def test_a_hint_names_the_shard(router: RunningRouter, text: str) -> None:
    with router.connect() as client:
        client.execute(INSERT, [THERE, "x"])
        assert client.execute(text).fetchall() == [(1,)]


def test_a_setting_names_the_shard_until_it_is_reset(router: RunningRouter) -> None:
    with router.connect() as client:
        client.execute(INSERT, [THERE, "x"])
        client.execute(f"SET shardwright.key = '{THERE}'")
        assert client.execute("SHOW shardwright.key").fetchall() == [(str(THERE),)]
        assert client.execute("SELECT count(*) FROM entry").fetchall() == [(1,)]
        client.execute("RESET shardwright.key")
        with pytest.raises(errors.FeatureNotSupported, match="shard_key") as refused:
            client.execute("SELECT count(*) FROM entry")
    assert refused.value.sqlstate == "0A000"


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE entry SET id = id",
        "DELETE FROM entry WHERE k = 1 OR true",
        "INSERT INTO entry VALUES (1, 'x')",
        "CREATE TABLE other (id int)",
        "SELECT * FROM entry a, entry b WHERE a.k = 1",
        "COPY entry FROM STDIN",
        "LISTEN news",
    ],
)
def test_what_has_no_key_is_refused_and_the_session_goes_on(
    router: RunningRouter, text: str
) -> None:
    with router.connect() as client:
        with pytest.raises(errors.FeatureNotSupported):
            client.execute(text)
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_reads_scatter_only_when_asked_and_only_when_rows_can_be_put_together(
    router: RunningRouter,
) -> None:
    with router.connect() as client:
        for number in range(300):
            client.execute(INSERT, [key_at(number % 2), f"{number}" * 50])
        assert len(client.execute("/* scatter: on */ SELECT * FROM entry").fetchall()) == 300
        client.execute("SET shardwright.scatter = on")
        for prepare in (False, True):
            rows = client.execute("SELECT id FROM entry", prepare=prepare)
            assert rows.statusmessage == "SELECT 300"
            assert len(rows.fetchall()) == 300
        for text in ("count(*)", "k, 1 FROM entry ORDER BY k --", "DISTINCT k"):
            with pytest.raises(errors.FeatureNotSupported, match="not possible"):
                client.execute(f"SELECT {text} FROM entry".encode())
        with pytest.raises(errors.FeatureNotSupported):
            client.execute("DELETE FROM entry")
        client.execute("SET shardwright.scatter = raw")
        assert client.execute("SELECT count(*) FROM entry").fetchall() == [(150,), (150,)]
        with pytest.raises(errors.DivisionByZero):
            client.execute("SELECT 1 / (k - k) FROM entry")
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_transaction_is_of_one_shard(router: RunningRouter, scene: Scene) -> None:
    with router.connect(autocommit=False) as client:
        client.execute(INSERT, [HERE, "a"])
        with pytest.raises(errors.FeatureNotSupported, match="transaction is of shard"):
            client.execute(INSERT, [THERE, "b"])
        with pytest.raises(errors.InFailedSqlTransaction):
            client.execute(INSERT, [HERE, "c"])
        client.rollback()
        client.execute(INSERT, [HERE, "d"])
        with pytest.raises(errors.FeatureNotSupported), client.transaction():
            client.execute(INSERT, [THERE, "e"])
        client.execute(INSERT, [HERE, "f"])
        client.commit()
    assert {row[1] for row in scene.rows(0)} == {"d", "f"}
    assert scene.rows(1) == []


def test_a_transaction_keeps_what_was_said_before_its_first_shard(router: RunningRouter) -> None:
    with router.connect() as client:
        client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        client.execute("SET LOCAL work_mem = '1234kB'")
        client.execute("SAVEPOINT one")
        with pytest.raises(errors.UniqueViolation):
            client.execute(f"INSERT INTO entry (k, id) VALUES ({THERE}, 'x'), ({THERE}, 'x')")
        client.execute("ROLLBACK TO one")
        shown = client.execute("SELECT current_setting('transaction_isolation')").fetchone()
        assert shown == ("repeatable read",)
        assert client.execute("SHOW work_mem").fetchone() == ("1234kB",)
        client.execute("SET LOCAL work_mem = '4321kB'")
        client.execute("COMMIT")
        for key in (THERE, HERE):
            client.execute(f"SET shardwright.key = '{key}'")
            assert client.execute("SHOW work_mem").fetchone() not in (("1234kB",), ("4321kB",))


def test_an_empty_transaction_touches_no_shard(router: RunningRouter) -> None:
    with router.connect() as client:
        for end in ("COMMIT", "ROLLBACK"):
            assert client.execute("BEGIN").statusmessage == "BEGIN"
            states = [client.info.transaction_status.name]
            assert client.execute(end).statusmessage == end
            assert [*states, client.info.transaction_status.name] == ["INTRANS", "IDLE"]


def test_settings_follow_the_session_to_every_shard(router: RunningRouter) -> None:
    with router.connect(options="-c work_mem=777kB", application_name="mine") as client:
        client.execute(f"SET shardwright.key = '{HERE}'")
        client.execute("SET statement_timeout = '77s'")
        client.execute("BEGIN")
        client.execute("SET lock_timeout = '66s'")
        client.execute("ROLLBACK")
        client.execute(f"SET shardwright.key = '{THERE}'")
        shown = [
            client.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("work_mem", "statement_timeout", "application_name", "lock_timeout")
        ]
    assert shown == [("777kB",), ("77s",), ("mine",), ("0",)]


def test_the_next_client_sees_nothing_of_the_one_before(router: RunningRouter) -> None:
    sessions = set()
    for _ in range(3):
        client = router.connect()
        client.execute(f"SET shardwright.key = '{HERE}'")
        assert client.execute("SHOW work_mem").fetchone() != ("888kB",)
        client.execute("SET work_mem = '888kB'")
        client.execute("CREATE TEMP TABLE mine AS SELECT 1")
        client.execute("BEGIN")
        client.execute(INSERT, [HERE, "never committed"])
        sessions.add(client.execute("SELECT pg_backend_pid()").fetchone())
        client.close()
        wait_for(router.process.idle_backends, "the reset")
    # The greeting opened one too, and either may come first.
    assert len(sessions) <= 2, "sessions at the shard are reset and lent again"
    with router.connect() as client:
        query = "SELECT * FROM entry WHERE k = %s"
        assert client.execute(query, [HERE]).fetchall() == []


def test_copy_goes_both_ways(router: RunningRouter, scene: Scene) -> None:
    with router.connect() as client:
        client.execute("/* shard: s1 */ SELECT 1")
        with client.cursor().copy("/* shard: s1 */ COPY entry FROM STDIN") as copy:
            for number in range(20_000):
                copy.write_row((THERE, f"{number}" * 20))
        with client.cursor().copy("COPY entry (id) TO STDOUT /* shard: s1 */") as copy:
            assert sum(1 for _ in copy.rows()) == 20_000
        with pytest.raises(errors.InvalidTextRepresentation):
            _copy_nonsense(client)
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert len(scene.rows(1)) == 20_000


def _copy_nonsense(client: psycopg.Connection[Any]) -> None:
    with client.cursor().copy("/* shard: s1 */ COPY entry FROM STDIN") as copy:
        for _ in range(5_000):  # long rows: the failure comes in the middle of one
            copy.write("no number\t" + "x" * 10_000 + "\n")


def _pipeline_of_two(client: psycopg.Connection[Any], flush: bool) -> None:
    """``fetchall`` asks for what was sent so far, without a Sync."""
    with client.pipeline():
        found = client.execute("SELECT id FROM entry WHERE k = %s", [HERE])
        if flush:
            found.fetchall()
        client.execute(INSERT, [THERE, "c"])


def test_a_pipeline_is_of_one_shard(router: RunningRouter, scene: Scene) -> None:
    with router.connect() as client:
        with client.pipeline():
            for number in range(50):
                client.execute(INSERT, [HERE, f"a{number}"])
        with client.pipeline() as pipeline:
            for number in range(10):
                client.execute(INSERT, [(HERE, THERE)[number % 2], f"b{number}"])
                pipeline.sync()
        for flush in (False, True):
            with pytest.raises(errors.FeatureNotSupported):
                _pipeline_of_two(client, flush)
        client.cursor().executemany(INSERT, [(HERE, f"f{number}") for number in range(100)])
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert len(scene.rows(0)) == 50 + 5 + 100
    assert len(scene.rows(1)) == 5


def test_asyncpg_works_through_it(router: RunningRouter, scene: Scene) -> None:
    async def story() -> None:
        names = {"dbname": "database", "connect_timeout": "timeout"}
        options = {names.get(n, n): v for n, v in router.options().items()}
        client: Any = await asyncpg.connect(**options)
        for number, key in enumerate((HERE, THERE) * 10):
            await client.execute("INSERT INTO entry (k, id) VALUES ($1, $2)", key, f"{number}")
        for key in (HERE, THERE, HERE):
            query = "SELECT count(*) FROM entry WHERE k = $1"
            assert await client.fetchval(query, key) == 10
        async with client.transaction(isolation="serializable"):
            found = [r async for r in client.cursor("SELECT id FROM entry WHERE k = $1", THERE)]
            assert len(found) == 10
        with pytest.raises(asyncpg.UniqueViolationError):
            await client.execute("INSERT INTO entry (k, id) VALUES ($1, '1')", THERE)
        with pytest.raises(asyncio.TimeoutError):
            await client.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert await client.fetchval("SELECT 1") == 1
        await client.close()

    asyncio.run(story())


def test_psycopg_async_works_through_it(router: RunningRouter) -> None:
    async def story() -> None:
        client = await psycopg.AsyncConnection.connect(**router.options())
        async with client:
            await client.execute(INSERT, [THERE, "x"])
            await client.commit()
            rows = await client.execute("SELECT id FROM entry WHERE k = %s", [THERE])
            assert await rows.fetchall() == [("x",)]

    asyncio.run(story())
