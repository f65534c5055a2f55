"""Where the map comes from: etcd away, a record that is gone or damaged, keys of the wrong type."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reconciler.model.desired import KeyType
from reconciler.model.hashing import position_of_key
from reconciler.model.keyspace import parse_key_set
from reconciler.model.names import Epoch
from reconciler.model.platform import TlsFiles
from reconciler.model.routing import RoutingMap
from reconciler.sdk import (
    AsyncShards,
    Config,
    ConfigInvalid,
    KeyTypeMismatch,
    Limits,
    NoMap,
    NoOwner,
    NotOpen,
    PasswordRefused,
    PoolExhausted,
    RecordUnreadable,
    Shards,
    ShardUnreachable,
)
from reconciler.sdk.etcd import EtcdReader, Stored
from reconciler.sdk.routes import Key, position_of
from tests.local_home import DEADLINE_S, wait_for
from tests.sdk.scene import Scene
from tests.sdk.writers import INSERT, WRITER_KINDS, AsyncWriters, SyncWriters

KEYS: list[Key] = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("writers", WRITER_KINDS)
def test_routing_goes_on_while_etcd_is_away_and_hears_of_moves_after_it(
    scene: Scene, writers: type[SyncWriters | AsyncWriters]
) -> None:
    with writers(scene, KEYS) as book:
        book.await_more()
        scene.etcd.stop()
        try:
            book.await_more(500)
        finally:
            scene.etcd.start()
        scene.cut()
        book.await_more(200)
    book.check(scene.owned_rows())
    assert not book.unknown


def test_a_watch_that_begins_before_what_etcd_has_forgotten_reads_the_map_anew(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = EtcdReader.read, [1]

    def read_and_fall_behind(reader: EtcdReader, key: str) -> Stored:
        """Return what was there before two more maps came and history was compacted, once."""
        seen = read(reader, key)
        if left:
            left.pop()
            for _ in range(2):
                scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
            newest = scene.store.read(scene.key)[scene.key].version
            scene.store._call("/v3/kv/compaction", {"revision": str(newest)})
        return seen

    monkeypatch.setattr(EtcdReader, "read", read_and_fall_behind)
    with Shards(scene.config(limits=Limits(resync_s=3600))) as shards:
        wait_for(lambda: shards.epoch == 3, "the newest map", 60)
        assert not left


def test_what_an_etcd_says_that_was_restored_from_a_backup_is_the_map(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        with scene.restored():
            wait_for(lambda: shards.epoch == 1, "the map")
            before = scene.map
            for _ in range(3):
                scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
            wait_for(lambda: shards.epoch == 4, "the maps that will be lost")
        wait_for(lambda: shards.epoch == 1, "the map of the backup")
        scene.map = before
        scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
        wait_for(lambda: shards.epoch == 2, "the map that follows on it")


def test_the_first_map_needs_an_etcd_that_answers(scene: Scene) -> None:
    limits = Limits(start_s=0.5)
    config = scene.config(etcd_endpoints=("https://127.0.0.1:1",), limits=limits)
    with pytest.raises(NoMap, match="no etcd endpoint"):
        Shards(config).open()
    with pytest.raises(NoMap, match="has no routing map"):
        Shards(scene.config(database="nowhere", limits=limits)).open()
    with pytest.raises(NoMap):
        asyncio.run(AsyncShards(config).open())


def test_another_endpoint_is_tried_when_the_first_is_down(scene: Scene) -> None:
    with Shards(
        scene.config(etcd_endpoints=("https://127.0.0.1:1", scene.etcd.endpoint))
    ) as shards:
        assert shards.epoch == 1


def test_a_record_of_the_future_is_told_at_the_start_and_ignored_later(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        scene.put(b'{"epoch": "other"}')
        shards._feed._take(shards._feed._asker.read(scene.key))
        scene.put(None)
        shards._feed._take(shards._feed._asker.read(scene.key))
        shards.execute(1, INSERT, [1, "x"])
        scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
        wait_for(lambda: shards.epoch == 2, "the map that is whole again")
    scene.put(b'{"epoch": "other"}')
    with pytest.raises(RecordUnreadable):
        Shards(scene.config()).open()


def test_a_key_without_an_owner_is_refused_before_anything_is_sent(scene: Scene) -> None:
    scene.publish(scene.routed(parse_key_set("-40"), parse_key_set("80-")))
    with Shards(scene.config()) as shards, pytest.raises(NoOwner):
        shards.execute(1, INSERT, [1, "x"])


KEY_MISTAKES: list[tuple[KeyType, Any]] = [
    (KeyType.BIGINT, "42"),
    (KeyType.BIGINT, True),
    (KeyType.BIGINT, 1 << 63),
    (KeyType.BIGINT, 1.0),
    (KeyType.INT, 1 << 31),
    (KeyType.INT, -(1 << 31) - 1),
    (KeyType.TEXT, 42),
    (KeyType.TEXT, b"x"),
    (KeyType.TEXT, "a\0b"),
    (KeyType.TEXT, "\ud800"),
    (KeyType.UUID, "6d3b8b1e-9c44-4d3f-8a57-4ab3b5f3c0de"),
    (KeyType.UUID, None),
]


@pytest.mark.parametrize(("kind", "key"), KEY_MISTAKES)
def test_a_key_of_another_type_is_refused_and_not_converted(kind: KeyType, key: Any) -> None:
    with pytest.raises(KeyTypeMismatch):
        position_of(kind, key)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (KeyType.BIGINT, -(1 << 63)),
        (KeyType.INT, (1 << 31) - 1),
        (KeyType.TEXT, "é"),
        (KeyType.UUID, UUID(int=7)),
    ],
)
def test_a_key_is_where_the_command_line_says_it_is(kind: KeyType, key: Key) -> None:
    assert position_of(kind, key) == position_of_key(kind, str(key))


def test_a_client_that_is_not_open_says_so(scene: Scene) -> None:
    shards = Shards(scene.config())
    with pytest.raises(NotOpen):
        shards.execute(1, "SELECT 1")
    with shards:
        shards.execute(1, "SELECT 1")
    with pytest.raises(NotOpen):
        shards.execute(1, "SELECT 1")


def test_an_old_answer_never_replaces_a_newer_map(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        old = shards._feed._asker.read(scene.key)
        scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
        wait_for(lambda: shards.epoch == 2, "the new map")
        shards._feed._take(old)
        assert shards.epoch == 2


def test_a_wrong_password_is_told_and_never_shown(scene: Scene) -> None:
    config = scene.config(password=lambda scope: f"secret of {scope}")
    assert "app's" not in repr(scene.config())
    with Shards(config) as shards, pytest.raises(PasswordRefused) as caught:
        shards.execute(1, "SELECT 1")
    assert "secret" not in str(caught.value)


def test_a_shard_without_a_primary_is_waited_for_and_then_told(scene: Scene) -> None:
    scene.through(1)
    with Shards(scene.config(limits=Limits(checkout_s=0.5))) as shards:
        with pytest.raises(ShardUnreachable):
            shards.execute(1, "SELECT 1")
        shards.execute(2, "SELECT 1")


def test_a_pool_is_bounded(scene: Scene) -> None:
    with Shards(scene.config(limits=Limits(pool_max=1, checkout_s=0.2))) as shards:
        with shards.transaction(1), pytest.raises(PoolExhausted):
            shards.execute(1, "SELECT 1")
        shards.execute(1, "SELECT 1")

    async def main() -> None:
        async with AsyncShards(scene.config(limits=Limits(pool_max=1, checkout_s=0.2))) as shards:
            async with shards.transaction(1):
                with pytest.raises(PoolExhausted):
                    await shards.execute(1, "SELECT 1")
            await shards.execute(1, "SELECT 1")

    asyncio.run(main())


def test_connections_long_unused_and_of_shards_that_are_gone_are_closed(scene: Scene) -> None:
    with Shards(scene.config(limits=Limits(idle_s=0.01))) as shards:
        with shards.transaction(1), shards.transaction(1):
            assert connections(scene, 0) == 2
        wait_for(
            lambda: shards.execute(1, "SELECT pg_sleep(0.02)") and connections(scene, 0) < 2,
            "an idle connection closed",
        )
        shards.execute(2, "SELECT 1")
        scene.publish(without_the_second(scene))
        wait_for(lambda: connections(scene, 1) == 0, "the connections of the shard that is gone")


def test_async_connections_of_shards_that_are_gone_are_closed(scene: Scene) -> None:
    async def main() -> None:
        async with AsyncShards(scene.config()) as shards:
            await shards.execute(2, "SELECT 1")
            assert connections(scene, 1) == 1
            scene.publish(without_the_second(scene))
            assert await shards._wait_newer(Epoch(1), DEADLINE_S)
            while connections(scene, 1):
                await shards.execute(1, "SELECT pg_sleep(0.02)")

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def connections(scene: Scene, index: int) -> int:
    """Return how many the client has to a shard."""
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardwright-sdk'"
        " AND datname = current_database()"
    )
    return int(scene.shards[index].rows(count)[0][0])


def without_the_second(scene: Scene) -> RoutingMap:
    alone = scene.routed(parse_key_set("-"), parse_key_set("none"))
    return replace(alone, owners=alone.owners[:1])


def test_a_task_that_waits_for_a_map_is_woken_by_it(scene: Scene) -> None:
    async def main() -> None:
        async with AsyncShards(scene.config()) as shards:
            waiting = asyncio.create_task(shards._wait_newer(Epoch(1), 10 * DEADLINE_S))
            await asyncio.sleep(0)
            scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
            assert await waiting

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def test_a_transaction_left_open_in_a_session_is_not_lent_on(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        with shards.session(1) as session:
            session.execute("BEGIN")
            session.execute(INSERT, [1, "left"])
        shards.execute(1, INSERT, [1, "own"])
    assert scene.rows(0) == [(1, "own")]


def test_all_shards_are_asked_and_each_row_is_seen_once(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        for key in range(1, 12):
            shards.execute(key, INSERT, [key, str(key)])
        scene.cut()  # leaves the moved rows at their former owner as well
        wait_for(lambda: shards.epoch == 2, "the new map")
        everywhere = shards.scatter("SELECT k FROM entry")
        owned = shards.scatter("SELECT k FROM entry WHERE {owned} ORDER BY k", owned="k")
        with pytest.raises(Exception, match="read-only transaction"):
            shards.scatter("DELETE FROM entry RETURNING k")
    assert [name for name, _ in owned] == ["s0", "s1"]
    assert sorted(row[0] for _, rows in owned for row in rows) == list(range(1, 12))
    assert sum(len(rows) for _, rows in everywhere) > 11

    async def main() -> None:
        async with AsyncShards(scene.config()) as client:
            found = await client.scatter("SELECT k FROM entry WHERE {owned} ORDER BY k", owned="k")
            assert found == owned
            with pytest.raises(Exception, match="division by zero"):
                await client.scatter("SELECT 1 / (count(*) - count(*)) FROM entry")

    asyncio.run(main())


def test_reads_may_go_to_a_standby_and_fall_back_to_the_primary(scene: Scene) -> None:
    with Shards(scene.config()) as shards:
        with shards.session(1, read_only=True, standby_ok=True) as session:
            assert session.execute("SHOW transaction_read_only").fetchone() == ("on",)
        with pytest.raises(ValueError, match="read_only"):
            shards.session(1, standby_ok=True).__enter__()


@pytest.mark.parametrize(
    "wrong",
    [
        {"etcd_endpoints": ()},
        {"etcd_endpoints": "https://127.0.0.1:2379"},
        {"etcd_endpoints": ("127.0.0.1:2379",)},
        {"etcd_endpoints": ("https://host:port",)},
        {"database": "a/b"},
        {"namespace": ""},
        {"limits": Limits(pool_max=0)},
    ],
)
def test_a_configuration_that_cannot_be_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    fine: dict[str, Any] = {
        "etcd_endpoints": ("https://127.0.0.1:2379",),
        "database": "shop",
        "password": "x",
    }
    Config(**fine)
    with pytest.raises(ConfigInvalid):
        Config(**{**fine, **wrong})


def test_certificate_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    tls = TlsFiles(str(tmp_path / "ca"), "", "")
    config = Config(("https://127.0.0.1:2379",), "shop", "x", tls=tls)
    with pytest.raises(ConfigInvalid, match="tls"):
        Shards(config)


def test_the_client_imports_nothing_of_shardwright_but_itself_and_the_model() -> None:
    program = (
        "import sys, reconciler.sdk; print(*sorted({n.split('.')[1] for n in sys.modules"
        " if n.startswith('reconciler.')} | {n for n in sys.modules if n in"
        " ('yaml', 'urllib3', 'click', 'msgspec', 'rich', 'cryptography')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["model", "sdk"]
