"""The standing guard of a sharded table: triggers that refuse every row of another shard.

resharding.md, 3.2 to 3.4, has the measurements behind each choice. In short: only a trigger with a
WHEN clause over the hash also refuses transactions with an older snapshot, and taking its lock
waits out the writers in flight. Its name begins with ``~`` so that it sees the row as the
application's own BEFORE triggers leave it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.bounded_connection import set_statement_timeout
from reconciler.edges.postgres_catalog import GUARDS, decode_guards
from reconciler.edges.postgres_session import (
    LockNotObtained,
    Target,
    meaning,
    session,
    superuser_options,
)
from reconciler.model.access import Guarding
from reconciler.model.desired import ShardedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import COLUMN_HASHES
from reconciler.model.keyspace import WHOLE, KeySet
from reconciler.model.names import FencingToken
from reconciler.model.observed import ObservedGuard

ATTEMPTS_MAX = 40
"""Each holds writers back for at most WRITERS_WAIT_MS; then they run while we pause."""
PAUSE_S = 0.25
WRITERS_WAIT_MS = 500
DDL_WAIT_MS = 5_000

_LOOK_AT_COLUMN = """
SELECT t.typname, a.attgenerated, coalesce(l.collisdeterministic, true)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a
         ON a.attrelid = c.oid AND a.attname = %s AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
_ANY_GUARD = """
SELECT DISTINCT n.nspname || '.' || c.relname
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgparentid = 0 AND t.tgname ~ '^~shardwright_guard_[iud]$' ORDER BY 1
"""


class GuardImpossible(ReconcilerError):
    """A sharded table cannot be guarded: it, or its key column, is not as the spec says.

    Rows find their shard by PostgreSQL's hash of the key column, so the column must be of a type
    that hashes like the spec's ``sharding.type``, with a deterministic collation. Without the
    guard a stale client could write a row where nobody looks for it.
    """

    code = "PG220"


class ForeignRows(ReconcilerError):
    """A table that is to be guarded holds rows that belong to another shard, or have no key.

    Nothing guarded it until now, so rows of any key could be written. Behind a guard they would be
    unreachable: the router looks for them on the shard that owns their key, and the guard refuses
    to change or delete them here. Nothing is guarded until each stands where its key belongs.
    """

    code = "PG221"


@dataclass(frozen=True, slots=True)
class _Guard:
    """The triggers to make on one table."""

    table: ShardedTable
    keys: KeySet
    epoch: int
    function: str
    timing: str

    @property
    def identifier(self) -> sql.Identifier:
        return table_identifier(self.table.name)

    def owns(self, row: str) -> sql.Composable:
        """Return the condition that ``row`` (NEW or OLD) is of this shard; NULL for a NULL key."""
        column = sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(self.table.key))
        if self.keys.ranges == (WHOLE,):
            return sql.SQL("({} IS NOT NULL)").format(column)
        if not self.keys:
            return sql.SQL("(false)")
        value = sql.SQL("pg_catalog.{}({}, 0)").format(sql.SQL(self.function), column)
        ranges = (
            sql.SQL("{} BETWEEN {} AND {}").format(value, *map(_bigint, r.sql_bounds))
            for r in self.keys.ranges
        )
        return sql.SQL("({})").format(sql.SQL(" OR ").join(ranges))

    def triggers(self) -> list[sql.Composed]:
        """Return the three CREATE OR REPLACE TRIGGER statements."""
        parts = {
            "i": ("INSERT", ("NEW",)),
            "u": ("UPDATE", ("OLD", "NEW")),
            "d": ("DELETE", ("OLD",)),
        }
        arguments = sql.SQL(", ").join(
            sql.Literal(text) for text in (str(self.epoch), str(self.keys), self.table.key)
        )
        return [
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {} {} {} ON {} FOR EACH ROW WHEN ({})"
                " EXECUTE FUNCTION shardwright.reject({})"
            ).format(
                sql.Identifier(f"~shardwright_guard_{kind}"),
                sql.SQL(self.timing),
                sql.SQL(event),
                self.identifier,
                sql.SQL(" OR ").join(
                    sql.SQL("{} IS NOT TRUE").format(self.owns(row)) for row in rows
                ),
                arguments,
            )
            for kind, (event, rows) in parts.items()
        ]


def install_guards(target: Target, guarding: Guarding, token: FencingToken) -> None:
    """Make the guard triggers say exactly this, one table a transaction.

    One table at a time, so that a lock that stops writers is never held while waiting for another
    (resharding.md, 3.1 rule 3). Tables whose guard says this already are not locked at all.
    Raises GuardImpossible, ForeignRows, LockNotObtained, FencedOff and the errors of
    postgres_session.
    """
    with session(target, superuser_options(target.timeouts)) as connection:
        connection.execute("SELECT shardwright.check_fence(%s)", [token])
        standing = {guard.table: guard for guard in _standing(connection)}
        ever = {str(name) for (name,) in connection.execute(_ANY_GUARD)}
        for table in guarding.tables:
            wanted = ObservedGuard(table.name, table.key, guarding.keys, guarding.epoch)
            if standing.get(table.name) != wanted:
                guard = _plan(connection, target, guarding, table)
                if table.name in ever:
                    _locked(connection, target, table.name, token, guard.triggers())
                else:
                    _guard_first(connection, target, guard, token)
        for name in _strays(connection, guarding):
            _locked(connection, target, name, token, _removal(name))


def _guard_first(
    connection: psycopg.Connection, target: Target, guard: _Guard, token: FencingToken
) -> None:
    """Guard a table that nothing guarded, if all its rows belong here. Raises ForeignRows.

    Looked at before, so that mostly nothing is changed in vain, and again behind the guard, because
    reading a large table takes long and must not hold writers back: what came in meanwhile is seen
    then, and the guard taken away again. A guard that is only mended is not held to this: a moved
    range keeps its rows behind it until the way back is closed.
    """
    name = guard.table.name
    _refuse_foreign_rows(connection, target, guard)
    _locked(connection, target, name, token, guard.triggers())
    try:
        _refuse_foreign_rows(connection, target, guard)
    except ForeignRows:
        _locked(connection, target, name, token, _removal(name))
        raise


def _refuse_foreign_rows(connection: psycopg.Connection, target: Target, guard: _Guard) -> None:
    query = sql.SQL(
        "SELECT row_there.{key}::pg_catalog.text FROM {table} AS row_there"
        " WHERE {owns} IS NOT TRUE LIMIT 1"
    ).format(
        key=sql.Identifier(guard.table.key), table=guard.identifier, owns=guard.owns("row_there")
    )
    with connection.transaction():
        set_statement_timeout(connection, 0, local=True)  # as long as reading all of it takes
        found = connection.execute(query).fetchone()
    if found is None:
        return
    (key,) = found
    which = "without a key" if key is None else f"of key {str(key)[:80]!r}"
    owned = str(guard.keys) if guard.keys else "no keys"
    raise ForeignRows(
        f"{target.subject} table {guard.table.name}",
        f"it holds a row {which} ({guard.table.key}), and this shard owns {owned}",
        remedy="copy such rows to the shards that own their keys and delete them here, or take "
        "the table out of spec.sharding.tables; then apply again",
    )


def guard_statements(
    connection: psycopg.Connection, target: Target, guarding: Guarding, table: ShardedTable
) -> list[sql.Composed]:
    """Return what makes one table's guard say this; the caller locks and commits.

    Raises GuardImpossible.
    """
    return _plan(connection, target, guarding, table).triggers()


def crosses(
    connection: psycopg.Connection, target: Target, guarding: Guarding, table: ShardedTable
) -> tuple[str, sql.Composed]:
    """Return when a trigger of a row can tell, and the condition: an UPDATE changes its side.

    The sides are the guarding's keys and all others. Raises GuardImpossible.
    """
    guard = _plan(connection, target, guarding, table)
    condition = sql.SQL("{} IS DISTINCT FROM {}").format(guard.owns("OLD"), guard.owns("NEW"))
    return guard.timing, condition


def _standing(connection: psycopg.Connection) -> tuple[ObservedGuard, ...]:
    return decode_guards([row for (row,) in connection.execute(GUARDS)])


def _strays(connection: psycopg.Connection, guarding: Guarding) -> list[str]:
    wanted = {table.name for table in guarding.tables}
    return [str(name) for (name,) in connection.execute(_ANY_GUARD) if name not in wanted]


def _removal(name: str) -> list[sql.Composed]:
    return [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
            sql.Identifier(f"~shardwright_guard_{kind}"), table_identifier(name)
        )
        for kind in "iud"
    ]


def _plan(
    connection: psycopg.Connection, target: Target, guarding: Guarding, table: ShardedTable
) -> _Guard:
    """Look at the key column. Raises GuardImpossible."""
    schema, _, relation = table.name.partition(".")
    row = connection.execute(_LOOK_AT_COLUMN, [table.key, schema, relation]).fetchone()
    subject = f"{target.subject} table {table.name}"
    if row is None:
        raise GuardImpossible(
            subject, "there is no such table", remedy="create it in a schema file of the spec"
        )
    kind, generated, deterministic = row
    if kind is None:
        raise GuardImpossible(
            subject,
            f"it has no column {table.key}",
            remedy="name its shard key in spec.sharding.tables",
        )
    function = COLUMN_HASHES[guarding.key_type].get(str(kind))
    if function is None:
        allowed = ", ".join(COLUMN_HASHES[guarding.key_type])
        raise GuardImpossible(
            subject,
            f"its key {table.key} is {kind}; sharding type {guarding.key_type} takes {allowed}",
            remedy="change the column's type, or spec.sharding.type",
        )
    if not deterministic or generated == "v":
        raise GuardImpossible(
            subject,
            f"its key {table.key} is a virtual column or has a nondeterministic collation",
            remedy="store the column, with a deterministic collation",
        )
    # A BEFORE trigger's WHEN cannot see a generated column (resharding.md, 3.3).
    timing = "AFTER" if generated == "s" else "BEFORE"
    return _Guard(table, guarding.keys, guarding.epoch, function, timing)


def _locked(
    connection: psycopg.Connection,
    target: Target,
    name: str,
    token: FencingToken,
    statements: list[sql.Composed],
) -> None:
    """Run statements on one table in a transaction of their own, again while it is locked."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            with connection.transaction():
                _change(connection, name, token, statements)
        except (pg.LockNotAvailable, pg.DeadlockDetected) as error:
            if attempt + 1 == ATTEMPTS_MAX:
                raise _still_locked(target, name, meaning(error, target.subject)) from None
            time.sleep(PAUSE_S)
        else:
            return


def _change(
    connection: psycopg.Connection,
    name: str,
    token: FencingToken,
    statements: list[sql.Composed],
) -> None:
    """First exclude other DDL without holding writers back, then wait out the writers, briefly."""
    table = table_identifier(name)
    connection.execute("SELECT shardwright.check_fence(%s)", [token])
    for wait_ms, mode in ((DDL_WAIT_MS, "UPDATE EXCLUSIVE"), (WRITERS_WAIT_MS, "ROW EXCLUSIVE")):
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(wait_ms)))
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE {} MODE").format(table, sql.SQL(mode)))
    for statement in statements:
        connection.execute(statement)


def _still_locked(target: Target, name: str, last: ReconcilerError) -> LockNotObtained:
    return LockNotObtained(
        f"{target.subject} table {name}",
        f"not free of writers in {ATTEMPTS_MAX} attempts: {last.problem}",
        remedy="end long or idle transactions there (pg_stat_activity)",
    )


def table_identifier(name: str) -> sql.Identifier:
    """Return ``public.orders`` as a quoted name."""
    schema, _, relation = name.partition(".")
    return sql.Identifier(schema, relation)


def _bigint(value: int) -> sql.Composable:
    """Quoted, because -9223372036854775808 without quotes is a numeric."""
    return sql.SQL("{}::pg_catalog.int8").format(sql.Literal(str(value)))
