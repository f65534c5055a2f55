"""Taking a move away: its streams and notes, then, where the keys were lost, their rows."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    Limits,
    check_fence,
    one_text,
    open_session,
    patient,
    run,
    share_fence,
    take_over,
)
from reconciler.edges.replication_guards import (
    GuardsForbid,
    accepting,
    read_guards,
    refusing,
)
from reconciler.edges.replication_holds import release
from reconciler.edges.replication_indexes import rebuild
from reconciler.edges.replication_matviews import note_stale, refresh_noted
from reconciler.edges.replication_streams import (
    drop_publication,
    drop_slots,
    drop_subscription,
    drop_syncs,
    stop_following,
)
from reconciler.edges.replication_tables import PAGE_BYTES, Heap, MovedTable, sharded_tables
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Side, Stage


def clean(ends: Ends) -> None:
    """Remove streams and notes of the move from both sides, as far as they answer.

    Workers are stopped first, then slots go, then subscriptions: a slot that outlives its
    subscription would be followed again from behind what was applied. What one side does not let
    happen is raised at the end, after all that the other allows is done.
    """
    source, target, token = ends.source, ends.target, ends.token
    steps: list[Callable[[], None]] = [
        lambda: stop_following(target, ends.forward, token),
        lambda: stop_following(source, ends.reverse, token),
        lambda: drop_slots(source, ends.forward, token),
        lambda: drop_slots(target, ends.reverse, token),
        lambda: drop_subscription(target, ends.forward, token),
        lambda: drop_syncs(ends),
        lambda: drop_subscription(source, ends.reverse, token),
        lambda: drop_publication(source, ends.forward, token),
        lambda: drop_publication(target, ends.reverse, token),
        lambda: release(source, ends.move, token),
        lambda: release(target, ends.move, token),
        lambda: _forget(ends, source),
        lambda: _forget(ends, target),
        lambda: _forget_copy(ends),
    ]
    errors = []
    for step in steps:
        try:
            step()
        except ReconcilerError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _installed(connection: psycopg.Connection) -> bool:
    return one_text(connection, "SELECT to_regclass('shardwright.moved')") != ""


def _forget(ends: Ends, at: Server) -> None:
    with open_session(at) as connection:
        if not _installed(connection):
            return
        with connection.transaction():
            check_fence(connection, ends.token)
            connection.execute(
                "DELETE FROM shardwright.beat WHERE lane = ANY(%s)", [[ends.forward, ends.reverse]]
            )


def _forget_copy(ends: Ends) -> None:
    """Forget the copy at the target; while it does not own the rows, that they are ours stays."""
    with open_session(ends.target) as connection:
        if not _installed(connection):
            return
        with connection.transaction():
            check_fence(connection, ends.token)
            owned = accepting(ends.move, read_guards(connection))
            connection.execute(
                "UPDATE shardwright.moved SET slot = '', seeded = '', lsn = NULL, timeline = '',"
                " indexed = false, verified = '', verified_back = '', cut_timeline = ''"
                " WHERE move_id = %s",
                [ends.move.id],
            )
            connection.execute(
                "DELETE FROM shardwright.moved WHERE move_id = %s AND (%s OR NOT begun)",
                [ends.move.id, bool(owned)],
            )


def prune(ends: Ends, side: Side, stopping: Callable[[], bool]) -> int:
    """Delete the keys' rows at a side that refuses them, in batches with pauses between.

    Materialized views are refreshed then. Returns how many rows are left: 0, unless it was asked
    to stop. Raises GuardsForbid, ViewNotRefreshed.
    """
    at = ends.source if side is Side.SOURCE else ends.target
    check_refused(ends, at)
    note_stale(at, ends)
    with open_session(patient(at, ends.limits), session_replication_role="replica") as connection:
        tables = sharded_tables(connection, ends.move)
        for table in tables:
            gone = sql.SQL("true") if _is_all_copied(ends, side) else table.where(ends.move.keys)
            for heap in table.heaps:
                if not delete_rows(connection, ends, at, (heap, gone), stopping):
                    return sum(_count(connection, ends, t) for t in tables)
                vacuum(connection, heap)
    refresh_noted(patient(at, ends.limits), ends.move.id, ends.token, stopping=stopping)
    if side is Side.TARGET:
        _forget_prepared(ends)
    return 0


def _is_all_copied(ends: Ends, side: Side) -> bool:
    """Whether the target's other rows are copies as well: of a whole shard, that did not go on."""
    move = ends.move
    physical = move.copy is CopyDriver.PHYSICAL and not move.target_keys
    return physical and side is Side.TARGET and move.stage is Stage.BEFORE


def check_refused(ends: Ends, at: Server) -> None:
    """Raise GuardsForbid unless every table refuses the keys."""
    with open_session(at) as connection:
        take_over(connection, ends.token)
        refused = refusing(ends.move, read_guards(connection))
    open_here = sorted({t.name for t in ends.move.tables} - set(refused))
    if open_here:
        problem = f"it accepts the keys in {', '.join(open_here)}: their rows are not deleted"
        raise GuardsForbid(at.subject, problem)


def delete_rows(
    connection: psycopg.Connection,
    ends: Ends,
    at: Server,
    part: tuple[Heap, sql.Composable],
    stopping: Callable[[], bool],
) -> bool:
    """Go once through a heap, deleting what a condition tells; nothing new can come meanwhile.

    It works for the limits' ``prune_share`` of the time. False: it was stopped.
    """
    share = ends.limits.prune_share
    for first in first_pages(part[0], ends.limits):
        if stopping():
            return False
        begun = time.monotonic()
        delete_pages(connection, ends, at, part, first)
        worked = time.monotonic() - begun
        time.sleep(worked * (1 - share) / share)
    return True


def first_pages(heap: Heap, limits: Limits) -> range:
    """Return where the batches of a heap begin."""
    return range(0, -(-heap.main_bytes // PAGE_BYTES), limits.prune_pages)


def delete_pages(
    connection: psycopg.Connection,
    ends: Ends,
    at: Server,
    part: tuple[Heap, sql.Composable],
    first: int,
) -> None:
    """Delete what a condition tells from one batch of a heap's pages, in one transaction."""
    heap, condition = part
    with connection.transaction():
        share_fence(connection, at, ends.token)
        run(
            connection,
            "DELETE FROM ONLY {} WHERE ctid >= {}::tid AND ctid < {}::tid AND {}",
            heap.identifier,
            sql.Literal(f"({first},0)"),
            sql.Literal(f"({first + ends.limits.prune_pages},0)"),
            condition,
        )


def vacuum(connection: psycopg.Connection, heap: Heap) -> None:
    """Give the room of the deleted rows back to the table, slowly, and count what is left.

    Not to the disk: that would lock out readers.
    """
    connection.execute("SET vacuum_cost_delay = '2ms'")
    run(connection, "VACUUM (ANALYZE, TRUNCATE false, PARALLEL 0) {}", heap.identifier)


def _count(connection: psycopg.Connection, ends: Ends, table: MovedTable) -> int:
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
        table.identifier, table.where(ends.move.keys)
    )
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _forget_prepared(ends: Ends) -> None:
    """The target is as it was: its indexes are back, and nothing of the move is noted."""
    target = patient(ends.target, ends.limits)
    rebuild(target, ends.move.id, ends.limits.workers, ends.token)
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        if _installed(connection):
            connection.execute("DELETE FROM shardwright.moved WHERE move_id = %s", [ends.move.id])
