"""The copy by PostgreSQL itself: a subscription whose tablesync workers bring the rows.

The servers do it without us: whatever dies, they go on where they were. We only begin it, look how
far it is, and note when each table follows. It begins in this order: a slot; a subscription that
is not enabled; at the source, a note of the names that its workers' own slots will have; then it is
enabled. So no slot is ever there that the source does not know for one of the move's.

The keys stay at the target meanwhile: a table that is synced gets its changes while others are
still loaded. Into a target that serves keys of its own, the workers insert beside its rows, all
tables at once and with no throttle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_copy import CopyStopped, is_whole, start_over
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    one_text,
    open_session,
    timeline,
)
from reconciler.edges.replication_streams import (
    create_subscription,
    follow_again,
    make_slot,
    slot_is_whole,
)
from reconciler.edges.replication_tables import MovedTable, all_tables
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress

POLL_S = 0.2
FAILURES_MAX = 5
_SLOT = """
SELECT s.subslotname FROM pg_subscription s, shardwright.moved m
 WHERE s.subname = %s AND m.move_id = %s AND m.begun AND m.timeline = %s
   AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SYNCS = """
SELECT format('^pg_%%s_sync_[0-9]+_%%s$', s.oid, c.system_identifier)
  FROM pg_subscription s, pg_control_system() c
 WHERE s.subname = %s
   AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STATES = """
SELECT n.nspname || '.' || c.relname, r.srsubstate IN ('s', 'r'), r.srsubstate = 'r',
       coalesce(p.bytes_processed, 0), coalesce(p.tuples_processed, 0), t.sync_error_count
  FROM pg_subscription s
  JOIN pg_subscription_rel r ON r.srsubid = s.oid
  JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_progress_copy p ON p.relid = r.srrelid AND p.datname = current_database()
        AND p.type = 'CALLBACK'
  LEFT JOIN pg_stat_subscription_stats t ON t.subid = s.oid
 WHERE s.subname = %s
   AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class SyncFails(ReconcilerError):
    """Tablesync fails again and again. It goes on trying by itself; nothing is lost meanwhile.

    PostgreSQL writes the reason only into the log of the target: a full disk, a row that a
    constraint of the target refuses, a source that cannot be reached.
    """

    code = "MV211"
    transient = True


@dataclass(slots=True)
class _Weights:
    """How much each table is, in bytes, and how many of its rows were seen to come."""

    bytes_of: dict[str, int]
    rows_of: dict[str, int] = field(default_factory=dict)

    def progress(self, states: list[tuple[str, bool, int, int]]) -> CopyProgress:
        done = 0
        for name, synced, size, rows in states:
            whole = self.bytes_of.get(name, 0)
            done += whole if synced else min(size, whole)
            self.rows_of[name] = max(rows, self.rows_of.get(name, 0))
        return CopyProgress(done, sum(self.bytes_of.values()), sum(self.rows_of.values()))


def sync_rows(
    ends: Ends, tell: Callable[[CopyProgress], None], stopping: Callable[[], bool]
) -> None:
    """Let tablesync copy all rows of the keys, or go on waiting for it.

    Stopped, it only stops to wait. Raises SlotBlocked, CopyStopped, DiskShort, SyncFails, and
    NotReady when slot or timeline of the target are not those of the beginning any more.
    """
    if is_whole(ends):
        return
    slot = _begun(ends) or _begin(ends)
    _enable(ends, slot)
    with ExitStack() as stack:
        here = stack.enter_context(open_session(ends.source))
        there = stack.enter_context(open_session(ends.target))
        _await_all(ends, (here, there), slot, tell, stopping)
        with there.transaction():
            # Synchronous, so that the workers' asynchronous commits before it are durable as well.
            check_fence(there, ends.token)
            noted = there.execute(
                "UPDATE shardwright.moved SET slot = %s WHERE move_id = %s AND timeline = %s"
                " RETURNING 1",
                [slot, ends.move.id, timeline(there)],
            ).fetchone()
        if noted is None:
            raise NotReady(ends.target.subject, "it failed over while rows were copied")


def _begun(ends: Ends) -> str:
    """Return the slot of a subscription that goes on by itself, empty when there is none."""
    with open_session(ends.target) as connection:
        at = timeline(connection)
        slot = one_text(connection, _SLOT, ends.forward, ends.move.id, at)
    if not slot:
        return ""
    with open_session(ends.source) as connection:
        return slot if slot_is_whole(connection, slot) else ""


def _begin(ends: Ends) -> str:
    ends.check_room(sum(_weights(ends, start_over(ends)).values()))
    for side in (ends.source, ends.target):
        _forget_beats(
            side, ends
        )  # they are published, so they would be copied, and meet their like
    slot = ends.new_slot()
    with open_session(ends.source) as connection:
        begun_on = timeline(connection)
    make_slot(ends.source, slot, ends)
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(
            "UPDATE shardwright.moved SET timeline = %s, source_timeline = %s WHERE move_id = %s",
            [timeline(connection), begun_on, ends.move.id],
        )
    create_subscription(ends.target, ends.source, ends.forward, slot, ends, syncs=True)
    return slot


def _weights(ends: Ends, tables: tuple[MovedTable, ...]) -> dict[str, int]:
    """Return about how many bytes of each table move."""
    share = ends.move.keys.share / (ends.move.source_keys.share or 1.0)
    return {t.name: round(t.all_bytes * (share if t.key else 1)) for t in tables}


def _forget_beats(at: Server, ends: Ends) -> None:
    with open_session(at) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute("DELETE FROM shardwright.beat WHERE lane = %s", [ends.forward])


def _enable(ends: Ends, slot: str) -> None:
    with open_session(ends.target) as connection:
        pattern = one_text(connection, _SYNCS, ends.forward)
    with open_session(ends.source) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(
            "INSERT INTO shardwright.moved (move_id, syncs) VALUES (%s, %s)"
            " ON CONFLICT (move_id) DO UPDATE SET syncs = excluded.syncs",
            [ends.move.id, pattern],
        )
    follow_again(ends.target, ends.source, ends.forward, slot, ends.token)


def _await_all(
    ends: Ends,
    sessions: tuple[psycopg.Connection, psycopg.Connection],
    slot: str,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> None:
    """Return when every table is synced and follows."""
    (here, there), subject = sessions, f"move {ends.move.id}"
    weights = _Weights(_weights(ends, all_tables(here, ends.move)))
    failures = None
    while True:
        rows = there.execute(_STATES, [ends.forward]).fetchall()
        tell(weights.progress([(name, done, size, n) for name, done, _, size, n, _ in rows]))
        if rows and all(ready for _, _, ready, *_ in rows):
            return
        failed = max((row[-1] or 0 for row in rows), default=0)
        failures = failed if failures is None else min(failures, failed)  # a crash resets them
        if stopping():
            raise CopyStopped(subject, "stopped; tablesync goes on by itself", remedy="apply again")
        if ends.short_of_room():
            start_over(ends)  # it would fill the disk without us
            ends.check_room()
        if not rows or not slot_is_whole(here, slot):
            raise NotReady(subject, "the slot or the subscription that brings the rows is gone")
        if failed - failures >= FAILURES_MAX:
            problem = f"tablesync has failed {failed - failures} times; its log says why"
            raise SyncFails(ends.target.subject, problem, remedy="see the target's log")
        time.sleep(POLL_S)
