"""What is seen of a move at its two sides, each in one session, both at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from reconciler.edges.bounded_connection import set_statement_timeout
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import INCARNATION, Ends, address, open_session, timeline
from reconciler.edges.replication_guards import accepting, read_guards, refusing
from reconciler.edges.replication_holds import missing, refused_below, standing
from reconciler.edges.replication_numbers import Numbers, read_numbers, shared
from reconciler.edges.replication_ready import LAG
from reconciler.edges.replication_schema import Schema, differences, read_schema
from reconciler.edges.replication_tables import (
    MovedTable,
    known_tables,
    new_reference,
    odd_columns,
)
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import NO_EPOCH, Move, MoveView, Stage, Stream, Wish
from reconciler.model.names import Epoch
from reconciler.model.observed import ObservedGuard, Unseen

LONG_TRANSACTION_S = 5
MIB = 1 << 20
ODD_MAX = 3
"""How many differences between two tables are told."""
SAFE_WAL_BYTES = 16 * MIB
"""A slot that may keep less than this is given up; one that keeps less fills no disk."""

_POINTS = """
(strpos(subconninfo, CASE subname WHEN %(forward)s THEN %(source)s ELSE %(target)s END) > 0)
"""
"""That a subscription leads to the publisher's primary of now."""
_LOOK = f"""
SELECT json_build_object(
  'published', (SELECT json_agg(pubname) FROM pg_publication
                 WHERE pubname IN (%(forward)s, %(reverse)s)),
  'slots', (SELECT json_agg(json_build_array(s.slot_name, s.active, coalesce(s.wal_status, ''),
                                             {LAG}, s.safe_wal_size) ORDER BY s.slot_name)
              FROM pg_replication_slots s
             WHERE s.database = current_database()
               AND (starts_with(s.slot_name, %(forward)s) OR s.slot_name = %(reverse)s)),
  'subscribed', (SELECT json_agg(subname) FROM pg_subscription
                  WHERE subname IN (%(forward)s, %(reverse)s) AND subenabled AND {_POINTS}
                    AND subdbid = (SELECT oid FROM pg_database
                                    WHERE datname = current_database())),
  'stopped', (SELECT json_agg(subname) FROM pg_subscription
               WHERE subname IN (%(forward)s, %(reverse)s) AND NOT (subenabled AND {_POINTS})
                 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())),
  'failing', (SELECT json_object_agg(subname, apply_error_count) FROM pg_stat_subscription_stats
               WHERE subname IN (%(forward)s, %(reverse)s)),
  'long', (SELECT json_agg(DISTINCT format('%%s %%s of %%s is in a transaction for %%s s',
                    coalesce(nullif(a.application_name, ''), 'process'), a.pid, a.usename,
                    extract(epoch FROM clock_timestamp() - a.xact_start)::int))
             FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             JOIN pg_class c ON c.oid = l.relation
             JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE l.granted AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock',
                                           'ExclusiveLock', 'AccessExclusiveLock')
              AND n.nspname || '.' || c.relname = ANY(%(tables)s)
              AND a.backend_type = 'client backend' AND l.pid <> pg_backend_pid()
              AND a.xact_start < clock_timestamp() - make_interval(secs => {LONG_TRANSACTION_S})),
  'prepared', (SELECT json_agg(DISTINCT format('transaction %%s of %%s is prepared',
                                               p.gid, p.owner))
                 FROM pg_prepared_xacts p
                WHERE p.database = current_database()),
  'incarnation', {INCARNATION},
  'matviews', EXISTS (SELECT FROM pg_class WHERE relkind = 'm'),
  'installed', to_regclass('shardwright.moved') IS NOT NULL)
"""  # noqa: S608
_NOTES = """
SELECT json_build_object(
  'note', (SELECT to_jsonb(m) FROM shardwright.moved m WHERE move_id = %(move)s),
  'fresh', (SELECT verified_at > clock_timestamp() - make_interval(secs => %(verified_s)s)
              FROM shardwright.moved WHERE move_id = %(move)s),
  'ddl', (SELECT count(*) FROM shardwright.move_ddl
           WHERE move_id = %(move)s AND kind <> 'refresh'),
  'stale', (SELECT count(*) FROM shardwright.move_ddl
             WHERE move_id = %(move)s AND kind = 'refresh'),
  'beats', (SELECT json_agg(DISTINCT lane) FROM shardwright.beat
             WHERE lane IN (%(forward)s, %(reverse)s)))
"""


@dataclass(frozen=True, slots=True)
class _Sight:
    """One side."""

    seen: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    guards: dict[str, ObservedGuard] = field(default_factory=dict)
    tables: dict[str, MovedTable] = field(default_factory=dict)
    timeline: str = ""
    pruned: bool = False
    held: bool = False
    triggers: int = 0
    refuses_below: Epoch = NO_EPOCH
    numbers: dict[tuple[str, str], Numbers] = field(default_factory=dict)
    schema: Schema | None = None

    @property
    def note(self) -> dict[str, Any]:
        """The move's row in ``shardwright.moved``."""
        return self.notes.get("note") or {}

    def has(self, kind: str, name: str) -> bool:
        return name in (self.seen.get(kind) or ())

    def slot(self, prefix: str) -> list[Any] | None:
        """Return name, active, wal_status, lag and safe WAL; None when there is not one."""
        found = [s for s in self.seen.get("slots") or () if s[0].startswith(prefix)]
        return found[0] if len(found) == 1 else None


def view(ends: Ends, map_epoch: Epoch) -> MoveView:
    """Look at both sides at once. Nothing is raised for a side that does not answer."""
    with ThreadPoolExecutor(2) as pool:
        sides = [
            pool.submit(_look, at, ends, at is ends.source) for at in (ends.source, ends.target)
        ]
        source, target = (side.result() for side in sides)
    s = source if isinstance(source, _Sight) else _Sight()
    t = target if isinstance(target, _Sight) else _Sight()
    move, note = ends.move, t.note
    opened = accepting(move, t.guards)
    away = bool(note.get("timeline")) and note.get("timeline") != t.timeline
    back = bool(note.get("cut_timeline")) and note.get("cut_timeline") != s.timeline
    guarded = {table.name for table in move.tables} <= set(t.guards)
    return MoveView(
        source=source if isinstance(source, Unseen) else None,
        target=target if isinstance(target, Unseen) else None,
        forward=_endangered(ends, _stream(ends.forward, s, t, gap=away), s.slot(ends.forward)),
        reverse=_stream(ends.reverse, t, s, gap=back),
        copied=note.get("slot") or "",
        copy_begun=bool(note.get("begun")),
        indexed=bool(note.get("indexed")) and not t.notes.get("ddl"),
        verified=bool(note.get("slot")) and _equal_now("verified", s, t),
        fenced=refusing(move, s.guards),
        opened=opened,
        drained=False,
        map_epoch=map_epoch,
        pruned=(t if move.stage is Stage.BACK else s).pruned,
        prepared=bool(note) and guarded,
        syncing=move.copy is CopyDriver.NATIVE,
        held=s.held and t.held,
        views_stale=_views_stale(t),
        sequences_apart=not shared(s.numbers, t.numbers),
        source_refuses_below=s.refuses_below,
        target_refuses_below=t.refuses_below,
        obstacles=(*_obstacles(move, s, t), *filter(None, (ends.short_of_room(),))),
        verified_back=_equal_now("verified_back", s, t),
        left=(*_left(s, "source"), *_left(t, "target"), *_note_left(note, opened)),
    )


def _views_stale(target: _Sight) -> bool:
    """Whether materialized views of the target may lack rows of the copy that is there now."""
    slot = target.note.get("slot")
    shown = target.note.get("refreshed") == slot and not target.notes.get("stale")
    return bool(slot and target.seen.get("matviews")) and not shown


def _cut_ahead(move: Move, seen: dict[str, Any]) -> bool:
    """Whether a cut may be next, so that both sides must have the same: here a stream runs."""
    runs = seen["subscribed"] or any(active for _, active, *_ in seen["slots"] or ())
    return bool(runs) and (move.stage is Stage.BEFORE or move.wish is Wish.ROLLBACK)


def _equal_now(note: str, source: _Sight, target: _Sight) -> bool:
    """Whether a comparison that was noted still counts: not too old, no side restarted since."""
    as_of = f"{source.seen.get('incarnation')}/{target.seen.get('incarnation')}"
    return bool(target.notes.get("fresh")) and target.note.get(note) == as_of


def _look(at: Server, ends: Ends, source: bool) -> _Sight | Unseen:
    try:
        with open_session(at) as connection:
            return _read(connection, ends, source=source)
    except ReconcilerError as error:
        return Unseen("postgres", at.subject, f"{error.code} {error.problem}")


def _read(connection: psycopg.Connection, ends: Ends, *, source: bool) -> _Sight:
    move = ends.move
    values = {
        "forward": ends.forward,
        "reverse": ends.reverse,
        "source": address(ends.source),
        "target": address(ends.target),
        "move": move.id,
        "verified_s": ends.limits.verified_s,
        "tables": [t.name for t in move.tables],
    }
    seen = _one(connection, _LOOK, values)
    notes = _one(connection, _NOTES, values) if seen["installed"] else {}
    tables = known_tables(connection, move.tables)
    wanted = (*move.tables, *new_reference(move))
    streams = any(seen[kind] for kind in ("published", "slots", "subscribed", "stopped"))
    # Whether rows are left may mean to read all of them: only asked when it decides something.
    asked = move.stage in (Stage.SWITCHED, Stage.BACK) and not streams
    return _Sight(
        seen,
        notes,
        read_guards(connection),
        tables,
        timeline(connection),
        asked
        and not notes.get("stale")
        and not any(_has_rows(connection, t, ends) for t in tables.values()),
        not missing(connection, move, source=source),
        len(standing(connection, move)),
        refused_below(connection, move),
        read_numbers(connection),
        read_schema(connection, [t.name for t in wanted]) if _cut_ahead(move, seen) else None,
    )


def _one(connection: psycopg.Connection, query: str, values: dict[str, Any]) -> dict[str, Any]:
    row = connection.execute(query, values).fetchone()
    return dict(row[0]) if row else {}


def _has_rows(connection: psycopg.Connection, table: MovedTable, ends: Ends) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
        table.identifier, table.where(ends.move.keys)
    )
    set_statement_timeout(connection, ends.limits.statement_ms)
    row = connection.execute(query).fetchone()
    return bool(row and row[0])


def _stream(name: str, publisher: _Sight, subscriber: _Sight, *, gap: bool) -> Stream:
    slot = publisher.slot(name)
    return Stream(
        published=publisher.has("published", name),
        slot=slot is not None,
        slot_active=bool(slot and slot[1]),
        slot_lost=bool(slot and slot[2] == "lost"),
        lag_bytes=None if slot is None or slot[3] is None else int(slot[3]),
        subscribed=subscriber.has("subscribed", name),
        slot_name=slot[0] if slot else "",
        gap=gap,
        apply_errors=(subscriber.seen.get("failing") or {}).get(name, 0),
    )


def _endangered(ends: Ends, stream: Stream, slot: list[Any] | None) -> Stream:
    """Say why the slot at the source should be given up before it is lost or fills the disk."""
    if slot is None or ends.move.stage is not Stage.BEFORE:
        return stream
    _, _, status, lag, safe = slot
    reason = ""
    bounded = status in ("extended", "unreserved") and safe is not None  # None: no limit is set
    if bounded and safe < SAFE_WAL_BYTES:
        kept = f"{max(safe, 0) // MIB} MiB more WAL"
        reason = f"its slot may keep only {kept} (max_slot_wal_keep_size, {status})"
    elif ends.short_of_room() and (lag or 0) > SAFE_WAL_BYTES:
        reason = ends.short_of_room()
    return replace(stream, endangered=reason)


def _obstacles(move: Move, source: _Sight, target: _Sight) -> tuple[str, ...]:
    """Return why no cut may be tried now, in words."""
    found = [
        f"{name}: {text}"
        for name, side in ((move.source, source), (move.target, target))
        for kind in ("long", "prepared")
        for text in side.seen.get(kind) or ()
    ]
    for name, mine in source.tables.items():
        theirs = target.tables.get(name)
        if theirs is not None and (odd := odd_columns(mine, theirs, (move.source, move.target))):
            told = _some(odd, "columns")
            found.append(f"{name} has other columns at {move.target} than at {move.source}: {told}")
        elif theirs is not None and (shapes := set(mine.shape) ^ set(theirs.shape)):
            told = "; ".join(sorted(shapes)[:ODD_MAX])
            found.append(f"{name} is not the same at {move.source} and {move.target}: {told}")
    if source.schema and target.schema:
        others = differences(source.schema, target.schema, (move.source, move.target))
        found += others[:ODD_MAX]
        if len(others) > ODD_MAX:
            found.append(f"{len(others) - ODD_MAX} more differences of their schemas")
    return tuple(found)


def _some(found: list[str], what: str) -> str:
    more = len(found) - ODD_MAX
    return "; ".join(found[:ODD_MAX] + ([f"{more} more {what}"] if more > 0 else []))


def _left(side: _Sight, where: str) -> list[str]:
    """Name what the streams do not tell of: beats, subscriptions that were stopped half-way."""
    kinds = (("beats", side.notes.get("beats")), ("subscription", side.seen.get("stopped")))
    names = [f"{kind} {name} at the {where}" for kind, found in kinds for name in found or ()]
    slots = side.seen.get("slots") or ()
    if side.note.get("syncs"):
        names.append(f"slots of tablesync at the {where}")
    names += [f"{side.triggers} triggers at the {where}"] if side.triggers else []
    return names + ([f"{len(slots)} slots at the {where}"] if len(slots) > 1 else [])


def _note_left(note: dict[str, Any], opened: tuple[str, ...]) -> list[str]:
    """A note that only says whose the rows are is no leftover until the target owns them."""
    marks = any(note.get(k) for k in ("slot", "verified", "verified_back", "cut_timeline"))
    rows = bool(note.get("begun"))
    return ["the note at the target"] if note and (marks or opened or not rows) else []
