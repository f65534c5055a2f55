"""Who brings the rows: by sizes and by what else would come along."""

from __future__ import annotations

import pytest

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import SeedFacts
from reconciler.plan.copying import choose_copy, in_the_way

GB = 10**9
OWN, NATIVE, PHYSICAL = CopyDriver


@pytest.mark.parametrize(
    ("whole", "moved", "driver"),
    [
        (GB // 2, GB // 2, OWN),  # starting the shard anew takes longer than the rows do
        (1 * GB, 1 * GB, PHYSICAL),
        (5 * GB, 2 * GB, OWN),  # as much would be deleted again
        (400 * GB, 100 * GB, OWN),
        (600 * GB, 300 * GB, PHYSICAL),  # the snapshot would grow old
        (5 * GB, None, OWN),
    ],
)
def test_a_physical_copy_is_taken_where_it_is_clearly_quicker_or_a_snapshot_would_grow_old(
    whole: int, moved: int | None, driver: CopyDriver
) -> None:
    chosen = choose_copy(None, moved, SeedFacts(whole))
    assert chosen.driver is driver
    assert chosen.why
    assert chosen.whole_bytes == whole


def test_what_forbids_a_physical_copy_is_told_only_where_one_would_pay() -> None:
    facts = SeedFacts(5 * GB, ("s0 has tablespaces",))
    large, small = choose_copy(None, 5 * GB, facts), choose_copy(None, GB // 2, facts)
    assert large.driver is small.driver is OWN
    assert large.why == "no physical copy, though most of a large shard moves: s0 has tablespaces"
    assert small.why == "quicker than a copy of the whole shard"
    assert in_the_way(large, facts) == ()


def test_a_driver_that_was_asked_for_is_taken_and_what_forbids_it_is_in_the_way() -> None:
    facts = SeedFacts(5 * GB, ("s0 has tablespaces",))
    assert choose_copy(NATIVE, 5 * GB, facts).driver is NATIVE
    assert choose_copy(OWN, 500 * GB, facts).driver is OWN
    wanted = choose_copy(PHYSICAL, 1, facts)
    assert wanted.driver is PHYSICAL
    (obstacle,) = in_the_way(wanted, facts)
    assert str(obstacle) == "no physical copy: s0 has tablespaces"
    assert obstacle.cure == "move with resharding.copy: auto"
