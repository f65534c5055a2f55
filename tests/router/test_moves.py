"""Keys move while clients write through the router: they wait, nothing is lost or doubled."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors

from reconciler.model.records import routers_key
from reconciler.render.router import Reference
from reconciler.render.router.driver import SendSignal, WriteFile
from reconciler.router.dispatch import SessionLimits
from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at, moved_key, running
from tests.router.writers import AsyncpgWriters, PsycopgWriters
from tests.sdk.scene import MOVED, Scene

INSERT = "INSERT INTO entry (k, id) VALUES (%s, %s)"
KEYS = [key_at(0), key_at(1), *(moved_key(n) for n in range(10)), key_at(0, 1), key_at(1, 1)]


@pytest.mark.parametrize("writers", [PsycopgWriters, AsyncpgWriters])
def test_writers_wait_out_a_move_and_lose_nothing(
    router: RunningRouter, scene: Scene, writers: type[PsycopgWriters]
) -> None:
    with writers(router.options(), KEYS) as book:
        book.await_more()
        scene.fence()
        scene.require_epoch(0, 2)
        scene.open_target()
        scene.switch()
        book.await_more(400)
    assert not book.failures
    book.check(scene.owned_rows())
    assert not book.unknown
    assert scene.rows(1, MOVED), "the moved keys are written at their new owner"


def test_a_router_that_serves_by_a_file_takes_a_new_map_up_as_its_driver_says(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    file, signal = Reference().steps(scene.map)
    assert isinstance(file, WriteFile)
    path.write_text(file.text)
    with running(scene, map_file=str(path)) as router:
        with PsycopgWriters(router.options(), KEYS) as book:
            book.await_more()
            scene.cut()
            wait_for(lambda: router.process.routes.held_total, "clients that wait for the map")
            path.write_text("{")
            router.reload()  # a file that cannot be read changes nothing
            for step in Reference().steps(scene.map):
                if isinstance(step, WriteFile):
                    path.write_text(step.text)
                else:
                    assert step == signal == SendSignal("HUP")
                    router.reload()
            book.await_more(200)
        assert router.process.routes.get().epoch == 2
    book.check(scene.owned_rows())
    assert scene.rows(1, MOVED)


def test_what_an_etcd_says_that_was_restored_from_a_backup_is_served_and_acknowledged(
    router: RunningRouter, scene: Scene
) -> None:
    def serves(epoch: int) -> bool:
        found = scene.store.read(routers_key(scene.map.database, ""))
        told = {json.loads(item.value)["epoch"] for item in found.values()}
        return router.process.routes.get().epoch == epoch and told == {epoch}

    with scene.restored():
        before = scene.map
        for _ in range(3):
            scene.publish(scene.routed(*(owner.keys for owner in scene.map.owners)))
        wait_for(lambda: serves(4), "the maps that will be lost")
    wait_for(lambda: serves(1), "the map of the backup")
    scene.map = before
    scene.cut()
    wait_for(lambda: serves(2), "the map that follows on it")
    with router.connect() as client:
        client.execute(INSERT, [moved_key(), "x"])
    assert "x" in {ident for _, ident in scene.rows(1, MOVED)}


def test_writers_go_on_when_a_cut_backs_out(router: RunningRouter, scene: Scene) -> None:
    with PsycopgWriters(router.options(), [moved_key()]) as book:
        book.await_more()
        scene.fence()
        scene.guard(0, scene.map.owners[0].keys, epoch=1)
        book.await_more()
    assert not book.failures
    book.check(scene.owned_rows())


def test_clients_of_other_keys_are_not_held(router: RunningRouter, scene: Scene) -> None:
    scene.fence()
    held = threading.Thread(target=lambda: _insert(router, moved_key(), "held"))
    held.start()
    with router.connect() as client:
        for number in range(50):
            client.execute(INSERT, [key_at(number % 2), f"{number}"])
    assert held.is_alive()
    scene.open_target()
    scene.switch()
    held.join(60)
    assert "held" in {ident for _, ident in scene.rows(1)}


def _in_transaction(client: psycopg.Connection[Any], *keys: int) -> None:
    with client.transaction():
        for key in keys:
            client.execute(INSERT, [key, f"{key}"])


def _insert(router: RunningRouter, key: int, ident: str) -> None:
    with router.connect() as client:
        client.execute(INSERT, [key, ident])


def test_a_fence_that_stays_ends_in_the_shards_own_refusal(scene: Scene) -> None:
    with running(scene, sessions=SessionLimits(hold_s=0.5)) as router, router.connect() as client:
        scene.fence()
        with pytest.raises(psycopg.Error, match="does not own") as refused:
            client.execute(INSERT, [moved_key(), "x"])
        assert refused.value.sqlstate == "PS001"
        client.execute(INSERT, [key_at(0), "y"])
        with pytest.raises(psycopg.Error) as refused:
            _in_transaction(client, moved_key())
        assert refused.value.sqlstate == "PS001"
        with client.transaction():
            client.execute(INSERT, [key_at(0), "z"])
    assert {ident for _, ident in scene.owned_rows()} == {"y", "z"}


def test_a_transaction_that_meets_the_fence_later_is_told_at_once(
    router: RunningRouter, scene: Scene
) -> None:
    with router.connect() as client:
        scene.fence()
        with pytest.raises(psycopg.Error) as refused:
            _in_transaction(client, key_at(0), moved_key())
        assert router.process.routes.held_total == 0
        assert refused.value.sqlstate == "PS001"
    assert scene.owned_rows() == []


def test_a_transaction_whose_keys_move_before_its_first_write_is_told_to_run_again(
    router: RunningRouter, scene: Scene
) -> None:
    """Not that it was wrong: it named one shard's keys all the time."""
    key = moved_key()

    def read_then_write(client: psycopg.Connection[Any]) -> None:
        with client.transaction():
            client.execute("SELECT id FROM entry WHERE k = %s", [key])
            scene.cut()
            wait_for(lambda: router.process.routes.get().epoch == 2, "the new map")
            client.execute(INSERT, [key, "late"])

    with router.connect() as client:
        with pytest.raises(psycopg.Error) as refused:
            read_then_write(client)
        assert refused.value.sqlstate == "PS001"
        with client.transaction():
            client.execute(INSERT, [key, "again"])
    assert scene.rows(0) == []
    assert [ident for _, ident in scene.rows(1)] == ["again"]


def test_several_statements_in_one_query_are_not_sent_twice(
    router: RunningRouter, scene: Scene
) -> None:
    scene.fence()
    key, text = moved_key(), "INSERT INTO entry (k, id) VALUES ({}, '{}')"
    several = f"BEGIN; {text.format(key_at(0), 'a')}; COMMIT; {text.format(key, 'b')}"
    with router.connect() as client, pytest.raises(psycopg.Error) as refused:
        client.execute(several.encode())
    assert refused.value.sqlstate == "PS001"
    assert [ident for _, ident in scene.rows(0)] == ["a"]


def test_a_hint_that_lies_is_refused_without_a_wait(router: RunningRouter) -> None:
    wrong = f"INSERT INTO entry (k, id) VALUES ({key_at(1)}, 'x')"
    with router.connect() as client, pytest.raises(psycopg.Error) as refused:
        client.execute(f"/* shard_key: {key_at(0)} */ {wrong}".encode())
    assert refused.value.sqlstate == "PS001"
    assert router.process.routes.held_total == 0


def test_a_held_client_can_cancel(router: RunningRouter, scene: Scene) -> None:
    scene.fence()
    with router.connect() as client:
        seen: list[BaseException] = []

        def insert() -> None:
            try:
                client.execute(INSERT, [moved_key(), "x"])
            except psycopg.Error as error:
                seen.append(error)

        thread = threading.Thread(target=insert)
        thread.start()
        wait_for(lambda: router.process.routes.held_total, "a held client")
        client.cancel_safe()
        thread.join(60)
        assert isinstance(seen[0], errors.QueryCanceled)
        client.execute(INSERT, [key_at(0), "y"])


def test_the_router_says_which_epoch_it_serves(router: RunningRouter, scene: Scene) -> None:
    def epochs() -> list[int]:
        found = scene.store.read(routers_key(scene.map.database))
        return [json.loads(one.value)["epoch"] for one in found.values()]

    wait_for(lambda: epochs() == [1], "the registration")
    scene.cut()
    wait_for(lambda: epochs() == [2], "the new epoch")
    router.stop()
    wait_for(lambda: not epochs(), "the end of the registration")


def test_sessions_are_told_the_epoch_they_are_routed_by(
    router: RunningRouter, scene: Scene
) -> None:
    with router.connect() as client:
        assert client.execute("SHOW shardwright.epoch").fetchone() == ("1",)
        scene.cut()
        wait_for(lambda: router.process.routes.get().epoch == 2, "the new map")
        assert client.execute("SHOW shardwright.epoch").fetchone() == ("2",)


@pytest.mark.parametrize("prepare", [False, True])
def test_a_read_of_all_shards_sees_each_row_once_before_and_after_the_map_moves(
    router: RunningRouter, scene: Scene, prepare: bool
) -> None:
    with router.connect() as client:
        for key in KEYS:
            client.execute(INSERT, [key, f"{key}"])
        client.execute("SET shardwright.scatter = on")
        scene.fence()
        scene.open_target()  # from here on the moved rows are at both shards
        for epoch in (1, 2):
            for text, row in EACH_ROW_ONCE.items():
                rows = client.execute(text, prepare=prepare).fetchall()
                assert sorted(rows) == sorted(row(key) for key in KEYS), (epoch, text)
            few = client.execute("SELECT k FROM entry WHERE k = ANY(%s)", [KEYS[:5]])
            assert sorted(few.fetchall()) == sorted((key,) for key in KEYS[:5])
            counts = client.execute(
                "/* scatter: raw */ SELECT count(*) FROM entry", prepare=prepare
            )
            assert sum(count for (count,) in counts) == len(KEYS)
            if epoch == 1:
                scene.switch()
                wait_for(lambda: router.process.routes.get().epoch == 2, "the new map")
        moved = client.execute("SELECT id FROM entry WHERE k = %s", [moved_key()], prepare=prepare)
        assert moved.fetchall() == [(f"{moved_key()}",)]


EACH_ROW_ONCE: dict[LiteralString, Callable[[int], tuple[object, ...]]] = {
    "SELECT k FROM entry": lambda key: (key,),
    "SELECT entry.* FROM Entry": lambda key: (key, f"{key}"),
    "SELECT 'é', e.k FROM public . \"entry\" AS e": lambda key: ("é", key),
    "WITH mine AS (SELECT * FROM entry) SELECT k FROM mine": lambda key: (key,),
    "SELECT a.k FROM entry a LEFT JOIN entry USING (k)": lambda key: (key,),
    "SELECT k FROM entry e WHERE 1 = (SELECT count(*) FROM entry WHERE k = e.k)": lambda k: (k,),
}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM entries_view",
        "SELECT k FROM entry UNION ALL SELECT k FROM entries_view",
        "SELECT * FROM ONLY entry",
        "TABLE entry",
        'SELECT * FROM U&"entry"',
    ],
)
def test_a_read_of_all_shards_that_cannot_be_confined_to_their_keys_is_refused(
    router: RunningRouter, text: str
) -> None:
    with router.connect() as client:
        for mode in ("on", "raw"):
            with pytest.raises(errors.FeatureNotSupported) as refused:
                client.execute(f"/* scatter: {mode} */ {text}".encode())
            assert refused.value.diag.message_hint
        assert client.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("prepare", [False, True])
def test_a_procedure_that_commits_inside_is_never_sent_twice(
    router: RunningRouter, scene: Scene, prepare: bool
) -> None:
    """After the refusal it would begin from its start, what it had committed included."""
    own, told = key_at(0), list[str | None]()
    for shard in scene.shards:
        with shard.connect() as owner:
            owner.execute(
                "CREATE PROCEDURE twice(own bigint, other bigint) LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO entry VALUES (own, 'kept'); COMMIT;"
                " INSERT INTO entry VALUES (other, 'refused'); END $$"
            )

    def call() -> None:
        text = f"/* shard_key: {own} */ CALL twice(%s::bigint, %s::bigint)".encode()
        with router.connect() as client:
            cursor = client.cursor() if prepare else psycopg.ClientCursor(client)
            with pytest.raises(psycopg.Error) as refused:
                cursor.execute(text, [own, moved_key()], prepare=prepare or None)
        told.append(refused.value.sqlstate)

    scene.fence()
    calling = threading.Thread(target=call)
    calling.start()
    held = wait_for(
        lambda: not calling.is_alive() or router.process.routes.held_total, "it is answered", 60
    )
    scene.open_target()
    scene.switch()
    calling.join(60)
    assert (told, bool(held)) == (["PS001"], True)
    assert scene.rows(0) == [(own, "kept")]
