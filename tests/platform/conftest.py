from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.local import lifecycle
from reconciler.edges.local.platform import LocalPlatform
from tests.local_home import blueprint, fresh_home


@pytest.fixture
def new_home() -> Iterator[Path]:
    """A path for a home of this test alone; nothing is there yet."""
    with fresh_home() as root:
        yield root


@pytest.fixture(scope="session")
def shop_home() -> Iterator[Path]:
    """One home for the whole run, with the shard shop-s0 of two members."""
    with fresh_home() as root:
        lifecycle.up(root)
        LocalPlatform(root).ensure_members(blueprint("shop-s0"), (0, 1))
        yield root
