"""Fingerprints of all that a plan was made from, and the plan's digest.

What changes by itself all the time (lag, sizes, row estimates) is left out: a saved plan goes stale
when something that it rests on moved, not by waiting.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from reconciler.model.desired import DesiredState, Revision
from reconciler.model.moves import AS_USUAL
from reconciler.model.observed import (
    Catalog,
    ObservedDatabase,
    ObservedShard,
    ObservedState,
    PatroniView,
    Unseen,
)
from reconciler.model.routing import AppliedRecord, RoutingMap
from reconciler.plan.actions import Action, DestroyShard, MoveKeyRange, Step


def fingerprints(desired: DesiredState, observed: ObservedState) -> tuple[tuple[str, str], ...]:
    """Return (what, fingerprint) for each spec, record and shard, in a stable order.

    Databases of other sources are left out: no step of this plan touches them.
    """
    saw = [("revision", desired.revision.content)]
    saw += [(f"spec {database.key}", database.digest[:16]) for database in desired.databases]
    wanted = {database.key for database in desired.databases}
    for database in observed.databases:
        if database.key in wanted or _may_be_ours(database, desired.source):
            saw += _of_database(database)
    return tuple(saw)


def _may_be_ours(database: ObservedDatabase, source: str) -> bool:
    match database.record:
        case AppliedRecord() as record:
            return record.source == source
        case record:
            return isinstance(record, Unseen)


def _of_database(database: ObservedDatabase) -> list[tuple[str, str]]:
    saw = [
        (f"routing map {database.key}", _version(database.routing)),
        (f"last applied {database.key}", _version(database.record)),
    ]
    if database.moves:
        under_way = [(move.id, move.stage.value, move.wish.value) for move in database.moves]
        saw.append((f"moves of keys in {database.key}", _short(under_way)))
    for shard in database.shards:
        saw.append((f"members of {shard.key}", _short(_members(shard))))
        saw.append((f"catalog of {shard.key}", _short(_catalog(shard.catalog))))
    return saw


def _version(record: RoutingMap | AppliedRecord | Unseen | None) -> str:
    match record:
        case None:
            return "none"
        case Unseen():
            return "unseen"
        case _:
            return f"version {record.version}"


def _members(shard: ObservedShard) -> object:
    there = (
        [(m.name, m.running) for m in shard.platform.members],
        shard.platform.stopped,
        shard.platform.staged,
    )
    match shard.patroni:
        case PatroniView() as view:
            seen = (
                view.leader,
                view.parameters,
                view.synchronous,
                [(m.name, m.role.value, m.pending_restart) for m in view.members],
            )
        case Unseen():
            return ("unseen", there)
    return (there, seen)


def _catalog(catalog: Catalog | Unseen) -> object:
    if isinstance(catalog, Unseen):
        return "unseen"
    return (
        catalog.server_version,
        catalog.database_present,
        catalog.roles,
        catalog.installed,
        catalog.password_generation,
        catalog.history,
        catalog.guards,
        [(table.name, table.columns) for table in catalog.tables],
        catalog.hash_ok,
    )


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def digest_of(revision: Revision, steps: tuple[Step, ...], saw: tuple[tuple[str, str], ...]) -> str:
    """Return the SHA-256 over the revision, the steps and what was seen."""
    actions = [(step.id, repr(meaning_of(step.action)), step.after) for step in steps]
    return hashlib.sha256(repr((revision.content, actions, saw)).encode()).hexdigest()


def meaning_of(action: Action) -> Action:
    """Return an action without sizes, sequences and what follows from them: they change."""
    match action:
        case MoveKeyRange():
            return replace(action, tables=None, blocks=(), copying=AS_USUAL)
        case DestroyShard():
            return replace(action, bytes=None)
        case _:
            return action
