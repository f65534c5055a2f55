"""Why something differs: the spec moved since it was applied, or the world did. Pure.

The record of what was applied keeps a digest of each part of the spec. A change of a part that is
as it was applied is *drift*: somebody changed the world without the spec. Any other is *pending*,
and so is what belongs to work that is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from hashlib import sha256

from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    Change,
    ChangeGuards,
    ChangeParameters,
    Difference,
    MoveKeys,
    PrepareDatabase,
    PublishRouting,
    ResizeShard,
    RotatePasswords,
    StartMembers,
)
from reconciler.model.desired import Database, DesiredState, DriftPolicy
from reconciler.model.observed import ObservedState
from reconciler.model.routing import AppliedRecord

Parts = dict[str, str]


class Origin(StrEnum):
    """Who moved."""

    PENDING = "pending"
    DRIFT = "drift"


def parts_of(database: Database) -> tuple[tuple[str, str], ...]:
    """Return a digest of each part of a spec, by its name, sorted."""
    found: dict[str, object] = {
        "keys": [(shard.name, str(shard.keys)) for shard in database.shards],
        "tables": (database.sharding.tables, database.sharding.reference),
        "passwords": database.password_generation,
        "version": database.version,
    }
    found |= {f"parameters/{name}": value for name, value in database.parameters}
    found |= {f"schema/{file.name}": file.sha256 for file in database.schema}
    for shard in database.shards:
        found[f"shards/{shard.name}"] = "there"
        found[f"instances/{shard.name}"] = shard.instances
        found[f"synchronous/{shard.name}"] = shard.synchronous
    return tuple((name, _short(value)) for name, value in sorted(found.items()))


WAITING = ("waiting", "yes")
"""Stands among the parts of a record while some are noted as they were: it is noted once more."""


def parts_without_waiting(
    parts: tuple[tuple[str, str], ...], record: AppliedRecord
) -> tuple[tuple[str, str], ...]:
    """Return the parts to note while moves, tables or schema files wait: theirs as they were.

    What waits was not applied: it has to be pending still, and not drift, when its turn comes.
    """
    before = dict(record.parts)
    told = {
        name: before.get(name) if name in ("keys", "tables") or name.startswith("schema/") else now
        for name, now in parts
    }
    noted = tuple((name, digest) for name, digest in told.items() if digest is not None)
    return noted if noted == parts else (*noted, WAITING)


def _short(value: object) -> str:
    return sha256(repr(value).encode()).hexdigest()[:12]


def origin_of(change: Change, database: Database | None, record: AppliedRecord | None) -> Origin:
    """Return why something differs; ``record`` is what this very source applied last, or None.

    A record of an earlier version has no parts: the spec counts as one then.
    """
    parts = _parts(change)
    if parts is None or database is None or record is None:
        return Origin.PENDING
    if not record.parts:
        return Origin.DRIFT if record.digest == database.digest else Origin.PENDING
    applied, wanted = dict(record.parts), dict(parts_of(database))
    moved = any(applied.get(part) != wanted.get(part) for part in parts)
    return Origin.PENDING if moved else Origin.DRIFT


def _parts(change: Change) -> tuple[str, ...] | None:
    """Return the parts of a spec that a change follows from; None for work that is under way."""
    match change:
        case AddShard():
            return (f"shards/{change.shard.name}",)
        case StartMembers() | PrepareDatabase():
            return (f"shards/{change.shard}",)
        case ResizeShard():
            return f"shards/{change.shard}", f"instances/{change.shard}"
        case ChangeParameters():
            names = tuple(f"parameters/{name}" for name, _, _ in change.parameters)
            mode = (f"synchronous/{change.shard}",) if change.synchronous else ()
            return f"shards/{change.shard}", "version", *names, *mode
        case ApplySchema():
            return tuple(f"schema/{file.name}" for file in change.files)
        case ChangeGuards():
            return "keys", "tables", f"shards/{change.shard}"
        case RotatePasswords():
            return ("passwords",)
        case PublishRouting():
            return "keys", "tables"
        case MoveKeys():
            return ("keys",)
        case _:  # a restart that waits, a move that ends, a shard that retires, a note
            return None


def origins(
    changes: Iterable[Change], desired: DesiredState, observed: ObservedState
) -> Iterator[tuple[Change, Origin]]:
    """Yield each change with why it is one."""
    wanted = {database.key: database for database in desired.databases}
    records = {
        there.key: there.record
        for there in observed.databases
        if isinstance(there.record, AppliedRecord) and there.record.source == desired.source
    }
    for change in changes:
        key = change.database.key if isinstance(change, AddShard) else change.database
        yield change, origin_of(change, wanted.get(key), records.get(key))


def only_drift(
    difference: Difference, desired: DesiredState, observed: ObservedState
) -> Difference:
    """Return the difference with drift alone."""
    found = origins(difference.changes, desired, observed)
    return replace(difference, changes=tuple(c for c, o in found if o is Origin.DRIFT))


def without_reported(
    difference: Difference, desired: DesiredState, observed: ObservedState
) -> tuple[Difference, tuple[Change, ...]]:
    """Return the difference without the drift of databases that only report it, and that drift."""
    reporting = {d.key for d in desired.databases if d.drift_policy is DriftPolicy.REPORT}
    kept: list[Change] = []
    left: list[Change] = []
    for change, origin in origins(difference.changes, desired, observed):
        key = change.database.key if isinstance(change, AddShard) else change.database
        (left if origin is Origin.DRIFT and key in reporting else kept).append(change)
    return replace(difference, changes=tuple(kept)), tuple(left)
