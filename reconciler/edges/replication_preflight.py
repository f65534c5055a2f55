"""What would make a move fail, or lose something: looked for before anything is changed.

Each obstacle names the table, the reason and the cure (resharding.md, sections 1.2 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import Ends, one_text, open_session, patient
from reconciler.edges.replication_numbers import (
    Numbers,
    NumbersUsedUp,
    divided,
    fresh,
    read_numbers,
    shared,
)
from reconciler.edges.replication_schema import made_objects, obstacles
from reconciler.edges.replication_streams import has_identity
from reconciler.edges.replication_tables import (
    MovedTable,
    known_tables,
    new_reference,
    odd_columns,
)
from reconciler.model.desired import CopyDriver
from reconciler.model.moves import Obstacle, SchemaObject

MIB = 1024 * 1024
_LOOK = (files(__package__) / "sql" / "move_preflight.sql").read_text()
LONG_TRANSACTION_S = 60
RETRY_MS_MAX = 1000
SYNC_SLOTS = 2
"""As many as PostgreSQL's ``max_sync_workers_per_subscription``, unless it was changed."""
ROOM_SHARE = 1.5
KEEP_SHARE = 0.5
"""WAL that a slot may keep, at least, as a part of what moves: what is written meanwhile."""


def preflight_source(ends: Ends) -> tuple[Obstacle, ...]:
    """Return what the source alone tells to be in the way. Changes nothing."""
    with open_session(ends.source) as here:
        seen = _look(here, ends)
        mine = read_numbers(here)
        new = fresh(mine) if ends.move.copy is not CopyDriver.PHYSICAL else mine
        more = (*_native(ends, here, seen), *_numbers(mine, new))
    return tuple(dict.fromkeys((*_shard(ends.source, seen), *_source_only(ends, seen), *more)))


def objects_at_source(ends: Ends) -> tuple[SchemaObject, ...]:
    """Return what the source has beside tables. Changes nothing."""
    with open_session(ends.source) as here:
        return made_objects(here)


def preflight(ends: Ends) -> tuple[Obstacle, ...]:
    """Return all that is in the way of a move, source first. Changes nothing."""
    with (
        open_session(ends.source) as here,
        open_session(patient(ends.target, ends.limits)) as there,
    ):
        source, target = _look(here, ends), _look(there, ends)
        wanted = (*ends.move.tables, *new_reference(ends.move))
        mine, theirs = known_tables(here, wanted), known_tables(there, wanted)
        found = [
            *_shard(ends.source, source),
            *_shard(ends.target, target),
            *_source_only(ends, source),
            *_pair(source, target),
            *_room(ends, source),
            *_columns(ends, mine, theirs),
            *obstacles(here, there, ends.move, sorted(mine.keys() & theirs.keys())),
            *_native(ends, here, source),
            *_numbers(read_numbers(here), read_numbers(there)),
        ]
        if not found:
            found.extend(_foreign_rows(there, ends, theirs, installed=target["installed"]))
    return tuple(dict.fromkeys(found))


def _look(connection: psycopg.Connection, ends: Ends) -> dict[str, Any]:
    move = ends.move
    values = {
        "names": [t.name for t in move.tables],
        "keys": [t.key for t in move.tables],
        "reference": list(move.reference),
        "long_s": LONG_TRANSACTION_S,
    }
    row = connection.execute(_LOOK, values).fetchone()
    return dict(row[0]) if row else {}


def _shard(at: Server, seen: dict[str, Any]) -> Iterator[Obstacle]:
    name = at.name
    if seen["wal_level"] != "logical":
        cure = "set wal_level = logical (spec.postgres.parameters), which restarts the shard"
        yield Obstacle("", f"{name} runs with wal_level = {seen['wal_level']}", cure)
    unused = "drop those that nobody uses (pg_replication_slots), or "
    for kind, needed, cure in (
        ("slots", 1, f"{unused}raise max_replication_slots"),
        ("senders", 2, "raise max_wal_senders"),
        ("workers", 1, "raise max_logical_replication_workers"),
    ):
        if seen[f"{kind}_free"] < needed:
            yield Obstacle("", f"{name} has no {kind} left for replication", cure)
    if seen["retry_ms"] > RETRY_MS_MAX:
        reason = f"{name} starts replication workers only every {seen['retry_ms']} ms"
        yield Obstacle("", reason, "set wal_retrieve_retry_interval = 500ms")
    if seen["prepared"]:
        reason = f"{name} has prepared transactions: {', '.join(seen['prepared'])}"
        yield Obstacle("", reason, "COMMIT PREPARED or ROLLBACK PREPARED them", passing=True)
    if seen["long"]:
        reason = f"{name} has long transactions that write: {'; '.join(seen['long'])}"
        cure = "end them: a slot waits for them, and so does the fence"
        yield Obstacle("", reason, cure, passing=True)


def _source_only(ends: Ends, seen: dict[str, Any]) -> Iterator[Obstacle]:
    move = ends.move
    if seen["large_objects"]:
        reason = f"{ends.source.name} holds large objects, which are not replicated"
        yield Obstacle("", reason, "store them as bytea, or remove them (vacuumlo)")
    missing = {t.name for t in move.tables} - {t["name"] for t in seen["tables"] or ()}
    missing |= set(seen["no_reference"] or ()) if not move.target_keys else set()
    for name in sorted(missing):
        yield Obstacle(name, f"it is not at {move.source}", "create it in a schema file")
    yield from (o for table in seen["tables"] or () for o in _table(table))
    yield from _wal_kept(ends, seen)


def _wal_kept(ends: Ends, seen: dict[str, Any]) -> Iterator[Obstacle]:
    """Room for what a slot keeps: bounded by the setting, else only by the disk."""
    moved = _moved(ends, seen["bytes"])
    keep, needed = seen["keep_mb"] * MIB, round(moved * KEEP_SHARE)
    if 0 <= keep < needed:
        reason = (
            f"a slot of {ends.source.name} may keep {seen['keep_mb']} MB of WAL, while"
            f" {moved / MIB:.0f} MB move"
        )
        yield Obstacle("", reason, "raise max_slot_wal_keep_size, or unset it")
    free, needed = ends.room(ends.move.source_scope), needed + ends.limits.reserve_bytes
    if free is not None and free < needed:
        unbounded = " without a limit (max_slot_wal_keep_size = -1)" if keep < 0 else ""
        reason = (
            f"{ends.source.name} has {free / MIB:.0f} MiB of disk left, and its slot keeps WAL"
            f"{unbounded} while rows move: {needed / MIB:.0f} MiB are wanted"
        )
        yield Obstacle("", reason, "free disk space there, or give the shard more")


def _moved(ends: Ends, size: int) -> float:
    move = ends.move
    return size * move.keys.share / (move.source_keys.share or 1.0)


def _room(ends: Ends, source: dict[str, Any]) -> Iterator[Obstacle]:
    """Room at the target for the rows, their indexes and the WAL that writing them makes."""
    free = ends.room(ends.move.target_scope)
    needed = round(_moved(ends, source["all_bytes"]) * ROOM_SHARE) + ends.limits.reserve_bytes
    if free is not None and free < needed:
        reason = (
            f"{ends.target.name} has {free / MIB:.0f} MiB of disk left, and"
            f" {needed / MIB:.0f} MiB are wanted for the rows and their indexes"
        )
        yield Obstacle("", reason, "free disk space there, or give the shard more")


def _pair(source: dict[str, Any], target: dict[str, Any]) -> Iterator[Obstacle]:
    if source["encoding"] != target["encoding"]:
        reason = f"encodings differ: {source['encoding']} and {target['encoding']}"
        yield Obstacle("", reason, "text keys hash by their bytes: use one encoding, UTF8")
    if min(source["version"], target["version"]) < 150_000:
        yield Obstacle("", "row filters need PostgreSQL 15 or later", "upgrade the shard")


def _table(seen: dict[str, Any]) -> Iterator[Obstacle]:
    name, key = seen["name"], seen["key"]
    if not seen["there"]:
        yield Obstacle(name, f"it has no column {key}", "name its key in spec.sharding.tables")
        return
    if seen["unlogged"]:
        yield Obstacle(name, "it is unlogged, so it is not replicated", "ALTER TABLE … SET LOGGED")
    if seen["generated"]:
        yield Obstacle(name, f"its key {key} is a generated column", "make it an ordinary column")
    for part in seen["foreign_parts"] or ():
        cure = "take it out of the table while keys move, or make it an ordinary partition"
        yield Obstacle(name, f"its partition {part} is a foreign table", cure)
    if seen["parent"]:
        yield Obstacle(name, "other tables inherit from it", "use partitions instead")
    yield from _identity(seen)
    for kind, told in (("foreign", "has"), ("referred", "is referred to by")):
        for constraint in seen[kind] or ():
            yield Obstacle(
                name,
                f"it {told} a foreign key without the shard key: {constraint}",
                "let the foreign key hold the shard key of both tables, or drop it",
            )


def _identity(seen: dict[str, Any]) -> Iterator[Obstacle]:
    name, key = seen["name"], seen["key"]
    if not seen["primary"]:
        full = seen["identity"] == "f"
        reason = "it has no primary key" + (
            ", so each change would search all of it at the target" if full else ""
        )
        yield Obstacle(name, reason, f"add a primary key that holds {key}")
    elif not seen["identified"]:
        yield Obstacle(
            name,
            f"its key {key} is no part of its replica identity: publishing it would make the"
            " application's UPDATE and DELETE fail",
            f"CREATE UNIQUE INDEX CONCURRENTLY on the primary key's columns and {key} (all NOT"
            " NULL), then ALTER TABLE … REPLICA IDENTITY USING INDEX",
        )


def _columns(
    ends: Ends, mine: dict[str, MovedTable], theirs: dict[str, MovedTable]
) -> Iterator[Obstacle]:
    for name, table in mine.items():
        other = theirs.get(name)
        cure = "apply the same schema files to both shards"
        if other is None:
            yield Obstacle(name, f"it is not at {ends.move.target}", cure)
            continue
        if odd := odd_columns(table, other, (ends.move.source, ends.move.target)):
            reason = f"its columns differ between the shards: {'; '.join(odd)}"
            yield Obstacle(name, reason, cure)


def _native(ends: Ends, here: psycopg.Connection, seen: dict[str, Any]) -> Iterator[Obstacle]:
    """Tablesync makes slots of its own, and brings only what may be published."""
    if ends.move.copy is not CopyDriver.NATIVE:
        return
    if seen["slots_free"] <= SYNC_SLOTS:
        reason = f"{ends.source.name} has not {SYNC_SLOTS} more slots left for tablesync"
        yield Obstacle("", reason, "raise max_replication_slots, or move with resharding.copy: own")
    for table in known_tables(here, new_reference(ends.move)).values():
        if not has_identity(here, table):
            yield Obstacle(
                table.name,
                "it has no primary key, so tablesync does not bring it",
                "add a primary key, or move with resharding.copy: own",
            )


def _numbers(
    mine: dict[tuple[str, str], Numbers], theirs: dict[tuple[str, str], Numbers]
) -> Iterator[Obstacle]:
    """Sequences with too little left for a block of its own at each side."""
    for one, other in shared(mine, theirs):
        try:
            divided(one, other)
        except NumbersUsedUp as error:
            yield Obstacle("", f"{error.subject}: {error.problem}", error.remedy)


def _foreign_rows(
    connection: psycopg.Connection, ends: Ends, tables: dict[str, MovedTable], *, installed: bool
) -> Iterator[Obstacle]:
    """Rows of the keys at the target that no attempt of this move brought there."""
    if installed:
        query = "SELECT 1 FROM shardwright.moved WHERE move_id = %s AND begun"
        if one_text(connection, query, ends.move.id):
            return
    for table in tables.values():
        if not table.key:
            continue
        # A new target is loaded with all indexes away, so nothing at all may be in it.
        condition = table.where(ends.move.keys) if ends.move.target_keys else sql.SQL("true")
        query_rows = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
            table.identifier, condition
        )
        row = connection.execute(query_rows).fetchone()
        if row and row[0]:
            yield Obstacle(
                table.name,
                f"{ends.move.target} has rows of {ends.move.keys} already",
                "look at them; delete them there with session_replication_role = replica",
            )
