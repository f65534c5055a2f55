"""An exact comparison of both sides while applications write.

For each table: writers wait (SHARE, readers go on), a beat is written and awaited at the target, a
snapshot is taken on both sides, writers go on. The snapshots are of the same rows, and are compared
at leisure by their number and two sums of row hashes; then, only if they differ, by 1,024 buckets
and row by row in those that differ (resharding.md, section 4).

Row hashes tell equality, not bytes: 1.0 and 1.00 of numeric are equal to them. Types that
PostgreSQL cannot hash are compared as text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    has_beat,
    open_session,
    patient,
    run,
    timeline,
    write_beat,
)
from reconciler.edges.replication_tables import MovedTable, sharded_tables
from reconciler.model.moves import Comparison

POLL_S = 0.0005
HOLD_ATTEMPTS_MAX = 20
BETWEEN_ATTEMPTS_S = 0.25
SAMPLES_MAX = 5
BUCKETS_MAX = 3
ROWS_MAX = 10_000
_HASHED = frozenset({
    "bool", "bytea", "char", "date", "float4", "float8", "int2", "int4", "int8", "interval",
    "jsonb", "name", "numeric", "oid", "text", "time", "timestamp", "timestamptz", "timetz", "uuid",
    "varchar", "bpchar", "inet", "cidr", "macaddr", "macaddr8",
})  # fmt: skip
_PLAIN = {
    # Text of a value must not depend on a server's settings.
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}


def verify(ends: Ends) -> Comparison:
    """Compare every table of the keys, and note at the target that they were equal.

    Raises NotReady when the target does not catch up within the limits.
    """
    source, target = patient(ends.source, ends.limits), patient(ends.target, ends.limits)
    differing: list[str] = []
    samples: list[str] = []
    with (
        open_session(source, **_PLAIN) as here,
        open_session(target, **_PLAIN) as there,
        open_session(source) as holder,
        open_session(ends.target) as watcher,
        open_session(ends.source) as writer,
    ):
        tables = sharded_tables(here, ends.move)
        _catch_up(ends, writer, watcher)
        for table in tables:
            with _same_rows(ends, table, here, there, (holder, writer, watcher)):
                if _differs(here, there, table, ends):
                    differing.append(table.name)
                    samples.extend(_samples(here, there, table, ends))
        if not differing:
            _note(ends, here, watcher)
    return Comparison(not differing, tuple(differing), tuple(samples[: 2 * SAMPLES_MAX]))


def _note(ends: Ends, here: psycopg.Connection, watcher: psycopg.Connection) -> None:
    with watcher.transaction():
        check_fence(watcher, ends.token)
        watcher.execute(
            "UPDATE shardwright.moved SET verified = %s WHERE move_id = %s AND slot <> ''",
            [f"{timeline(here)}/{timeline(watcher)}", ends.move.id],
        )


def _catch_up(ends: Ends, writer: psycopg.Connection, watcher: psycopg.Connection) -> None:
    """Wait until the target is about level, without holding anybody back."""
    if not _await_beat(ends, writer, watcher, ends.limits.catch_up_s):
        raise NotReady(
            ends.target.subject, f"it did not catch up within {ends.limits.catch_up_s:.0f} s"
        )


def _await_beat(
    ends: Ends, writer: psycopg.Connection, watcher: psycopg.Connection, limit_s: float
) -> bool:
    until = time.monotonic() + limit_s
    beat = write_beat(writer, ends.forward)
    while not has_beat(watcher, ends.forward, beat):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def _same_rows(
    ends: Ends,
    table: MovedTable,
    here: psycopg.Connection,
    there: psycopg.Connection,
    helpers: tuple[psycopg.Connection, psycopg.Connection, psycopg.Connection],
) -> Iterator[None]:
    """Open a transaction on both sides that sees the same rows of the table."""
    holder, writer, watcher = helpers
    for _ in range(HOLD_ATTEMPTS_MAX):
        if _snapshots(ends, table, here, there, (holder, writer, watcher)):
            break
        time.sleep(BETWEEN_ATTEMPTS_S)
    else:
        raise NotReady(
            ends.source.subject,
            f"{table.name} was never free of writers, or the target level with it,"
            f" within {ends.limits.hold_ms} ms",
        )
    try:
        yield
    finally:
        for connection in (here, there):
            connection.execute("ROLLBACK")


def _snapshots(
    ends: Ends,
    table: MovedTable,
    here: psycopg.Connection,
    there: psycopg.Connection,
    helpers: tuple[psycopg.Connection, psycopg.Connection, psycopg.Connection],
) -> bool:
    holder, writer, watcher = helpers
    held = ends.limits.hold_ms
    try:
        with holder.transaction():
            run(holder, "SET LOCAL lock_timeout = {}", sql.Literal(held))
            run(holder, "LOCK TABLE {} IN SHARE MODE", table.identifier)
            if not _await_beat(ends, writer, watcher, held / 1000):
                return False
            for connection in (here, there):
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute("SELECT 1 FROM pg_class LIMIT 1")
    except (pg.LockNotAvailable, pg.DeadlockDetected):
        return False
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
    here: psycopg.Connection, there: psycopg.Connection, table: MovedTable, ends: Ends
) -> list[str]:
    """Name some keys whose rows differ, with the side that has each row."""
    bucket = sql.SQL("({} >> 54)").format(table.position())
    counted = sql.SQL(
        "SELECT {}, count(*), sum(hash_record_extended(r, 0)), bit_xor(hash_record_extended(r, 1))"
        " FROM ({}) AS r GROUP BY 1"
    ).format(bucket, _rows(table, ends))
    mine, theirs = ({row[0]: row[1:] for row in rows} for rows in _both(here, there, counted))
    differing = sorted(b for b in mine.keys() | theirs.keys() if mine.get(b) != theirs.get(b))
    listed = sql.SQL(
        "SELECT {}::text, hash_record_extended(r, 0), left(r::text, 200) FROM ({}) AS r"
        " WHERE {} = ANY({}) ORDER BY 1, 2 LIMIT {}"
    ).format(
        sql.Identifier(table.key),
        _rows(table, ends),
        bucket,
        sql.Literal(differing[:BUCKETS_MAX]),
        sql.Literal(ROWS_MAX),
    )
    ours, others = ({(k, h): text for k, h, text in rows} for rows in _both(here, there, listed))
    return [
        f"{table.name} {table.key}={key}: {name} has {rows[key, hashed]}"
        for name, rows, without in (("source", ours, others), ("target", others, ours))
        for key, hashed in sorted(rows.keys() - without.keys())[:SAMPLES_MAX]
    ]
