"""Whether what a primary committed would survive its failover: on every standby that may lead next.

With synchronous standbys a commit that was waited for is on each that Patroni may promote. Without,
Patroni promotes any member that is not far behind, one that is not connected at the moment
included: so all of them have to have it, and while one is away there is no cut. The wait is bounded
by whoever asks, because a COMMIT's own is not: no setting of PostgreSQL ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg

from reconciler.edges.replication_ends import one_text

FLUSH = "SELECT pg_logical_emit_message(true, 'shardwright', 'cut')"
"""Writes a record of its own, so that the commit is one that flushes and is waited for."""

_LATE = """
SELECT string_agg(m.name, ', ' ORDER BY m.name)
  FROM unnest(%s::text[]) AS m(name)
  LEFT JOIN (SELECT application_name AS name, max(coalesce(flush_lsn, '0/0')) AS flushed
               FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')
              GROUP BY 1) AS r USING (name)
 WHERE CASE WHEN r.flushed IS NULL THEN current_setting('synchronous_standby_names') = ''
            ELSE r.flushed < %s::pg_lsn END
"""
_SYNCHRONOUS = """
SELECT current_setting('synchronous_standby_names') = ''
    OR EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
"""


def why_not_promotable(connection: psycopg.Connection, members: tuple[str, ...]) -> str:
    """Say why a commit here could not be waited for now; empty when it could.

    ``members`` are the shard's others; one that is away matters only without synchronous ones.
    """
    if one_text(connection, _SYNCHRONOUS) != "True":
        return "a synchronous standby is asked for and none is there"
    away = one_text(connection, _LATE, list(members), "0/0")
    return f"{away} may be promoted and does not follow: start it, or remove it" if away else ""


@contextmanager
def following(
    main: psycopg.Connection, aside: psycopg.Connection, members: tuple[str, ...]
) -> Iterator[Callable[[], str]]:
    """Begin to wait for all that is committed and flushed here; yield who is late, "" when none.

    ``aside`` makes a commit that waits for the synchronous standbys; it is cut short at the end.
    """
    lsn = one_text(main, "SELECT pg_current_wal_flush_lsn()")
    if one_text(main, "SHOW synchronous_standby_names") == "":
        yield lambda: one_text(main, _LATE, list(members), lsn)
        return
    with ThreadPoolExecutor(1) as pool:
        asked: Future[object] = pool.submit(aside.execute, FLUSH)

        def late() -> str:
            if not asked.done():
                return "a synchronous standby"
            asked.result()
            return one_text(main, _LATE, list(members), lsn)

        try:
            yield late
        finally:
            if not asked.done():
                aside.cancel()
