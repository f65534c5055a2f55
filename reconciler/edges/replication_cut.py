"""The cut: fence, drain, seal, open. Writers of the keys wait from its first step to its last.

Nothing that can be done before is done within: sessions are open, statements made, and
the way back's slot brought close. A fence is one round trip a table. Its commit is not waited for,
but the last one's is, which comes after the others in the same WAL. Until the first table is opened
the cut may back out, and does so by itself when writers would wait for longer than they may; from
then on there is only forward (resharding.md, sections 3 and 7).

Nothing in it can wait for longer: a statement has a limit of its own, and no COMMIT waits for a
standby; what has to be on the standbys is asked for aside (``replication_standbys``). A process
that dies within it leaves the fence, and the next one takes it away or goes on. No watch does this
by itself: it would have to know that the target is not opened at the same moment, and only the
fencing token, which the next applier raises on both sides, can tell.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.pq import TransactionStatus

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    has_beat,
    open_session,
    take_over,
    timeline,
)
from reconciler.edges.replication_guards import (
    GuardChange,
    GuardsForbid,
    accepting,
    change_guards,
    locked,
    narrowed,
    read_guards,
    refusing,
    statements,
    try_locked,
    widened,
)
from reconciler.edges.replication_holds import check_held, refused_below, set_epoch
from reconciler.edges.replication_numbers import check_apart
from reconciler.edges.replication_ready import blockers, check_ready
from reconciler.edges.replication_seal import advance_slot
from reconciler.edges.replication_standbys import FLUSH, following
from reconciler.edges.replication_witness import Witness
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import CutResult
from reconciler.model.names import Epoch

POLL_S = 0.0003
_LOCAL = {"synchronous_commit": "local"}
_LOCKED = (pg.LockNotAvailable, pg.DeadlockDetected)


class _BackOut(Exception):
    """Writers would wait for longer than they may. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a cut: who loses the keys, who gains them, and by which stream.

    ``back_slot`` is the slot of the way back at the gainer, empty on the way back itself;
    ``alone`` when nobody writes at the gainer yet.
    """

    loser: Server
    gainer: Server
    loser_keys: KeySet
    gainer_keys: KeySet
    loser_standbys: tuple[str, ...]
    gainer_standbys: tuple[str, ...]
    epoch: Epoch
    lane: str
    back_slot: str
    alone: bool


@dataclass(slots=True)
class _Run:
    """A cut under way: a session and one aside at each side.

    ``until`` is when it has to back out, on the monotonic clock.
    """

    ends: Ends
    way: Way
    here: psycopg.Connection
    there: psycopg.Connection
    here_aside: psycopg.Connection
    there_aside: psycopg.Connection
    until: float
    timeline: str
    refused_below: Epoch
    fenced: list[GuardChange] = field(default_factory=list)

    def left_ms(self) -> int:
        """Return how long it may go on, at least 1 ms. Raises _BackOut."""
        left = (self.until - time.monotonic()) * 1000
        if left <= 0:
            raise _BackOut("the limit was reached")
        return max(1, int(left))


def forward_way(ends: Ends, epoch: Epoch) -> Way:
    """Return the way from source to target; ``epoch`` is the one that will be published."""
    move = ends.move
    return Way(
        ends.source,
        ends.target,
        move.source_keys,
        move.target_keys,
        ends.source_standbys,
        ends.target_standbys,
        epoch,
        ends.forward,
        ends.reverse,
        alone=not move.target_keys,
    )


def backward_way(ends: Ends, epoch: Epoch) -> Way:
    """Return the way back."""
    move = ends.move
    return Way(
        ends.target,
        ends.source,
        move.target_keys | move.keys,
        move.source_keys - move.keys,
        ends.target_standbys,
        ends.source_standbys,
        epoch,
        ends.reverse,
        "",
        alone=False,
    )


def cut(ends: Ends, way: Way, witness: Witness | None = None) -> CutResult:
    """Hand the keys over. Raises NotReady with nothing changed when its moment has not come.

    ``witness`` takes its snapshots before the first table is opened.
    """
    move = ends.move
    with (
        open_session(way.loser, **_LOCAL) as here,
        open_session(way.gainer, **_LOCAL) as there,
        open_session(way.loser) as here_aside,
        open_session(way.gainer) as there_aside,
    ):
        for connection in (here, there):
            take_over(connection, ends.token)
        closing = narrowed(move, read_guards(here), way.loser_keys, way.epoch)
        gaining = read_guards(there)
        opening = widened(move, gaining, way.gainer_keys, way.epoch)
        if accepting(move, gaining):
            _open_rest(ends, way, here, there)
            set_epoch(here, way.epoch, ends.token)
            return CutResult(opened=True, pause_ms=None)
        check_ready(ends, here, there, way.lane, way.back_slot)
        check_held(here, move, way.loser)
        check_apart(here, there)
        if way.back_slot:
            advance_slot(there, way.back_slot, sql.SQL(FLUSH), ends.token)
        fences = [(c, statements(here, way.loser, move, c)) for c in closing]
        openings = [(c, statements(there, way.gainer, move, c)) for c in opening]
        line = timeline(here)
        known = refused_below(here, move)
        for connection in (here, there):
            connection.execute(f"SET statement_timeout = {move.pause_max_ms}")
        begun = time.monotonic()
        limit = begun + move.pause_max_ms / 1000
        run = _Run(ends, way, here, there, here_aside, there_aside, limit, line, known)
        try:
            _close(run, fences, witness)
            _open_first(run, openings)
        except _BackOut as why:
            _give_back(run)
            return CutResult(False, _since(begun), str(why))
        _open_others(run, openings)
        return CutResult(True, _since(begun))


def _since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000


def _close(
    run: _Run, fences: list[tuple[GuardChange, sql.Composed]], witness: Witness | None
) -> None:
    """Fence, drain and seal; whatever fails here, nothing is open and the loser gets its keys."""
    try:
        beat = secrets.randbits(62)
        _fence(run, fences, beat)
        _drain(run, beat)
        with ThreadPoolExecutor(1) as aside:  # by sessions of their own, so they cost no time
            besides = aside.submit(_beside_seal, run, witness)
            _seal(run)
            besides.result()
    except pg.QueryCanceled:
        raise _BackOut("a statement took longer than writers may wait") from None
    except (psycopg.Error, ReconcilerError):
        with suppress(psycopg.Error, ReconcilerError):
            _give_back(run)
        raise


def _fence(run: _Run, fences: list[tuple[GuardChange, sql.Composed]], beat: int) -> None:
    """Narrow the loser's guards, one table a transaction; the lock waits writers out.

    The last one also writes the beat: by its commit every writer in flight has ended.
    """
    tail = sql.SQL("INSERT INTO shardwright.beat (lane, v) VALUES ({}, {})").format(
        sql.Literal(run.way.lane), sql.Literal(beat)
    )
    for number, (change, body) in enumerate(fences, 1):
        last = number == len(fences)
        if change.needed:
            whole = sql.SQL("; ").join([body, tail]) if last else body
            table, wait_ms = [change.table], run.left_ms()
            commit = "local" if last else "off"
            _fence_one(
                run, change, locked(table, whole, run.ends.token, wait_ms=wait_ms, commit=commit)
            )
            run.fenced.append(change)
        elif last:
            run.here.execute(tail)


def _fence_one(run: _Run, change: GuardChange, whole: sql.Composed) -> None:
    try:
        run.here.execute(whole)
    except _LOCKED:
        name = change.table.name
        who = blockers(run.here, name)
        raise _BackOut(f"{name} was not free of writers in time: {who}") from None


def _drain(run: _Run, beat: int) -> None:
    """Wait for the beat: once it arrives, all before it has arrived.

    Meanwhile the fences go to the standbys that may be promoted: without them a promotion would
    un-fence.
    """
    with following(run.here, run.here_aside, run.way.loser_standbys) as late:
        while not has_beat(run.there, run.way.lane, beat):
            try:
                run.left_ms()
            except _BackOut:
                why = f"{run.way.gainer.name} had not applied everything in time"
                raise _BackOut(why) from None
            time.sleep(POLL_S)
        _await(run, late, "the fence")


def _beside_seal(run: _Run, witness: Witness | None) -> None:
    _refuse_stale(run)
    if witness is not None:
        witness.take()


def _refuse_stale(run: _Run) -> None:
    """Refuse clients of an older map at the loser, also when its standby leads: nobody may look."""
    set_epoch(run.here, run.way.epoch, run.ends.token)
    if not run.way.loser_standbys:
        return
    with following(run.here, run.here_aside, run.way.loser_standbys) as late:
        _await(run, late, "the epoch")


def _await(run: _Run, late: Callable[[], str], what: str) -> None:
    while who := late():
        if time.monotonic() > run.until:
            raise _BackOut(f"{who} had not got {what} in time")
        time.sleep(POLL_S)


def _seal(run: _Run) -> None:
    """The way back begins after what was applied.

    All of it has to be where a promotion of the gainer finds it before the gainer is opened: the
    loser never sends again what was confirmed.
    """
    if run.way.back_slot:
        note = sql.SQL("UPDATE shardwright.moved SET cut_timeline = {} WHERE move_id = {}")
        move, line = sql.Literal(run.ends.move.id), sql.Literal(run.timeline)
        advance_slot(run.there, run.way.back_slot, note.format(line, move), run.ends.token)
    else:
        run.there.execute(FLUSH)
    with following(run.there, run.there_aside, run.way.gainer_standbys) as late:
        _await(run, late, "the rows")


def _open_first(run: _Run, openings: list[tuple[GuardChange, sql.Composed]]) -> None:
    """Open one table, the commit point; all in one transaction where no writer can be in between.

    A lock that was not free, or a statement that was too long, is a reason to back out; what else
    the server refused did not happen either. A lost session leaves it open whether the table is
    open, and only a look can tell. Its commit waits for no standby: should a promotion lose it, the
    next look finds all closed and no write.
    """
    first = openings if run.way.alone else openings[:1]
    body = sql.SQL("; ").join([body for _, body in first])
    tables = [change.table for change, _ in first]
    try:
        wait_ms = run.left_ms()
        run.there.execute(locked(tables, body, run.ends.token, wait_ms=wait_ms, commit="local"))
    except (*_LOCKED, pg.QueryCanceled):
        who = blockers(run.there, tables[0].name)
        raise _BackOut(f"{tables[0].name} could not be opened in time: {who}") from None
    except psycopg.Error:
        if run.there.info.transaction_status == TransactionStatus.IDLE:
            with suppress(psycopg.Error, ReconcilerError):
                _give_back(run)
        raise


def _open_others(run: _Run, openings: list[tuple[GuardChange, sql.Composed]]) -> None:
    """Open the rest, one table a transaction. Writers still wait, so only the last commit is waited
    for: a write to a table that is open comes after its opening in the same WAL.
    """
    if run.way.alone:
        return
    run.there.execute("RESET statement_timeout")
    for left, (change, body) in zip(range(len(openings) - 2, -1, -1), openings[1:], strict=True):
        commit = "off" if left else "local"
        try_locked(run.there, [change.table], body, run.ends.token, commit=commit)


def _give_back(run: _Run) -> None:
    """Let the loser accept the keys again, and the clients that it did: what it said before."""
    run.here.execute("RESET statement_timeout")
    set_epoch(run.here, run.refused_below, run.ends.token)
    undone = [change.undone() for change in run.fenced]
    changes = [change for change in undone if change is not None]
    change_guards(run.here, run.way.loser, run.ends.move, changes, run.ends.token, commit="local")
    _widen(run.ends, run.way, run.here)


def _widen(ends: Ends, way: Way, here: psycopg.Connection) -> None:
    before = Epoch(way.epoch - 1)
    changes = widened(ends.move, read_guards(here), way.loser_keys, before)
    # A standby that is away would hold the writers up; one that lacks it only shows a fence again.
    change_guards(here, way.loser, ends.move, changes, ends.token, commit="local")


def _open_rest(ends: Ends, way: Way, here: psycopg.Connection, there: psycopg.Connection) -> None:
    """Open what is still closed at the gainer. Raises GuardsForbid unless the loser refuses all."""
    take_over(here, ends.token)
    closed = refusing(ends.move, read_guards(here))
    still = sorted({t.name for t in ends.move.tables} - set(closed))
    if still:
        raise GuardsForbid(way.loser.subject, f"it accepts the keys in {', '.join(still)}")
    changes = widened(ends.move, read_guards(there), way.gainer_keys, way.epoch)
    change_guards(there, way.gainer, ends.move, changes, ends.token, commit="local")


def finish_opening(ends: Ends) -> None:
    """Open the rest at the target, after a crash past the commit point; touches nothing else."""
    way = forward_way(ends, ends.move.epoch)
    with open_session(way.loser) as here, open_session(way.gainer) as there:
        _open_rest(ends, way, here, there)


def unfence(ends: Ends) -> None:
    """Let the source accept the keys again. Raises GuardsForbid once a table of the target does."""
    way = forward_way(ends, ends.move.epoch)
    with open_session(way.loser) as here, open_session(way.gainer) as there:
        take_over(there, ends.token)
        open_there = accepting(ends.move, read_guards(there))
        if open_there:
            problem = f"it accepts the keys in {', '.join(open_there)}"
            raise GuardsForbid(way.gainer.subject, problem)
        _widen(ends, way, here)
