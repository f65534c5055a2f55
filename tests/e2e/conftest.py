"""One platform for all tests of this folder; each test has specs and databases of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.local import lifecycle
from tests.e2e.scene import Scene
from tests.local_home import fresh_home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A server killed in a TLS handshake leaves a socket that CPython forgets to close."""
    for item in items:
        if "e2e" in item.path.parts:
            text = "ignore:Exception ignored in. <ssl.SSLSocket"
            item.add_marker(
                pytest.mark.filterwarnings(f"{text}:pytest.PytestUnraisableExceptionWarning")
            )


@pytest.fixture(scope="session")
def e2e_home() -> Iterator[Path]:
    """A platform that runs, with nothing on it."""
    with fresh_home() as root:
        lifecycle.up(root)
        yield root


@pytest.fixture
def scene(e2e_home: Path, tmp_path: Path) -> Iterator[Scene]:
    """Specs of this test alone; what it made is destroyed at its end."""
    one = Scene(e2e_home, tmp_path)
    yield one
    one.drop()


@pytest.fixture(scope="module")
def stage(e2e_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Specs that the tests of one module share, so that a database is provisioned only once."""
    one = Scene(e2e_home, tmp_path_factory.mktemp("stage"))
    yield one
    one.drop()
