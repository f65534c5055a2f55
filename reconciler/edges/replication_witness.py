"""What both sides looked like at the cut: two snapshots, taken while nobody could write the keys.

They are taken between the drain and the opening, beside the seal, and compared when the writers are
gone on. They live as long as their sessions: a process that dies loses them, and
the cut is then compared at a later exact point of the way back's stream. What that finds is less
only in rows that were written again since.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    Limits,
    NotReady,
    one_text,
    open_session,
    patient,
    timeline,
)
from reconciler.edges.replication_tables import sharded_tables
from reconciler.edges.replication_verify import PLAIN, SNAPSHOT, differences, verify
from reconciler.model.moves import Comparison


@dataclass(slots=True)
class Witness:
    """A session at each side, open before the cut begins."""

    source: psycopg.Connection
    target: psycopg.Connection
    sessions: ExitStack
    taken: bool = False

    def take(self) -> None:
        """Take both snapshots: the source refuses the keys, the target has applied all of them."""
        for connection in (self.source, self.target):
            connection.execute(SNAPSHOT)
        self.taken = True

    def close(self) -> None:
        """Let both snapshots go."""
        self.sessions.close()


def open_witness(ends: Ends) -> Witness:
    """Open the sessions; ``close`` ends them, and their servers do after ``witness_s``."""
    with ExitStack() as stack:
        source, target = (
            stack.enter_context(open_session(_waiting(at, ends.limits), **PLAIN))
            for at in (ends.source, ends.target)
        )
        return Witness(source, target, stack.pop_all())


def _waiting(at: Server, limits: Limits) -> Server:
    bounds = replace(
        patient(at, limits).timeouts, idle_in_transaction_ms=int(limits.witness_s * 1000)
    )
    return replace(at, timeouts=bounds)


def verify_cut(ends: Ends, witness: Witness | None) -> Comparison:
    """Compare both sides as of the cut, or as of later where its snapshots are lost.

    Raises NotReady when the target failed over: what it lost would pass for a cut that was wrong.
    """
    if witness is not None:
        try:
            return _compare(ends, witness)
        except psycopg.Error:
            pass  # a side restarted, or it took too long until now: the snapshots are of no use
        finally:
            witness.close()
    with open_session(ends.target) as connection:
        query = "SELECT timeline FROM shardwright.moved WHERE move_id = %s"
        if one_text(connection, query, ends.move.id) not in ("", timeline(connection)):
            raise NotReady(ends.target.subject, "it failed over: its cut cannot be compared")
    return replace(verify(ends, back=True), later=True)


def _compare(ends: Ends, witness: Witness) -> Comparison:
    found = {
        table.name: differences(witness.source, witness.target, table, ends, ("source", "target"))
        for table in sharded_tables(witness.source, ends.move)
    }
    tables = tuple(name for name, rows in found.items() if rows)
    return Comparison(not tables, tables, tuple(row for name in tables for row in found[name]))
