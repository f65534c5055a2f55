"""Ways back that do not go on: the target keeps all WAL for one, until its disk is full."""

from __future__ import annotations

from reconciler.engine.observe import observe
from reconciler.engine.sweeping import seats_of
from reconciler.engine.wishes import moves_under_way
from reconciler.engine.world import World
from reconciler.model.moves import Stage
from reconciler.model.routing import RoutingMap
from reconciler.plan.render_report import size
from reconciler.workflow.reshard_facts import Look, behind

KEPT_BYTES_MAX = 1 << 30
"""A way back that is behind by less, and does not fail, is no reason to look at it."""


def stuck_ways_back(world: World) -> tuple[str, ...]:
    """Say of moves that are cut over and whose source does not follow why; only looks.

    A shard that does not answer is left out: that shows elsewhere.
    """
    state = observe(world.eyes)
    seats = dict(seats_of(world, state))
    epochs = {d.key: d.routing.epoch for d in state.databases if isinstance(d.routing, RoutingMap)}
    found = []
    for move in moves_under_way(world.eyes.store):
        source, target = seats.get(move.source_scope), seats.get(move.target_scope)
        epoch = epochs.get(move.database)
        if move.stage is not Stage.SWITCHED or None in (source, target, epoch):
            continue
        assert source and target and epoch  # noqa: S101, PT018  just asked
        view = world.mover.view(move, source, target, epoch)
        why = behind(Look(move, view, world.clock.now()), view.reverse, str(move.source))
        lag = view.reverse.lag_bytes or 0
        if view.reverse.slot and why and (view.reverse.apply_errors or lag > KEPT_BYTES_MAX):
            found.append(f"{move.target} keeps {size(lag)} of WAL, and ever more, as {why}")
    return tuple(found)
