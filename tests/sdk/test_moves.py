"""Keys move while clients write: they wait and go on, nothing is lost and nothing doubled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from uuid import UUID

import psycopg
import pytest

from reconciler.edges.replication import LogicalMover
from reconciler.model.desired import KeyType, ShardedTable
from reconciler.sdk import AsyncShards, FenceTimeout, KeyRefused, Limits, Shards
from reconciler.sdk.etcd import EtcdReader, Stored
from reconciler.sdk.routes import Key, position_of
from tests.edges.replication_world import seat
from tests.edges.shard import TOKEN
from tests.local_home import DEADLINE_S, wait_for
from tests.sdk.scene import MOVED, TABLE, Scene
from tests.sdk.writers import INSERT, WRITER_KINDS, AsyncWriters, SyncWriters
from tests.workflow.move_world import MOVE

KEYS: dict[KeyType, list[Key]] = {
    KeyType.BIGINT: [n * 7_000_000_001 - (1 << 62) for n in range(200)],
    KeyType.INT: [n * 1_001 - 100_000 for n in range(200)],
    KeyType.TEXT: [f"kunde-{n} é漢🙂" for n in range(200)],
    KeyType.UUID: [
        UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128)) for n in range(200)
    ],
}


def moved_key(kind: KeyType = KeyType.BIGINT) -> Key:
    return next(key for key in KEYS[kind] if position_of(kind, key) in MOVED)


@pytest.mark.parametrize("writers", WRITER_KINDS)
@pytest.mark.parametrize("key_type", list(KeyType))
def test_writers_wait_out_a_move_and_lose_nothing(
    scene: Scene, key_type: KeyType, writers: type[SyncWriters | AsyncWriters]
) -> None:
    with writers(scene, KEYS[key_type]) as book:
        book.await_more()
        scene.fence()
        book_before = len(book.acknowledged)
        scene.open_target()
        scene.switch()
        book.await_more(400)
    book.check(scene.owned_rows())
    assert not book.unknown
    assert len(book.acknowledged) > book_before
    assert scene.rows(1, MOVED), "the moved keys are written at their new owner"


@pytest.mark.parametrize("writers", WRITER_KINDS)
def test_writers_go_on_when_a_cut_backs_out(
    scene: Scene, writers: type[SyncWriters | AsyncWriters]
) -> None:
    with writers(scene, [moved_key()]) as book:
        book.await_more()
        scene.fence()
        scene.guard(0, scene.map.owners[0].keys, epoch=1)
        book.await_more()
    book.check(scene.owned_rows())
    assert not book.unknown


def test_a_client_whose_watch_is_late_reads_the_map_itself(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def silent(*_: object) -> Iterator[Stored]:
        over.wait(DEADLINE_S)
        return iter(())

    monkeypatch.setattr(EtcdReader, "watch", silent)
    with Shards(scene.config()) as shards:
        shards.execute(moved_key(), INSERT, [moved_key(), "before"])
        scene.cut()
        assert shards.epoch == 1
        shards.execute(moved_key(), INSERT, [moved_key(), "after"])
        assert shards.epoch == 2
        over.set()
    assert {ident for _, ident in scene.rows(1)} == {"before", "after"}


def test_a_session_is_told_the_epoch_it_is_routed_by(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        key = moved_key()
        scene.require_epoch(0, 1)
        shards.execute(key, INSERT, [key, "one"])
        scene.require_epoch(0, 2)
        with pytest.raises(KeyRefused), shards.transaction(key) as tx:
            tx.execute("DELETE FROM entry WHERE id = 'elsewhere'")
        scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
        wait_for(lambda: shards.epoch == 2, "the new map")
        with shards.transaction(key) as tx:
            assert tx.execute("SHOW shardwright.epoch").fetchone() == ("2",)
            tx.execute("DELETE FROM entry WHERE id = 'elsewhere'")


def born_elsewhere(scene: Scene, key: Key) -> None:
    """Let the keys move while a client waits; its row was never at the shard that it waits for."""
    scene.require_epoch(0, 2)
    scene.cut()
    with scene.shards[1].connect() as session:
        session.execute("INSERT INTO entry VALUES (%s, 'born there')", [key])


RENAME = "UPDATE entry SET id = 'renamed' WHERE id = 'born there'"


def test_who_waited_for_a_connection_while_keys_moved_does_not_miss_a_row(scene: Scene) -> None:
    """It came by the old map: by the new one's epoch the shard would answer with 0 rows."""
    key = moved_key()
    touched: list[int] = []
    with Shards(scene.config(limits=Limits(pool_max=1))) as shards:
        with shards.session(key):
            late = threading.Thread(
                target=lambda: touched.append(shards.execute(key, RENAME).rowcount)
            )
            late.start()
            wait_for(lambda: waits_for_a_connection(shards), "the other waits")
            born_elsewhere(scene, key)
            wait_for(lambda: shards.epoch == 2, "the new map")
        late.join(DEADLINE_S)
    assert touched == [1]


def waits_for_a_connection(shards: Shards) -> bool:
    (pool,) = shards._pools.values()
    return bool(pool._free._cond._waiters)  # type: ignore[attr-defined]


def test_a_task_that_waited_for_a_connection_while_keys_moved_does_not_miss_a_row(
    scene: Scene,
) -> None:
    key = moved_key()

    async def main() -> int:
        async with AsyncShards(scene.config(limits=Limits(pool_max=1))) as shards:
            async with shards.session(key):
                late = asyncio.create_task(shards.execute(key, RENAME))
                await asyncio.sleep(0)  # it came as far as it can: to the only connection
                (pool,) = shards._pools.values()
                assert pool._free._waiters
                await asyncio.to_thread(born_elsewhere, scene, key)
                await asyncio.to_thread(wait_for, lambda: shards.epoch == 2, "the new map")
            return (await late).rowcount

    assert asyncio.run(main()) == 1


def test_a_fence_that_stays_ends_in_a_typed_refusal(scene: Scene) -> None:
    scene.limits = Limits(fence_wait_s=0.3)
    with Shards(scene.config()) as shards:
        scene.fence()
        calls = []
        with pytest.raises(FenceTimeout):
            shards.run(moved_key(), lambda tx: calls.append(tx.execute(INSERT, [moved_key(), "x"])))
    assert scene.owned_rows() == []


def test_the_body_runs_again_after_a_refusal_and_is_committed_once(scene: Scene) -> None:
    key, calls = moved_key(), []
    other = next(k for k in KEYS[KeyType.BIGINT] if position_of(KeyType.BIGINT, k) < 1 << 62)

    def body(tx: object) -> None:
        calls.append(tx)
        tx.execute(INSERT, [other if len(calls) > 3 else key, "x"])  # type: ignore[attr-defined]

    with Shards(scene.config()) as shards:
        scene.fence()
        shards.run(key, body)
    assert len(calls) == 4
    assert len(scene.rows(0)) == 1


def test_a_refusal_of_another_transaction_within_is_not_retried(scene: Scene) -> None:
    key, calls = moved_key(), []

    def body(tx: object) -> None:
        calls.append(tx)
        with shards.transaction(key) as inner:
            inner.execute(INSERT, [key, "inner"])

    with Shards(scene.config()) as shards:
        scene.fence()
        with pytest.raises(KeyRefused):
            shards.run(key, body)
    assert len(calls) == 1


def test_async_sessions_are_told_the_epoch_and_refusals_within_are_not_retried(
    scene: Scene,
) -> None:
    key, calls = moved_key(), []

    async def main() -> None:
        async with AsyncShards(scene.config()) as shards:

            async def body(tx: object) -> None:
                calls.append(tx)
                async with shards.transaction(key) as inner:
                    await inner.execute(INSERT, [key, "inner"])

            await shards.execute(key, INSERT, [key, "one"])
            scene.fence()
            with pytest.raises(KeyRefused):
                await shards.run(key, body)
            scene.require_epoch(0, 2)
            scene.guard(0, scene.map.owners[0].keys, epoch=2)
            scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
            cursor = await shards.execute(key, "DELETE FROM entry WHERE id = 'one'")
            assert cursor.rowcount == 1

    asyncio.run(main())
    assert len(calls) == 1


def test_what_a_move_cannot_carry_is_told_with_its_cure_and_not_tried_again(scene: Scene) -> None:
    """An UPDATE of the shard key over the border, and TRUNCATE, while a move's triggers stand."""
    key, stays = moved_key(), next(k for k in KEYS[KeyType.BIGINT] if _stays(scene, k))
    calls: list[object] = []
    statements = (("UPDATE entry SET k = %s WHERE k = %s", [stays, key]), ("TRUNCATE entry", None))
    with Shards(scene.config()) as shards:
        shards.execute(key, INSERT, [key, "mine"])
        _hold(scene)
        for statement, values in statements:
            for how in (shards.execute, partial(_run, shards, calls)):
                with pytest.raises(psycopg.DatabaseError, match=r"shardwright: .* move") as told:
                    how(key, statement, values)
                assert told.value.sqlstate == "PS006"
                assert "wait until the move has ended" in str(told.value)
        shards.execute(key, INSERT, [key, "another"])
    assert len(calls) == len(statements), "each body ran once"
    assert {ident for _, ident in scene.rows(0)} == {"mine", "another"}


def _stays(scene: Scene, key: Key) -> bool:
    at = position_of(KeyType.BIGINT, key)
    return at in scene.map.owners[0].keys and at not in MOVED


def _run(shards: Shards, calls: list[object], key: Key, statement: str, values: object) -> None:
    def body(tx: psycopg.Connection) -> None:
        calls.append(tx)
        tx.execute(statement, values)  # type: ignore[call-overload]

    shards.run(key, body)


def _hold(scene: Scene) -> None:
    """Begin a move, up to the triggers that refuse what its streams cannot carry."""
    source, target = (owner.keys for owner in scene.map.owners)
    table = ShardedTable(TABLE, "k")
    move = replace(MOVE, keys=MOVED, source_keys=source, target_keys=target, tables=(table,))
    mover, seats = LogicalMover(), (seat(scene.shards[0]), seat(scene.shards[1]))
    mover.prepare_target(move, *seats, TOKEN)
    mover.hold(move, *seats, TOKEN)
    with scene.shards[0].connect() as session:
        session.execute(f"GRANT TRUNCATE ON entry TO {scene.shards[0].app.role}")
