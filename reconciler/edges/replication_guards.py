"""Who accepts the keys of a move: the standing guards read, narrowed and widened.

The standing guard is the fence (decision 2). What it has to say is derived from what it says now,
under the lock, not from the move's record: another move of the same shard may have changed it
since. So a guard change names the guard that it was derived from, and fails if that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from reconciler.edges.postgres_catalog import GUARDS, decode_guards
from reconciler.edges.postgres_guards import (
    ATTEMPTS_MAX,
    DDL_WAIT_MS,
    PAUSE_S,
    WRITERS_WAIT_MS,
    guard_statements,
    table_identifier,
)
from reconciler.edges.postgres_session import Target as Server
from reconciler.model.access import Guarding
from reconciler.model.desired import ShardedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Move
from reconciler.model.names import Epoch, FencingToken
from reconciler.model.observed import ObservedGuard


class GuardsForbid(ReconcilerError):
    """A step of a move was refused because of what the guards say now.

    Before a table is opened on one side, the other side must refuse the keys; rows are deleted only
    where they are refused. The move's state was seen otherwise, or changed since.
    """

    code = "MV205"
    transient = True


@dataclass(frozen=True, slots=True)
class GuardChange:
    """One table's guard, as it is (None: there is none) and as it shall be."""

    table: ShardedTable
    before: ObservedGuard | None
    keys: KeySet
    epoch: Epoch

    @property
    def needed(self) -> bool:
        """Whether it says something else now."""
        return self.before is None or self.before.keys != self.keys

    def undone(self) -> GuardChange | None:
        """Return the change that brings back what was before; None where nothing was."""
        if self.before is None:
            return None
        now = replace(self.before, keys=self.keys, epoch=self.epoch)
        return GuardChange(self.table, now, self.before.keys, self.before.epoch)


def read_guards(connection: psycopg.Connection) -> dict[str, ObservedGuard]:
    """Return the guards that stand here, by table."""
    guards = decode_guards([row for (row,) in connection.execute(GUARDS)])
    return {guard.table: guard for guard in guards}


def refusing(move: Move, guards: dict[str, ObservedGuard]) -> tuple[str, ...]:
    """Name the move's tables whose guard refuses all of the keys."""
    return tuple(
        t.name for t in move.tables if t.name in guards and not guards[t.name].keys & move.keys
    )


def accepting(move: Move, guards: dict[str, ObservedGuard]) -> tuple[str, ...]:
    """Name the move's tables whose guard accepts all of the keys."""
    return tuple(
        t.name for t in move.tables if t.name in guards and not move.keys - guards[t.name].keys
    )


def narrowed(
    move: Move, guards: dict[str, ObservedGuard], recorded: KeySet, epoch: Epoch
) -> list[GuardChange]:
    """Return the guards without the keys; ``recorded`` is what a table without a guard owned."""
    return [
        GuardChange(t, guards.get(t.name), _owned(guards, t, recorded) - move.keys, epoch)
        for t in move.tables
    ]


def widened(
    move: Move, guards: dict[str, ObservedGuard], recorded: KeySet, epoch: Epoch
) -> list[GuardChange]:
    """Return the guards with the keys; ``recorded`` is what a table without a guard owned."""
    return [
        GuardChange(t, guards.get(t.name), _owned(guards, t, recorded) | move.keys, epoch)
        for t in move.tables
    ]


def _owned(guards: dict[str, ObservedGuard], table: ShardedTable, recorded: KeySet) -> KeySet:
    seen = guards.get(table.name)
    return recorded if seen is None else seen.keys


def statements(
    connection: psycopg.Connection, at: Server, move: Move, change: GuardChange
) -> sql.Composed:
    """Return what makes the change, once the locks are held. Raises GuardImpossible."""
    guarding = Guarding(move.key_type, move.tables, change.keys, change.epoch)
    parts: list[sql.Composable] = []
    if change.before is not None:
        said = f"{change.before.epoch}\0{change.before.keys}\0{change.before.column}\0"
        expected = sql.Literal(said.encode().hex())
        parts.append(
            sql.SQL("SELECT shardwright.expect_guard({}::regclass, decode({}, 'hex'))").format(
                sql.Literal(table_identifier(change.table.name).as_string(connection)), expected
            )
        )
    parts.extend(guard_statements(connection, at, guarding, change.table))
    return sql.SQL("; ").join(parts)


def locked(
    tables: list[ShardedTable],
    body: sql.Composable,
    token: FencingToken,
    *,
    wait_ms: int,
    commit: str = "on",
) -> sql.Composed:
    """Return one transaction, in one round trip, that runs ``body`` with writers waited out.

    The first lock keeps other DDL out and ends an autovacuum, without holding writers back; a
    deadlock_timeout this short is what makes the autovacuum give way at once. ``wait_ms`` bounds
    the second, behind which writers queue. ``commit`` is its synchronous_commit: "off" is made
    durable by a later one of the same server, "local" is never held up by a standby.
    """
    parts: list[sql.Composable] = [
        sql.SQL("SELECT shardwright.check_fence({})").format(sql.Literal(int(token))),
        sql.SQL("SET LOCAL deadlock_timeout = '10ms'"),
        sql.SQL("SET LOCAL synchronous_commit = {}").format(sql.SQL(commit)),
    ]
    for limit, mode in (
        (min(wait_ms, DDL_WAIT_MS), "UPDATE EXCLUSIVE"),
        (wait_ms, "ROW EXCLUSIVE"),
    ):
        parts.append(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(limit)))
        parts.extend(
            sql.SQL("LOCK TABLE {} IN SHARE {} MODE").format(
                table_identifier(table.name), sql.SQL(mode)
            )
            for table in tables
        )
    return sql.SQL("; ").join([*parts, body])


def change_guards(
    connection: psycopg.Connection,
    at: Server,
    move: Move,
    changes: list[GuardChange],
    token: FencingToken,
    *,
    commit: str = "on",
) -> None:
    """Make the changes that are needed, one table a transaction, patiently.

    Raises GuardImpossible; psycopg's errors when a lock is not free after ``ATTEMPTS_MAX``.
    """
    for change in changes:
        if change.needed:
            body = statements(connection, at, move, change)
            try_locked(connection, [change.table], body, token, commit=commit)


def try_locked(
    connection: psycopg.Connection,
    tables: list[ShardedTable],
    body: sql.Composable,
    token: FencingToken,
    *,
    commit: str = "on",
    attempts: int = ATTEMPTS_MAX,
) -> None:
    """Run ``body`` with the tables locked, again while the locks are not free."""
    whole = locked(tables, body, token, wait_ms=WRITERS_WAIT_MS, commit=commit)
    for attempt in range(attempts):
        try:
            connection.execute(whole)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt + 1 == attempts:
                raise
            connection.execute("SELECT pg_sleep(%s)", [PAUSE_S])
        else:
            return
