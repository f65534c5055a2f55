"""The rows of a COPY to us, received in batches straight from libpq.

psycopg's own reading goes through its event loop for every row; then the interpreter, and not
PostgreSQL, sets the pace of a copy (half of its time, measured: README, Figures).
"""

from __future__ import annotations

from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import Wait

BATCH_BYTES = 128 * 1024
"""PostgreSQL sends a message a row; joined to this size they cost a third (resharding.md, 2)."""


def receive(pgconn: PGconn) -> PQGen[bytes]:
    """Receive about ``BATCH_BYTES`` of the COPY under way, nothing once it ended.

    For ``Connection.wait``, within ``Cursor.copy``. Raises what the server ended the COPY with.
    """
    rows: list[memoryview] = []
    size = 0
    if pgconn.transaction_status != TransactionStatus.ACTIVE:
        return b""
    take = pgconn.get_copy_data
    while size < BATCH_BYTES:
        length, data = take(1)
        if length > 0:
            rows.append(data)
            size += length
        elif length == 0:
            yield from _wait(pgconn)
        else:
            yield from _end(pgconn)
            break
    return b"".join(rows)


def _wait(pgconn: PGconn) -> PQGen[None]:
    while not (yield Wait.R):  # nothing came in an interval: whoever waits for us counts them
        pass
    pgconn.consume_input()


def _end(pgconn: PGconn) -> PQGen[None]:
    """Take the results that follow the last row."""
    while True:
        while pgconn.is_busy():
            yield from _wait(pgconn)
        result = pgconn.get_result()
        if result is None:
            return
        if result.status != ExecStatus.COMMAND_OK:
            raise error_from_result(result)
