"""Who owns which keys, who should, and what the routing map ought to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.diff.changes import MoveKeys, PublishRouting, Remark, RenameShard, RetireShard
from reconciler.model.desired import CopyDriver, Database
from reconciler.model.keyspace import KeySet, KeySetIndex
from reconciler.model.moves import CopyChoice
from reconciler.model.names import Epoch, ScopeKey, ShardName, member_name
from reconciler.model.observed import ObservedDatabase, ObservedShard, Unseen
from reconciler.model.platform import Endpoint
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner

Scopes = Mapping[ShardName, ScopeKey]


def moves(database: Database, seen: ObservedDatabase, scopes: Scopes) -> Iterator[MoveKeys]:
    """Yield the key-range moves between the routing map's tiling and the spec's, in spec order."""
    routing = seen.routing
    if not isinstance(routing, RoutingMap):
        return
    there = {shard.key: shard for shard in seen.shards}
    told = {(p.source_scope, p.target_scope, p.keys): p for p in seen.preflights}
    owned = KeySetIndex(owner.keys for owner in routing.owners)
    for shard in database.shards:
        for index, keys in owned.shared(shard.keys):
            owner = routing.owners[index]
            source = ScopeKey(database.key.namespace, owner.scope)
            if source != scopes[shard.name]:
                preflight = told.get((source, scopes[shard.name], keys))
                yield MoveKeys(
                    database.key,
                    owner.shard,
                    shard.name,
                    source,
                    scopes[shard.name],
                    keys,
                    _share_of_tables(database, there.get(source), keys, owner.keys),
                    database.resharding.pause_max_ms,
                    database.resharding.rollback_window_s,
                    shard.place.at("keys"),
                    database.resharding.latency_ratio_max,
                    preflight.copying if preflight else _asked_for(database),
                    preflight.blocks if preflight else (),
                )


def _asked_for(database: Database) -> CopyChoice:
    return CopyChoice(database.resharding.copy or CopyDriver.OWN)


def _share_of_tables(
    database: Database, source: ObservedShard | None, keys: KeySet, owned: KeySet
) -> tuple[tuple[str, int, int], ...] | None:
    """Return (table, bytes, rows) that move, by the share of the source's keys; hashes are even."""
    if source is None or isinstance(source.catalog, Unseen):
        return None
    share = keys.share / owned.share
    sharded = {table.name for table in database.sharding.tables}
    return tuple(
        (table.name, round(table.bytes * share), round(max(table.rows, 0) * share))
        for table in source.catalog.tables
        if table.name in sharded
    )


def renames(database: Database, routing: RoutingMap, scopes: Scopes) -> Iterator[RenameShard]:
    """Yield the shards whose name in the routing map is not the spec's any more."""
    names = {owner.scope: owner.shard for owner in routing.owners}
    for shard in database.shards:
        before = names.get(scopes[shard.name].scope)
        if before is not None and before != shard.name:
            yield RenameShard(
                database.key, scopes[shard.name], before, shard.name, shard.place.at("name")
            )


def unsaid_renames(database: Database, routing: RoutingMap) -> Iterator[Remark]:
    """Yield a remark for each shard that left while a new one came with exactly its keys.

    That is a move of all its data if it is meant, and nothing at all if it is a rename.
    """
    known = {owner.shard for owner in routing.owners}
    listed = {s.name for s in database.shards} | {s.moved_from for s in database.shards}
    left = {str(o.keys): o.shard for o in routing.owners if o.keys and o.shard not in listed}
    for shard in database.shards:
        before = left.get(str(shard.keys))
        if before is not None and shard.name not in known and shard.moved_from not in known:
            yield Remark(
                database.key,
                f"{before} left and {shard.name} came with the same keys: if it is a rename, write "
                f"moved: [{{from: {before}, to: {shard.name}}}]",
                shard.place.at("name"),
            )


def retirements(
    database: Database, seen: ObservedDatabase, scopes: Scopes
) -> Iterator[RetireShard]:
    """Yield the shards that the spec does not have and that own no keys, or will own none."""
    wanted = set(scopes.values())
    routing = seen.routing if isinstance(seen.routing, RoutingMap) else None
    names = {owner.scope: owner.shard for owner in routing.owners} if routing else {}
    for shard in seen.shards:
        if shard.key in wanted or (shard.platform.stopped and shard.key.scope not in names):
            continue
        size = None if isinstance(shard.catalog, Unseen) else shard.catalog.bytes
        yield RetireShard(
            database.key, names.get(shard.key.scope), shard.key, database.deletion, size
        )


def epoch_of(seen: ObservedDatabase) -> Epoch:
    """Return the routing map's epoch; without a map, the latest that a guard names, or 1."""
    if isinstance(seen.routing, RoutingMap):
        return seen.routing.epoch
    catalogs = [s.catalog for s in seen.shards if not isinstance(s.catalog, Unseen)]
    return max((g.epoch for c in catalogs for g in c.guards), default=Epoch(1))


def publication(
    database: Database, seen: ObservedDatabase, scopes: Scopes
) -> PublishRouting | None:
    """Return the change that brings the routing map up to date, or None when it is.

    Ownership is the map's own business: keys never change here, only names, members and tables do.
    A database without a map gets its first one from the spec. None also while the platform cannot
    say where the members of a shard are.
    """
    if any(shard.platform.unreadable for shard in seen.shards):
        return None
    before = seen.routing if isinstance(seen.routing, RoutingMap) else None
    after = _wanted_map(database, seen, before, scopes)
    if before is not None and _content(before) == _content(after, seen):
        return None
    return PublishRouting(database.key, before, after)


def _wanted_map(
    database: Database, seen: ObservedDatabase, before: RoutingMap | None, scopes: Scopes
) -> RoutingMap:
    owned = {owner.scope: owner.keys for owner in before.owners} if before else {}
    wanted = tuple(
        RoutingOwner(
            shard.name,
            scopes[shard.name].scope,
            owned.get(scopes[shard.name].scope, KeySet()) if before else shard.keys,
            _members(scopes[shard.name], shard.instances),
        )
        for shard in database.shards
    )
    listed = {owner.scope for owner in wanted}
    moving = {s.scope for move in seen.moves for s in (move.source_scope, move.target_scope)}
    leaving = [
        owner
        for owner in (before.owners if before else ())
        if owner.scope not in listed and (owner.keys or owner.scope in moving)
    ]
    return RoutingMap(
        database=database.key,
        epoch=epoch_of(seen),
        key_type=database.sharding.key_type,
        tables=tuple((table.name, table.key) for table in database.sharding.tables),
        reference=database.sharding.reference,
        owners=(*wanted, *leaving),
        version=before.version if before else 0,
    )


def _members(scope: ScopeKey, instances: int) -> tuple[RoutingMember, ...]:
    """Return members whose endpoints the platform fills in when the map is written."""
    nowhere = Endpoint("", 0, 0)
    return tuple(RoutingMember(member_name(scope.scope, n), nowhere) for n in range(instances))


def _content(routing: RoutingMap, seen: ObservedDatabase | None = None) -> object:
    """Return what a reader of the map sees; with ``seen``, endpoints come from the platform."""
    where = {
        member.name: member.endpoint
        for shard in (seen.shards if seen else ())
        for member in shard.platform.members
    }
    owners = [
        (
            owner.shard,
            owner.scope,
            owner.keys,
            [
                (m.name, where.get(m.name, m.endpoint) if seen else m.endpoint)
                for m in owner.members
            ],
        )
        for owner in routing.owners
    ]
    return (routing.epoch, routing.key_type, routing.tables, routing.reference, owners)
