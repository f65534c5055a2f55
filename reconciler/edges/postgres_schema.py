"""Run a schema file on a shard, once, as the database's owner.

Three steps: the superuser announces the file (fence checked, row ``running``); the owner runs it;
the row becomes ``done``. A transactional file does the last two in one transaction, so it is noted
exactly when it has happened. One that cannot run in a transaction (``CREATE INDEX CONCURRENTLY``)
may have happened and not be noted when we die in between: it is run again, and says so if it
cannot be.

The owner gets a session of its own: in a superuser's session with ``SET ROLE`` the file could say
``RESET ROLE``.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from reconciler.edges.postgres_session import (
    DatabaseMissing,
    LockNotObtained,
    PostgresUnreachable,
    StatementTimedOut,
    Target,
    meaning,
    owner_options,
    session,
    superuser_options,
)
from reconciler.model.access import FencedOff
from reconciler.model.desired import SchemaFile
from reconciler.model.errors import Position, ReconcilerError
from reconciler.model.names import FencingToken
from reconciler.model.platform import Credential
from reconciler.spec.statements import (
    Statement,
    TransactionInSchemaFile,
    line_and_column,
    split,
    statement_problems,
)


class SchemaFileFailed(ReconcilerError):
    """A statement of a schema file failed.

    A file runs in one transaction, so nothing of it has happened. (A file marked
    ``-- shardwright: no-transaction`` holds one statement, and may leave behind what that statement
    leaves when it fails, such as an INVALID index.)
    """

    code = "PG230"


class SchemaFileChanged(ReconcilerError):
    """A schema file was applied to this shard with another content.

    Files are applied once; a changed one would make shards differ by when they were made.
    """

    code = "PG231"


def apply_schema(target: Target, owner: Credential, file: SchemaFile, token: FencingToken) -> None:
    """Run one schema file and note it; nothing when it is noted already.

    Raises the errors of this module and of postgres_session, and FencedOff.
    """
    statements = split(file.text)
    check_statements(file)
    if not _announce(target, file, token):
        return
    as_owner = replace(target, credential=owner)
    if file.transactional:
        _run_in_transaction(as_owner, file, statements, token)
    else:
        _run_alone(target, as_owner, file, statements[0], token)


def check_statements(file: SchemaFile) -> None:
    """Raise TransactionInSchemaFile or NotOneStatement before anything runs."""
    for offset, error in statement_problems(file):
        error.where = _place(file, offset)
        raise error


def _announce(target: Target, file: SchemaFile, token: FencingToken) -> bool:
    """Note the file as running; False when it is done. Raises SchemaFileChanged, FencedOff."""
    options = superuser_options(target.timeouts)
    with session(target, options) as connection, connection.transaction():
        connection.execute("SELECT shardwright.check_fence(%s)", [token])
        row = connection.execute(
            "SELECT state, sha256 FROM shardwright.schema_history WHERE name = %s", [file.name]
        ).fetchone()
        if row is not None and row[0] == "done":
            if row[1] == file.sha256:
                return False
            raise SchemaFileChanged(
                f"{target.subject} schema file {file.name}",
                f"it was applied as {row[1][:12]} and is {file.sha256[:12]} now",
                remedy="restore its old content and put the change into a new file",
                where=Position(file.name),
            )
        connection.execute(
            "INSERT INTO shardwright.schema_history (name, sha256, state)"
            " VALUES (%s, %s, 'running')"
            " ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256",
            [file.name, file.sha256],
        )
    return True


def _run_in_transaction(
    target: Target, file: SchemaFile, statements: tuple[Statement, ...], token: FencingToken
) -> None:
    with session(target, owner_options(target.timeouts)) as connection:
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        # Holds the fence's row until COMMIT: an applier that takes over waits for this file.
        connection.execute("SELECT shardwright.begin_schema(%s)", [token])
        for statement in statements:
            _run(connection, target, file, statement)
            if connection.info.transaction_status != TransactionStatus.INTRANS:
                raise TransactionInSchemaFile(
                    f"{target.subject} schema file {file.name}",
                    "a statement ended the transaction",
                    remedy="end no transaction in a schema file",
                    where=_place(file, statement.offset),
                )
        try:
            connection.execute(
                "SELECT shardwright.note_schema(%s, %s, %s)", [file.name, file.sha256, token]
            )
            connection.execute("COMMIT")
        except psycopg.errors.IntegrityError as error:
            # Deferred constraints speak at COMMIT, where no statement of the file can be named.
            raise _failed(target, file, statements[-1], error) from None


def _run_alone(
    target: Target,
    as_owner: Target,
    file: SchemaFile,
    statement: Statement,
    token: FencingToken,
) -> None:
    """Run one statement outside a transaction, with the fence held by a second session.

    That session sits idle in a READ COMMITTED transaction and must hold no snapshot, or CREATE
    INDEX CONCURRENTLY waits for it. So its statement has no parameters: with them psycopg uses
    the extended protocol, whose unnamed portal keeps its snapshot until the next statement.
    """
    idle = superuser_options(target.timeouts) | {"idle_in_transaction_session_timeout": "0"}
    with session(target, idle) as fence, fence.transaction():
        fence.execute(sql.SQL("SELECT shardwright.check_fence({})").format(sql.Literal(token)))
        with session(as_owner, owner_options(target.timeouts)) as connection:
            _run(connection, as_owner, file, statement)
        fence.execute(
            "UPDATE shardwright.schema_history SET state = 'done', applied_at = clock_timestamp(),"
            " took_ms = extract(epoch FROM clock_timestamp() - transaction_timestamp()) * 1000"
            " WHERE name = %s AND sha256 = %s",
            [file.name, file.sha256],
        )


def _run(
    connection: psycopg.Connection, target: Target, file: SchemaFile, statement: Statement
) -> None:
    try:
        connection.execute(statement.text.encode())
    except psycopg.Error as error:
        raise _failed(target, file, statement, error) from None


def _failed(
    target: Target, file: SchemaFile, statement: Statement, error: psycopg.Error
) -> ReconcilerError:
    """Name file, line and SQLSTATE; what would be the same for any statement keeps its own type."""
    general = meaning(error, f"{target.subject} schema file {file.name}")
    position = int(error.diag.statement_position or 1) - 1
    where = _place(file, statement.offset + position)
    match general:
        case FencedOff() | PostgresUnreachable() | DatabaseMissing():
            return general
        case LockNotObtained() | StatementTimedOut():
            general.where = where
            return general
    said = " ".join((error.diag.message_primary or str(error)).split())
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return SchemaFileFailed(
        f"{target.subject} schema file {file.name}",
        f"{said}{detail} (SQLSTATE {error.sqlstate or 'none'})",
        remedy=_remedy(file, error),
        where=where,
    )


def _remedy(file: SchemaFile, error: psycopg.Error) -> str:
    if not file.transactional:
        return (
            "drop what a failed attempt left (an INVALID index: DROP INDEX CONCURRENTLY), or say"
            " IF NOT EXISTS; then apply again"
        )
    if error.sqlstate == "25001":
        return "begin the file with: -- shardwright: no-transaction"
    if "COPY" in str(error):
        return "load rows with INSERT, or outside schema files"
    return error.diag.message_hint or "mend the file; nothing of it was applied here"


def _place(file: SchemaFile, offset: int) -> Position:
    return Position(file.name, *line_and_column(file.text, offset))
