"""What was seen as plain objects, for JSON and YAML; the tables pick from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from reconciler.cli import readiness
from reconciler.cli.conditions import Condition
from reconciler.engine.journal import Operation
from reconciler.model.moves import Move
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import (
    Catalog,
    ObservedDatabase,
    ObservedMember,
    ObservedShard,
    PatroniView,
    Unseen,
)
from reconciler.model.platform import PlatformMember
from reconciler.model.routing import AppliedRecord, RoutingMap

Object = dict[str, Any]


def database_object(database: ObservedDatabase, conditions: tuple[Condition, ...]) -> Object:
    """Return a database with its shards."""
    state = readiness.of_database(database)
    shards = [shard_object(database, shard) for shard in database.shards]
    members = [member for shard in shards for member in shard["instances"]]
    return {
        "kind": "Database",
        "namespace": database.key.namespace,
        "name": database.key.name,
        "ready": state.ready,
        "reconciling": any(one.type == "Reconciling" for one in conditions),
        "reason": state.reason,
        "conditions": [
            {
                "type": one.type,
                "status": one.status,
                "reason": one.reason,
                "message": one.message,
                "lastTransitionTime": one.since or None,
            }
            for one in conditions
        ],
        "readyInstances": sum(member["healthy"] for member in members),
        "instances": len(members),
        "bytes": _total([shard["bytes"] for shard in shards]),
        **_routing(database.routing),
        "lastApplied": _record(database.record),
        "shards": shards,
    }


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _routing(routing: RoutingMap | Unseen | None) -> Object:
    if not isinstance(routing, RoutingMap):
        return {"epoch": None, "keyType": None, "tables": {}, "reference": []}
    return {
        "epoch": routing.epoch,
        "keyType": routing.key_type.value,
        "tables": dict(routing.tables),
        "reference": list(routing.reference),
    }


def _record(record: AppliedRecord | Unseen | None) -> Object | None:
    if not isinstance(record, AppliedRecord):
        return None
    return {
        "source": record.source,
        "revision": record.revision,
        "at": record.applied_at,
        "deletion": record.deletion.value,
    }


def shard_object(database: ObservedDatabase, shard: ObservedShard) -> Object:
    """Return a shard with its members."""
    unseen = database.routing if isinstance(database.routing, Unseen) else None
    state = readiness.of_shard(shard, unseen)
    view = shard.patroni if isinstance(shard.patroni, PatroniView) else None
    catalog = shard.catalog if isinstance(shard.catalog, Catalog) else None
    routing = database.routing if isinstance(database.routing, RoutingMap) else None
    owners = [o for o in routing.owners if o.scope == shard.key.scope] if routing else []
    return {
        "kind": "Shard",
        "namespace": shard.key.namespace,
        "database": database.key.name,
        "name": shard.name or shard.key.scope,
        "scope": shard.key.scope,
        "ready": state.ready,
        "reason": state.reason,
        "keys": None if unseen else str(owners[0].keys) if owners else "none",
        "primary": view.leader if view else None,
        "version": shard.platform.version,
        "synchronous": view.synchronous if view else shard.platform.synchronous,
        "bytes": catalog.bytes if catalog else None,
        "tables": [
            {"name": table.name, "bytes": table.bytes, "rows": table.rows}
            for table in (catalog.tables if catalog else ())
        ],
        "schemaFiles": [file.name for file in catalog.history] if catalog else [],
        "parameters": dict(view.parameters) if view else {},
        "instances": [
            instance_object(database.key, shard, member, view) for member in shard.platform.members
        ],
    }


def instance_object(
    key: DatabaseKey, shard: ObservedShard, member: PlatformMember, view: PatroniView | None
) -> Object:
    """Return a member; what only its Patroni knows is null while that does not answer."""
    seen = view.member(member.name) if view else None
    return {
        "kind": "Instance",
        "namespace": key.namespace,
        "database": key.name,
        "shard": shard.name or shard.key.scope,
        "scope": shard.key.scope,
        "name": member.name,
        "running": member.running,
        "host": member.endpoint.host,
        "port": member.endpoint.postgres_port,
        "patroniPort": member.endpoint.patroni_port,
        "tls": member.endpoint.postgres_tls,
        **_seen(seen),
    }


def _seen(seen: ObservedMember | None) -> Object:
    if seen is None:
        return {
            "role": None, "state": "unseen", "healthy": False, "timeline": None,
            "lagBytes": None, "pendingRestart": [],
        }  # fmt: skip
    return {
        "role": readiness.role_word(seen),
        "state": seen.state,
        "healthy": seen.healthy,
        "timeline": seen.timeline,
        "lagBytes": seen.lag_bytes,
        "pendingRestart": list(seen.pending_restart),
    }


def operation_object(operation: Operation) -> Object:
    """Return an apply with its steps."""
    done = sum(step.state == "done" for step in operation.steps)
    return {
        "kind": "Operation",
        "name": operation.id,
        "result": operation.result,
        "source": operation.source,
        "revision": operation.revision,
        "databases": [str(database) for database in operation.databases],
        "plan": operation.plan,
        "actor": operation.actor,
        "startedAt": operation.started_at,
        "endedAt": operation.ended_at,
        "planned": operation.planned,
        "done": done,
        "steps": [
            {
                "id": step.id, "title": step.title, "state": step.state,
                "begunAt": step.begun_at, "seconds": step.seconds, "error": step.error,
                "waits": step.waits, "waitsSince": step.waits_since,
                "waitsUntil": step.waits_until,
            }
            for step in operation.steps
        ],
    }  # fmt: skip


def move_object(move: Move) -> Object:
    """Return a move of keys; ``windowEndsAt`` is null until its target serves."""
    ends = None
    if move.switched_at:
        began = datetime.fromisoformat(move.switched_at)
        ends = (began + timedelta(seconds=move.rollback_window_s)).isoformat(timespec="seconds")
    return {
        "kind": "Move",
        "namespace": move.database.namespace,
        "database": move.database.name,
        "name": move.id,
        "keys": str(move.keys),
        "from": move.source,
        "to": move.target,
        "stage": move.stage.value,
        "wish": move.wish.value,
        "startedAt": move.started_at,
        "switchedAt": move.switched_at or None,
        "windowEndsAt": ends,
        "pausesMs": list(move.pauses_ms),
        "pauseMaxMs": move.pause_max_ms,
    }


def shards_of(databases: list[Object]) -> Iterator[Object]:
    """Yield the shards of databases."""
    for database in databases:
        yield from database["shards"]


def instances_of(databases: list[Object]) -> Iterator[Object]:
    """Yield the members of databases."""
    for shard in shards_of(databases):
        yield from shard["instances"]
