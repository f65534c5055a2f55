"""The two ends of a move: how they are reached, how its objects are called, how writes are fenced.

Everything is named after the move's id, so that a new applier finds its place by looking, and
``sweep`` finds what no move owns any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from reconciler.edges.postgres_session import (
    PostgresTimeouts,
    session,
    superuser_options,
)
from reconciler.edges.postgres_session import Target as Server
from reconciler.model.access import FencedOff, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move
from reconciler.model.names import FencingToken, ScopeKey

_INSTALL = (files(__package__) / "sql" / "move_install.sql").read_text()

_SILENT = {
    # A statement that holds a password must not reach the log, pg_stat_activity or
    # pg_stat_statements; the last is a setting that means nothing where it is not loaded.
    "log_statement": "none",
    "log_duration": "off",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_min_error_statement": "panic",
    "track_activities": "off",
    "pg_stat_statements.track_utility": "off",
}


class NotReady(ReconcilerError):
    """A step of a move found that its moment has not come: what it rests on is not there yet.

    A stream that does not run, a side that failed over since the move was looked at, a way back
    that was not made. Nothing was changed; the next look decides again.
    """

    code = "MV203"
    transient = True
    nothing_changed = True


class DiskShort(ReconcilerError):
    """A move found too little disk left at one of its shards.

    Rows, indexes and the WAL that a slot keeps need room, and a shard whose disk is full serves
    nobody. The copy is given up, which frees what it took at the target, and begins again when
    there is room.
    """

    code = "MV210"
    transient = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a move. Times in ms or s, sizes in bytes.

    ``workers`` read and write in parallel during a copy; ``chunk_bytes`` is what a worker copies in
    one transaction; ``slot_wait_ms`` how long a slot may wait for transactions that write;
    ``catch_up_s`` how long a comparison waits for the other side; ``hold_ms`` how long it may hold
    writers of one table; ``statement_ms`` bounds a scan or an index build; ``verified_s`` is how
    long a comparison counts, ``witness_s`` how long the snapshots of a cut wait to be compared;
    ``prune_pages`` is what one transaction of a prune looks through, ``prune_share`` the part of
    the time that it works; ``reserve_bytes`` of disk stay free at both sides.
    """

    workers: int = 2
    chunk_bytes: int = 16 * 1024 * 1024
    slot_wait_ms: int = 30_000
    catch_up_s: float = 60.0
    hold_ms: int = 500
    statement_ms: int = 86_400_000
    prune_pages: int = 1024
    prune_share: float = 0.5
    verified_s: float = 3600.0
    witness_s: float = 600.0
    reserve_bytes: int = 256 * 1024 * 1024


Room = Callable[[ScopeKey], int | None]
"""Tells how many bytes of disk a shard has left; None when nobody knows."""


def unknown_room(_: ScopeKey) -> int | None:
    """Nobody knows how much disk is left."""
    return None


@dataclass(frozen=True, slots=True)
class Ends:
    """A move with both its servers, their standbys, and the applier's token.

    ``room`` tells how many bytes of disk a shard's primary has left.
    """

    move: Move
    source: Server
    target: Server
    source_standbys: tuple[str, ...]
    target_standbys: tuple[str, ...]
    token: FencingToken
    limits: Limits
    room: Room = unknown_room

    @property
    def forward(self) -> str:
        """The name of the forward publication and subscription, and its lane of beats."""
        return f"{self.move.prefix}_fwd"

    @property
    def reverse(self) -> str:
        """The name of the way back's publication, slot and subscription, and its lane."""
        return f"{self.move.prefix}_rev"

    def short_of_room(self, wanted_bytes: int = 0) -> str:
        """Return which side has less disk left than the reserve (the target: than wanted)."""
        move, mib = self.move, 1 << 20
        for name, scope, more in (
            (move.source, move.source_scope, 0),
            (move.target, move.target_scope, wanted_bytes),
        ):
            free, needed = self.room(scope), self.limits.reserve_bytes + more
            if free is not None and free < needed:
                return f"{name} has {free // mib} MiB of disk left, {needed // mib} MiB are wanted"
        return ""

    def check_room(self, wanted_bytes: int = 0) -> None:
        """Raise DiskShort when a side has too little disk left."""
        short = self.short_of_room(wanted_bytes)
        if short:
            remedy = "free disk space there, or abort the move"
            raise DiskShort(f"move {self.move.id}", short, remedy=remedy)

    def new_slot(self) -> str:
        """Return a name for a copy's slot: a marker of an earlier copy never fits it."""
        return f"{self.forward}_{secrets.token_hex(4)}"


def server(seat: Seat, timeouts: PostgresTimeouts) -> Server:
    """Return a seat as sessions know it."""
    credential, tls = seat.login.superuser, seat.login.tls
    name = f"shard {seat.login.key}"
    return Server(seat.primary, seat.database, credential, tls, timeouts, name)


@contextmanager
def open_session(at: Server, **options: str) -> Iterator[psycopg.Connection]:
    """Open a session of ours; ``options`` are settings on top of the usual ones."""
    with session(at, superuser_options(at.timeouts) | options) as connection:
        yield connection


@contextmanager
def silent_session(at: Server) -> Iterator[psycopg.Connection]:
    """Open a session for statements that hold a password."""
    with open_session(at, **_SILENT) as connection:
        yield connection


def patient(at: Server, limits: Limits) -> Server:
    """Return the server for sessions whose statements may take as long as a copy."""
    bounds = replace(
        at.timeouts,
        statement_ms=limits.statement_ms,
        idle_in_transaction_ms=limits.statement_ms,
    )
    return replace(at, timeouts=bounds)


def check_fence(connection: psycopg.Connection, token: FencingToken) -> None:
    """Take turns with other appliers until this transaction ends. Raises PS002 when superseded."""
    connection.execute("SELECT shardwright.check_fence(%s)", [token])


def take_over(connection: psycopg.Connection, token: FencingToken) -> None:
    """Refuse former appliers from now on, in a transaction of its own.

    What a side shows is acted upon at the other only after this: else a former applier that was
    stopped half-way may change it in between. No standby is waited for: one that is promoted
    without it ends the former applier's sessions. Raises PS002 when superseded.
    """
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = local")
        check_fence(connection, token)


def share_fence(connection: psycopg.Connection, at: Server, token: FencingToken) -> None:
    """As ``check_fence``, for transactions of one applier that run side by side."""
    query = "SELECT FROM shardwright.fencing WHERE token <= %s FOR SHARE"
    if connection.execute(query, [token]).fetchone() is None:
        raise FencedOff(at.subject, f"fencing token {token} is superseded", remedy="apply again")


def install(at: Server, token: FencingToken) -> None:
    """Make the tables and functions that moves need, where they are missing."""
    with open_session(at) as connection, connection.transaction():
        check_fence(connection, token)
        connection.execute(_INSTALL)


def address(publisher: Server) -> str:
    """Return how a subscription's conninfo begins; another one after a failover."""
    at = publisher.primary
    return f"{make_conninfo('', host=at.host, port=at.postgres_port)} "


def conninfo(publisher: Server, name: str) -> str:
    """Return how a subscription reaches its publisher. Holds the password: see ``_SILENT``.

    PostgreSQL keeps it in ``pg_subscription``, in a column that only superusers may read.
    """
    parts: dict[str, str | int] = {
        "host": publisher.primary.host,
        "port": publisher.primary.postgres_port,
        "dbname": publisher.database,
        "user": publisher.credential.role,
        "password": publisher.credential.password,
        "application_name": name,
        "connect_timeout": publisher.timeouts.connect_s,
        "sslmode": "verify-full" if publisher.primary.postgres_tls else "disable",
    }
    if publisher.primary.postgres_tls:
        files_of = publisher.tls
        parts["sslrootcert"] = files_of.ca
        if files_of.cert:
            parts |= {"sslcert": files_of.cert, "sslkey": files_of.key}
    return make_conninfo("", **parts)


def timeline(connection: psycopg.Connection) -> str:
    """Return the timeline that this primary writes: another one after each failover.

    pg_control tells the new one only after a checkpoint; the WAL file's name tells it at once.
    """
    return one_text(connection, "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")


INCARNATION = """left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '@'
  || extract(epoch FROM pg_postmaster_start_time())::int8"""
"""The timeline and when the server started: another after each failover and each restart."""


def incarnation(connection: psycopg.Connection) -> str:
    """Return what is another after a failover and after a restart."""
    return one_text(connection, f"SELECT {INCARNATION}")


def one_text(connection: psycopg.Connection, query: str, *values: object) -> str:
    """Return the only value of the only row as text; empty when there is no row or no value."""
    row = connection.execute(query, values or None).fetchone()
    return str(row[0]) if row and row[0] is not None else ""


def write_beat(connection: psycopg.Connection, lane: str) -> int:
    """Commit a beat that nobody wrote before, and return its number."""
    beat = secrets.randbits(62)
    connection.execute("INSERT INTO shardwright.beat (lane, v) VALUES (%s, %s)", [lane, beat])
    return beat


def has_beat(connection: psycopg.Connection, lane: str, beat: int) -> bool:
    """Tell whether a beat has arrived here."""
    query = "SELECT FROM shardwright.beat WHERE lane = %s AND v = %s"
    return connection.execute(query, [lane, beat]).fetchone() is not None


def run(connection: psycopg.Connection, text: str, *parts: sql.Composable) -> None:
    """Execute a statement with quoted parts put in."""
    connection.execute(sql.SQL(text).format(*parts))
