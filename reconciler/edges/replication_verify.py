"""An exact comparison of both sides while applications write.

For each table: writers wait (SHARE, readers go on), a beat is written and awaited at the side that
follows, a snapshot is taken on both sides, writers go on. The snapshots are of the same rows, and
are compared at leisure by their number and two sums of row hashes; then, only if they differ, by
1,024 buckets and row by row in those that differ (resharding.md, section 4).

Row hashes tell equality, not bytes: 1.0 and 1.00 of numeric are equal to them. Types that
PostgreSQL cannot hash are compared as text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    has_beat,
    incarnation,
    open_session,
    patient,
    run,
    write_beat,
)
from reconciler.edges.replication_ready import blockers
from reconciler.edges.replication_tables import MovedTable, all_tables
from reconciler.model.moves import Comparison

POLL_S = 0.0005
HOLD_MS = 12
"""How long writers are held at first; twice as long after every ATTEMPTS_A_LENGTH attempts."""
ATTEMPTS_A_LENGTH = 8
HOLD_ATTEMPTS_MAX = 60
BETWEEN_ATTEMPTS_S = 0.1
SAMPLES_MAX = 5
SAMPLES_SHOWN = 2 * SAMPLES_MAX
BUCKETS_MAX = 3
ROWS_MAX = 10_000
_HASHED = frozenset({
    "bool", "bytea", "char", "date", "float4", "float8", "int2", "int4", "int8", "interval",
    "jsonb", "name", "numeric", "oid", "text", "time", "timestamp", "timestamptz", "timetz", "uuid",
    "varchar", "bpchar", "inet", "cidr", "macaddr", "macaddr8",
})  # fmt: skip
PLAIN = {
    # Text of a value must not depend on a server's settings.
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1 FROM pg_class LIMIT 1"


@dataclass(frozen=True, slots=True)
class _Course:
    """Which way rows flow: from the side that clients write at to the one that follows it."""

    writing: Server
    following: Server
    lane: str
    sides: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Crew:
    """The sessions of a comparison: two read at leisure, three bring them to the same rows."""

    here: psycopg.Connection
    there: psycopg.Connection
    holder: psycopg.Connection
    writer: psycopg.Connection
    watcher: psycopg.Connection
    held_ms: list[float] = field(default_factory=list)


def verify(ends: Ends, *, back: bool = False) -> Comparison:
    """Compare every table of the keys, and note at the target whether they were equal.

    ``back``: clients write at the target, and the source follows. Raises NotReady when the other
    side does not catch up within the limits.
    """
    if back:
        course = _Course(ends.target, ends.source, ends.reverse, ("target", "source"))
    else:
        course = _Course(ends.source, ends.target, ends.forward, ("source", "target"))
    differing: list[str] = []
    samples: list[str] = []
    with (
        open_session(patient(course.writing, ends.limits), **PLAIN) as here,
        open_session(patient(course.following, ends.limits), **PLAIN) as there,
        open_session(course.writing) as holder,
        open_session(course.writing) as writer,
        open_session(course.following) as watcher,
    ):
        crew = _Crew(here, there, holder, writer, watcher)
        _catch_up(ends, course, crew)
        for table in _followed(here, ends, course):
            with _same_rows(ends, course, table, crew):
                found = differences(here, there, table, ends, course.sides)
            differing.extend([table.name] if found else [])
            samples.extend(found)
        source, target = (watcher, writer) if back else (here, watcher)
        as_of = "" if differing else f"{incarnation(source)}/{incarnation(target)}"
        _note(ends, target, as_of, back=back)
    held = max(crew.held_ms, default=0.0)
    return Comparison(not differing, tuple(differing), tuple(samples[:SAMPLES_SHOWN]), held)


def differences(
    here: psycopg.Connection,
    there: psycopg.Connection,
    table: MovedTable,
    ends: Ends,
    sides: tuple[str, str],
) -> list[str]:
    """Compare a table's rows in two snapshots; return some that differ, empty when none does."""
    return _samples(here, there, table, ends, sides) if _differs(here, there, table, ends) else []


def _followed(here: psycopg.Connection, ends: Ends, course: _Course) -> tuple[MovedTable, ...]:
    """Return the tables whose rows flow: reference tables only where they can be followed."""
    query = "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s"
    published = {str(name) for (name,) in here.execute(query, [course.lane])}
    return tuple(t for t in all_tables(here, ends.move) if t.key or t.name in published)


def _note(ends: Ends, target: psycopg.Connection, as_of: str, *, back: bool) -> None:
    column = sql.Identifier("verified_back" if back else "verified")
    with target.transaction():
        check_fence(target, ends.token)
        target.execute(
            sql.SQL(
                "UPDATE shardwright.moved SET {} = %s, verified_at = clock_timestamp()"
                " WHERE move_id = %s AND (slot <> '' OR %s)"
            ).format(column),
            [as_of, ends.move.id, back],
        )


def _catch_up(ends: Ends, course: _Course, crew: _Crew) -> None:
    """Wait until the other side is about level, without holding anybody back."""
    beat = write_beat(crew.writer, course.lane)
    limit_s = ends.limits.catch_up_s
    if not _await_beat(crew, course, beat, time.monotonic() + limit_s):
        raise NotReady(course.following.subject, f"it did not catch up within {limit_s:.0f} s")


def _await_beat(crew: _Crew, course: _Course, beat: int, until: float) -> bool:
    while not has_beat(crew.watcher, course.lane, beat):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def _same_rows(ends: Ends, course: _Course, table: MovedTable, crew: _Crew) -> Iterator[None]:
    """Open a transaction on both sides that sees the same rows of the table.

    Writers are held for a few ms and then let go, however far it came; only when that was never
    enough are they held for longer, up to the limit.
    """
    for attempt in range(HOLD_ATTEMPTS_MAX):
        hold_ms = min(ends.limits.hold_ms, HOLD_MS << (attempt // ATTEMPTS_A_LENGTH))
        if _snapshots(course, table, crew, hold_ms):
            break
        time.sleep(BETWEEN_ATTEMPTS_S)
    else:
        raise NotReady(
            course.writing.subject,
            f"{table.name} was never free of writers, or {course.following.name} level with it,"
            f" within {ends.limits.hold_ms} ms; who writes: {blockers(crew.writer, table.name)}",
        )
    try:
        yield
    finally:
        for connection in (crew.here, crew.there):
            connection.execute("ROLLBACK")


def _snapshots(course: _Course, table: MovedTable, crew: _Crew, hold_ms: int) -> bool:
    """Take both snapshots while writers wait. They queue behind our wait for the lock as well."""
    with crew.holder.transaction():
        run(crew.holder, "SET LOCAL lock_timeout = {}", sql.Literal(max(1, hold_ms // 3)))
        begun = time.monotonic()
        try:
            return _take_both(course, table, crew, begun + hold_ms / 1000)
        except (pg.LockNotAvailable, pg.DeadlockDetected):
            raise psycopg.Rollback from None
        finally:
            crew.held_ms.append((time.monotonic() - begun) * 1000)
    return False


def _take_both(course: _Course, table: MovedTable, crew: _Crew, until: float) -> bool:
    run(crew.holder, "LOCK TABLE {} IN SHARE MODE", table.identifier)
    beat = write_beat(crew.writer, course.lane)
    crew.here.execute(SNAPSHOT)
    if not _await_beat(crew, course, beat, until):
        crew.here.execute("ROLLBACK")
        return False
    crew.there.execute(SNAPSHOT)
    return True


def _rows(table: MovedTable, ends: Ends) -> sql.Composed:
    """Return the moved rows as records of values that can be hashed."""
    values = (
        sql.Identifier(c.name)
        if c.kind in _HASHED
        else sql.SQL("{}::pg_catalog.text").format(sql.Identifier(c.name))
        for c in table.columns
    )
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(values), table.identifier, table.where(ends.move.keys)
    )


def _differs(
    here: psycopg.Connection, there: psycopg.Connection, table: MovedTable, ends: Ends
) -> bool:
    query = sql.SQL(
        "SELECT count(*), sum(hash_record_extended(r, 0)), bit_xor(hash_record_extended(r, 1))"
        " FROM ({}) AS r"
    ).format(_rows(table, ends))
    mine, theirs = _both(here, there, query)
    return bool(mine != theirs)


def _both(here: psycopg.Connection, there: psycopg.Connection, query: sql.Composed) -> list[Any]:
    """Ask both sides at once."""
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(lambda c: c.execute(query).fetchall(), c) for c in (here, there)]
        return [future.result() for future in asked]


def _samples(
    here: psycopg.Connection,
    there: psycopg.Connection,
    table: MovedTable,
    ends: Ends,
    sides: tuple[str, str],
) -> list[str]:
    """Name some keys whose rows differ, with the side that has each row."""
    hashed = table.position() if table.key else sql.SQL("hash_record_extended(r, 0)")
    bucket = sql.SQL("({} >> 54)").format(hashed)
    key = sql.SQL("{}::text").format(sql.Identifier(table.key)) if table.key else sql.SQL("''")
    counted = sql.SQL(
        "SELECT {}, count(*), sum(hash_record_extended(r, 0)), bit_xor(hash_record_extended(r, 1))"
        " FROM ({}) AS r GROUP BY 1"
    ).format(bucket, _rows(table, ends))
    mine, theirs = ({row[0]: row[1:] for row in rows} for rows in _both(here, there, counted))
    differing = sorted(b for b in mine.keys() | theirs.keys() if mine.get(b) != theirs.get(b))
    listed = sql.SQL(
        "SELECT {}, hash_record_extended(r, 0), left(r::text, 200) FROM ({}) AS r"
        " WHERE {} = ANY({}) ORDER BY 1, 2 LIMIT {}"
    ).format(
        key,
        _rows(table, ends),
        bucket,
        sql.Literal(differing[:BUCKETS_MAX]),
        sql.Literal(ROWS_MAX),
    )
    ours, others = ({(k, h): text for k, h, text in rows} for rows in _both(here, there, listed))
    label = f"{table.name} {table.key}=" if table.key else f"{table.name}"
    return [
        f"{label}{value}: {name} has {rows[value, hash_]}"
        for name, rows, without in ((sides[0], ours, others), (sides[1], others, ours))
        for value, hash_ in sorted(rows.keys() - without.keys())[:SAMPLES_MAX]
    ] or [f"{table.name}: other rows"]
