"""Hold what is wanted against what was seen: the changes between them, and why others wait.

What was not seen is never taken for absent: it yields a ``Standstill`` in place of changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.diff import keys as keyspace
from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    Change,
    ChangeParameters,
    DeleteDatabase,
    Difference,
    Leaver,
    MoveKeys,
    PublishRouting,
    RecordApplied,
    Refusal,
    Remark,
    RestartPending,
    RetireShard,
    Standstill,
)
from reconciler.diff.moving import (
    diff_moves,
    guarded_by_moves,
    held_tables,
    in_moves,
    released_holds,
    silent_shards,
)
from reconciler.diff.origin import WAITING, parts_of, parts_without_waiting
from reconciler.diff.refusals import DeletionProtected, KeyTypeChanged, OwnerGone, SpecUnreadable
from reconciler.diff.scopes import assign_scopes
from reconciler.diff.shard import Finding, Pair, diff_shard
from reconciler.model.desired import Database, Deletion, DesiredState, Place, Shard
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import MoveId
from reconciler.model.names import ScopeKey, ShardName
from reconciler.model.observed import ObservedDatabase, ObservedShard, ObservedState, Unseen
from reconciler.model.routing import AppliedRecord, RoutingMap

KEPT = (
    "deleted, its data kept: its spec brings it back; to remove it for good, apply that with "
    "deletion: destroy, and delete the file again"
)
"""What is said of a database that was deleted with ``deletion: keepData``."""


def diff(desired: DesiredState, observed: ObservedState) -> Difference:
    """Return what takes ``observed`` to ``desired``, in the order of databases and shards."""
    findings: list[Finding] = []
    seen = {database.key: database for database in observed.databases}
    for database in desired.databases:
        there = seen.get(database.key) or ObservedDatabase(database.key, None, None)
        findings.extend(_diff_database(database, there, desired, observed))
    wanted = {database.key for database in desired.databases}
    for there in observed.databases:
        if there.key not in wanted:
            findings.extend(_diff_unwanted(there, desired))
    return _sorted_out(findings)


def _sorted_out(findings: Iterable[Finding]) -> Difference:
    changes: list[Change] = []
    refusals: list[Refusal] = []
    standstills: list[Standstill] = []
    remarks: dict[Remark, None] = {}
    for finding in findings:
        match finding:
            case Refusal():
                refusals.append(finding)
            case Standstill():
                standstills.append(finding)
            case Remark():
                remarks[finding] = None  # every shard says the same of a table
            case _:
                changes.append(finding)
    return Difference(tuple(changes), tuple(refusals), tuple(standstills), tuple(remarks))


def _diff_database(
    database: Database, seen: ObservedDatabase, desired: DesiredState, observed: ObservedState
) -> Iterator[Finding]:
    if database.suspend or seen.suspended:
        why = seen.suspended or "suspended by its spec"
        yield Standstill(database.key, "the whole database", why)
        return
    for record in (seen.routing, seen.record):
        if isinstance(record, Unseen):
            yield Standstill(database.key, "the whole database", str(record), unseen=True)
            return
    routing = seen.routing if isinstance(seen.routing, RoutingMap) else None
    if routing and routing.key_type != database.sharding.key_type:
        yield Refusal(
            database.key,
            KeyTypeChanged,
            f"database {database.key}",
            f"its keys are {routing.key_type} and the spec says {database.sharding.key_type}",
            "create a new database of that key type and copy the data",
            database.place.at("spec", "sharding", "type"),
        )
        return
    tabled, held = held_tables(database, seen, routing)
    content = (*held, *_diff_content(tabled, seen, routing, observed, held))
    whole = not any(isinstance(finding, Standstill) and finding.unseen for finding in content)
    for finding in content:
        # A first map would send clients to a shard of which nobody knows whether it is set up.
        if whole or routing or not isinstance(finding, PublishRouting):
            yield finding
    waits = any(isinstance(finding, Standstill) for finding in content)
    released = _released(tabled, seen, routing) if seen.holds else ()
    for finding in _diff_record(database, seen, desired, waits=waits, released=released):
        if whole or not isinstance(finding, RecordApplied):
            yield finding


def _diff_content(
    database: Database,
    seen: ObservedDatabase,
    routing: RoutingMap | None,
    observed: ObservedState,
    held: tuple[Standstill, ...] = (),
) -> Iterator[Finding]:
    changing: set[ScopeKey] = set()
    scopes = assign_scopes(database, routing)
    for finding in _diff_shards(database, seen, routing, observed, held, scopes):
        if isinstance(finding, ApplySchema | ChangeParameters | RestartPending):
            changing.add(finding.scope)
        yield finding
    if routing:
        yield from keyspace.renames(database, routing, scopes)
        yield from keyspace.unsaid_renames(database, routing)
    publication = keyspace.publication(database, seen, scopes)
    if publication:
        yield publication
    moves = tuple(keyspace.moves(database, seen, scopes))
    moving = tuple(diff_moves(database, seen, moves, observed.looked_at, changing))
    yield from moving
    leaving = _leaving(seen, moves, moving)
    for retirement in keyspace.retirements(database, seen, scopes):
        yield _retire(database, seen, leaving, retirement)


def _diff_shards(
    database: Database,
    seen: ObservedDatabase,
    routing: RoutingMap | None,
    observed: ObservedState,
    held: tuple[Standstill, ...],
    scopes: dict[ShardName, ScopeKey],
) -> Iterator[Finding]:
    """Compare each wanted shard with what there is of it."""
    owned = {o.scope: o.keys for o in routing.owners} if routing else {}
    epoch = keyspace.epoch_of(seen)
    found = {there.key: there for there in seen.shards}
    guarded, silent = guarded_by_moves(seen), silent_shards(seen)
    cut_off = routing is None and seen.record is None and _is_begun(database, observed)
    reason = held[0].reason if held else ""
    for shard in database.shards:
        scope = scopes[shard.name]
        there = found.get(scope)
        own = owned.get(scope.scope, KeySet())
        if there and cut_off and scope in silent:
            yield AddShard(database, shard, scope)  # its steps do what is missing of it
        elif there is None:
            yield _absent(database, shard, scope, own)
        else:
            mine = own if routing else shard.keys
            ruled, moving = routing is not None, scope in guarded
            yield from diff_shard(Pair(database, shard, there, mine, epoch, ruled, moving, reason))


def _is_begun(database: Database, observed: ObservedState) -> bool:
    """Tell whether an apply that was cut off worked on a database."""
    return observed.operation is not None and database.key in observed.operation.databases


def _absent(database: Database, shard: Shard, scope: ScopeKey, owned: KeySet) -> AddShard | Refusal:
    if not owned:
        return AddShard(database, shard, scope)
    return Refusal(
        database.key,
        OwnerGone,
        f"shard {shard.name}",
        f"the routing map says that it owns {owned}, and the platform has nothing of {scope}",
        "start the platform that holds it, or restore the shard from its backup",
        shard.place,
    )


@dataclass(frozen=True, slots=True)
class _Leaving:
    """What keeps shards that left the spec from retiring: keys to move, ways back, silence."""

    moving: frozenset[ScopeKey]
    soaking: frozenset[ScopeKey]
    silent: frozenset[ScopeKey]


def _leaving(
    seen: ObservedDatabase, wanted: tuple[MoveKeys, ...], going: Iterable[Finding]
) -> _Leaving:
    waiting = set(wanted).difference(going)
    return _Leaving(
        frozenset(move.source_scope for move in waiting),
        in_moves(seen) | {move.source_scope for move in wanted if move.rollback_window_s},
        silent_shards(seen),
    )


def _retire(
    database: Database, seen: ObservedDatabase, leaving: _Leaving, retirement: RetireShard
) -> RetireShard | Standstill | Remark:
    """Return the retirement, or why it waits."""
    scope, place = retirement.scope, database.place.at("spec", "shards")
    what = f"shard {retirement.shard or scope.scope}"
    if seen.routing is None:
        reason = "not in the spec, and without a routing map its keys are not known: left alone"
        return Standstill(database.key, what, reason)
    if scope in leaving.moving:
        return Remark(database.key, f"{what} retires when all its keys have moved away", place)
    if scope in leaving.soaking:
        text = f"{what} retires when its keys cannot come back any more"
        return Remark(database.key, text, place)
    if scope in leaving.silent:
        reason = "should retire but does not answer: not seen, not touched"
        return Standstill(database.key, what, reason, unseen=True)
    return retirement


def _released(
    database: Database, seen: ObservedDatabase, routing: RoutingMap | None
) -> tuple[MoveId, ...]:
    scopes = assign_scopes(database, routing)
    return released_holds(seen, tuple(keyspace.moves(database, seen, scopes)))


def _diff_record(
    database: Database,
    seen: ObservedDatabase,
    desired: DesiredState,
    *,
    waits: bool,
    released: tuple[MoveId, ...],
) -> Iterator[RecordApplied | Remark]:
    source, file = desired.source, desired.file_of(database.place)
    record = seen.record if not isinstance(seen.record, Unseen) else None
    parts = parts_of(database)
    if waits and record:
        parts = parts_without_waiting(parts, record)
    if record and record.source != source:
        yield Remark(
            database.key,
            f"was last applied from {record.source}; applying this plan takes it over",
            database.place,
        )
    if (
        record is None
        or record.digest != database.digest
        or record.source != source
        or record.deletion != database.deletion
        or record.file != file
        or not record.parts
        or (WAITING in record.parts) != (WAITING in parts)
        or released
    ):
        version = record.version if record else 0
        yield RecordApplied(
            database.key, database.digest, database.deletion, file, version, parts, released
        )


def _silent_names(seen: ObservedDatabase) -> list[str]:
    silent = silent_shards(seen)
    return sorted(s.name or s.key.scope for s in seen.shards if s.key in silent)


def _leaver(shard: ObservedShard) -> Leaver:
    size = None if isinstance(shard.catalog, Unseen) else shard.catalog.bytes
    return Leaver(shard.key, shard.name, size)


def _unreadable(record: AppliedRecord, desired: DesiredState) -> str:
    """Return which file keeps a database from being taken for gone, or an empty text.

    A record that does not know its file may have come from any.
    """
    if record.file:
        return record.file if record.file in desired.files_without_spec else ""
    return min(desired.files_without_spec, default="")


def _spec_unreadable(record: AppliedRecord, file: str) -> Refusal:
    known = "its file" if record.file else "it may have come from"
    return Refusal(
        record.database,
        SpecUnreadable,
        f"database {record.database}",
        f"its spec is gone, but {known} {file} is there and holds no spec that can be read",
        f"restore the spec; if the database is to go, delete {file}",
        Place(file),
    )


def _diff_unwanted(seen: ObservedDatabase, desired: DesiredState) -> Iterator[Finding]:
    """Yield what happens to a database that this source does not hold."""
    record = seen.record
    match record:
        case _ if seen.suspended:
            yield Standstill(seen.key, "the whole database", seen.suspended)
        case Unseen():
            yield Standstill(seen.key, "the whole database", str(record), unseen=True)
        case None if all(s.platform.stopped for s in seen.shards):
            yield Standstill(seen.key, "the whole database", KEPT)
        case None:
            yield Standstill(
                seen.key,
                "the whole database",
                "not in these specs and never applied in full: its spec can finish or delete it",
            )
        case _ if record.source != desired.source:
            yield Standstill(seen.key, "the whole database", f"applied from {record.source}")
        case _ if file := _unreadable(record, desired):
            yield _spec_unreadable(record, file)
        case _ if record.deletion is Deletion.PROTECTED:
            yield Refusal(
                seen.key,
                DeletionProtected,
                f"database {seen.key}",
                "its spec is gone, and it is protected from deletion",
                "put the spec back; to delete it, first apply `deletion: keepData` or `destroy`",
            )
        case _ if isinstance(seen.routing, Unseen):
            yield Standstill(seen.key, "the whole database", str(seen.routing), unseen=True)
        case _ if silent := _silent_names(seen):
            yield Standstill(
                seen.key,
                "the whole database",
                f"to be deleted, but no answer from {', '.join(silent)}: not seen, not touched",
                unseen=True,
            )
        case _:
            routing_version = seen.routing.version if isinstance(seen.routing, RoutingMap) else 0
            yield DeleteDatabase(
                seen.key, tuple(map(_leaver, seen.shards)), record.deletion, routing_version,
                record.version,
            )  # fmt: skip
