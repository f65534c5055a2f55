"""A caller without a platform, and one platform that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calls import Caller
from tests.local_home import fresh_home


@pytest.fixture
def call(tmp_path: Path) -> Caller:
    """Return a caller in an empty folder, without a platform."""
    return Caller(tmp_path, tmp_path / "home")


@pytest.fixture(scope="session")
def platform() -> Iterator[Caller]:
    """Return a caller on a running platform with database shop applied: 2 shards of 1 instance."""
    with fresh_home() as home:
        caller = Caller(home.parent, home)
        caller.write_specs()
        assert caller("platform", "up").code == 0
        applied = caller("apply", "-f", "specs", "--yes")
        assert applied.code == 0, applied.told()
        yield caller
