"""Two PostgreSQL servers and an etcd for the whole run; a database of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.model.desired import KeyType
from tests.edges.servers import (
    EtcdServer,
    PostgresServer,
    etcd_binary,
    make_certificates,
    postgres_binaries,
    running_postgres,
)
from tests.sdk.scene import Scene, new_scene


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[EtcdServer, tuple[PostgresServer, PostgresServer]]]:
    folder = Path(tempfile.mkdtemp(prefix="sw-sdk-", dir="/tmp"))
    tls = make_certificates(folder / "tls")
    binaries = next(iter(postgres_binaries().values()))
    etcd = EtcdServer(etcd_binary(), folder / "etcd", tls)
    etcd.home.mkdir()
    try:
        with ExitStack() as stack:
            etcd.start()
            stack.callback(etcd.stop)
            running = []
            for name in ("a", "b"):
                (folder / name).mkdir()
                server = stack.enter_context(running_postgres(binaries, folder / name, tls))
                running.append(server)
            yield etcd, (running[0], running[1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def key_type() -> KeyType:
    return KeyType.BIGINT


@pytest.fixture
def scene(
    servers: tuple[EtcdServer, tuple[PostgresServer, PostgresServer]], key_type: KeyType
) -> Scene:
    return new_scene(*servers, key_type)
