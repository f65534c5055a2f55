"""What the side that gains keys needs before its first write: a way back that begins after all that
it was sent.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from reconciler.edges.replication_ends import NotReady
from reconciler.model.names import FencingToken


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
