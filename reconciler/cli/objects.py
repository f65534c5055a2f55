"""What was seen as plain objects, for JSON and YAML; the tables pick from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from reconciler.engine import readiness
from reconciler.engine.conditions import Condition
from reconciler.engine.logbook import Logbook
from reconciler.engine.move_acts import SLOWED
from reconciler.engine.operations import Operation
from reconciler.engine.wishes import KnownMove
from reconciler.model.moves import Stage
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
from reconciler.plan.render_report import rate

Object = dict[str, Any]


def database_object(database: ObservedDatabase, conditions: tuple[Condition, ...]) -> Object:
    """Return a database with its shards; the first of its conditions is Ready."""
    ready = conditions[0]
    shards = [shard_object(database, shard) for shard in database.shards]
    members = [member for shard in shards if not shard["kept"] for member in shard["instances"]]
    return {
        "kind": "Database",
        "namespace": database.key.namespace,
        "name": database.key.name,
        "ready": ready.status,
        "reconciling": any(one.type == "Reconciling" for one in conditions),
        "stalled": any(one.type == "Stalled" for one in conditions),
        "reason": ready.message,
        "conditions": condition_objects(conditions),
        "readyInstances": sum(member["healthy"] for member in members),
        "instances": len(members),
        "bytes": _total([shard["bytes"] for shard in shards if not shard["kept"]]),
        **_routing(database.routing),
        "lastApplied": _record(database.record),
        "shards": shards,
    }


def condition_objects(conditions: tuple[Condition, ...]) -> list[Object]:
    """Return conditions as Kubernetes writes them."""
    return [
        {
            "type": one.type,
            "status": one.status,
            "reason": one.reason,
            "message": one.message,
            "lastTransitionTime": one.since or None,
        }
        for one in conditions
    ]


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
        "kept": readiness.is_kept(database, shard),
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
        **_seen(seen, stopped=shard.platform.stopped),
    }


def _seen(seen: ObservedMember | None, *, stopped: bool) -> Object:
    if seen is None:
        return {
            "role": None, "state": "stopped" if stopped else "unseen", "healthy": False,
            "timeline": None, "lagBytes": None, "pendingRestart": [],
        }  # fmt: skip
    return {
        "role": readiness.role_word(seen),
        "state": seen.state,
        "healthy": seen.healthy,
        "timeline": seen.timeline,
        "lagBytes": seen.lag_bytes,
        "pendingRestart": list(seen.pending_restart),
    }


def operation_object(operation: Operation, moves: list[Object]) -> Object:
    """Return an apply with its steps; ``moves`` are those under way, and say what it does now."""
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
        "now": _doing(operation, moves),
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


def _doing(operation: Operation, moves: list[Object]) -> str:
    """Say what an apply that runs does now: its moves' acts and waits, else its open steps."""
    if operation.result != "running":
        return ""
    databases = {(d.namespace, d.name) for d in operation.databases}
    mine = [m["now"] for m in moves if (m["namespace"], m["database"]) in databases and m["now"]]
    begun = [step.title for step in operation.steps if step.state == "begun"]
    return "; ".join(mine if begun and mine else begun)


PAUSE_BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1000, 5000)


def histogram(pauses_ms: Sequence[float | None]) -> dict[str, int]:
    """Count pauses by their upper bounds; those above all, and those nobody knows, apart."""
    counts = {f"{bound} ms": 0 for bound in PAUSE_BUCKETS_MS} | {"more": 0, "unknown": 0}
    for pause in pauses_ms:
        bound = next((b for b in PAUSE_BUCKETS_MS if pause is not None and pause <= b), None)
        counts["unknown" if pause is None else f"{bound} ms" if bound else "more"] += 1
    return counts


def move_object(known: KnownMove) -> Object:
    """Return a move of keys; ``windowEndsAt`` is null until its target serves, and once it ended.

    ``now`` is what it does, or waits for; empty when nobody works on it.
    """
    move, book = known.move, known.book
    ends = None
    if move.switched_at and move.stage is not Stage.ENDED:
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
        "pauseHistogram": histogram(move.pauses_ms),
        "endedAt": book.ended_at or None,
        "now": _now(book),
        "waitsFor": book.waiting and {
            "reason": book.waiting.reason, "since": book.waiting.since,
            "lagBytes": book.waiting.lag_bytes,
        },
        "progress": book.copying and {
            "bytesDone": book.copying.bytes_done, "bytesTotal": book.copying.bytes_total,
            "rowsDone": book.copying.rows_done, "bytesPerSecond": book.copying.bytes_per_s,
            "secondsLeft": book.copying.left_s, "slowed": book.copying.slowed,
            "at": book.copying.at,
        },
        "acts": [
            {
                "act": line.act, "state": line.state, "begunAt": line.begun_at,
                "endedAt": line.ended_at, "error": line.error,
            }
            for line in book.lines
        ],
    }  # fmt: skip


def _now(book: Logbook) -> str:
    """Say what a move does: the copy's progress, the open act, or what it waits for.

    Of an act that failed why, also while it is tried again.
    """
    copying, line, failure = book.copying, book.open_line, book.failure
    if book.ended is not None:
        return ""
    if copying is not None and line is not None:
        left = "" if copying.left_s is None else f", about {copying.left_s} s left"
        share = copying.bytes_done / max(copying.bytes_total, 1)
        speed = f"{rate(copying.bytes_per_s)}{SLOWED if copying.slowed else ''}"
        return f"{line.act}: {share:.0%}, {copying.rows_done:,} rows, {speed}{left}"
    if failure is not None and not book.waiting:
        return f"{failure.act} {'again' if line else 'failed'}: {failure.error}"
    if line is not None:
        return line.act
    return f"waits: {book.waiting.reason}" if book.waiting else ""


def shards_of(databases: list[Object]) -> Iterator[Object]:
    """Yield the shards of databases."""
    for database in databases:
        yield from database["shards"]


def instances_of(databases: list[Object]) -> Iterator[Object]:
    """Yield the members of databases."""
    for shard in shards_of(databases):
        yield from shard["instances"]
