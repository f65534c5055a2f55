"""A router in a thread, in front of two real PostgreSQL servers and a real etcd."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from reconciler.model.hashing import position_of_key
from reconciler.router.dispatch import SessionLimits
from reconciler.router.pool import PoolLimits
from reconciler.router.processes import listen_on
from reconciler.router.scram import make_verifier
from reconciler.router.server import RouterConfig, RouterProcess
from tests.sdk.conftest import key_type, scene, servers
from tests.sdk.scene import MOVED, Scene

__all__ = ["key_type", "scene", "servers"]
JDBC_JARS = sorted((Path.home() / ".m2/repository/org/postgresql/postgresql").glob("*/*.jar"))
"""``mvn dependency:get -Dartifact=org.postgresql:postgresql:42.7.4`` brings one."""
collect_ignore = [] if JDBC_JARS and shutil.which("java") else ["test_jdbc.py"]
PASSWORD = "the router's own"


class RunningRouter:
    """A router, and ways into it."""

    def __init__(self, scene: Scene, **changes: Any) -> None:
        self.scene = scene
        config = RouterConfig(
            database=scene.map.database,
            etcd=(scene.etcd.endpoint,),
            tls=scene.tls,
            credential_of=lambda scope: scene.shards[0].app,
            users=lambda: {"client": make_verifier(PASSWORD)},
            port=0,
            sessions=SessionLimits(hold_s=30.0),
            pools=PoolLimits(backends_max=15),
        )
        self.config = replace(config, **changes)
        self._listener = listen_on("127.0.0.1", 0)
        self.port = int(self._listener.getsockname()[1])
        self.process: RouterProcess
        self._loop = uvloop.new_event_loop()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self.process = RouterProcess(self.config, 0, self._listener)
        self.process.serving = self._serving.set
        await self.process.run()

    def __enter__(self) -> RunningRouter:
        self._thread.start()
        assert self._serving.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self.process.stop)

    def reload(self) -> None:
        self._loop.call_soon_threadsafe(self.process.reload)

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "client",
            "password": PASSWORD,
            "dbname": self.config.database.name,
            "connect_timeout": 10,
            **changes,
        }

    def connect(self, **changes: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**{"autocommit": True, **self.options(), **changes})


@contextmanager
def running(scene: Scene, **changes: Any) -> Iterator[RunningRouter]:
    with RunningRouter(scene, **{"drain_s": 1.0, **changes}) as router:
        yield router


@pytest.fixture
def router(scene: Scene) -> Iterator[RunningRouter]:
    with running(scene) as router:
        yield router


def key_at(shard: int, number: int = 0) -> int:
    """Return a bigint key of the first or second half of the keys, not one that moves."""
    found = (
        key
        for key in range(1, 100_000)
        if (position := position_of_key("bigint", str(key))) not in MOVED
        and position >> 63 == shard
    )
    return next(key for index, key in enumerate(found) if index == number)


def moved_key(number: int = 0) -> int:
    """Return a bigint key that ``Scene.cut`` moves."""
    found = (k for k in range(1, 100_000) if position_of_key("bigint", str(k)) in MOVED)
    return next(key for index, key in enumerate(found) if index == number)
