"""Materialized views of a move: they show what was there when they were last refreshed.

Nothing replicates them. A new target made them on empty tables, and a shard whose rows were pruned
still shows those. So they are refreshed at the target before the cut (never within: writers would
wait), and after a prune where the rows went. What is owed is noted in ``shardwright.move_ddl``
(kind ``refresh``) before the rows change, and a view's note goes once it is refreshed; a process
that dies in between leaves the rest to the next one.

The fence is asked before each and again when its note goes, not held while it runs: a refresh may
take minutes, in which nobody could take over, and a late one of a former applier only shows rows
as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.postgres_session import meaning
from reconciler.edges.replication_ends import (
    Ends,
    check_fence,
    install,
    open_session,
    patient,
    take_over,
)
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import MoveId
from reconciler.model.names import FencingToken

_REFRESHED = """
WITH RECURSIVE reads(reader, read) AS (
  SELECT w.ev_class, d.refobjid FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
     AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
   WHERE w.rulename = '_RETURN'
), below(reader, read) AS (
  SELECT reader, read FROM reads
  UNION SELECT b.reader, r.read FROM below b JOIN reads r ON r.reader = b.read
)
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                    AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY (SELECT count(*) FROM below b JOIN pg_class m ON m.oid = b.read AND m.relkind = 'm'
            WHERE b.reader = c.oid), c.oid
"""
"""Those that show something, each after all that it reads, directly or through views."""
_NOTE = """
INSERT INTO shardwright.move_ddl (move_id, kind, definition)
SELECT %(move)s, 'refresh', v.name FROM unnest(%(names)s::text[]) WITH ORDINALITY AS v(name, o)
 WHERE NOT EXISTS (SELECT FROM shardwright.move_ddl
                    WHERE move_id = %(move)s AND kind = 'refresh' AND definition = v.name)
 ORDER BY v.o
"""
_OWED = """
SELECT ordinal, definition, to_regclass(definition) IS NOT NULL FROM shardwright.move_ddl
 WHERE move_id = %s AND kind = 'refresh' ORDER BY ordinal
"""
_CONCURRENTLY = """
SELECT EXISTS (
  SELECT FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
   WHERE c.oid = to_regclass(%s) AND c.relispopulated AND i.indisunique AND i.indisvalid
     AND i.indimmediate AND i.indpred IS NULL AND NOT 0 = ANY (i.indkey::int2[]))
"""


class ViewNotRefreshed(ReconcilerError):
    """A materialized view of a shard in a move could not be refreshed.

    It has to show the rows that came, or no longer those that left. PostgreSQL's words are shown:
    its query fails on the rows of that shard, or a unique index of it does not hold there. The keys
    stay where they are until it can be.
    """

    code = "MV213"


def refresh_target(ends: Ends) -> None:
    """Refresh at the target what the source's applications have filled, and note that it is done.

    What nobody filled at the source stays as it is. Raises ViewNotRefreshed.
    """
    with open_session(ends.source) as connection:
        filled = _ordered(connection)
    install(ends.target, ends.token)  # by an older release it may have been prepared
    _note(ends.target, ends, filled)
    # A new target has no readers that a plain refresh, which is faster, could lock out.
    at = patient(ends.target, ends.limits)
    refresh_noted(at, ends.move.id, ends.token, readers=bool(ends.move.target_keys))
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(
            "UPDATE shardwright.moved SET refreshed = slot WHERE move_id = %s", [ends.move.id]
        )


def note_stale(at: Server, ends: Ends) -> None:
    """Note that what shows something here has to be refreshed: rows are about to go."""
    with open_session(at) as connection:
        names = _ordered(connection)
    if names:
        _note(at, ends, names)


def refresh_noted(
    at: Server,
    id_: MoveId,
    token: FencingToken,
    *,
    readers: bool = True,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Refresh what is noted, one after the other; with ``readers`` without locking them out.

    That takes a unique index on plain columns; without one they wait. Raises ViewNotRefreshed.
    """
    with open_session(at) as connection:
        for ordinal, name, there in connection.execute(_OWED, [id_]).fetchall():
            if stopping():
                return
            take_over(connection, token)
            if there:
                _refresh(connection, at, str(name), readers=readers)
            with connection.transaction():
                check_fence(connection, token)
                connection.execute(
                    "DELETE FROM shardwright.move_ddl WHERE move_id = %s AND ordinal = %s",
                    [id_, ordinal],
                )


def _ordered(connection: psycopg.Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute(_REFRESHED).fetchall()]


def _note(at: Server, ends: Ends, names: list[str]) -> None:
    with open_session(at) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(_NOTE, {"move": ends.move.id, "names": names})


def _refresh(connection: psycopg.Connection, at: Server, name: str, *, readers: bool) -> None:
    row = connection.execute(_CONCURRENTLY, [name]).fetchone()
    how = "CONCURRENTLY " if readers and row and row[0] else ""
    # As the owner runs it: a function within may find its tables by the path.
    connection.execute('SET search_path = "$user", public')
    try:
        connection.execute(sql.SQL(f"REFRESH MATERIALIZED VIEW {how}{name}"))
        connection.execute(sql.SQL(f"ANALYZE {name}"))
    except psycopg.Error as error:
        told = meaning(error, at.subject)
        if told.transient:
            raise
        raise ViewNotRefreshed(
            at.subject,
            f"materialized view {name}: {told.problem}",
            remedy=f"REFRESH MATERIALIZED VIEW {name} there shows it; mend its query or the rows,"
            " or drop it at both shards",
        ) from None
    connection.execute("RESET search_path")
