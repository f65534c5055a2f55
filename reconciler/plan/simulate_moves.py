"""What moves of keys do to the model: the map, the guards of both sides, the move's record."""

from __future__ import annotations

from dataclasses import replace

from reconciler.diff.moving import window_is_over
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import EQUAL, Move, Stage, Wish
from reconciler.model.names import Epoch, ScopeKey
from reconciler.model.observed import Catalog, ObservedDatabase, ObservedShard
from reconciler.model.routing import RoutingMap
from reconciler.plan.actions import CloseMove, MoveKeyRange
from reconciler.plan.moves import begin_move


def move_keys(there: ObservedDatabase, action: MoveKeyRange, now: str) -> ObservedDatabase:
    """Give the keys to the target; the move's record stays while there is a way back."""
    routing = there.routing
    if not isinstance(routing, RoutingMap):
        return there
    move = begin_move(action, routing, now)
    there = _give(there, routing, move, move.epoch, back=False)
    soaking = _soaking(move, now)
    kept = (soaking,) if move.rollback_window_s else ()
    return replace(there, moves=(*(m for m in there.moves if m.id != move.id), *kept))


_LONG_AGO = "2000-01-01T00:00:00+00:00"
"""Stands for the time of a switch in a model that has no time."""


def _soaking(move: Move, since: str) -> Move:
    """Return a move whose target serves and whose cut was compared; ``since`` may be unknown."""
    at = since or _LONG_AGO
    return replace(move, stage=Stage.SWITCHED, switched_at=at, cut_compared=EQUAL)


def close_move(there: ObservedDatabase, action: CloseMove, now: str) -> ObservedDatabase:
    """End a move: its record goes, and after an abort or a rollback the source owns the keys.

    One that only goes on soaks after it, unless its window is over.
    """
    move = action.move
    routing = there.routing
    goes_on = action.how is Wish.FORWARD and move.stage is not Stage.ENDED
    if goes_on and not (move.switched_at and window_is_over(move, now)):
        soaking = _soaking(move, move.switched_at)
        return replace(there, moves=tuple(soaking if m.id == move.id else m for m in there.moves))
    if isinstance(routing, RoutingMap):
        if action.how is Wish.ROLLBACK:
            there = _give(there, routing, move, Epoch(routing.epoch + 1), back=True)
        elif action.how is Wish.ABORT:
            for owner in routing.owners:
                key = ScopeKey(move.database.namespace, owner.scope)
                if key in (move.source_scope, move.target_scope):
                    there = _guard(there, key, owner.keys, routing.epoch)
    return replace(there, moves=tuple(m for m in there.moves if m.id != move.id))


def _give(
    there: ObservedDatabase, routing: RoutingMap, move: Move, epoch: Epoch, *, back: bool
) -> ObservedDatabase:
    """Let the map and the guards of both sides say who owns the keys now."""
    less, more = move.source_scope, move.target_scope
    if back:
        less, more = more, less
    owners = tuple(
        replace(o, keys=o.keys - move.keys)
        if o.scope == less.scope
        else replace(o, keys=o.keys | move.keys)
        if o.scope == more.scope
        else o
        for o in routing.owners
    )
    there = replace(there, routing=replace(routing, owners=owners, epoch=epoch))
    for owner in owners:
        key = ScopeKey(move.database.namespace, owner.scope)
        if key in (less, more):
            there = _guard(there, key, owner.keys, epoch)
    return there


def _guard(
    there: ObservedDatabase, scope: ScopeKey, keys: KeySet, epoch: Epoch
) -> ObservedDatabase:
    def guarded(shard: ObservedShard) -> ObservedShard:
        if shard.key != scope or not isinstance(shard.catalog, Catalog):
            return shard
        guards = tuple(replace(g, keys=keys, epoch=epoch) for g in shard.catalog.guards)
        return replace(shard, catalog=replace(shard.catalog, guards=guards))

    return replace(there, shards=tuple(guarded(shard) for shard in there.shards))


def without_idle_owners(there: ObservedDatabase) -> ObservedDatabase:
    """Return the database with a map that lists no shard whose keys have left for good."""
    if not isinstance(there.routing, RoutingMap):
        return there
    moving = {s.scope for move in there.moves for s in (move.source_scope, move.target_scope)}
    owners = tuple(o for o in there.routing.owners if o.keys or o.scope in moving)
    return replace(there, routing=replace(there.routing, owners=owners))
