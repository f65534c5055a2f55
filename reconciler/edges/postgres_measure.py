"""One number from a query that somebody wrote into a spec."""

from __future__ import annotations

from psycopg import errors as pg

from reconciler.edges.postgres_session import Target, owner_options, session
from reconciler.model.errors import ReconcilerError


class NotANumber(ReconcilerError):
    """A gate's query did not answer with one number: one row of one column, or a truth value."""

    code = "PG211"


def measure(target: Target, text: str) -> float:
    """Return the number that a query answers; true is 1. Bounded as a look is.

    Nothing can be written: the transaction is read-only, and the extended protocol (which binary
    results need) takes one statement, so that none can end it first. Raises NotANumber and what the
    session raises.
    """
    look_ms = str(target.timeouts.look_ms)
    options = owner_options(target.timeouts) | {
        "statement_timeout": look_ms,
        "default_transaction_read_only": "on",
    }
    with session(target, options) as connection:
        try:
            rows = connection.execute(text.encode(), binary=True).fetchmany(2)
        except pg.ReadOnlySqlTransaction:
            raise _wrong(target, "it writes, and a gate only reads") from None
    if len(rows) != 1 or len(rows[0]) != 1:
        raise _wrong(target, f"it answered {len(rows)} rows" if len(rows) != 1 else "more columns")
    try:
        return float(rows[0][0])
    except (TypeError, ValueError):
        raise _wrong(target, f"it answered {rows[0][0]!r}"[:200]) from None


def _wrong(target: Target, problem: str) -> NotANumber:
    return NotANumber(target.subject, problem, remedy="SELECT one number, such as a count(*)")
