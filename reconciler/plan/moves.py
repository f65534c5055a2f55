"""From the action that moves keys to the record of the move."""

from __future__ import annotations

import hashlib

from reconciler.model.desired import CopyDriver, ShardedTable
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Move, MoveId, bytes_of
from reconciler.model.names import Epoch
from reconciler.model.routing import RoutingMap
from reconciler.plan.actions import MoveKeyRange


def begin_move(action: MoveKeyRange, routing: RoutingMap, started_at: str) -> Move:
    """Return the record of a move that begins now.

    Its id follows from what it does and from the epoch it will publish: the same move begun twice
    is one, and the same keys moved once more later is another.
    """
    owned = {owner.scope: owner.keys for owner in routing.owners}
    target_keys = owned.get(action.target_scope.scope, KeySet())
    epoch = Epoch(routing.epoch + 1)
    identity = (action.database, action.source_scope, action.target_scope, str(action.keys), epoch)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    return Move(
        id=MoveId(f"m{digest[:8]}"),
        database=action.database,
        source=action.source,
        target=action.target,
        source_scope=action.source_scope,
        target_scope=action.target_scope,
        keys=action.keys,
        source_keys=owned.get(action.source_scope.scope, KeySet()),
        target_keys=target_keys,
        epoch=epoch,
        key_type=routing.key_type,
        tables=tuple(ShardedTable(name, key) for name, key in routing.tables),
        reference=routing.reference,
        pause_max_ms=action.pause_max_ms,
        rollback_window_s=action.rollback_window_s,
        latency_ratio_max=action.latency_ratio_max,
        started_at=started_at,
        copy=_driver(action.copying.driver, target_keys),
        moved_bytes=bytes_of(action.tables),
    )


def _driver(chosen: CopyDriver, target_keys: KeySet) -> CopyDriver:
    """A shard that has got keys since, by an earlier move of the plan, is not made anew."""
    if chosen is CopyDriver.PHYSICAL and target_keys:
        return CopyDriver.OWN
    return chosen
