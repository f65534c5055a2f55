"""What moves left on a shard: found by their names, and taken away for moves that are no more."""

from __future__ import annotations

import re

from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Limits,
    check_fence,
    one_text,
    open_session,
    patient,
    run,
)
from reconciler.edges.replication_indexes import rebuild
from reconciler.edges.replication_matviews import refresh_noted
from reconciler.edges.replication_streams import (
    drop_matching,
    drop_publication,
    drop_slots,
    drop_subscription,
    stop_following,
)
from reconciler.model.moves import Leftover, MoveId
from reconciler.model.names import FencingToken

_OURS = "shardwright_(m[0-9a-f]{8})_"
_OBJECTS = """
SELECT substring(name FROM %(ours)s), kind, name FROM (
  SELECT 'publication' AS kind, pubname::text AS name FROM pg_publication
  UNION ALL SELECT 'slot', slot_name::text FROM pg_replication_slots
             WHERE database = current_database()
  UNION ALL SELECT 'subscription', subname::text FROM pg_subscription
             WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION ALL SELECT 'trigger', format('%%s on %%s', tgname, tgrelid::regclass) FROM pg_trigger
             WHERE tgparentid = 0
  ) AS objects
 WHERE name ~ %(ours)s ORDER BY kind, name
"""
_NOTES = """
SELECT substring(lane FROM %(ours)s), 'beats', lane FROM shardwright.beat GROUP BY lane
UNION ALL SELECT move_id, 'note', move_id FROM shardwright.moved
UNION ALL SELECT m.move_id, 'slot', s.slot_name FROM shardwright.moved m
            JOIN pg_replication_slots s ON m.syncs <> '' AND s.slot_name ~ m.syncs
UNION ALL SELECT move_id, 'definitions', move_id FROM shardwright.move_ddl GROUP BY move_id
ORDER BY 2, 3
"""
_TRIGGERS = """
SELECT tgname, nspname, relname FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE tgparentid = 0 AND tgname ~ %s
"""


def leftovers(at: Server) -> tuple[Leftover, ...]:
    """Return every object and note of any move that is on a shard."""
    with open_session(at) as connection:
        found = connection.execute(_OBJECTS, {"ours": _OURS}).fetchall()
        if one_text(connection, "SELECT to_regclass('shardwright.moved')"):
            found += connection.execute(_NOTES, {"ours": _OURS}).fetchall()
    return tuple(Leftover(MoveId(str(id_)), f"{kind} {name}") for id_, kind, name in found)


def clones_left(names: tuple[str, ...]) -> tuple[Leftover, ...]:
    """Return the physical copies that moves began and that are not in place, by their names."""
    found = ((re.match(_OURS, name), name) for name in names)
    return tuple(Leftover(MoveId(m[1]), f"copy of a shard {name}") for m, name in found if m)


def remove(at: Server, id_: MoveId, token: FencingToken, limits: Limits) -> None:
    """Take away all of one move on a shard; what a copy took away is built again first.

    The order is that of ``replication_clean``: nobody follows any more, then slots go, then the
    rest. Rows stay: where they are a copy the shard's guards refuse them to clients.
    """
    prefix = f"shardwright_{id_}"
    names = (f"{prefix}_fwd", f"{prefix}_rev")
    for name in names:
        stop_following(at, name, token)
    drop_slots(at, f"{prefix}_", token)
    for name in names:
        drop_subscription(at, name, token)
        drop_publication(at, name, token)
    with open_session(at) as connection, connection.transaction():
        check_fence(connection, token)
        for trigger, schema, table in connection.execute(_TRIGGERS, [f"{prefix}_"]).fetchall():
            on = sql.Identifier(str(schema), str(table))
            run(connection, "DROP TRIGGER IF EXISTS {} ON {}", sql.Identifier(str(trigger)), on)
    with open_session(at) as connection:
        if not one_text(connection, "SELECT to_regclass('shardwright.moved')"):
            return
        query = "SELECT syncs FROM shardwright.moved WHERE move_id = %s"
        syncs = one_text(connection, query, id_)
    if syncs:
        drop_matching(at, syncs, token)
    rebuild(patient(at, limits), id_, limits.workers, token)
    refresh_noted(patient(at, limits), id_, token)
    with open_session(at) as connection, connection.transaction():
        check_fence(connection, token)
        connection.execute("DELETE FROM shardwright.beat WHERE lane = ANY(%s)", [list(names)])
        connection.execute("DELETE FROM shardwright.moved WHERE move_id = %s", [id_])
