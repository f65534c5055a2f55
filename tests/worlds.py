"""Desired states for tests, and the observed state that a simulated apply makes of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

from reconciler.diff.diff import diff
from reconciler.diff.origin import parts_of
from reconciler.model.access import OWN_SCHEMA_VERSION
from reconciler.model.desired import (
    Database,
    Deletion,
    DesiredState,
    KeyType,
    Place,
    Revision,
    SchemaFile,
    Shard,
    ShardedTable,
    Sharding,
)
from reconciler.model.keyspace import SPACE_END, KeyRange, KeySet, key_set, parse_key_set
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
    app_role,
    member_name,
    owner_role,
)
from reconciler.model.observed import (
    AppliedFile,
    Catalog,
    ObservedDatabase,
    ObservedGuard,
    ObservedMember,
    ObservedShard,
    ObservedState,
    ObservedTable,
    PatroniView,
    Role,
    Unseen,
)
from reconciler.model.platform import (
    Endpoint,
    PlatformMember,
    PlatformShard,
    Resources,
    effective_parameters,
)
from reconciler.model.routing import AppliedRecord, RoutingMap, RoutingMember, RoutingOwner
from reconciler.plan.planner import make_plan
from reconciler.plan.simulate import simulate

NOTHING = ObservedState()


def schema_file(name: str, text: str = "select 1") -> SchemaFile:
    return SchemaFile(name, hashlib.sha256(text.encode()).hexdigest(), text)


def shard(
    name: str,
    keys: str | KeySet,
    instances: int = 2,
    *,
    synchronous: bool = True,
    moved_from: str | None = None,
    storage: str = "10Gi",
) -> Shard:
    return Shard(
        ShardName(name),
        parse_key_set(keys) if isinstance(keys, str) else keys,
        instances,
        synchronous,
        Resources(storage_size=storage),
        Place("specs/shop.yaml", 0, ("spec", "shards", 0)),
        ShardName(moved_from) if moved_from else None,
    )


def database(
    *shards: Shard,
    name: str = "shop",
    version: str = "16",
    parameters: tuple[tuple[str, str], ...] = (),
    files: tuple[SchemaFile, ...] = (schema_file("schema/001.sql"),),
    deletion: Deletion = Deletion.PROTECTED,
    suspend: bool = False,
    password_generation: int = 1,
    tables: tuple[tuple[str, str], ...] = (("public.customers", "id"),),
) -> Database:
    content = repr((shards, version, parameters, files, deletion, password_generation, tables))
    return Database(
        key=DatabaseKey(Namespace("default"), DatabaseName(name)),
        version=version,
        sharding=Sharding(KeyType.BIGINT, tuple(ShardedTable(t, k) for t, k in tables)),
        shards=shards or (shard("s0", "-80"), shard("s1", "80-")),
        place=Place("specs/shop.yaml"),
        parameters=parameters,
        schema=files,
        deletion=deletion,
        suspend=suspend,
        password_generation=password_generation,
        digest=hashlib.sha256(content.encode()).hexdigest(),
    )


def desired(*databases: Database, source: str = "specs", revision: str = "r1") -> DesiredState:
    return DesiredState(source, Revision(f"main@sha1:{revision}"), databases)


def after(state: DesiredState, observed: ObservedState = NOTHING) -> ObservedState:
    """What is there once ``state`` was applied."""
    return simulate(state, observed, make_plan(state, observed, diff(state, observed)))


def settled(state: DesiredState, *, table_bytes: int = 1 << 30) -> ObservedState:
    """What is there once ``state`` was applied, made in one pass: for worlds of thousands."""
    return ObservedState(
        databases=tuple(_settled_database(state, wanted, table_bytes) for wanted in state.databases)
    )


def _settled_database(state: DesiredState, wanted: Database, table_bytes: int) -> ObservedDatabase:
    record = AppliedRecord(
        wanted.key, state.source, state.revision.text, wanted.digest, wanted.deletion, "", 2,
        state.file_of(wanted.place), parts_of(wanted),
    )  # fmt: skip
    shards = [_settled_shard(wanted, shard, table_bytes) for shard in wanted.shards]
    owners = tuple(
        RoutingOwner(
            shard.name,
            seen.key.scope,
            shard.keys,
            tuple(RoutingMember(m.name, m.endpoint) for m in seen.platform.members),
        )
        for shard, seen in zip(wanted.shards, shards, strict=True)
    )
    routing = RoutingMap(
        wanted.key,
        Epoch(1),
        wanted.sharding.key_type,
        tuple((table.name, table.key) for table in wanted.sharding.tables),
        wanted.sharding.reference,
        owners,
        1,
    )
    return ObservedDatabase(
        wanted.key, routing, record, tuple(sorted(shards, key=lambda shard: shard.key))
    )


def _settled_shard(wanted: Database, shard: Shard, table_bytes: int) -> ObservedShard:
    scope = Scope(f"{wanted.key.name}-{shard.name}")
    key = ScopeKey(wanted.key.namespace, scope)
    names = [member_name(scope, n) for n in range(shard.instances)]
    where = [Endpoint(f"{name}.db.example", 5432, 8008) for name in names]
    platform = PlatformShard(
        key,
        wanted.key.name,
        wanted.version,
        tuple(PlatformMember(n, w, running=True) for n, w in zip(names, where, strict=True)),
        shard.synchronous,
        shard.resources,
    )
    primary = ObservedMember(names[0], where[0], Role.PRIMARY, "running", 1)
    standbys = tuple(
        ObservedMember(n, w, Role.STANDBY, "streaming", 1, 0, shard.synchronous)
        for n, w in zip(names[1:], where[1:], strict=True)
    )
    patroni = PatroniView(
        names[0],
        (primary, *standbys),
        effective_parameters(wanted.parameters, wanted.version),
        shard.synchronous,
    )
    column_type = {KeyType.INT: "integer"}.get(
        wanted.sharding.key_type, wanted.sharding.key_type.value
    )
    catalog = Catalog(
        server_version=int(wanted.version),
        database_present=True,
        roles=(app_role(wanted.key.name), owner_role(wanted.key.name)),
        installed=OWN_SCHEMA_VERSION,
        password_generation=wanted.password_generation,
        history=tuple(AppliedFile(file.name, file.sha256) for file in wanted.schema),
        guards=tuple(
            ObservedGuard(table.name, table.key, shard.keys, Epoch(1))
            for table in sorted(wanted.sharding.tables, key=lambda table: table.name)
        ),
        tables=tuple(
            ObservedTable(table.name, table_bytes, 1_000_000, ((table.key, column_type),))
            for table in sorted(wanted.sharding.tables, key=lambda table: table.name)
        ),
        bytes=table_bytes * len(wanted.sharding.tables),
    )
    return ObservedShard(key, platform, patroni, catalog, shard.name)


def tiles(count: int, instances: int = 2) -> tuple[Shard, ...]:
    """``count`` shards that share the key space evenly."""
    edges = [i * SPACE_END // count for i in range(count)] + [SPACE_END]
    return tuple(
        shard(f"s{i}", key_set([KeyRange(start, end)]), instances)
        for i, (start, end) in enumerate(pairwise(edges))
    )


SILENT = Unseen("postgres", "shop-s0", "no answer within 5 s")


def with_shard(
    state: ObservedState,
    scope: str = "shop-s0",
    *,
    platform: dict[str, Any] | None = None,
    patroni: dict[str, Any] | Unseen | None = None,
    catalog: dict[str, Any] | Unseen | None = None,
) -> ObservedState:
    """The same world with one shard otherwise: fields of what was seen of it, or not seen."""

    def changed(seen: ObservedShard) -> ObservedShard:
        if seen.key.scope != scope:
            return seen
        return replace(
            seen,
            platform=replace(seen.platform, **(platform or {})),
            patroni=_otherwise(seen.patroni, patroni),
            catalog=_otherwise(seen.catalog, catalog),
        )

    assert any(s.key.scope == scope for d in state.databases for s in d.shards)
    return replace(
        state,
        databases=tuple(
            replace(there, shards=tuple(changed(seen) for seen in there.shards))
            for there in state.databases
        ),
    )


def _otherwise(part: Any, change: dict[str, Any] | Unseen | None) -> Any:
    if change is None or isinstance(part, Unseen):
        return part
    return change if isinstance(change, Unseen) else replace(part, **change)


def with_database(state: ObservedState, name: str = "shop", **changes: Any) -> ObservedState:
    """The same world with the records of one database otherwise."""
    assert any(there.key.name == name for there in state.databases)
    return replace(
        state,
        databases=tuple(
            replace(there, **changes) if there.key.name == name else there
            for there in state.databases
        ),
    )


def routing_of(state: ObservedState, name: str = "shop") -> RoutingMap:
    (routing,) = (there.routing for there in state.databases if there.key.name == name)
    assert isinstance(routing, RoutingMap)
    return routing


def catalog_of(state: ObservedState, scope: str = "shop-s0") -> Catalog:
    (catalog,) = (s.catalog for d in state.databases for s in d.shards if s.key.scope == scope)
    assert isinstance(catalog, Catalog)
    return catalog
