"""Who brings the rows of a move: by the sizes, and by what a physical copy would bring as well."""

from __future__ import annotations

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import CopyChoice, Obstacle, SeedFacts

COPY_BYTES_PER_S = 60e6
"""Rows copied, indexed and caught up: resharding.md, section 2, on two small cores."""
SEED_BYTES_PER_S, DELETE_BYTES_PER_S, SEED_S = 200e6, 150e6, 6.0
"""A base backup, flushed; deleting the rows of other keys; and starting the target anew: 552 MB of
which half moved took 10.4 s so (``tests.bench.bench_seed``, beside one other test)."""
CLEARLY = 0.8
SNAPSHOT_S_MAX = 3600.0
"""A copy of rows holds a snapshot as long as it runs, and no vacuum removes what died since."""


NOT_ASKED = SeedFacts(0)
"""Where no physical copy comes into question."""


def may_be_physical(wish: CopyDriver | None) -> bool:
    """Whether it matters what a physical copy would bring, which is asked of every table."""
    return wish in (None, CopyDriver.PHYSICAL)


def seed_seconds(whole_bytes: float, moved_bytes: float) -> float:
    """Return about how long a physical copy takes until only the moved rows are left of it."""
    others = max(0.0, whole_bytes - moved_bytes)
    return SEED_S + whole_bytes / SEED_BYTES_PER_S + others / DELETE_BYTES_PER_S


def choose_copy(wish: CopyDriver | None, moved_bytes: int | None, facts: SeedFacts) -> CopyChoice:
    """Return who brings the rows; ``wish`` None: whoever is quicker, and holds no old snapshot.

    ``moved_bytes`` None is unknown, which is no reason for a physical copy.
    """
    whole, moved = facts.bytes, moved_bytes or 0
    if wish is not None:
        return CopyChoice(wish, "as asked for", whole)
    by_rows = moved / COPY_BYTES_PER_S
    if by_rows > SNAPSHOT_S_MAX:
        pays = "a copy of the rows would hold a snapshot for more than an hour"
    elif seed_seconds(whole, moved) < CLEARLY * by_rows:
        pays = "most of a large shard moves"
    else:
        return CopyChoice(CopyDriver.OWN, "quicker than a copy of the whole shard", whole)
    if facts.hindrances:
        why = f"no physical copy, though {pays}: {facts.hindrances[0]}"
        return CopyChoice(CopyDriver.OWN, why, whole)
    return CopyChoice(CopyDriver.PHYSICAL, pays, whole)


def in_the_way(copying: CopyChoice, facts: SeedFacts) -> tuple[Obstacle, ...]:
    """Return why a physical copy that was asked for cannot be had."""
    if copying.driver is not CopyDriver.PHYSICAL:
        return ()
    cure = "move with resharding.copy: auto"
    return tuple(Obstacle("", f"no physical copy: {why}", cure) for why in facts.hindrances)
