"""The records in etcd as JSON, and where they are. Pure; one reader and one writer for each.

::

    /shardwright/v1/databases/<namespace>/<name>/routing    who owns which keys
    /shardwright/v1/databases/<namespace>/<name>/record     what was last applied
    /shardwright/v1/databases/<namespace>/<name>/rollout    since when canaries have a change
    /shardwright/v1/databases/<namespace>/<name>/moves/<id> keys on their way to another shard
    /shardwright/v1/databases/<namespace>/<name>/logbooks/<id> what was done for a move, and when
    /shardwright/v1/databases/<namespace>/<name>/holds/<id> a move that a person took back
    /shardwright/v1/routers/<namespace>/<name>/<router>     the epoch that a router serves
    /shardwright/v1/applier                                 the applier's lease
    /shardwright/v1/operations/<id>/…                       the journal
    /shardwright/v1/plans/<digest>                          saved plans that were used
"""

from __future__ import annotations

import json
from datetime import datetime

from reconciler.model.desired import CopyDriver, Deletion, KeyType, ShardedTable
from reconciler.model.keyspace import parse_key_set
from reconciler.model.moves import Move, MoveHold, MoveId, Stage, Wish
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
)
from reconciler.model.records import (
    BROKEN,
    DATABASES,
    ROOT,
    RecordUnreadable,
    decode_routing,
    dump_record,
    encode_routing,
    routing_key,
    unreadable,
)
from reconciler.model.rollouts import RolloutRecord
from reconciler.model.routing import AppliedRecord

__all__ = [
    "APPLIER",
    "DATABASES",
    "OPERATIONS",
    "PLANS",
    "ROOT",
    "RecordUnreadable",
    "database_of_key",
    "database_prefix",
    "decode_hold",
    "decode_move",
    "decode_record",
    "decode_rollout",
    "decode_routing",
    "encode_hold",
    "encode_move",
    "encode_record",
    "encode_rollout",
    "encode_routing",
    "hold_key",
    "hold_of_key",
    "logbook_key",
    "move_of_key",
    "moves_key",
    "record_key",
    "rollout_key",
    "routing_key",
]

OPERATIONS = ROOT + "operations/"
PLANS = ROOT + "plans/"
APPLIER = ROOT + "applier"


def database_prefix(database: DatabaseKey) -> str:
    """Return what every record of a database begins with."""
    return f"{DATABASES}{database.namespace}/{database.name}/"


def record_key(database: DatabaseKey) -> str:
    """Return where a database's last-applied record is."""
    return database_prefix(database) + "record"


def rollout_key(database: DatabaseKey) -> str:
    """Return where it is noted how far a database's roll-out is."""
    return database_prefix(database) + "rollout"


def encode_rollout(record: RolloutRecord) -> bytes:
    """Return how far a roll-out is, as JSON."""
    return dump_record(
        {
            "change": record.change,
            "since": record.since,
            "stopped": record.stopped,
            "promoted": record.promoted,
        }
    )


def decode_rollout(key: str, value: bytes, version: int) -> RolloutRecord:
    """Read how far a roll-out is. Raises RecordUnreadable."""
    try:
        data = json.loads(value)
        return RolloutRecord(
            str(data["change"]),
            datetime.fromisoformat(data["since"]).isoformat(timespec="seconds"),
            str(data["stopped"]),
            bool(data["promoted"]),
            version,
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def database_of_key(key: str) -> tuple[DatabaseKey, str] | None:
    """Return the database and kind (``routing``, ``record``) of a key, or None for another key."""
    parts = key.removeprefix(DATABASES).split("/")
    if len(parts) != 3:
        return None
    return DatabaseKey(Namespace(parts[0]), DatabaseName(parts[1])), parts[2]


def encode_record(record: AppliedRecord) -> bytes:
    """Return a last-applied record as JSON."""
    return dump_record(
        {
            "source": record.source,
            "revision": record.revision,
            "digest": record.digest,
            "deletion": record.deletion.value,
            "appliedAt": record.applied_at,
            "file": record.file,
            "parts": dict(record.parts),
        }
    )


def decode_record(key: str, value: bytes, database: DatabaseKey, version: int) -> AppliedRecord:
    """Read a last-applied record. Raises RecordUnreadable."""
    try:
        data = json.loads(value)
        return AppliedRecord(
            database=database,
            source=str(data["source"]),
            revision=str(data["revision"]),
            digest=str(data["digest"]),
            deletion=Deletion(data["deletion"]),
            applied_at=str(data["appliedAt"]),
            version=version,
            file=str(data.get("file", "")),
            parts=tuple((str(k), str(v)) for k, v in data.get("parts", {}).items()),
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def moves_key(database: DatabaseKey, move: str = "") -> str:
    """Return where a move's record is; without a move, the prefix of all."""
    return f"{database_prefix(database)}moves/{move}"


def logbook_key(database: DatabaseKey, move: str = "") -> str:
    """Return where a move's logbook is; without a move, the prefix of all."""
    return f"{DATABASES}{database.namespace}/{database.name}/logbooks/{move}"


def hold_key(database: DatabaseKey, move: str = "") -> str:
    """Return where a move's hold is; without a move, the prefix of all."""
    return f"{database_prefix(database)}holds/{move}"


def move_of_key(key: str) -> tuple[DatabaseKey, str] | None:
    """Return the database and id of a move's key, or None for another key."""
    return _part_of_key(key, "moves")


def hold_of_key(key: str) -> tuple[DatabaseKey, str] | None:
    """Return the database and id of a hold's key, or None for another key."""
    return _part_of_key(key, "holds")


def _part_of_key(key: str, kind: str) -> tuple[DatabaseKey, str] | None:
    parts = key.removeprefix(DATABASES).split("/")
    if not key.startswith(DATABASES) or len(parts) != 4 or parts[2] != kind:
        return None
    return DatabaseKey(Namespace(parts[0]), DatabaseName(parts[1])), parts[3]


def encode_hold(hold: MoveHold) -> bytes:
    """Return a hold as its record."""
    return dump_record(
        {
            "source": hold.source,
            "target": hold.target,
            "keys": str(hold.keys),
            "wish": hold.wish.value,
            "actor": hold.actor,
            "at": hold.at,
        }
    )


def decode_hold(key: str, value: bytes) -> MoveHold:
    """Read a hold. Raises RecordUnreadable."""
    try:
        data = json.loads(value)
        return MoveHold(
            MoveId(key.rpartition("/")[2]),
            ShardName(data["source"]),
            ShardName(data["target"]),
            parse_key_set(data["keys"]),
            Wish(data["wish"]),
            str(data["actor"]),
            str(data["at"]),
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def encode_move(move: Move) -> bytes:
    """Return a move as its record."""
    return dump_record(
        {
            "namespace": move.database.namespace,
            "database": move.database.name,
            "source": move.source,
            "target": move.target,
            "sourceScope": move.source_scope.scope,
            "targetScope": move.target_scope.scope,
            "keys": str(move.keys),
            "sourceKeys": str(move.source_keys),
            "targetKeys": str(move.target_keys),
            "epoch": move.epoch,
            "keyType": move.key_type.value,
            "tables": {table.name: table.key for table in move.tables},
            "reference": list(move.reference),
            "pauseMaxMs": move.pause_max_ms,
            "rollbackWindowS": move.rollback_window_s,
            "latencyRatioMax": move.latency_ratio_max,
            "stage": move.stage.value,
            "wish": move.wish.value,
            "startedAt": move.started_at,
            "switchedAt": move.switched_at,
            "pausesMs": list(move.pauses_ms),
            "cutAfter": move.cut_after,
            "copy": move.copy.value,
            "cutCompared": move.cut_compared,
            "movedBytes": move.moved_bytes,
        }
    )


def decode_move(key: str, value: bytes, version: int) -> Move:
    """Read a move's record. Raises RecordUnreadable."""
    try:
        data = json.loads(value)
        namespace = Namespace(data["namespace"])
        return Move(
            id=MoveId(key.rpartition("/")[2]),
            database=DatabaseKey(namespace, DatabaseName(data["database"])),
            source=ShardName(data["source"]),
            target=ShardName(data["target"]),
            source_scope=ScopeKey(namespace, Scope(data["sourceScope"])),
            target_scope=ScopeKey(namespace, Scope(data["targetScope"])),
            keys=parse_key_set(data["keys"]),
            source_keys=parse_key_set(data["sourceKeys"]),
            target_keys=parse_key_set(data["targetKeys"]),
            epoch=Epoch(int(data["epoch"])),
            key_type=KeyType(data["keyType"]),
            tables=tuple(ShardedTable(str(t), str(k)) for t, k in data["tables"].items()),
            reference=tuple(data["reference"]),
            pause_max_ms=int(data["pauseMaxMs"]),
            rollback_window_s=int(data["rollbackWindowS"]),
            latency_ratio_max=float(data.get("latencyRatioMax", 0)),
            stage=Stage(data["stage"]),
            wish=Wish(data["wish"]),
            started_at=str(data["startedAt"]),
            switched_at=str(data["switchedAt"]),
            pauses_ms=tuple(None if p is None else float(p) for p in data["pausesMs"]),
            cut_after=str(data.get("cutAfter", "")),
            copy=CopyDriver(data.get("copy", CopyDriver.OWN)),
            cut_compared=str(data.get("cutCompared", "")),
            moved_bytes=None if (held := data.get("movedBytes")) is None else int(held),
            version=version,
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem
