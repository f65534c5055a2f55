"""The copy: the keys' rows under one exported snapshot, in parallel, in binary.

A logical slot is made and its snapshot exported; workers read the rows as of that snapshot, a range
of pages at a time, and write them as a replica does, past guards, foreign keys and triggers. What
changes meanwhile waits in the slot. The snapshot dies with the session that made the slot, so a
copy that was cut short starts over: there is no half of it to go on with (resharding.md, 2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.copy_out import receive
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.postgres_session import meaning, session, superuser_options
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    one_text,
    open_session,
    patient,
    run,
    share_fence,
    timeline,
)
from reconciler.edges.replication_indexes import rebuild, take_away
from reconciler.edges.replication_streams import drop_forward, is_kept, slot_blocked, slot_is_whole
from reconciler.edges.replication_tables import PAGE_BYTES, Heap, MovedTable, all_tables
from reconciler.edges.replication_throttle import Throttle
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress, Move

_REPLICA = {"session_replication_role": "replica"}
_BY_PAGES = {"enable_seqscan": "off", "max_parallel_workers_per_gather": "0"}
"""Else a chunk of a small or never analyzed table is read by several scans of the whole table."""


class CopyStopped(ReconcilerError):
    """A copy was asked to stop. Its snapshot is gone: the next attempt starts over."""

    code = "MV208"
    transient = True


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Pages of one heap from ``first`` to ``end``, which is left out; None: to the last."""

    table: MovedTable
    heap: Heap
    first: int
    end: int | None
    weight: int


@dataclass(slots=True)
class _Tally:
    """How far all workers are, and whether one of them failed."""

    total: int
    tell: Callable[[CopyProgress], None]
    stopping: Callable[[], bool]
    subject: str
    failed: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    rows: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, weight: int, rows: int, *, slowed: bool) -> None:
        with self.lock:
            self.done += weight
            self.rows += rows
            self.tell(CopyProgress(self.done, self.total, self.rows, slowed))

    def check(self) -> None:
        if self.failed.is_set() or self.stopping():
            raise CopyStopped(self.subject, "stopped while rows were copied", remedy="apply again")


def copy_rows(
    ends: Ends, tell: Callable[[CopyProgress], None], stopping: Callable[[], bool]
) -> None:
    """Copy all rows of the keys; nothing when a whole copy and its slot are there.

    Raises SlotBlocked, CopyStopped, DiskShort, TableMissing and the errors of the sessions.
    """
    if is_whole(ends):
        return
    tables = start_over(ends)
    chunks = sorted(_chunks(ends, tables), key=lambda chunk: -chunk.weight)
    ends.check_room(sum(chunk.weight for chunk in chunks))
    slot = ends.new_slot()
    with _made_slot(ends, slot) as (lsn, snapshot, begun_on):
        tally = _copy_all(ends, chunks, snapshot, tell, stopping)
    with open_session(ends.target) as connection, connection.transaction():
        # Synchronous, so that the chunks' asynchronous commits before it are durable as well.
        check_fence(connection, ends.token)
        connection.execute(
            "UPDATE shardwright.moved SET slot = %s, lsn = %s::pg_lsn, timeline = %s,"
            " source_timeline = %s WHERE move_id = %s",
            [slot, lsn, timeline(connection), begun_on, ends.move.id],
        )
    tell(CopyProgress(tally.total, tally.total, tally.rows))


def is_whole(ends: Ends) -> bool:
    """Tell whether all rows are at the target and their slot at the source."""
    return bool(noted_slot(ends, "SELECT slot FROM shardwright.moved WHERE move_id = %s"))


def noted_slot(ends: Ends, query: str) -> str:
    """Return the slot that a note at the target names, if the source has it with all its WAL."""
    with open_session(ends.target) as connection:
        slot = one_text(connection, query, ends.move.id)
    if not slot:
        return ""
    with open_session(ends.source) as connection:
        return slot if slot_is_whole(connection, slot) else ""


def refuse_after_failover(ends: Ends) -> None:
    """Give the copy up, and raise NotReady, if the source failed over since it began.

    A standby that was promoted with the slot may lack what the target had got from the former
    primary; the stream then goes on behind it, and leaves out what is written in between.
    """
    query = "SELECT source_timeline FROM shardwright.moved WHERE move_id = %s"
    with open_session(ends.source) as here, open_session(ends.target) as there:
        if one_text(there, query, ends.move.id) in ("", timeline(here)):
            return
        with there.transaction():
            check_fence(there, ends.token)
            there.execute(
                "UPDATE shardwright.moved SET slot = '', seeded = '', timeline = ''"
                " WHERE move_id = %s",
                [ends.move.id],
            )
    problem = "rows differ since the source failed over, so the copy starts over"
    raise NotReady(f"move {ends.move.id}", problem)


def forget_attempt(ends: Ends) -> None:
    """Marker, then slot: a marker never stands for rows that are gone."""
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(
            "INSERT INTO shardwright.moved (move_id, begun) VALUES (%s, true)"
            " ON CONFLICT (move_id) DO UPDATE SET begun = true, slot = '', seeded = '', lsn = NULL,"
            " timeline = '', indexed = false, verified = '', verified_back = '', cut_timeline = ''",
            [ends.move.id],
        )
    drop_forward(ends)


def start_over(ends: Ends) -> tuple[MovedTable, ...]:
    """Forget an earlier attempt, then delete its rows; return the source's tables."""
    move, target = ends.move, patient(ends.target, ends.limits)
    forget_attempt(ends)
    with open_session(ends.source) as connection:
        coming = all_tables(connection, move)
    with open_session(target, **_REPLICA) as connection:
        _delete_rows(connection, ends, all_tables(connection, move))
        if not move.target_keys:
            keyed = sorted((t for t in coming if t.key), key=lambda t: -t.all_bytes)
            take_away(connection, ends, keyed, keys=move.copy is CopyDriver.OWN)
    return coming


def _delete_rows(
    connection: psycopg.Connection, ends: Ends, tables: tuple[MovedTable, ...]
) -> None:
    """Delete the keys' rows; where the target has no other rows, as quickly as that allows."""
    if not ends.move.target_keys:
        names = sql.SQL(", ").join(t.identifier for t in tables)
        try:
            with connection.transaction():
                check_fence(connection, ends.token)
                run(connection, "TRUNCATE {}", names)
        except pg.FeatureNotSupported:
            pass  # a table that is not part of the move has a foreign key to one that is
        else:
            return
    for table in tables:
        with connection.transaction():
            check_fence(connection, ends.token)
            run(
                connection,
                "DELETE FROM {} WHERE {}",
                table.identifier,
                table.where(ends.move.keys),
            )


@contextmanager
def _made_slot(ends: Ends, slot: str) -> Iterator[tuple[str, str, str]]:
    """Make the slot; yield its LSN, its snapshot, which lives as long as we hold it, the timeline.

    statement_timeout does not bound a replication command; what it waits for are locks on
    transactions, so lock_timeout does.
    """
    options = superuser_options(ends.source.timeouts) | {
        "lock_timeout": str(ends.limits.slot_wait_ms),
        "idle_in_transaction_session_timeout": "0",
    }
    with session(ends.source, options, replication=True) as keeper:
        with open_session(ends.source) as connection:
            connection.execute("SELECT shardwright.check_fence(%s)", [ends.token])
            begun_on = timeline(connection)
            kept = is_kept(connection)
        how = "(SNAPSHOT 'export', FAILOVER true)" if kept else "EXPORT_SNAPSHOT"
        command = f'CREATE_REPLICATION_SLOT "{slot}" LOGICAL pgoutput {how}'
        try:
            row = keeper.execute(sql.SQL(command)).fetchone()
        except (pg.LockNotAvailable, pg.QueryCanceled):
            raise slot_blocked(ends.source) from None
        assert row is not None  # noqa: S101  the command answers with one row
        yield str(row[1]), str(row[2]), begun_on


def _copy_all(
    ends: Ends,
    chunks: list[_Chunk],
    snapshot: str,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> _Tally:
    total = sum(chunk.weight for chunk in chunks)
    tally = _Tally(total, tell, stopping, f"move {ends.move.id}")
    queue = iter(chunks)
    taking = threading.Lock()

    def take() -> _Chunk | None:
        with taking:
            return next(queue, None)

    with (
        Throttle(ends) as throttle,
        ThreadPoolExecutor(ends.limits.workers) as pool,
    ):
        workers = [
            pool.submit(_work, ends, snapshot, take, tally, throttle)
            for _ in range(min(ends.limits.workers, len(chunks)))
        ]
    failures = [e for e in (w.exception() for w in workers) if e is not None]
    if failures:
        # One failure stops the others; the first that is not such a stop tells why.
        raise next((e for e in failures if not isinstance(e, CopyStopped)), failures[0])
    return tally


def _chunks(ends: Ends, tables: tuple[MovedTable, ...]) -> Iterator[_Chunk]:
    """Cut heaps into ranges of pages; their weight is the part of their bytes that moves."""
    move = ends.move
    share = move.keys.share / (move.source_keys.share or 1.0)
    pages = max(1, ends.limits.chunk_bytes // PAGE_BYTES)
    for table in tables:
        for heap in table.heaps:
            count = max(1, -(-heap.main_bytes // (pages * PAGE_BYTES)))
            weight = round(heap.all_bytes * (share if table.key else 1) / count)
            for i in range(count):
                end = (i + 1) * pages if i + 1 < count else None
                yield _Chunk(table, heap, i * pages, end, weight)


def _work(
    ends: Ends,
    snapshot: str,
    take: Callable[[], _Chunk | None],
    tally: _Tally,
    throttle: Throttle,
) -> None:
    """Copy chunks until none is left, over one session at each side."""
    source, target = patient(ends.source, ends.limits), patient(ends.target, ends.limits)
    fast = {**_REPLICA, "synchronous_commit": "off"}
    try:
        with open_session(source, **_BY_PAGES) as reader, open_session(target, **fast) as writer:
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            run(reader, "SET TRANSACTION SNAPSHOT {}", sql.Literal(snapshot))
            while (chunk := take()) is not None:
                tally.check()
                ends.check_room()
                with writer.transaction():
                    share_fence(writer, target, ends.token)
                    rows = _copy_chunk(reader, writer, chunk, ends, tally, throttle)
                tally.add(chunk.weight, rows, slowed=throttle.slowed)
    except BaseException:
        tally.failed.set()
        raise


def _copy_chunk(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    chunk: _Chunk,
    ends: Ends,
    tally: _Tally,
    throttle: Throttle,
) -> int:
    """Pipe one chunk from side to side; return the number of its rows."""
    into = writer.cursor()  # closed, it would no longer tell the number of rows
    with (
        reader.cursor() as out,
        into.copy(_write_statement(chunk)) as sink,
        _outgoing(out, chunk, ends),
    ):
        while batch := reader.wait(receive(reader.pgconn)):
            sink.write(batch)
            throttle.pace(len(batch))
            tally.check()
    return max(into.rowcount, 0)


@contextmanager
def _outgoing(out: psycopg.Cursor, chunk: _Chunk, ends: Ends) -> Iterator[None]:
    """Open the reading half; an error of it must not be taken for one of the writing half."""
    try:
        with out.copy(_read_statement(chunk, ends.move)):
            yield
    except psycopg.Error as error:
        if out.connection.broken or out.connection.info.transaction_status == 3:
            raise meaning(error, ends.source.subject) from None
        raise


def _read_statement(chunk: _Chunk, move: Move) -> sql.Composed:
    end = sql.SQL("")
    if chunk.end is not None:
        end = sql.SQL(f" AND ctid < '({chunk.end},0)'::tid")
    first = sql.SQL(f"ctid >= '({chunk.first},0)'::tid")
    return sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}{} AND {}) TO STDOUT (FORMAT {})").format(
        _columns(chunk.table),
        chunk.heap.identifier,
        first,
        end,
        chunk.table.where(move.keys),
        _format(chunk.table),
    )


def _write_statement(chunk: _Chunk) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        chunk.table.identifier, _columns(chunk.table), _format(chunk.table)
    )


def _columns(table: MovedTable) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(c.name) for c in table.copied)


def _format(table: MovedTable) -> sql.SQL:
    return sql.SQL("binary") if table.portable else sql.SQL("text")


def build_indexes(ends: Ends) -> None:
    """Build what the copy took away, gather statistics, and note it."""
    target = patient(ends.target, ends.limits)
    rebuild(target, ends.move.id, ends.limits.workers, ends.token)
    with open_session(target) as connection:
        tables = sorted(all_tables(connection, ends.move), key=lambda t: -t.all_bytes)
        with ThreadPoolExecutor(ends.limits.workers) as pool:
            for analyzed in [pool.submit(_analyze, target, t) for t in tables]:
                analyzed.result()
        with connection.transaction():
            check_fence(connection, ends.token)
            connection.execute(
                "UPDATE shardwright.moved SET indexed = true WHERE move_id = %s", [ends.move.id]
            )


def _analyze(target: Server, table: MovedTable) -> None:
    with open_session(target) as connection:
        run(connection, "ANALYZE {}", table.identifier)
