"""Whether a cut's moment has come, and who is in its way."""

from __future__ import annotations

import psycopg

from reconciler.edges.replication_ends import Ends, NotReady, one_text, timeline
from reconciler.edges.replication_standbys import why_not_promotable

LAG_BYTES_MAX = 64 * 1024

LAG = """
greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), greatest(s.confirmed_flush_lsn, (
  SELECT r.replay_lsn FROM pg_stat_replication r WHERE r.pid = s.active_pid))))::int8
"""
"""How far a slot ``s``'s subscriber is behind, in bytes of WAL.

By what it has applied where it follows: what it confirms is what it flushed, which with
``synchronous_commit = off`` is always a quarter of a second behind (resharding.md, 3.1).
"""
_SLOT = f"SELECT s.slot_name, s.active, {LAG} FROM pg_replication_slots s"  # noqa: S608
_BLOCKERS = """
SELECT string_agg(DISTINCT format('%%s %%s of %%s, for %%s ms',
                  coalesce(nullif(a.application_name, ''), 'process'), a.pid, a.usename,
                  (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::int), '; ')
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.relation = %s::regclass AND l.granted AND l.pid <> pg_backend_pid()
   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
"""


def check_ready(
    ends: Ends, here: psycopg.Connection, there: psycopg.Connection, lane: str, back_slot: str
) -> None:
    """Raise NotReady unless the stream runs close behind and neither side failed over.

    Nor while a standby is away that could be promoted without the fence.
    """
    _check_stream(ends, here, lane)
    row = there if back_slot else here
    noted = row.execute(
        "SELECT timeline, cut_timeline, slot FROM shardwright.moved WHERE move_id = %s",
        [ends.move.id],
    ).fetchone()
    subject = f"move {ends.move.id}"
    if noted is None:
        raise NotReady(subject, "the target has no note of it")
    if (noted[0] if back_slot else noted[1]) != timeline(there):
        raise NotReady(subject, "the side that follows failed over since")
    if back_slot:
        if not one_text(here, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", noted[2]):
            raise NotReady(subject, "the slot of the copy is gone")
        query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND wal_status <> 'lost'"
        if not one_text(there, query, back_slot):
            raise NotReady(subject, "the slot of the way back is gone")
    losing, gaining = (here, there) if back_slot else (there, here)
    for connection, at, standbys in (
        (losing, ends.source, ends.source_standbys),
        (gaining, ends.target, ends.target_standbys),
    ):
        if why := why_not_promotable(connection, standbys):
            raise NotReady(at.subject, why)


def _check_stream(ends: Ends, here: psycopg.Connection, lane: str) -> None:
    query = f"{_SLOT} WHERE starts_with(s.slot_name, %s) AND s.database = current_database()"
    slots = here.execute(query, [lane]).fetchall()
    subject = f"move {ends.move.id}"
    if len(slots) != 1 or not slots[0][1]:
        raise NotReady(subject, "the stream does not run")
    if slots[0][2] is None or slots[0][2] > LAG_BYTES_MAX:
        raise NotReady(subject, f"the stream is {slots[0][2]} B behind, more than {LAG_BYTES_MAX}")


def blockers(connection: psycopg.Connection, table: str) -> str:
    """Say who holds a lock on a table that a fence waits for."""
    schema, _, relation = table.partition(".")
    quoted = psycopg.sql.Identifier(schema, relation).as_string(connection)
    return one_text(connection, _BLOCKERS, quoted) or "they have ended by now"
