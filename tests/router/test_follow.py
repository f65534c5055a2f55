"""A router that is told each map by a follower beside it, with a real etcd and real shards."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.model.records import routers_key
from reconciler.render.router import DRIVERS, PgDog, Reference
from reconciler.render.router.driver import RunStatements, WriteFile
from reconciler.router.follow import Follower, Outlets, RouterNotTold, perform
from reconciler.router.registration import Registration
from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at, moved_key, running
from tests.router.writers import PsycopgWriters
from tests.sdk.scene import MOVED, Scene

KEYS = [key_at(0), *(moved_key(n) for n in range(6)), key_at(1)]


@contextmanager
def following(scene: Scene, outlets: Outlets, kind: str = "reference") -> Iterator[list[str]]:
    """Run a follower in a thread; yields what it tells."""
    told: list[str] = []
    registration = Registration(
        (scene.etcd.endpoint,), scene.tls, scene.map.database, "other-router", "here"
    )
    steps = DRIVERS[kind]("shard_hash").steps
    follower = Follower(scene.config(), registration, steps, outlets, told.append)
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield told
    finally:
        follower.stop()
        thread.join(60)
        assert not thread.is_alive()


def registered(scene: Scene) -> int | None:
    """Return the epoch that the follower says its router serves."""
    key = routers_key(scene.map.database, "other-router")
    found = scene.store.read(key).get(key)
    return json.loads(found.value)["epoch"] if found else None


def epoch_in(file: Path) -> int:
    return int(json.loads(file.read_text())["epoch"])


@contextmanager
def router_by(scene: Scene, file: Path) -> Iterator[RunningRouter]:
    """A router that serves by a file and reads it again at SIGHUP, as its own process would."""
    (step, _) = Reference().steps(scene.map)
    assert isinstance(step, WriteFile)
    file.write_text(step.text)
    with running(scene, map_file=str(file)) as router:
        before = signal.signal(signal.SIGHUP, lambda *_: router.reload())
        try:
            yield router
        finally:
            signal.signal(signal.SIGHUP, before)


def test_a_map_is_taken_up_after_it_is_published_whole_and_no_write_is_lost(
    scene: Scene, tmp_path: Path
) -> None:
    file, pid_file = tmp_path / "map.json", tmp_path / "router.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    broken: list[str] = []
    over = threading.Event()

    def read_on() -> None:
        while not over.is_set():
            try:
                epoch_in(file)
            except (OSError, ValueError) as problem:
                broken.append(repr(problem))

    with router_by(scene, file) as router, following(scene, Outlets(file, (), pid_file)):
        reader = threading.Thread(target=read_on)
        reader.start()
        with PsycopgWriters(router.options(), KEYS) as book:
            book.await_more()
            scene.fence()
            scene.open_target()
            wait_for(lambda: registered(scene) == 1, "the registration")
            assert epoch_in(file) == 1, "the map is not published yet"
            scene.switch()
            wait_for(lambda: registered(scene) == 2, "the new epoch")
            assert epoch_in(file) == 2
            book.await_more(200)
        over.set()
        reader.join(60)
        assert router.process.routes.get().epoch == 2
    assert broken == []
    assert not book.failures
    assert not book.unknown
    book.check(scene.owned_rows())
    assert scene.rows(1, MOVED)


def test_a_router_that_cannot_be_told_loses_no_write_and_is_known_to_be_behind(
    scene: Scene, tmp_path: Path
) -> None:
    file, pid_file = tmp_path / "map.json", tmp_path / "router.pid"
    with router_by(scene, file) as router:
        pid_file.write_text(f"{os.getpid()}\n")
        with following(scene, Outlets(file, (), pid_file)) as told:
            wait_for(lambda: registered(scene) == 1, "the registration")
            pid_file.unlink()
            with PsycopgWriters(router.options(), KEYS) as book:
                book.await_more()
                scene.cut()
                wait_for(lambda: router.process.routes.held_total, "clients that wait for the map")
                wait_for(lambda: len(told) > 1, "the failure")
                assert "epoch 2 not taken up: RT011 SendSignal" in told[1]
                assert registered(scene) == 1
                assert router.process.routes.get().epoch == 1
                pid_file.write_text(f"{os.getpid()}\n")
                wait_for(lambda: registered(scene) == 2, "the new epoch")
                book.await_more(200)
    assert told[-1] == "epoch 2 taken up"
    assert not book.unknown
    book.check(scene.owned_rows())


def test_a_step_that_fails_is_done_again_from_the_first_one_on(
    scene: Scene, tmp_path: Path
) -> None:
    said, lame, file = tmp_path / "said", tmp_path / "lame", tmp_path / "pgdog.toml"
    console = tmp_path / "console"
    console.write_text(
        f'#!/bin/sh\nread line; echo "$line" >> {said}\n'
        f'if [ "$line" = "RELOAD;" ] && rm {lame} 2> /dev/null; then\n'
        "  echo no such backend >&2; exit 3\nfi\n"
    )
    console.chmod(0o700)
    lame.touch()

    with following(scene, Outlets(file, (str(console),)), "pgdog") as told:
        wait_for(lambda: told and told[-1] == "epoch 1 taken up", "the map")

    on, reload, off = "MAINTENANCE ON;", "RELOAD;", "MAINTENANCE OFF;"
    assert said.read_text().splitlines() == [on, reload, on, reload, off]
    assert told[0].endswith("ended with 3: no such backend")
    assert file.read_text() == PgDog("shard_hash").steps(scene.map)[0].text  # type: ignore[union-attr]
    assert file.stat().st_mode & 0o777 == 0o644


def test_what_the_steps_of_a_router_need_is_asked_for(scene: Scene, tmp_path: Path) -> None:
    outlets = Outlets(tmp_path / "file")
    assert outlets.lacks(PgDog("h").steps(scene.map)) == "--console"
    assert outlets.lacks(Reference().steps(scene.map)) == "--pid-file"
    assert outlets.lacks(Reference().steps(scene.map)[:1]) == ""


def test_a_console_that_is_not_there_is_told_without_a_traceback(tmp_path: Path) -> None:
    outlets = Outlets(tmp_path / "file", (str(tmp_path / "none"),))
    with pytest.raises(RouterNotTold, match="No such file"):
        perform(RunStatements(("RELOAD",)), outlets)
