"""One wanted shard against the same shard as it was seen.

Each function looks at one aspect and stops where something was not seen: what depends on it is then
left alone, and said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    Change,
    ChangeGuards,
    ChangeParameters,
    PrepareDatabase,
    Refusal,
    Remark,
    ResizeShard,
    RestartPending,
    RotatePasswords,
    Standstill,
    StartMembers,
)
from reconciler.diff.refusals import (
    HashDisagrees,
    MajorVersionChanged,
    OwnSchemaNewer,
    RoutingDisagrees,
    SchemaFileChanged,
    SchemaFileMissing,
    SchemaFileOutOfOrder,
    ShardedTableMissing,
    ShardKeyUnfit,
    StorageShrunk,
)
from reconciler.model.access import OWN_SCHEMA_VERSION
from reconciler.model.desired import Database, KeyType, Place, Shard
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.names import Epoch, app_role, member_name, owner_role
from reconciler.model.observed import Catalog, ObservedGuard, ObservedShard, PatroniView, Unseen
from reconciler.model.platform import effective_parameters
from reconciler.spec.parameters import parameter_needs_restart
from reconciler.spec.quantities import size_bytes

Finding: TypeAlias = Change | Refusal | Standstill | Remark


def _silence(unseen: Unseen) -> str:
    """Return why something of a shard was not seen; whose it is stands beside it."""
    return f"{unseen.system}: {unseen.reason}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A shard as wanted and as seen, with the keys and epoch that its guards should say.

    ``routed`` is False while the database has no routing map. ``moving`` is True while a move owns
    the shard's guards: what they say is then its business. ``held`` says why schema files wait,
    where they do.
    """

    database: Database
    shard: Shard
    seen: ObservedShard
    keys: KeySet
    epoch: Epoch
    routed: bool
    moving: bool = False
    held: str = ""

    def refusal(
        self, kind: type[ReconcilerError], problem: str, remedy: str, place: Place | None = None
    ) -> Refusal:
        """Return a refusal about this shard."""
        return Refusal(
            self.database.key,
            kind,
            f"shard {self.shard.name}",
            problem,
            remedy,
            place or self.shard.place,
        )

    def standstill(self, reason: str) -> Standstill:
        """Return that this shard, or the rest of it, is left alone until it is seen."""
        return Standstill(self.database.key, f"shard {self.shard.name}", reason, unseen=True)


def diff_shard(pair: Pair) -> Iterator[Finding]:
    """Yield what differs, from the platform inwards: processes, Patroni, PostgreSQL."""
    if pair.seen.platform.unreadable:
        yield pair.standstill(pair.seen.platform.unreadable)
        return
    if pair.seen.platform.stopped:
        yield AddShard(pair.database, pair.shard, pair.seen.key, kept=True)
        yield Remark(
            pair.database.key,
            f"shard {pair.shard.name} was stopped with its data kept; "
            "more may be planned once it runs and can be looked into",
            pair.shard.place,
        )
        return
    yield from _platform(pair)
    if isinstance(pair.seen.patroni, Unseen):
        yield pair.standstill(_silence(pair.seen.patroni))
        return
    if pair.seen.patroni.leader is None:
        yield pair.standstill("no primary at the moment; Patroni has to elect one first")
        return
    yield from _members(pair, pair.seen.patroni)
    yield from _parameters(pair, pair.seen.patroni)
    if isinstance(pair.seen.catalog, Unseen):
        yield pair.standstill(_silence(pair.seen.catalog))
        return
    yield from _catalog(pair, pair.seen.catalog)


def _platform(pair: Pair) -> Iterator[Finding]:
    platform, wanted = pair.seen.platform, pair.shard.resources
    if platform.version != pair.database.version:
        yield pair.refusal(
            MajorVersionChanged,
            f"runs PostgreSQL {platform.version} and the spec asks for {pair.database.version}",
            "add shards of the new version and move the keys to them",
            pair.database.place.at("spec", "postgres", "version"),
        )
    smaller = size_bytes(wanted.storage_size) < size_bytes(platform.resources.storage_size)
    if smaller or wanted.storage_class != platform.resources.storage_class:
        yield pair.refusal(
            StorageShrunk,
            f"has storage {_storage(platform.resources.storage_size, platform.resources)} and the "
            f"spec asks for {_storage(wanted.storage_size, wanted)}",
            "add a shard with the storage you want and move the keys to it",
        )
    gone = tuple(m.name for m in platform.members if not m.running)
    if gone:
        yield StartMembers(pair.database.key, pair.shard.name, pair.seen.key, gone)


def _storage(size: str, resources: object) -> str:
    kind = getattr(resources, "storage_class", "")
    return f"{size} of class {kind}" if kind else size


def _members(pair: Pair, patroni: PatroniView) -> Iterator[Finding]:
    names = [m.name for m in pair.seen.platform.members]
    wanted = [member_name(pair.seen.key.scope, n) for n in range(pair.shard.instances)]
    add = tuple(n for n in wanted if n not in names)
    remove = tuple(n for n in names if n not in wanted)
    silent = [n for n in remove if patroni.member(n) is None]
    if silent:
        yield pair.standstill(
            f"{', '.join(silent)} should be removed but does not answer: not seen, not touched"
        )
        remove = tuple(n for n in remove if n not in silent)
    if add or remove:
        yield ResizeShard(
            pair.database.key,
            pair.shard.name,
            pair.seen.key,
            len(names),
            pair.shard.instances,
            add,
            remove,
            patroni.leader,
            pair.shard.place.at("instances"),
        )


def _parameters(pair: Pair, patroni: PatroniView) -> Iterator[Finding]:
    wanted = dict(effective_parameters(pair.database.parameters, pair.database.version))
    seen = dict(patroni.parameters)
    changed = tuple(
        (name, seen.get(name), wanted.get(name))
        for name in sorted(wanted.keys() | seen.keys())
        if seen.get(name) != wanted.get(name)
    )
    restart = tuple(n for n, _, _ in changed if parameter_needs_restart(pair.database.version, n))
    mode = (patroni.synchronous, pair.shard.synchronous)
    if changed or mode[0] != mode[1]:
        yield ChangeParameters(
            pair.database.key,
            pair.shard.name,
            pair.seen.key,
            changed,
            mode if mode[0] != mode[1] else None,
            restart,
            pair.database.place.at("spec", "postgres", "parameters"),
        )
    waiting = tuple(m for m in patroni.members if m.pending_restart)
    if waiting:
        yield RestartPending(
            pair.database.key,
            pair.shard.name,
            pair.seen.key,
            tuple(m.name for m in waiting),
            tuple(sorted({p for m in waiting for p in m.pending_restart})),
            patroni.leader,
        )


def _catalog(pair: Pair, catalog: Catalog) -> Iterator[Finding]:
    if not catalog.hash_ok:
        yield pair.refusal(
            HashDisagrees,
            "hashes keys otherwise than Shardwright does",
            "run `shardwright doctor`; nothing is changed on such a server",
        )
        return
    if catalog.installed > OWN_SCHEMA_VERSION:
        yield pair.refusal(
            OwnSchemaNewer,
            f"has version {catalog.installed} of the shardwright schema, "
            f"this program knows {OWN_SCHEMA_VERSION}",
            "use the version of Shardwright that installed it, or a later one",
        )
        return
    missing = _missing(pair, catalog)
    if missing:
        yield PrepareDatabase(pair.database.key, pair.shard.name, pair.seen.key, missing)
    behind = 0 < catalog.password_generation < pair.database.password_generation
    if behind or (catalog.installed and pair.seen.platform.staged):
        yield RotatePasswords(
            pair.database.key,
            pair.shard.name,
            pair.seen.key,
            catalog.password_generation,
            max(catalog.password_generation, pair.database.password_generation),
            pair.database.place.at("spec", "postgres", "passwords", "generation"),
        )
    yield from _overrides(pair, catalog)
    yield from _schema(pair, catalog)
    yield from _guards(pair, catalog)


def _overrides(pair: Pair, catalog: Catalog) -> Iterator[Finding]:
    by_hand = dict(catalog.overrides)
    for name, wanted in effective_parameters(pair.database.parameters, pair.database.version):
        value = by_hand.get(name.lower(), wanted)
        if value != wanted:
            yield Remark(
                pair.database.key,
                f"shard {pair.shard.name} has {name} {value} by ALTER SYSTEM, which wins over "
                f"{wanted} as asked for; on its primary: ALTER SYSTEM RESET {name}; "
                "SELECT pg_reload_conf()",
                pair.database.place.at("spec", "postgres", "parameters"),
            )


def _missing(pair: Pair, catalog: Catalog) -> tuple[str, ...]:
    name = pair.database.key.name
    parts = [f"role {r}" for r in (owner_role(name), app_role(name)) if r not in catalog.roles]
    if not catalog.database_present:
        parts.append(f"database {name}")
    if catalog.installed < OWN_SCHEMA_VERSION:
        parts.append("the guard functions")
    return tuple(parts)


def _schema(pair: Pair, catalog: Catalog) -> Iterator[Finding]:
    wanted = {file.name: file for file in pair.database.schema}
    place = pair.database.place.at("spec", "schema", "files")
    applied = {done.name for done in catalog.history}
    for done in catalog.history:
        file = wanted.get(done.name)
        if file is None:
            yield pair.refusal(
                SchemaFileMissing,
                f"has applied {done.name}, which the spec no longer lists",
                "put the file back; to undo what it did, add a new file",
                place,
            )
        elif file.sha256 != done.sha256:
            yield pair.refusal(
                SchemaFileChanged,
                f"applied {done.name} as {done.sha256[:7]}, and the file is {file.sha256[:7]} now",
                f"restore {done.name} and put the change into a new file after the last one",
                place,
            )
    pending = tuple(file for file in pair.database.schema if file.name not in applied)
    last = max((i for i, f in enumerate(pair.database.schema) if f.name in applied), default=-1)
    early = [f.name for f in pair.database.schema[: last + 1] if f.name not in applied]
    if early:
        yield pair.refusal(
            SchemaFileOutOfOrder,
            f"{early[0]} is new but sorts before {pair.database.schema[last].name}, "
            "which is applied already",
            f"rename {early[0]} so that it sorts last",
            place,
        )
    elif pending and (pair.moving or pair.held):
        what = f"shard {pair.shard.name}: {', '.join(file.name for file in pending)}"
        yield Standstill(pair.database.key, what, pair.held or _BEFORE_ITS_CUT)
    elif pending:
        yield ApplySchema(pair.database.key, pair.shard.name, pair.seen.key, pending, place)


_BEFORE_ITS_CUT = "waits until the move of keys that the shard takes part in is through its cut"


def _says(guard: ObservedGuard | None, pair: Pair) -> bool:
    """Tell whether a guard is there and names exactly the keys that the shard owns."""
    return guard is not None and guard.keys == pair.keys and guard.epoch <= pair.epoch


def _guards(pair: Pair, catalog: Catalog) -> Iterator[Finding]:
    seen = {(g.table, g.column): g for g in catalog.guards}
    if not pair.routed and any(g.keys != pair.keys for g in catalog.guards):
        guard = next(g for g in catalog.guards if g.keys != pair.keys)
        yield pair.refusal(
            RoutingDisagrees,
            f"the routing map is missing, the guard of {guard.table} says {guard.keys}, "
            f"and the spec says {pair.keys}",
            "restore etcd from its backup, or write the ranges that the guards name into the spec",
        )
        return
    yield from _tables(pair, catalog)
    pending = len(catalog.history) < len(pair.database.schema)
    there = {table.name for table in catalog.tables}
    tables = tuple(t for t in pair.database.sharding.tables if t.name in there or pending)
    strays = seen.keys() - {(table.name, table.key) for table in pair.database.sharding.tables}
    if pair.moving:
        return
    if strays or not all(_says(seen.get((t.name, t.key)), pair) for t in tables):
        # All tables together: a guard of a table that is not named is taken away.
        sharded = {table.name for table in pair.database.sharding.tables}
        dropped = tuple(sorted({name for name, _ in strays} - sharded))
        yield ChangeGuards(
            pair.database.key, pair.shard.name, pair.seen.key, tables, pair.keys, pair.epoch,
            dropped,
        )  # fmt: skip
        for name in dropped:
            yield Remark(
                pair.database.key,
                f"{name} left sharding.tables: any shard takes any of its rows from then on, and "
                "it can only be sharded again when each row stands where its key belongs",
                pair.database.place.at("spec", "sharding", "tables"),
            )


_KEY_TYPES: dict[KeyType, tuple[str, ...]] = {
    KeyType.BIGINT: ("bigint", "integer", "smallint"),
    KeyType.INT: ("integer", "smallint"),
    KeyType.TEXT: ("text", "character varying"),
    KeyType.UUID: ("uuid",),
}
"""Column types whose hash agrees with the key type: integers of equal value hash alike."""


def _tables(pair: Pair, catalog: Catalog) -> Iterator[Finding]:
    there = {table.name: dict(table.columns) for table in catalog.tables}
    pending = len(catalog.history) < len(pair.database.schema)
    key_type = pair.database.sharding.key_type
    for table in pair.database.sharding.tables:
        place = pair.database.place.at("spec", "sharding", "tables")
        columns = there.get(table.name)
        if columns is None:
            if not pending:
                yield pair.refusal(
                    ShardedTableMissing,
                    f"has no table {table.name}, and no schema file is left to make it",
                    "add a schema file that creates it, or take it out of sharding.tables",
                    place,
                )
            continue
        column = columns.get(table.key)
        if (column or "").partition("(")[0] not in _KEY_TYPES[key_type]:
            has = f"is {column}" if column else "does not exist"
            yield pair.refusal(
                ShardKeyUnfit,
                f"{table.name}.{table.key} {has}, and sharding.type is {key_type}",
                f"name a {key_type} column that every row's shard follows from",
                place,
            )
    known = {t.name for t in pair.database.sharding.tables} | set(pair.database.sharding.reference)
    for table_name in sorted(there.keys() - known):
        yield Remark(
            pair.database.key,
            f"{table_name} has no shard key and is not declared a reference table",
            pair.database.place.at("spec", "sharding", "tables"),
        )
