"""What a failed statement means for its transaction: nothing happened, or nobody knows. Pure.

A write's fate is open only from the moment its COMMIT (or, outside of a transaction, the statement)
was sent until the answer came. Before that PostgreSQL rolls back what a lost connection leaves.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from reconciler.sdk.errors import (
    KeyRefused,
    OutcomeUnknown,
    ReadLost,
    TransactionAborted,
    TransactionEnded,
    TransactionLost,
)

REFUSED = "PS001"
"""SQLSTATE of a guard's or fence's refusal (install.sql)."""

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def is_lost(connection: AnyConnection) -> bool:
    """Tell whether a connection is broken or closed."""
    # Compared by value, here and below: psycopg's C implementation gives plain ints.
    return connection.closed or connection.pgconn.status != ConnStatus.OK


def is_fit(connection: AnyConnection) -> bool:
    """Tell whether a connection may be lent again: whole and outside of any transaction."""
    return not is_lost(connection) and (
        connection.pgconn.transaction_status == TransactionStatus.IDLE
    )


def refusal(error: BaseException, connection: AnyConnection, subject: str) -> KeyRefused | None:
    """Return the refusal that an error of this connection is, or None."""
    if not isinstance(error, psycopg.Error) or error.sqlstate != REFUSED:
        return None
    found = KeyRefused(
        subject,
        str(error.diag.message_primary or "SQLSTATE PS001"),
        remedy="run the transaction again; Shards.run does so by itself",
    )
    found.connection = connection
    return found


def in_body(error: BaseException, connection: AnyConnection, subject: str) -> BaseException:
    """Return what to raise for an error that left a transaction's body, before any COMMIT."""
    if not isinstance(error, psycopg.Error):
        return error
    if is_lost(connection):
        return TransactionLost(
            subject,
            f"the connection was lost, and the transaction with it: {_words(error)}",
            remedy="nothing was committed; run it again",
        )
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        return ended(subject)  # something of the body may be committed: never a KeyRefused
    return refusal(error, connection, subject) or error


def in_commit(error: BaseException, connection: AnyConnection, subject: str) -> BaseException:
    """Return what to raise for an error of COMMIT."""
    if not isinstance(error, psycopg.Error):
        return error
    if isinstance(error, psycopg.ProgrammingError) and not is_lost(connection):
        return error  # psycopg's own, raised instead of sending COMMIT
    if is_lost(connection) or error.sqlstate is None or error.sqlstate.startswith("57P"):
        return unknown(error, subject)
    return refusal(error, connection, subject) or error  # a deferred check failed: rolled back


def raise_meaning(
    error: BaseException | None, connection: AnyConnection, subject: str, *, read_only: bool
) -> None:
    """Raise what an error of a session without a transaction of ours means, if it means more."""
    if not isinstance(error, psycopg.Error):
        return
    meaning = _in_statement(error, connection, subject, read_only=read_only)
    if meaning is not error:
        raise meaning from error


def _in_statement(
    error: psycopg.Error, connection: AnyConnection, subject: str, *, read_only: bool
) -> BaseException:
    if not is_lost(connection):
        return refusal(error, connection, subject) or error
    if read_only:
        return ReadLost(subject, f"the connection was lost: {_words(error)}", remedy="read again")
    return unknown(error, subject)


def unknown(error: psycopg.Error, subject: str) -> OutcomeUnknown:
    """Return the error for a write that was sent and not answered."""
    return OutcomeUnknown(
        subject,
        f"the connection was lost before the write was acknowledged: {_words(error)}",
        remedy="look whether it is there before writing it again",
    )


def before_commit(connection: AnyConnection, subject: str) -> BaseException | None:
    """Return why COMMIT must not be sent, although the body ended well; or None."""
    if is_lost(connection):
        return TransactionLost(
            subject, "the connection was lost in it", remedy="nothing was committed; run it again"
        )
    match connection.pgconn.transaction_status:
        case TransactionStatus.INERROR:
            return TransactionAborted(
                subject,
                "a statement failed in it, and the body went on",
                remedy="let the error leave the body, or use a savepoint: with tx.transaction():",
            )
        case TransactionStatus.IDLE:
            return ended(subject)
    return None


def ended(subject: str) -> TransactionEnded:
    """Return the error for a body that ended its transaction itself."""
    return TransactionEnded(
        subject,
        "its body ended it with a COMMIT or ROLLBACK of its own",
        remedy="leave the body to commit; raise to roll back",
    )


def _words(error: psycopg.Error) -> str:
    """Return libpq's words on one line; it never puts a password there."""
    return " ".join(str(error).split()) or type(error).__name__
