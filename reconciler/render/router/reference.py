"""The map as the reference router reads it: ranges in order, each with its shard's members."""

from __future__ import annotations

import json

from reconciler.model.routing import RoutingMap


def render_reference(routing: RoutingMap) -> str:
    """Return JSON: the epoch, the tables with their keys, and the ranges by position."""
    ranges = sorted(
        (r.start, str(r), owner.shard) for owner in routing.owners for r in owner.keys.ranges
    )
    shards = {
        owner.shard: [f"{m.endpoint.host}:{m.endpoint.postgres_port}" for m in owner.members]
        for owner in routing.owners
    }
    whole = {
        "database": str(routing.database),
        "epoch": routing.epoch,
        "keyType": routing.key_type.value,
        "hash": "PostgreSQL extended, seed 0",
        "tables": dict(sorted(routing.tables)),
        "reference": sorted(routing.reference),
        "ranges": [{"keys": keys, "shard": shard} for _, keys, shard in ranges],
        "shards": shards,
    }
    return json.dumps(whole, indent=2) + "\n"
