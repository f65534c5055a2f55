"""Moves of key ranges in words: what was asked for, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from reconciler.model.desired import CopyDriver
from reconciler.model.keyspace import KeySet
from reconciler.model.names import ShardName
from reconciler.plan.actions import MoveKeyRange
from reconciler.plan.render_report import (
    ShownDatabase,
    amount,
    counted,
    duration,
    listed,
    size,
)

SEQUENCES_MAX = 5
"""Sequences of a move that are shown one by one."""


def describe_moves(moves: list[MoveKeyRange], known: ShownDatabase) -> str:
    """Return what a group of moves is, as the edit that asks for it is called.

    Split, merge, rebalance and isolate are names for what people see; all of them are moves.
    """
    before, after = known.keys_before, known.keys_after
    sources = list(dict.fromkeys(move.source for move in moves))
    targets = list(dict.fromkeys(move.target for move in moves))
    if all(target not in before or not before[target] for target in targets) and len(sources) == 1:
        return _split(sources[0], targets, moves, before, after)
    if len(targets) == 1 and all(not after.get(source) for source in sources):
        whole = _keys(after, targets[0])
        return f"merge {_with_keys(sources, before)} into {targets[0]}{whole}"
    shards = sorted({*sources, *targets})
    if all(before.get(shard) and after.get(shard) for shard in shards):
        borders = [f"{s} ({before[s]} → {after[s]})" for s in shards]
        return f"rebalance {listed(borders)}"
    return f"reshard {_with_keys(sources, before)} into {_with_keys(targets, after)}"


def _split(
    source: ShardName,
    targets: list[ShardName],
    moves: list[MoveKeyRange],
    before: dict[ShardName, KeySet],
    after: dict[ShardName, KeySet],
) -> str:
    if all(_one_key(move.keys) for move in moves) and after.get(source):
        return f"isolate {counted(len(moves), 'key')} of {source} in {listed(targets)}"
    whole = f"{source}{_keys(before, source)}"
    if not after.get(source) and len(targets) == 1:
        return f"replace {whole} by {_with_keys(targets, after)}"
    parts = [*([source] if after.get(source) else []), *targets]
    return f"split {whole} into {_with_keys(parts, after)}"


def _one_key(keys: KeySet) -> bool:
    return all(r.end - r.start == 1 for r in keys.ranges)


def _keys(owners: dict[ShardName, KeySet], shard: ShardName) -> str:
    return f" ({owners[shard]})" if shard in owners else ""


def _with_keys(shards: list[ShardName], owners: dict[ShardName, KeySet]) -> str:
    return listed(f"{shard}{_keys(owners, shard)}" for shard in shards)


def move_title(move: MoveKeyRange) -> str:
    """Return one move with its amount: ``move 40-80 from s0 to s2: 2.1 GiB, …``."""
    what = f"move {move.keys} from {move.source} to {move.target}"
    if move.tables is None:
        return f"{what}: size unknown, {move.source} did not answer"
    moved = sum(table_bytes for _, table_bytes, _ in move.tables)
    # An estimate of -1 rows is a table that was never analysed.
    rows = sum(table_rows for _, _, table_rows in move.tables if table_rows > 0)
    tables = counted(len(move.tables), "table")
    return f"{what}: {size(moved)}, {amount(rows)} {'row' if rows == 1 else 'rows'} in {tables}"


def move_notes(move: MoveKeyRange) -> tuple[str, ...]:
    """Return the limits of a move: how long writers may wait, how long the way back stays."""
    return (
        f"writes to the range wait at most {duration(move.pause_max_ms / 1000)}; "
        f"reversible for {duration(move.rollback_window_s)}, then pruned from {move.source}",
        _driver(move),
        *_sequences(move),
    )


def _sequences(move: MoveKeyRange) -> Iterator[str]:
    """Yield what sequences give out from the cut on; of many, the first ones and how many more."""
    for block in move.blocks[:SEQUENCES_MAX]:
        name = block.sequence.removeprefix("public.")
        (mine, last), (theirs, end) = block.source, block.target
        yield (
            f"sequence {name}, as it stands: {move.source} keeps {mine:,} to {last:,}, "
            f"{move.target} gets {theirs:,} to {end:,}"
        )
    more = len(move.blocks) - SEQUENCES_MAX
    if more > 0:
        yield f"{counted(more, 'more sequence')} divided in the same way"


def _driver(move: MoveKeyRange) -> str:
    match move.copying.driver:
        case CopyDriver.OWN:
            return f"rows come by a parallel binary copy{_because(move.copying.why)}"
        case CopyDriver.NATIVE:
            return "rows come by tablesync, as asked for: slower, resumes by itself"
        case CopyDriver.PHYSICAL:
            return (
                f"{move.target} is made anew as a physical copy of {move.source}, then left with "
                f"these keys only{_because(move.copying.why)}"
            )
        case _:
            assert_never(move.copying.driver)


def _because(why: str) -> str:
    return f": {why}" if why else ""
