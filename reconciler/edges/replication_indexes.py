"""What an empty target does without while it is loaded, and gets back before it follows.

Definition and removal are one transaction, and so are building and forgetting, so that a crash
leaves each index either here or noted in ``shardwright.move_ddl``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import Ends, check_fence, open_session, share_fence
from reconciler.edges.replication_tables import MovedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import MoveId
from reconciler.model.names import FencingToken

_ON_OURS = """
  JOIN pg_class c ON c.oid = {owner} JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname || '.' || c.relname = ANY(%(names)s)
"""
_FOREIGN_KEYS = (
    """
SELECT 'fk',
       format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s NOT VALID', n.nspname, c.relname,
              k.conname, regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')),
       CASE WHEN k.convalidated THEN format('ALTER TABLE %%I.%%I VALIDATE CONSTRAINT %%I',
                                            n.nspname, c.relname, k.conname) END,
       obj_description(k.oid, 'pg_constraint'),
       format('CONSTRAINT %%I ON %%I.%%I', k.conname, n.nspname, c.relname),
       format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname),
       n.nspname || '.' || c.relname, 0
  FROM pg_constraint k
  JOIN pg_class r ON r.oid = k.confrelid AND r.relkind = 'r' AND NOT r.relispartition
"""
    + _ON_OURS.format(owner="k.conrelid")
    + """
   AND k.contype = 'f' AND k.conparentid = 0 ORDER BY k.conname
"""
)
# A key comes back as an index, and as a constraint on it then: indexes of one table are built side
# by side, a constraint lets nothing else at its table.
_KEYS = (
    """
SELECT 'key',
       format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I ', n.nspname, c.relname, k.conname)
       || CASE WHEN i.indisexclusion THEN pg_get_constraintdef(k.oid)
          ELSE format('%%s USING INDEX %%I', CASE k.contype WHEN 'p' THEN 'PRIMARY KEY'
                      ELSE 'UNIQUE' END, k.conname)
               || CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END
               || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END END,
       CASE WHEN NOT i.indisexclusion THEN pg_get_indexdef(i.indexrelid) END,
       obj_description(k.oid, 'pg_constraint'),
       format('CONSTRAINT %%I ON %%I.%%I', k.conname, n.nspname, c.relname),
       format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname),
       n.nspname || '.' || c.relname, i.indnkeyatts
  FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
"""
    + _ON_OURS.format(owner="k.conrelid")
    + """
   AND k.contype IN ('p', 'u', 'x') AND c.relreplident IN ('d', 'f') ORDER BY k.contype, k.conname
"""
)
_INDEXES = (
    """
SELECT 'index', pg_get_indexdef(i.indexrelid), NULL,
       obj_description(i.indexrelid, 'pg_class'),
       format('INDEX %%I.%%I', n.nspname, x.relname),
       format('DROP INDEX %%I.%%I', n.nspname, x.relname),
       n.nspname || '.' || c.relname, i.indnkeyatts
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
"""
    + _ON_OURS.format(owner="i.indrelid")
    + """
   AND i.indisvalid AND NOT i.indisreplident AND (%(keys)s OR NOT i.indisunique)
   AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
 ORDER BY x.relname
"""
)
_NOTE = "INSERT INTO shardwright.move_ddl (move_id, kind, definition) VALUES (%s, %s, %s)"
_STAGES = (("index",), ("key",), ("fk",), ("validate", "comment"))
MAINTENANCE_MEMORY = "256MB"


class IndexNotBuilt(ReconcilerError):
    """An index or constraint that the target had before the copy cannot be built on its rows.

    A unique index or foreign key that holds at the source as a whole may not hold for the moved
    rows at the target: a foreign key without the shard key may point to a row that stayed.
    """

    code = "MV209"


def take_away(
    connection: psycopg.Connection, ends: Ends, tables: list[MovedTable], *, keys: bool
) -> None:
    """Note and drop foreign keys, then keys and indexes of these tables, which are empty.

    ``tables`` come with the largest first, and what takes longest to build is noted first: begun
    last, it would run on alone. A key that something else rests on (a view, a foreign key from
    elsewhere) stays. So do all that are unique without ``keys``: who loads the rows then looks rows
    up meanwhile.
    """
    names = [t.name for t in tables]
    values = {"names": names, "keys": keys}
    indexes = [
        found
        for query in ((_KEYS, _INDEXES) if keys else (_INDEXES,))
        for found in connection.execute(query, values).fetchall()
    ]
    indexes.sort(key=lambda found: (names.index(found[6]), -found[7]))
    for found in (*connection.execute(_FOREIGN_KEYS, values).fetchall(), *indexes):
        try:
            with connection.transaction():
                check_fence(connection, ends.token)
                for noted in _notes(connection, *found[:5]):
                    connection.execute(_NOTE, [ends.move.id, *noted])
                connection.execute(found[5])
        except (pg.DependentObjectsStillExist, pg.FeatureNotSupported):
            continue


def _notes(
    connection: psycopg.Connection, kind: str, definition: str, other: str, comment: str, what: str
) -> Iterator[tuple[str, str]]:
    """Yield what has to be done, by kind, for an index or a constraint to be back."""
    yield kind, definition
    if other:
        yield "validate" if kind == "fk" else "index", other
    if comment is not None:
        text = sql.SQL("COMMENT ON {} IS {}").format(sql.SQL(what), sql.Literal(comment))
        yield "comment", text.as_string(connection)


def rebuild(target: Server, id_: MoveId, workers: int, token: FencingToken) -> None:
    """Build what is noted, each with its note's removal: what needs no other side by side.

    Raises IndexNotBuilt.
    """
    for kinds in _STAGES:
        with open_session(target) as connection:
            noted = connection.execute(
                "SELECT ordinal, kind, definition FROM shardwright.move_ddl"
                " WHERE move_id = %s AND kind = ANY(%s) ORDER BY ordinal",
                [id_, list(kinds)],
            ).fetchall()
        with ThreadPoolExecutor(workers) as pool:
            for built in [pool.submit(_build, target, id_, token, *one) for one in noted]:
                built.result()


def _build(
    target: Server, id_: MoveId, token: FencingToken, ordinal: int, kind: str, definition: str
) -> None:
    # An exclusion constraint waits for what is built on its table; nobody else is there.
    options = {
        "maintenance_work_mem": MAINTENANCE_MEMORY,
        "lock_timeout": "0",
        "synchronous_commit": "off",  # lost in a crash, its note is back: it is built again
    }
    with open_session(target, **options) as connection:
        try:
            with connection.transaction():
                share_fence(connection, target, token)
                connection.execute(sql.SQL(definition))
                connection.execute(
                    "DELETE FROM shardwright.move_ddl WHERE move_id = %s AND ordinal = %s",
                    [id_, ordinal],
                )
        except psycopg.IntegrityError as error:
            raise _not_built(target, kind, definition, error) from None


def _not_built(
    target: Server, kind: str, definition: str, error: psycopg.IntegrityError
) -> IndexNotBuilt:
    said = " ".join(
        part for part in (error.diag.message_primary, error.diag.message_detail) if part
    )
    remedy = "drop the foreign key in a schema file, or let it hold the shard key"
    return IndexNotBuilt(
        target.subject,
        f"{definition}: {said}",
        remedy=remedy if kind in ("fk", "validate") else "compare the rows with the source's",
    )
