"""A PostgreSQL connection that waits for an answer for a bounded time.

``statement_timeout`` is kept by the server: a backend that is stopped, or a host that is gone while
its kernel still acknowledges, never comes to it. So the client counts too, a little longer.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg
from psycopg import sql

from reconciler.model import statements

Answer = TypeVar("Answer")

GRACE_S = 2.0
"""How much longer than the server the client waits, so that the server's own words come first."""


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself, with an OperationalError, when a wait takes longer than ``limit_s``."""

    limit_s: float | None = None

    def wait(self, gen: Generator[Any, Any, Answer], *args: Any, **options: Any) -> Answer:
        """Wait as psycopg does, within the limit."""
        if self.limit_s is None:
            return super().wait(gen, *args, **options)
        return super().wait(self._within(gen, self.limit_s), *args, **options)

    def _within(
        self, gen: Generator[Any, Any, Answer], limit_s: float
    ) -> Generator[Any, Any, Answer]:
        """Pass everything on; psycopg wakes at intervals also when nothing is ready."""
        until = time.monotonic() + limit_s
        ready = None
        while True:
            try:
                wanted = next(gen) if ready is None else gen.send(ready)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            ready = yield wanted
            if not ready and time.monotonic() > until:
                self.pgconn.finish()  # what it may still send belongs to nobody
                raise psycopg.OperationalError(f"no answer within {limit_s:g} s")


class NotingCursor(psycopg.Cursor[Any]):
    """Lets the audit know what is executed and copied."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Execute as psycopg does."""
        self._note(query)
        return super().execute(query, params, **options)

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """Copy as psycopg does."""
        self._note(statement)
        return super().copy(statement, params, **options)

    def _note(self, query: Any) -> None:
        if not statements.is_noting():
            return
        if isinstance(query, sql.Composable):
            query = query.as_string(self)
        statements.note(query.decode() if isinstance(query, bytes) else str(query))


def limit(connection: psycopg.Connection[Any], statement_ms: int) -> None:
    """Bound the client's waits for an answer to a statement; 0: no bound."""
    if isinstance(connection, BoundedConnection):
        connection.limit_s = statement_ms / 1000 + GRACE_S if statement_ms else None


def set_statement_timeout(
    connection: psycopg.Connection[Any], statement_ms: int, *, local: bool = False
) -> None:
    """Let statements take so long (0: without a bound), for the server and for the client.

    ``local``: the server's bound comes back with the end of the transaction, the client's does not.
    """
    limit(connection, statement_ms)
    word = sql.SQL("LOCAL" if local else "SESSION")
    connection.execute(sql.SQL("SET {} statement_timeout = {}").format(word, statement_ms))
