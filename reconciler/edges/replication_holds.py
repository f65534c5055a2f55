"""What a move keeps from happening while its streams live, and stale clients from then on.

**A shard key changed over the move's border, and TRUNCATE** cannot be carried by its streams. A row
that an UPDATE brings into a publication's filter is sent as an INSERT, and what it holds out of
line and did not change is not in the WAL: the other side stores NULL (resharding.md, 1.3). TRUNCATE
knows no filter, so it is not published: the rows would come back at the other side. Both are
refused at both sides, to everybody, from before the first slot until after the last (PS006; no
other shard would take them, so no router tries again). TRUNCATE asks only the triggers of the very
partition that it names, so each partition has one.

**The epoch trigger** (resharding.md, 3.3b) closes what a row trigger cannot see: an UPDATE or
DELETE of a moved key whose row is no longer at the source, or was born at the target, touches no
row and would be acknowledged. It refuses every such statement of a session whose
``shardwright.epoch`` is older than the side's, or that never set it: such a client cannot know that
keys have moved, so any UPDATE, DELETE, MERGE or upsert of it may miss rows. INSERTs miss nothing
(the row trigger refuses the foreign ones), so they are not asked. A client that is routed by
somebody else, and vouches for it, sets a high epoch once (``ALTER ROLE … SET shardwright.epoch``).

The trigger is there before the cut and stays for good; what it asks for is a sequence, which no
snapshot hides and no lock guards. So it is set within a cut in one round trip, just before the
first table is opened: from then on a row may be born there, be it by a client that still follows
the map of an earlier owner. Until the map is published it refuses the clients of the keys that stay
as well, so a cut that backs out sets it back, and whoever finds it above the map's does so too.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from reconciler.edges.postgres_guards import crosses, table_identifier
from reconciler.edges.postgres_session import LockNotObtained
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    one_text,
    open_session,
)
from reconciler.edges.replication_guards import try_locked
from reconciler.edges.replication_ready import blockers
from reconciler.edges.replication_tables import new_reference
from reconciler.model.access import Guarding
from reconciler.model.desired import ShardedTable
from reconciler.model.moves import NO_EPOCH, Move
from reconciler.model.names import Epoch, FencingToken

ATTEMPTS_TOLD = 4
"""For how long a lock is tried for before it is said who holds it: 3 s."""
_MISSING = """
SELECT w.name, n.nspname || '.' || r.relname, k.kind
  FROM unnest(%(names)s::text[], %(keyed)s::bool[]) AS w(name, keyed)
  JOIN pg_namespace wn ON wn.nspname = split_part(w.name, '.', 1)
  JOIN pg_class c ON c.relnamespace = wn.oid AND wn.nspname || '.' || c.relname = w.name
  JOIN pg_class r ON r.relkind IN ('r', 'p')
       AND (r.oid = c.oid OR r.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))
  JOIN pg_namespace n ON n.oid = r.relnamespace
  JOIN (VALUES ('truncate', %(move)s || '_truncate'), ('key', %(move)s || '_key'),
               ('epoch', '~shardwright_epoch')) AS k(kind, trigger)
       ON k.kind = 'truncate' OR (w.keyed AND r.oid = c.oid)
 WHERE k.kind = ANY(%(kinds)s) AND NOT EXISTS (
         SELECT FROM pg_trigger t
          WHERE t.tgrelid = r.oid AND t.tgname = k.trigger AND t.tgenabled IN ('O', 'A')
            AND (k.kind <> 'epoch' OR t.tgnargs = 0))
 ORDER BY 1, 2, 3
"""
_STANDING = """
SELECT n.nspname || '.' || c.relname, t.tgname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgparentid = 0 AND starts_with(t.tgname, %s) ORDER BY 1, 2
"""
_STREAMS = """
SELECT string_agg(what, ', ') FROM (
  SELECT 'slot ' || slot_name FROM pg_replication_slots
   WHERE starts_with(slot_name, %s) AND database = current_database()
  UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE starts_with(pubname, %s)
) AS s(what)
"""
_KINDS = ("truncate", "key", "epoch")
_EPOCH = "SELECT pg_sequence_last_value(to_regclass('shardwright.epoch'))"

Missing = list[tuple[str, str, str]]
"""Table of the move, it or its partition, and the kind of trigger that is not there."""


def missing(
    connection: psycopg.Connection, move: Move, *, source: bool, kinds: tuple[str, ...] = _KINDS
) -> Missing:
    """Return the triggers that are not there. Reference tables are only followed at the source."""
    tables = (*move.tables, *(new_reference(move) if source else ()))
    values = {
        "names": [t.name for t in tables],
        "keyed": [bool(t.key) for t in tables],
        "move": _prefix(move),
        "kinds": list(kinds),
    }
    return connection.execute(_MISSING, values).fetchall()


def _prefix(move: Move) -> str:
    return f"~{move.prefix}"


def standing(connection: psycopg.Connection, move: Move) -> list[tuple[str, str]]:
    """Return the move's own triggers here: table and name."""
    return connection.execute(_STANDING, [f"{_prefix(move)}_"]).fetchall()


def hold(ends: Ends) -> None:
    """Make what is missing of the move's triggers at both sides.

    A comparison that was made without them proves nothing any more: it is forgotten.
    """
    for at, source in ((ends.source, True), (ends.target, False)):
        with open_session(at) as connection:
            absent = missing(connection, ends.move, source=source)
        if absent:
            _forget_comparison(ends)
            _make(at, ends.move, absent, ends.token)


def _forget_comparison(ends: Ends) -> None:
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute(
            "UPDATE shardwright.moved SET verified = '' WHERE move_id = %s", [ends.move.id]
        )


def _make(at: Server, move: Move, absent: Missing, token: FencingToken) -> None:
    """Create triggers, all of a table in one transaction. The locks wait its writers out."""
    tables = {t.name: t for t in (*move.tables, *new_reference(move))}
    with open_session(at) as connection:
        for name in dict.fromkeys(name for name, _, _ in absent):
            parts = [
                _trigger(connection, at, move, tables[name], part, kind)
                for table, part, kind in absent
                if table == name
            ]
            _locked(connection, at, tables[name], sql.SQL("; ").join(parts), token)


def _locked(
    connection: psycopg.Connection,
    at: Server,
    table: ShardedTable,
    body: sql.Composable,
    token: FencingToken,
) -> None:
    """Run ``body`` with a table locked. Raises LockNotObtained, which says who holds it up.

    Soon: whoever watches the move is to know what it waits for, and it is tried again.
    """
    try:
        try_locked(connection, [table], body, token, attempts=ATTEMPTS_TOLD)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        raise LockNotObtained(
            f"{at.subject} table {table.name}",
            f"not free of writers: {blockers(connection, table.name)}",
            remedy="end long or idle transactions there (pg_stat_activity)",
        ) from None


def _trigger(
    connection: psycopg.Connection,
    at: Server,
    move: Move,
    table: ShardedTable,
    part: str,
    kind: str,
) -> sql.Composed:
    if kind == "epoch":
        return _epoch_trigger(table_identifier(part))
    event, when = "BEFORE TRUNCATE", sql.Composed([sql.SQL("FOR EACH STATEMENT")])
    if kind == "key":
        guarding = Guarding(move.key_type, move.tables, move.keys, move.epoch)
        timing, condition = crosses(connection, at, guarding, table)
        event = f"{timing} UPDATE"
        when = sql.SQL("FOR EACH ROW WHEN ({})").format(condition)
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} {} ON {} {} EXECUTE FUNCTION shardwright.reject_held({})"
    ).format(
        sql.Identifier(f"{_prefix(move)}_{kind}"),
        sql.SQL(event),
        table_identifier(part),
        when,
        sql.Literal(str(move.id)),
    )


def _epoch_trigger(table: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} BEFORE UPDATE OR DELETE ON {} FOR EACH STATEMENT WHEN ("
        "coalesce(nullif(pg_catalog.current_setting('shardwright.epoch', true), ''), '0')"
        "::pg_catalog.int8 < pg_catalog.pg_sequence_last_value("
        "'shardwright.epoch'::pg_catalog.regclass)) EXECUTE FUNCTION shardwright.reject_stale()"
    ).format(sql.Identifier("~shardwright_epoch"), table)


def check_held(connection: psycopg.Connection, move: Move, at: Server) -> None:
    """Raise NotReady unless stale clients can be refused here by one statement."""
    if missing(connection, move, source=False):
        raise NotReady(at.subject, "a trigger of the move is missing")


def release(at: Server, move: Move, token: FencingToken) -> None:
    """Take the move's own triggers away. Raises NotReady while a stream of it can be here."""
    with open_session(at) as connection:
        streams = one_text(connection, _STREAMS, move.prefix, move.prefix)
        if streams:
            raise NotReady(at.subject, f"{streams} is still there: its triggers stay")
        for table, trigger in standing(connection, move):
            drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                sql.Identifier(trigger), table_identifier(table)
            )
            _locked(connection, at, ShardedTable(table, ""), drop, token)


def refused_below(connection: psycopg.Connection, move: Move) -> Epoch:
    """Return the epoch that UPDATEs and DELETEs have to know in all tables; 0 when in none."""
    if missing(connection, move, source=False, kinds=("epoch",)):
        return NO_EPOCH
    return Epoch(int(one_text(connection, _EPOCH) or 0))


def refuse_stale(at: Server, move: Move, epoch: Epoch, token: FencingToken) -> None:
    """Let UPDATEs and DELETEs of sessions that do not know ``epoch`` be refused from now on."""
    with open_session(at) as connection:
        absent = missing(connection, move, source=False, kinds=("epoch",))
    _make(at, move, absent, token)
    with open_session(at) as connection:
        set_epoch(connection, epoch, token)


def set_epoch(connection: psycopg.Connection, epoch: Epoch, token: FencingToken) -> None:
    """As ``refuse_stale`` where the triggers are there, in one round trip; 0: nobody is refused."""
    connection.execute(
        sql.SQL(
            "SELECT shardwright.check_fence({}); SELECT setval('shardwright.epoch', {}, {})"
        ).format(sql.Literal(int(token)), sql.Literal(max(1, int(epoch))), sql.Literal(epoch > 0))
    )
