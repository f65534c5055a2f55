"""What the side that gains keys needs before its first write: sequences, and a way back that begins
after everything it was sent.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from reconciler.edges.replication_ends import NotReady
from reconciler.model.names import FencingToken

SEQUENCE_MARGIN = 10_000
"""Values that a sequence is set beyond its counterpart's: more than are taken during a cut."""

SEQUENCE_ROOM = 5_000
"""How far the loser's may go on before they have to be looked at again."""

READ_SEQUENCES = """
SELECT coalesce(array_agg(schemaname::text), '{}'), coalesce(array_agg(sequencename::text), '{}'),
       coalesce(array_agg(last_value), '{}')
  FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname <> 'shardwright'
"""
_CARRY = """
SELECT setval(format('%%I.%%I', s.schemaname, s.sequencename)::regclass,
              CASE WHEN s.increment_by > 0
                   THEN least(s.max_value::numeric, v.last + %(margin)s::numeric * s.increment_by)
                   ELSE greatest(s.min_value::numeric,
                                 v.last + %(margin)s::numeric * s.increment_by)
              END::int8)
  FROM unnest(%(schemas)s::text[], %(names)s::text[], %(values)s::int8[]) AS v(nsp, name, last)
  JOIN pg_sequences s ON s.schemaname = v.nsp AND s.sequencename = v.name
 WHERE s.last_value IS NULL
    OR (s.last_value::numeric - v.last - %(room)s::numeric * s.increment_by)
       * sign(s.increment_by) < 0
"""


Sequences = tuple[list[str], list[str], list[int]]
"""Schemas, names and last values of sequences that were used, in the same order."""


def read_sequences(connection: psycopg.Connection) -> Sequences:
    """Return how far the sequences here are."""
    row = connection.execute(READ_SEQUENCES).fetchone()
    return row or ([], [], [])


def carry_sequences(there: psycopg.Connection, sequences: Sequences, *, room: int) -> None:
    """Set the gainer's sequences a margin beyond the loser's where ``room`` is not left between.

    Never backwards.
    """
    if sequences[0]:
        schemas, names, values = sequences
        there.execute(
            _CARRY,
            {
                "schemas": schemas,
                "names": names,
                "values": values,
                "margin": SEQUENCE_MARGIN,
                "room": room,
            },
        )


def overtook(before: Sequences, now: Sequences) -> bool:
    """Whether a sequence went on for more than the room that was left for it, or is new."""
    known = {(schema, name): value for schema, name, value in zip(*before, strict=True)}
    return any(
        abs(value - known.get((schema, name), value + SEQUENCE_ROOM)) >= SEQUENCE_ROOM
        for schema, name, value in zip(*now, strict=True)
    )


def advance_slot(
    connection: psycopg.Connection, slot: str, flush: sql.Composable, token: FencingToken
) -> None:
    """Move a slot that nobody follows past everything that was applied here.

    Else PostgreSQL 15 sends the rows back to where they came from. An advance stops, in silence, at
    what is flushed, and the apply worker's commits are not; ``flush`` is a statement whose
    commit flushes them (resharding.md, 3.1, rule 4). A superseded applier would advance it past
    the target's own writes, which a rollback then lacks: the token's row stays locked until the
    advance is done. Raises NotReady.
    """
    fence = sql.SQL("SELECT shardwright.check_fence({})").format(sql.Literal(int(token)))
    cursor = connection.execute(
        sql.SQL("SELECT pg_current_wal_insert_lsn()::text; {}; {}").format(fence, flush)
    )
    row = cursor.fetchone()
    wanted = str(row[0]) if row else ""
    cursor = connection.execute(
        sql.SQL(
            "{fence}; SELECT end_lsn >= {wanted}::pg_lsn"
            " FROM pg_replication_slot_advance({slot}, {wanted}::pg_lsn)"
        ).format(fence=fence, wanted=sql.Literal(wanted), slot=sql.Literal(slot))
    )
    cursor.nextset()
    row = cursor.fetchone()
    if row is None or not row[0]:
        raise NotReady(f"slot {slot}", f"it did not advance to {wanted}")
