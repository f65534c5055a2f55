"""Moves of keys: which are wanted, which go on, which end, and which have to wait.

What is wanted comes from the difference between the spec's tiling and the routing map; what is
under way from the moves' records. A shard takes part in one move at a time until that is switched;
while it soaks, only its own keys wait, so that a way back never crosses another move. That is
enough for the rest, because each guard is derived from the one that stands, not from a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reconciler.diff.changes import EndMove, MoveKeys, Refusal, Remark, Standstill
from reconciler.diff.refusals import MovedTableNotMade, MoveRefused
from reconciler.model.desired import Database, ShardedTable
from reconciler.model.keyspace import KeySet, key_set
from reconciler.model.moves import EQUAL, Move, MoveHold, MoveId, Preflight, Stage, Wish, bytes_of
from reconciler.model.names import ScopeKey
from reconciler.model.observed import Catalog, ObservedDatabase, Unseen
from reconciler.model.routing import RoutingMap
from reconciler.spec.tables import unmade_tables

_ASKED = "`shardwright operation {}` asked for it"
_LET_GO = "it waits until spec.shards changes, or for `shardwright operation retry {}`"
_Way = tuple[ScopeKey, ScopeKey, KeySet]
_NO_WAYS: Mapping[_Way, object] = {}


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
    wanted = tuple(piece for change in wanted for piece in _ways_back(change, seen.moves))
    taken: set[MoveKeys] = set()
    by_way = {(c.source_scope, c.target_scope, c.keys): c for c in wanted}
    for move in seen.moves:
        twin = _twin(move, by_way)
        if twin is not None:
            taken.add(twin)
        back = by_way.get((move.target_scope, move.source_scope, move.keys))
        if move.stage is Stage.BEFORE and _is_published(move, seen.routing):
            yield _cut_over(database, move, back)
            continue
        yield from _under_way(database, move, twin, looked_at)
    dark = {shard.key for shard in seen.shards if isinstance(shard.catalog, Unseen)}
    crowd = [_Size(m.id, m.moved_bytes) for m in seen.moves if m.stage is not Stage.ENDED]
    for change in wanted:
        if change in taken:
            continue
        sides = {change.source_scope, change.target_scope}
        hold = next((h for h in seen.holds if _answers(h, change)), None)
        other = next((m for m in seen.moves if holds_up(m, sides, change.keys, by_way)), None)
        named = {change.source_scope: change.source, change.target_scope: change.target}
        unseen = sorted(named[key] for key in sides & dark)
        if hold:
            why = f"{hold}; {_LET_GO.format(hold.id)}"
            yield Standstill(change.database, _what(change), why, held=True)
        elif other:
            yield _waits(change, f"waits for {_name(other)}{_how_long(other)}")
        elif unseen:
            why = f"waits until {' and '.join(unseen)} can be looked into"
            yield _waits(change, why, unseen=True)
        elif crowd and not _has_room(database.rollout.bytes_max, crowd, change):
            yield _waits(change, _crowded(crowd))
        else:
            crowd.append(_Size("", bytes_of(change.tables)))
            yield from _lacking(database, seen, change)
            yield from _begin(seen, change, sides & changing)


def _ways_back(change: MoveKeys, moves: Iterable[Move]) -> tuple[MoveKeys, ...]:
    """Return a wanted move as the ways back of the moves that it takes back together, else whole.

    So a spec may be reverted by several commits at once.
    """
    ways = [
        move
        for move in moves
        if move.stage is Stage.SWITCHED
        and (move.target_scope, move.source_scope) == (change.source_scope, change.target_scope)
        and not move.keys - change.keys
    ]
    if change.keys - key_set(one for move in ways for one in move.keys.ranges):
        return (change,)
    return tuple(replace(change, keys=move.keys) for move in ways)


def _answers(hold: MoveHold, change: MoveKeys) -> bool:
    """Whether a wanted move is the one that a person took back."""
    asked = (change.source, change.target, change.keys)
    return (hold.source, hold.target, hold.keys) == asked


def released_holds(seen: ObservedDatabase, wanted: tuple[MoveKeys, ...]) -> tuple[MoveId, ...]:
    """Return the holds whose moves the spec does not ask for any more, nor will once they ended."""
    ways = {(change.source_scope, change.target_scope, change.keys) for change in wanted}
    by_id = {move.id: move for move in seen.moves}

    def is_kept(hold: MoveHold) -> bool:
        move = by_id.get(hold.id)
        if move is None or move.stage is not Stage.SWITCHED:
            return any(_answers(hold, change) for change in wanted)
        return (move.target_scope, move.source_scope, move.keys) not in ways

    return tuple(hold.id for hold in seen.holds if not is_kept(hold))


def holds_up(
    move: Move, sides: Set[ScopeKey], keys: KeySet, by_way: Mapping[_Way, object] = _NO_WAYS
) -> bool:
    """Whether a move under way keeps another one of these shards and keys from beginning.

    ``by_way`` are the moves that the spec wants: one that goes the opposite way takes it back.
    """
    if not sides & {move.source_scope, move.target_scope}:
        return False
    if move.stage is not Stage.SWITCHED or move.wish is Wish.ROLLBACK:
        return True
    back = (move.target_scope, move.source_scope, move.keys) in by_way
    return back or bool(move.keys & keys)


@dataclass(frozen=True, slots=True)
class _Size:
    """A move that is between its shards: its id (empty: it begins now) and its bytes, if known."""

    id: str
    bytes: int | None


def _has_room(most: int | None, crowd: list[_Size], change: MoveKeys) -> bool:
    """Whether no more data than allowed is between shards once this move is, too."""
    sizes = [*(one.bytes for one in crowd), bytes_of(change.tables)]
    return most is None or (None not in sizes and sum(filter(None, sizes)) <= most)


def _crowded(crowd: list[_Size]) -> str:
    why = "waits: with it more data than rollout.bytesMax would be between shards"
    soaking = next((one.id for one in crowd if one.id), "")
    if not soaking:
        return f"{why} at once; it begins once the earlier moves of this plan have ended"
    return (
        f"{why}, moves in their rollback window included; "
        f"`shardwright operation finish {soaking}` ends one"
    )


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


def _lacking(database: Database, seen: ObservedDatabase, change: MoveKeys) -> Iterator[Refusal]:
    """Yield the tables that the target will not have, while it waits for schema files.

    Once it has them all, a look at its catalog tells (``Preflight``). Reference tables go only to
    a shard without keys: any other has its own.
    """
    shard = seen.shard(change.target_scope)
    catalog = shard.catalog if shard and isinstance(shard.catalog, Catalog) else None
    if catalog and len(catalog.history) >= len(database.schema):
        return
    there = {table.name for table in catalog.tables} if catalog else set()
    owners = seen.routing.owners if isinstance(seen.routing, RoutingMap) else ()
    serves = any(o.keys for o in owners if o.scope == change.target_scope.scope)
    for table in unmade_tables(database.schema, database.sharding):
        reference = table in database.sharding.reference
        if table in there or (reference and serves):
            continue
        name = table.removeprefix("public.")
        yield Refusal(
            change.database, MovedTableNotMade, _what(change),
            f"{change.target} has no table {name}, and no schema file makes it",
            f"add a schema file with CREATE TABLE IF NOT EXISTS {name}, or take it out of sharding",
            database.place.at("spec", "sharding", "reference" if reference else "tables"),
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


def _is_published(move: Move, routing: RoutingMap | Unseen | None) -> bool:
    """Whether the map gives the keys to the target: the cut is over, its applier ended there."""
    if not isinstance(routing, RoutingMap):
        return False
    owners = {owner.scope for owner in routing.owners if owner.keys & move.keys}
    return owners == {move.target_scope.scope}


def _cut_over(database: Database, move: Move, back: MoveKeys | None) -> EndMove:
    """Go on with a move whose map is published and whose stage is not noted yet, there or back."""
    place = database.place.at("spec", "shards")
    if back is None:
        return EndMove(database.key, move, Wish.FORWARD, "its map is published already", place)
    return EndMove(database.key, move, Wish.ROLLBACK, "the spec takes it back", place)


def _under_way(
    database: Database, move: Move, twin: MoveKeys | None, looked_at: str
) -> Iterator[MoveKeys | EndMove | Remark]:
    place = database.place.at("spec", "shards")
    match move.stage:
        case Stage.BEFORE if twin is not None and move.wish is not Wish.ABORT:
            yield twin
            if move.wish is Wish.PAUSE:
                go_on = f"`shardwright operation resume {move.id}` lets it go on"
                yield Remark(database.key, f"{_name(move)} is paused: {go_on}", place)
        case Stage.BEFORE:
            why = "the spec does not ask for it" if twin is None else _ASKED.format("abort")
            yield EndMove(database.key, move, Wish.ABORT, why, place)
        case Stage.SWITCHED if twin is not None and move.wish is Wish.FINISH:
            # The way back is closing, or lost: the keys come back by a move of their own.
            yield EndMove(database.key, move, Wish.FINISH, "it is being finished", place)
        case Stage.SWITCHED if twin is not None or move.wish is Wish.ROLLBACK:
            why = "the spec takes it back" if twin is not None else _ASKED.format("rollback")
            yield EndMove(database.key, move, Wish.ROLLBACK, why, place)
        case Stage.SWITCHED:
            yield _soaking(database, move, looked_at)
        case Stage.BACK:
            yield EndMove(database.key, move, Wish.FINISH, "it was rolled back", place)
        case Stage.ENDED:
            yield EndMove(database.key, move, move.wish, "only its record is left", place)


def _soaking(database: Database, move: Move, looked_at: str) -> EndMove | Remark:
    """Return what ends a move whose way back is open, or until when it stays so.

    Time alone ends only what was compared: the source's rows may be the only right ones.
    """
    place = database.place.at("spec", "shards")
    over, finish = window_is_over(move, looked_at), f"`shardwright operation finish {move.id}`"
    open_until = f"can be taken back until {window_end(move):%Y-%m-%d %H:%M} UTC"
    if move.wish is Wish.FINISH:
        why = "its rollback window is over" if over else _ASKED.format("finish")
        return EndMove(database.key, move, Wish.FINISH, why, place)
    if move.wish is Wish.PAUSE:
        again = f"paused: its rollback window stays open until `operation resume {move.id}`"
        return Remark(database.key, f"{_name(move)} is {again}", place)
    if move.not_comparable:
        lost = f"was not compared and cannot be ({move.not_comparable})"
        text = f"the cut of {_name(move)} {lost}; its rows stay at {move.source} until {finish}"
        return Remark(database.key, text, place)
    if not move.cut_compared:
        # Its applier ended in between: the way back may not be followed yet, and keeps WAL.
        return EndMove(database.key, move, Wish.FORWARD, "its cut was not compared yet", place)
    if not over:
        return Remark(database.key, f"{_name(move)} {open_until}", place)
    how = Wish.FINISH if move.cut_compared == EQUAL else Wish.FORWARD
    return EndMove(database.key, move, how, "its rollback window is over", place)


def _how_long(move: Move) -> str:
    """Say what ends a move that only its window keeps from its end."""
    if move.stage is not Stage.SWITCHED or move.wish is Wish.ROLLBACK:
        return ""
    finish = f"`shardwright operation finish {move.id}`"
    if move.wish is Wish.PAUSE or move.not_comparable:
        return f", whose way back stays open until {finish}"
    until = f"{window_end(move):%Y-%m-%d %H:%M} UTC"
    return f", which can be taken back until {until}; {finish} ends that now"


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


def held_tables(
    database: Database, seen: ObservedDatabase, routing: RoutingMap | None
) -> tuple[Database, tuple[Standstill, ...]]:
    """Return the database with the tables that its map shards while keys of these move.

    A move carries the tables that were sharded when it began, there and back. A table that came
    later would stay behind with its rows, so it waits, and so do the schema files that make it.
    """
    wanted = database.sharding
    if routing is None or not seen.moves:
        return database, ()
    tables = tuple(ShardedTable(name, key) for name, key in routing.tables)
    if (set(tables), set(routing.reference)) == (set(wanted.tables), set(wanted.reference)):
        return database, ()
    waits = Standstill(
        database.key,
        "sharding.tables",
        f"waits for {_name(seen.moves[0])}, its rollback window included: it carries the tables "
        f"that were sharded when it began; `shardwright operation finish {seen.moves[0].id}` ends "
        "the window",
    )
    sharding = replace(wanted, tables=tables, reference=routing.reference)
    return replace(database, sharding=sharding), (waits,)


def silent_shards(seen: ObservedDatabase) -> frozenset[ScopeKey]:
    """Return the shards that did not answer; one that was stopped on purpose need not."""
    return frozenset(
        shard.key
        for shard in seen.shards
        if isinstance(shard.catalog, Unseen) and not shard.platform.stopped
    )
