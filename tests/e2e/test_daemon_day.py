"""A daemon to which nothing happens, for two hours of rounds: it holds what it held before.

``tests.bench.bench_day`` runs the whole day and prints the figures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.fast_daemon import DAY, FAST, PROGRAM, held_after
from tests.e2e.test_daemon import World, world

pytestmark = pytest.mark.platform
__all__ = ["world"]
WARM = 100
GROWTH_BYTES_MAX = 4 << 20
"""A leak of 17 KiB a round would be as much: less than what was read of one source."""
SPREAD = 3
"""Files and threads that a look has open while it runs."""


def test_rounds_in_which_nothing_happens_leave_nothing_behind(world: World) -> None:
    world.scene.write("idle")
    world.commit("idle")
    world.config.write_text(FAST.format(repository=world.scene.specs))
    daemon = world.start(PROGRAM, PYTHONPATH=str(Path(__file__).parents[2]))
    world.await_ready("idle")
    warm = held_after(daemon, world, int(daemon.count("controller_runtime_reconcile_total")) + WARM)

    after = held_after(daemon, world, warm.rounds + DAY // 12)

    assert after.looks - warm.looks > 20, "its source was polled meanwhile"
    assert after.records == warm.records, "an idle round writes nothing"
    assert after.memory - warm.memory < GROWTH_BYTES_MAX
    assert abs(after.files - warm.files) <= SPREAD
    assert abs(after.threads - warm.threads) <= SPREAD
    assert len(daemon.lines()) < 100
