"""Real etcd and PostgreSQL servers, one of each kind for the whole run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.model.platform import TlsFiles
from tests.edges.servers import (
    EtcdServer,
    PostgresServer,
    etcd_binary,
    make_certificates,
    postgres_binaries,
    running_postgres,
)
from tests.edges.shard import TestShard, new_shard


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A short path: PostgreSQL's and etcd's limits on paths are low."""
    path = Path(tempfile.mkdtemp(prefix="sw-edges-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def tls(home: Path) -> TlsFiles:
    return make_certificates(home / "tls")


@pytest.fixture(scope="session")
def etcd(home: Path, tls: TlsFiles) -> Iterator[EtcdServer]:
    folder = home / "etcd"
    folder.mkdir()
    server = EtcdServer(etcd_binary(), folder, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", params=sorted(postgres_binaries()))
def postgres(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[PostgresServer]:
    """One server of each version that is at hand; with several files at once it may begin again."""
    folder = Path(tempfile.mkdtemp(prefix=f"{request.param}-", dir=home))
    with running_postgres(postgres_binaries()[request.param], folder, tls) as server:
        yield server


@pytest.fixture
def bare(postgres: PostgresServer) -> TestShard:
    """A shard whose database does not exist yet."""
    return new_shard(postgres)


@pytest.fixture
def shard(bare: TestShard) -> TestShard:
    bare.set_up()
    return bare
