"""The chapter in which keys move: a shard is split under a writer, and merged back."""

from __future__ import annotations

import time
from typing import Any

from reconciler.demo import shards
from reconciler.demo.story import SHOP, DemoFailed, Story, wait_for
from reconciler.demo.writer import Writer, owner_of
from reconciler.engine.wishes import moves_under_way
from reconciler.model.hashing import position_of_key
from reconciler.model.routing import RoutingMap

WHOLE = '- {name: s0, keys: ["-80"]}'
SPLIT = '- {name: s0, keys: ["-40"]}\n    - {name: s2, keys: ["40-80"]}'
_MOVES_FROM = 0x40 << 56
_WRITERS_CUSTOMERS = 20


def split_and_merge(story: Story, routing: RoutingMap, router: dict[str, Any]) -> None:
    """Split s0 in two while a writer writes keys that move, and merge the halves again."""
    moving = tuple(
        customer
        for customer in customers_of(routing, 0, shards.CUSTOMERS)
        if position_of_key(routing.key_type, str(customer)) >= _MOVES_FROM
    )[:_WRITERS_CUSTOMERS]
    writer = Writer(router, moving, first=2_000_000)
    writer.start()
    try:
        wait_for(lambda: len(writer.acknowledged) > 200, "the writer to write")
        story.say(
            "Split s0 while a writer at the router writes keys that move: one edit of the spec"
        )
        _retile(story, "Split s0", WHOLE, SPLIT)
        _move(story, "s0 split")
        story.say("Merge it back: the edit the other way round")
        _retile(story, "Merge s2 into s0", SPLIT, WHOLE)
        _move(story, "s2 merged into s0")
    finally:
        writer.stop()
    story.say("s2 owns nothing now: the next apply retires it")
    story.run("apply", *story.source, "--yes", "--quiet")
    story.run("get", "shards")
    print("  s2 is stopped and its data kept: the database has `deletion: protected`.", flush=True)
    tell_outcome(story, writer, "a split and a merge")
    if writer.failed:
        raise DemoFailed(f"{len(writer.failed)} writes failed at the router: {writer.failed[0]}")


def customers_of(routing: RoutingMap, owner: int, count: int) -> tuple[int, ...]:
    """Return up to ``count`` of the loaded customers whose keys belong to one owner of the map."""
    shard = routing.owners[owner].shard
    loaded = range(1, shards.CUSTOMERS + 1)
    return tuple(c for c in loaded if owner_of(routing, c).shard == shard)[:count]


def _retile(story: Story, message: str, old: str, new: str) -> None:
    spec = story.specs / "shop.yaml"
    text = spec.read_text()
    if old not in text:
        raise DemoFailed(f"{spec} has no line {old}")
    spec.write_text(text.replace(old, new))
    story.git("commit", "--quiet", "-am", message)


def _move(story: Story, what: str) -> None:
    """Apply an edit of the ranges, show the move, end its window and prune what stayed behind."""
    begun = time.monotonic()
    story.watch("apply", *story.source, "--yes")
    moves = moves_under_way(story.world().eyes.store)
    pause_ms = moves[0].pauses_ms[0] if moves and moves[0].pauses_ms else None
    if pause_ms is None:
        raise DemoFailed(f"no move was made: {moves}")
    story.run("operation", "list")
    story.note(
        what,
        f"{time.monotonic() - begun:.0f} s, every row compared and equal, "
        f"writes held for {pause_ms:.0f} ms",
    )
    story.run("route", "shop", str(shards.CUSTOMERS))
    story.run("operation", "finish", moves[0].id)
    story.run("apply", *story.source, "--yes", "--quiet")


def tell_outcome(story: Story, writer: Writer, what: str) -> None:
    """Keep what became of a writer's orders. Raises DemoFailed when one is lost or doubled."""
    outcome = writer.outcome(story.world(), SHOP)
    story.writes.append((what, outcome, writer.gap_s))
    print(f"  {outcome.acknowledged:,} writes acknowledged in {what}", flush=True)
    if outcome.lost or outcome.doubled:
        raise DemoFailed(f"{outcome.lost} acknowledged writes lost, {outcome.doubled} doubled")
