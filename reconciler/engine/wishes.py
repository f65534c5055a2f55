"""What a person wants of a move under way: pause, go on, abort, take back, or end its window now.

A wish is one field of the move's record, written by compare-and-set. The applier that works on the
move sees it at its next look; without one, the next plan does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.diff.moving import holds_up
from reconciler.engine.audit import Changes, Deed, write_audited
from reconciler.engine.logbook import Logbook, decode_logbook, read_ended
from reconciler.engine.orders import ordering
from reconciler.engine.ports import Store
from reconciler.engine.problems import ShardInMove
from reconciler.engine.records import (
    DATABASES,
    ROOT,
    decode_hold,
    decode_move,
    encode_hold,
    encode_move,
    hold_key,
    hold_of_key,
    logbook_key,
    move_of_key,
    moves_key,
)
from reconciler.model.access import ConflictingWrite, Lease, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, MoveHold, Stage, Wish
from reconciler.plan.actions import MoveKeyRange

if TYPE_CHECKING:
    from reconciler.engine.world import World
    from reconciler.model.names import DatabaseKey

_WISHES_LEASE = ROOT + "wishes"
_LEASE_S = 5
_TRIES = 5
_ALLOWED: dict[Wish, tuple[Stage, ...]] = {
    Wish.FORWARD: (Stage.BEFORE, Stage.SWITCHED),
    Wish.PAUSE: (Stage.BEFORE, Stage.SWITCHED),
    Wish.ABORT: (Stage.BEFORE,),
    Wish.ROLLBACK: (Stage.SWITCHED,),
    Wish.FINISH: (Stage.SWITCHED,),
}


_HELD = (Wish.ABORT, Wish.ROLLBACK)


class MoveNotHeld(ReconcilerError):
    """Nothing keeps this move from beginning again.

    `operation abort` and `rollback` hold a move back until the spec asks for something else;
    `shardwright operation retry` lets it go before that, once it has ended.
    """

    code = "AP208"


class MoveUnknown(ReconcilerError):
    """No move under way has this id. Moves that ended are gone; `shardwright history` tells of
    them."""

    code = "AP201"


class WishTooLate(ReconcilerError):
    """A move is too far, or not far enough, for what is asked of it.

    Before the cut it can be paused, resumed and aborted freely. After it the target takes writes:
    then the way back is a rollback, for as long as its window is open.
    """

    code = "AP202"


@dataclass(frozen=True, slots=True)
class KnownMove:
    """A move, under way or ended, with its logbook."""

    move: Move
    book: Logbook


def known_moves(store: Store) -> tuple[KnownMove, ...]:
    """Return the moves under way in the order in which they began, then the latest that ended.

    A logbook that cannot be read is shown as an empty one.
    """
    found = store.read(DATABASES)
    under_way = [KnownMove(move, _book_of(found, move)) for move in _under_way(found)]
    ended = [
        KnownMove(book.ended, book) for book in read_ended(found).values() if book.ended is not None
    ]
    ended.sort(key=lambda known: known.book.ended_at, reverse=True)
    return (*under_way, *ended)


def _book_of(found: dict[str, Versioned], move: Move) -> Logbook:
    key = logbook_key(move.database, move.id)
    if key in found:
        with suppress(ReconcilerError):
            return decode_logbook(key, found[key].value, found[key].version).going_on
    return Logbook()


def moves_under_way(store: Store) -> tuple[Move, ...]:
    """Return the records of all moves, in the order in which they began."""
    return _under_way(store.read(DATABASES))


def _under_way(found: dict[str, Versioned]) -> tuple[Move, ...]:
    moves = [
        decode_move(key, item.value, item.version)
        for key, item in found.items()
        if move_of_key(key)
    ]
    return tuple(sorted(moves, key=lambda move: (move.started_at, move.id)))


def refuse_busy(store: Store, action: MoveKeyRange) -> None:
    """Raise ShardInMove when a move may not begin yet: an earlier one may have been paused."""
    sides = {action.source_scope, action.target_scope}
    for move in moves_under_way(store):
        if move.database == action.database and holds_up(move, sides, action.keys):
            raise ShardInMove(
                f"move of {action.keys} from {action.source} to {action.target}",
                f"move {move.id} of {move.keys} works on these shards",
                remedy="plan again when it is through; `shardwright operation list` shows it",
            )


def record_wish(world: World, id_: str, wish: Wish) -> Move:
    """Write a wish into a move's record and return it.

    With an abort or a rollback comes a hold, so that the move is not begun again while the spec
    still asks for it; any other wish takes that back. A record that the applier changes meanwhile
    is read again. Raises MoveUnknown, WishTooLate and what the store raises.
    """
    lease = world.eyes.store.acquire(_WISHES_LEASE, world.actor, _LEASE_S)
    try:
        for _ in range(_TRIES - 1):
            with suppress(ConflictingWrite):
                return _wished(world, lease, id_, wish)
        return _wished(world, lease, id_, wish)
    finally:
        world.eyes.store.release(lease)


def _wished(world: World, lease: Lease, id_: str, wish: Wish) -> Move:
    store = world.eyes.store
    moves = moves_under_way(store)
    move = next((m for m in moves if m.id == id_), None)
    if move is None:
        raise MoveUnknown(
            f"move {id_}",
            "there is none under way with this id",
            remedy=f"one of: {', '.join(m.id for m in moves)}" if moves else "nothing moves now",
        )
    if move.stage not in _ALLOWED[wish]:
        instead = "roll it back instead" if move.stage is Stage.SWITCHED else "wait for its cut"
        raise WishTooLate(
            f"move {id_}", f"it is {move.stage.value}: {wish.value} is not possible", remedy=instead
        )
    wished = replace(move, wish=wish)
    key = moves_key(move.database, move.id)
    deed = Deed(
        world.clock.now(), world.actor, f"operation {wish.value}", "ordered",
        f"move {move.id} of {move.keys}", str(move.database),
    )  # fmt: skip
    hold = encode_hold(_hold(world, wished)) if wish in _HELD else None
    changes: Changes = {
        key: (encode_move(wished), move.version),
        hold_key(move.database, move.id): (hold, None),
    }
    write_audited(store, lease, changes, deed)
    return wished


def _hold(world: World, move: Move) -> MoveHold:
    at = world.clock.now().isoformat(timespec="seconds")
    return MoveHold(move.id, move.source, move.target, move.keys, move.wish, world.actor, at)


def let_go(world: World, id_: str) -> tuple[DatabaseKey, MoveHold]:
    """Let a move that a person took back begin again; return the hold that was there.

    Raises MoveNotHeld while none of it is held, and what the store raises.
    """
    store = world.eyes.store
    holds = {
        owner[1]: (owner[0], decode_hold(key, item.value))
        for key, item in store.read(DATABASES).items()
        if (owner := hold_of_key(key))
    }
    if id_ not in holds:
        raise MoveNotHeld(
            f"move {id_}",
            "no move of this id was aborted or taken back and waits",
            remedy=f"one of: {', '.join(sorted(holds))}" if holds else "none is held back",
        )
    database, hold = holds[id_]
    under_way = next((m for m in moves_under_way(store) if m.id == id_), None)
    if under_way is not None and under_way.wish in _HELD:
        raise MoveNotHeld(
            f"move {id_}", "it is not back yet", remedy="apply first, then let it begin again"
        )
    what = f"move {id_} of {hold.keys}"
    deed = Deed(
        world.clock.now(), world.actor, "operation retry", "ordered", what, str(database)
    )  # fmt: skip
    with ordering(store, world.actor) as lease:
        write_audited(store, lease, {hold_key(database, hold.id): (None, None)}, deed)
    return database, hold
