"""A lost connection: what is surely not committed, and what nobody can know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from reconciler.sdk import (
    AsyncShards,
    KeyRefused,
    OutcomeUnknown,
    ReadLost,
    Shards,
    TransactionAborted,
    TransactionEnded,
    TransactionLost,
)
from tests.sdk.cutting_proxy import CuttingProxy, cutting_proxy
from tests.sdk.scene import Scene
from tests.sdk.writers import INSERT

KEY, STRANGER = 1, 2
"""A key of the first shard, and one of the second."""


@pytest.fixture
def proxy(scene: Scene) -> Iterator[CuttingProxy]:
    with cutting_proxy(scene.shards[0].primary.postgres_port) as proxy:
        scene.through(proxy.port)
        yield proxy


def test_the_key_is_of_the_first_shard(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        assert shards.shard_of(KEY) == "s0"


def test_a_commit_without_an_answer_is_unknown_and_not_repeated(
    scene: Scene, proxy: CuttingProxy
) -> None:
    calls = []
    with Shards(scene.config()) as shards:
        proxy.cut_after = b"COMMIT"
        with pytest.raises(OutcomeUnknown):
            shards.run(KEY, lambda tx: calls.append(tx.execute(INSERT, [KEY, "x"])))
    assert proxy.cuts == len(calls) == 1
    assert scene.rows(0) == [(KEY, "x")]


def test_a_single_statement_without_an_answer_is_unknown(scene: Scene, proxy: CuttingProxy) -> None:
    with Shards(scene.config()) as shards:
        proxy.cut_after = b"INSERT"
        with pytest.raises(OutcomeUnknown):
            shards.execute(KEY, INSERT, [KEY, "x"])
    assert scene.rows(0) == [(KEY, "x")]


def test_a_transaction_cut_before_its_commit_is_known_to_be_lost(
    scene: Scene, proxy: CuttingProxy
) -> None:
    with Shards(scene.config()) as shards:
        proxy.cut_after = b"INSERT"
        with pytest.raises(TransactionLost):
            shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "x"]))
        shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "y"]))
    assert scene.rows(0) == [(KEY, "y")]


def test_a_body_that_swallows_the_loss_is_not_taken_for_committed(
    scene: Scene, proxy: CuttingProxy
) -> None:
    def body(tx: psycopg.Connection) -> None:
        with pytest.raises(psycopg.OperationalError):
            tx.execute(INSERT, [KEY, "x"])

    with Shards(scene.config()) as shards:
        proxy.cut_after = b"INSERT"
        with pytest.raises(TransactionLost):
            shards.run(KEY, body)
    assert scene.rows(0) == []


def test_a_connection_lost_at_begin_is_replaced_in_silence(
    scene: Scene, proxy: CuttingProxy
) -> None:
    with Shards(scene.config()) as shards:
        proxy.cut_after = b"BEGIN"
        shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "x"]))
    assert proxy.cuts == 1
    assert scene.rows(0) == [(KEY, "x")]


def test_pooled_connections_of_a_server_that_restarted_are_not_lent(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        shards.execute(KEY, INSERT, [KEY, "x"])
        with scene.shards[0].connect() as session:
            session.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'shardwright-sdk'"
            )
        shards.execute(KEY, INSERT, [KEY, "y"])
    assert len(scene.rows(0)) == 2


def test_a_lost_read_is_not_called_unknown(scene: Scene, proxy: CuttingProxy) -> None:
    with Shards(scene.config()) as shards:
        proxy.cut_after = b"SELECT 1"
        with pytest.raises(ReadLost), shards.session(KEY, read_only=True) as session:
            session.execute("SELECT 1")


def test_a_failed_statement_that_the_body_swallowed_is_no_commit(scene: Scene) -> None:
    def body(tx: psycopg.Connection) -> None:
        tx.execute(INSERT, [KEY, "x"])
        with pytest.raises(psycopg.Error):
            tx.execute("SELECT 1/0")

    with Shards(scene.config()) as shards, pytest.raises(TransactionAborted):
        shards.run(KEY, body)
    assert scene.rows(0) == []


def test_a_body_that_commits_by_itself_is_never_repeated(scene: Scene) -> None:
    calls = []

    def body(tx: psycopg.Connection) -> None:
        calls.append(tx)
        tx.execute(INSERT, [KEY, "x"])
        tx.execute("COMMIT")
        tx.execute(INSERT, [STRANGER, "y"])  # another shard's key: refused

    with Shards(scene.config()) as shards:
        assert shards.shard_of(STRANGER) == "s1"
        with pytest.raises(TransactionEnded):
            shards.run(KEY, body)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, psycopg.errors.UniqueViolation])
def test_an_error_of_the_application_rolls_back_and_passes_as_it_is(
    scene: Scene, error: type[Exception]
) -> None:
    def body(tx: psycopg.Connection) -> None:
        tx.execute(INSERT, [KEY, "x"])
        if error is ZeroDivisionError:
            raise ZeroDivisionError
        tx.execute(INSERT, [KEY, "x"])

    with Shards(scene.config()) as shards, pytest.raises(error):
        shards.run(KEY, body)
    assert scene.rows(0) == []


def test_psycopg_rollback_ends_a_transaction_without_an_error(scene: Scene) -> None:
    with Shards(scene.config()) as shards, shards.transaction(KEY) as tx:
        tx.execute(INSERT, [KEY, "y"])
        raise psycopg.Rollback
    assert scene.rows(0) == []


def test_savepoints_and_isolation_levels_work_as_in_psycopg(scene: Scene) -> None:
    level = psycopg.IsolationLevel.SERIALIZABLE
    with Shards(scene.config()) as shards:
        with shards.transaction(KEY, isolation=level) as tx:
            assert tx.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
            with pytest.raises(psycopg.Error), tx.transaction():
                tx.execute("SELECT 1/0")
            tx.execute(INSERT, [KEY, "x"])
        with shards.transaction(KEY) as tx:
            assert tx.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    assert scene.rows(0) == [(KEY, "x")]


def test_async_outcomes_are_told_apart_as_well(scene: Scene, proxy: CuttingProxy) -> None:
    async def aborted(tx: psycopg.AsyncConnection) -> None:
        with pytest.raises(psycopg.Error):
            await tx.execute("SELECT 1/0")

    async def cancelled(tx: psycopg.AsyncConnection) -> None:
        await tx.execute(INSERT, [KEY, "d"])
        raise asyncio.CancelledError

    async def main() -> None:
        async with AsyncShards(scene.config()) as shards:
            proxy.cut_after = b"COMMIT"
            with pytest.raises(OutcomeUnknown):
                await shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "a"]))
            proxy.cut_after = b"INSERT"
            with pytest.raises(TransactionLost):
                await shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "b"]))
            proxy.cut_after = b"BEGIN"
            await shards.run(KEY, lambda tx: tx.execute(INSERT, [KEY, "c"]))
            with pytest.raises(TransactionAborted):
                await shards.run(KEY, aborted)
            with pytest.raises(asyncio.CancelledError):
                await shards.run(KEY, cancelled)

    asyncio.run(main())
    assert proxy.cuts == 3
    assert sorted(ident for _, ident in scene.rows(0)) == ["a", "c"]


def test_a_procedure_that_commits_inside_is_called_once_in_a_session(scene: Scene) -> None:
    with scene.shards[0].connect() as owner:
        owner.execute(
            "CREATE PROCEDURE twice(own bigint, other bigint) LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO entry VALUES (own, 'kept'); COMMIT;"
            " INSERT INTO entry VALUES (other, 'refused'); END $$"
        )
    with Shards(scene.config()) as shards:
        with pytest.raises(KeyRefused), shards.session(KEY) as session:
            session.execute("CALL twice(%s, %s)", [KEY, STRANGER])
        assert scene.rows(0) == [(KEY, "kept")]
