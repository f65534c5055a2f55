"""Moves of keys: which are wanted, which go on, which end, and which have to wait.

What is wanted comes from the difference between the spec's tiling and the routing map; what is
under way from the moves' records. One shard takes part in one move at a time, its soaking included,
so that the way back of a move never crosses another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import datetime, timedelta

from reconciler.diff.changes import EndMove, MoveKeys, Refusal, Remark, Standstill
from reconciler.diff.refusals import MoveRefused
from reconciler.model.desired import Database
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Move, Preflight, Stage, Wish
from reconciler.model.names import ScopeKey
from reconciler.model.observed import ObservedDatabase, Unseen

_Way = tuple[ScopeKey, ScopeKey, KeySet]


def diff_moves(
    database: Database,
    seen: ObservedDatabase,
    wanted: tuple[MoveKeys, ...],
    looked_at: str,
    changing: Set[ScopeKey] = frozenset(),
) -> Iterator[MoveKeys | EndMove | Refusal | Standstill | Remark]:
    """Yield what happens to moves under way, then the wanted ones whose shards are free.

    ``changing`` are the shards whose schema or parameters the same difference changes.
    """
    busy: dict[ScopeKey, Move] = {}
    taken: set[MoveKeys] = set()
    by_way = {(c.source_scope, c.target_scope, c.keys): c for c in wanted}
    for move in seen.moves:
        twin = _twin(move, by_way)
        if twin is not None:
            taken.add(twin)
        busy |= {move.source_scope: move, move.target_scope: move}
        yield from _under_way(database, move, twin, looked_at)
    reserved: set[ScopeKey] = set()
    dark = {shard.key for shard in seen.shards if isinstance(shard.catalog, Unseen)}
    for change in wanted:
        if change in taken:
            continue
        sides = {change.source_scope, change.target_scope}
        earlier = sides & reserved
        reserved |= sides
        other = busy.get(change.source_scope) or busy.get(change.target_scope)
        if other is None and not earlier:
            unseen = sorted(key.scope for key in sides & dark)
            why = f"waits until {' and '.join(unseen)} can be looked into"
            if unseen:
                yield _waits(change, why, unseen=True)
            else:
                yield from _begin(seen, change, sides & changing)
            continue
        why = f"waits for {_name(other)}" if other else "waits for an earlier move of these shards"
        yield _waits(change, why)


def _begin(
    seen: ObservedDatabase, change: MoveKeys, changing: Set[ScopeKey]
) -> Iterator[MoveKeys | Refusal | Standstill]:
    """Yield a move that may begin, or each reason why it may not.

    What passes by itself, or may be what this difference's other changes cure, only waits.
    """
    told = next((p.found for p in seen.preflights if _way(p) == _way(change)), ())
    if isinstance(told, Unseen):
        yield _waits(change, str(told), unseen=True)
    elif not told:
        yield change
    else:
        for obstacle in told:
            if obstacle.passing or changing:
                yield _waits(change, f"{obstacle}; {obstacle.cure}")
            else:
                yield Refusal(
                    change.database, MoveRefused, _what(change), str(obstacle), obstacle.cure,
                    change.place,
                )  # fmt: skip


def _way(one: MoveKeys | Preflight) -> _Way:
    return one.source_scope, one.target_scope, one.keys


def _what(change: MoveKeys) -> str:
    return f"move {change.keys} from {change.source} to {change.target}"


def _waits(change: MoveKeys, why: str, *, unseen: bool = False) -> Standstill:
    return Standstill(change.database, _what(change), why, unseen)


def _twin(move: Move, by_way: Mapping[_Way, MoveKeys]) -> MoveKeys | None:
    """Return the wanted change that a move answers: the same way before its cut, back after it."""
    if move.stage is Stage.SWITCHED:
        return by_way.get((move.target_scope, move.source_scope, move.keys))
    return by_way.get((move.source_scope, move.target_scope, move.keys))


def _under_way(
    database: Database, move: Move, twin: MoveKeys | None, looked_at: str
) -> Iterator[MoveKeys | EndMove | Remark]:
    place = database.place.at("spec", "shards")
    match move.stage:
        case Stage.BEFORE if twin is not None and move.wish is not Wish.ABORT:
            yield twin
        case Stage.BEFORE:
            yield EndMove(database.key, move, Wish.ABORT, "the spec does not ask for it", place)
        case Stage.SWITCHED if twin is not None or move.wish is Wish.ROLLBACK:
            yield EndMove(database.key, move, Wish.ROLLBACK, "the spec takes it back", place)
        case Stage.SWITCHED if move.wish is Wish.FINISH or window_is_over(move, looked_at):
            yield EndMove(database.key, move, Wish.FINISH, "its rollback window is over", place)
        case Stage.SWITCHED:
            yield Remark(
                database.key,
                f"{_name(move)} can be taken back until {window_end(move):%Y-%m-%d %H:%M} UTC",
                place,
            )
        case Stage.BACK:
            yield EndMove(database.key, move, Wish.FINISH, "it was rolled back", place)
        case Stage.ENDED:
            return


def window_end(move: Move) -> datetime:
    """Return when the way back of a switched move closes."""
    return datetime.fromisoformat(move.switched_at) + timedelta(seconds=move.rollback_window_s)


def window_is_over(move: Move, looked_at: str) -> bool:
    """Tell whether the way back has closed by a given time in ISO 8601; unknown time: no."""
    return bool(looked_at) and datetime.fromisoformat(looked_at) >= window_end(move)


def _name(move: Move) -> str:
    return f"the move of {move.keys} from {move.source} to {move.target}"


def guarded_by_moves(seen: ObservedDatabase) -> frozenset[ScopeKey]:
    """Return the shards whose guards a move owns now: until its map is published.

    A rollback owns them again, from its wish to its end.
    """
    return _sides(m for m in seen.moves if m.stage is Stage.BEFORE or m.wish is Wish.ROLLBACK)


def in_moves(seen: ObservedDatabase) -> frozenset[ScopeKey]:
    """Return the shards that take part in a move that has not ended."""
    return _sides(seen.moves)


def _sides(moves: Iterable[Move]) -> frozenset[ScopeKey]:
    return frozenset(s for move in moves for s in (move.source_scope, move.target_scope))


def silent_shards(seen: ObservedDatabase) -> frozenset[ScopeKey]:
    """Return the shards that did not answer; one that was stopped on purpose need not."""
    return frozenset(
        shard.key
        for shard in seen.shards
        if isinstance(shard.catalog, Unseen) and not shard.platform.stopped
    )
