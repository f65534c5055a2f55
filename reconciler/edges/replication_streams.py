"""Publications, slots and subscriptions of a move: made, read back, and taken away.

Row filters only where they are read back: ``FOR TABLES IN SCHEMA`` beside them voids them in
silence (resharding.md, 1.1). A publication never holds 'truncate', which knows no filter.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psycopg
from psycopg import errors as pg
from psycopg import sql

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    address,
    check_fence,
    conninfo,
    one_text,
    open_session,
    run,
    silent_session,
    take_over,
)
from reconciler.edges.replication_tables import MovedTable, all_tables, sharded_tables
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import FencingToken

ORIGIN_SINCE = 160_000
"""From this version on a subscription can refuse rows that came to its publisher from elsewhere."""
KEPT_SINCE = 170_000
"""From this version on a standby keeps a copy of a slot that asks for it."""
DROP_ATTEMPTS_MAX = 50
DROP_PAUSE_S = 0.1
_SUBSCRIPTION = """
SELECT {} FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname = %s
"""
_WRITERS = """
SELECT format('%s transaction %s of %s%s, for %s s', coalesce(nullif(application_name, ''), 'a'),
              pid, usename, coalesce(' in database ' || datname, ''),
              extract(epoch FROM clock_timestamp() - xact_start)::int)
  FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT format('prepared transaction %s of %s in database %s', gid, owner, database)
  FROM pg_prepared_xacts LIMIT 5
"""


_ADVANCE_ORIGIN = """
SELECT pg_replication_origin_advance('pg_' || oid, %s::pg_lsn) FROM pg_subscription
 WHERE subname = %s AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class FilterVoid(ReconcilerError):
    """A publication's row filter is not what was asked for, so it would send foreign rows.

    PostgreSQL drops filters in silence when a schema of the table is published as well. The move
    stops before a slot is made.
    """

    code = "MV206"


class SlotBlocked(ReconcilerError):
    """A replication slot was not made within its limit: transactions that write are open.

    A slot begins where no transaction of the whole server is under way, other databases and
    prepared transactions included. They are named in the message.
    """

    code = "MV207"
    transient = True


def publish(
    publisher: Server,
    name: str,
    tables: Iterable[MovedTable],
    ends: Ends,
) -> None:
    """Publish the keys' rows and the lane's beats, and read the filters back."""
    parts = [
        sql.SQL("TABLE {}{}").format(
            t.identifier, _filter(t.where(ends.move.keys) if t.key else None)
        )
        for t in tables
    ]
    lane = sql.SQL("(lane = {})").format(sql.Literal(name))
    parts.append(sql.SQL("TABLE shardwright.beat{}").format(_filter(lane)))
    with open_session(publisher) as connection, connection.transaction():
        check_fence(connection, ends.token)
        run(connection, "DROP PUBLICATION IF EXISTS {}", sql.Identifier(name))
        run(
            connection,
            "CREATE PUBLICATION {} FOR {} WITH (publish = 'insert,update,delete',"
            " publish_via_partition_root = true)",
            sql.Identifier(name),
            sql.SQL(", ").join(parts),
        )
        _refuse_void(connection, name, [t.name for t in tables if t.key], publisher)


def _filter(condition: sql.Composable | None) -> sql.Composable:
    return sql.SQL("") if condition is None else sql.SQL(" WHERE {}").format(condition)


def _refuse_void(
    connection: psycopg.Connection, name: str, filtered: list[str], publisher: Server
) -> None:
    rows = connection.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables"
        " WHERE pubname = %s AND rowfilter IS NOT NULL",
        [name],
    ).fetchall()
    void = {*filtered, "shardwright.beat"} - {str(table) for (table,) in rows}
    if void:
        raise FilterVoid(publisher.subject, f"no row filter on {', '.join(sorted(void))}")


def publish_forward(ends: Ends) -> None:
    """Publish at the source. Reference tables go along where UPDATEs of them stay possible."""
    with open_session(ends.source) as connection:
        tables = all_tables(connection, ends.move)
        followed = [t for t in tables if t.key or has_identity(connection, t)]
    publish(ends.source, ends.forward, followed, ends)


def has_identity(connection: psycopg.Connection, table: MovedTable) -> bool:
    """Whether a publication of it leaves UPDATE and DELETE possible for the application."""
    if table.identity in ("f", "i"):
        return True
    quoted = table.identifier.as_string(connection)
    query = "SELECT FROM pg_index WHERE indrelid = %s::regclass AND indisprimary"
    return table.identity == "d" and connection.execute(query, [quoted]).fetchone() is not None


def arm(ends: Ends) -> None:
    """Publish the way back at the target, and make its slot. Raises SlotBlocked.

    A standby may keep the slot as it was before the cut, with all rows that came from the source.
    Sent back they would meet themselves, so it is kept only where the source can refuse them.
    """
    with open_session(ends.source) as connection:
        filters = connection.info.server_version >= ORIGIN_SINCE
    with open_session(ends.target) as connection:
        tables = sharded_tables(connection, ends.move)
        states = dict(_slots(connection, f"^{ends.reverse}$"))
    if states.get(ends.reverse) not in (None, "lost"):
        return
    publish(ends.target, ends.reverse, tables, ends)
    drop_slots(ends.target, ends.reverse, ends.token)
    make_slot(ends.target, ends.reverse, ends, may_be_kept=filters)


def make_slot(publisher: Server, slot: str, ends: Ends, *, may_be_kept: bool = True) -> None:
    """Make a slot whose snapshot nobody asks for. Raises SlotBlocked."""
    wait_ms = ends.limits.slot_wait_ms
    with open_session(publisher, statement_timeout=str(wait_ms)) as connection:
        kept = ", failover => true" if may_be_kept and is_kept(connection) else ""
        make = f"SELECT pg_create_logical_replication_slot(%s, 'pgoutput'{kept})"
        try:
            take_over(connection, ends.token)
            with connection.transaction():
                # A slot that a superseded applier made late would pass for a way back without gaps.
                connection.execute("SELECT shardwright.hold_fence(%s)", [ends.token])
                connection.execute(make, [slot])
        except (pg.QueryCanceled, pg.LockNotAvailable):
            raise slot_blocked(publisher) from None


def is_kept(publisher: psycopg.Connection) -> bool:
    """Tell whether standbys can keep a slot; after a failover all rows are compared once more."""
    return publisher.info.server_version >= KEPT_SINCE


def slot_blocked(publisher: Server) -> SlotBlocked:
    """Return the error that names whom a slot waits for."""
    with open_session(publisher) as connection:
        writers = [str(text) for (text,) in connection.execute(_WRITERS).fetchall()]
    return SlotBlocked(
        publisher.subject,
        f"no slot while these are open: {'; '.join(writers) or 'they have ended by now'}",
        remedy="end them (pg_stat_activity, pg_prepared_xacts)",
    )


def subscribe(
    subscriber: Server, publisher: Server, name: str, slot: str, ends: Ends, *, origin: str = ""
) -> None:
    """Let one side follow a slot of the other that is there already. Raises NotReady.

    ``origin`` is the LSN up to which it has everything, where that is beyond the slot's beginning.
    """
    if is_subscribed(subscriber, name):
        follow_again(subscriber, publisher, name, slot, ends.token)
    else:
        create_subscription(subscriber, publisher, name, slot, ends, origin=origin)


def create_subscription(
    subscriber: Server,
    publisher: Server,
    name: str,
    slot: str,
    ends: Ends,
    *,
    syncs: bool = False,
    origin: str = "",
) -> None:
    """Make a subscription to a slot; with ``syncs`` it brings all rows, once it is enabled.

    With ``origin`` it begins there: a slot's own position may fall back when its server crashes.
    """
    with open_session(publisher) as connection:
        if not slot_is_whole(connection, slot):
            raise NotReady(publisher.subject, f"slot {slot} is not there, or has lost WAL")
        version = connection.info.server_version
        kept = is_kept(connection)
        portable = all(t.portable for t in sharded_tables(connection, ends.move))
    with silent_session(subscriber) as connection, connection.transaction():
        check_fence(connection, ends.token)
        mine = connection.info.server_version
        run(
            connection,
            "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (create_slot = false,"
            " {}, slot_name = {}, synchronous_commit = 'off', binary = {}{})",
            sql.Identifier(name),
            sql.Literal(conninfo(publisher, name)),
            sql.Identifier(name),
            sql.SQL("copy_data, enabled = false" if syncs else _begins_at(origin)),
            sql.Literal(slot),
            sql.SQL("on" if portable and mine // 10_000 == version // 10_000 else "off"),
            # On 15 there is no origin; the order in ``reverse`` keeps rows from going round.
            sql.SQL(
                (", origin = none" if min(mine, version) >= ORIGIN_SINCE else "")
                + (", failover = true" if kept and mine >= KEPT_SINCE else "")
            ),
        )
        if origin:
            connection.execute(_ADVANCE_ORIGIN, [origin, name])
            run(connection, "ALTER SUBSCRIPTION {} ENABLE", sql.Identifier(name))


def _begins_at(origin: str) -> str:
    return "copy_data = false, enabled = false" if origin else "copy_data = false"


def follow_again(
    subscriber: Server, publisher: Server, name: str, slot: str, token: FencingToken
) -> None:
    """Go on with a subscription that was stopped half-way, or whose publisher failed over.

    It knows what it has applied; a new one would begin at the slot's confirmed position, which is
    behind that, and meet its own rows.
    """
    subscription = sql.Identifier(name)
    query = _SUBSCRIPTION.format("subenabled, strpos(subconninfo, %s) > 0")
    with silent_session(subscriber) as connection, connection.transaction():
        check_fence(connection, token)
        row = connection.execute(query, [address(publisher), name]).fetchone()
        enabled, points_there = row or (True, True)
        if not points_there:
            there = sql.Literal(conninfo(publisher, name))
            run(connection, "ALTER SUBSCRIPTION {} CONNECTION {}", subscription, there)
        if not enabled:
            wanted = sql.Literal(slot)
            run(connection, "ALTER SUBSCRIPTION {} SET (slot_name = {})", subscription, wanted)
            run(connection, "ALTER SUBSCRIPTION {} ENABLE", subscription)


def is_subscribed(subscriber: Server, name: str) -> bool:
    """Tell whether a subscription of this name is in this database."""
    with open_session(subscriber) as connection:
        return connection.execute(_SUBSCRIPTION.format("1"), [name]).fetchone() is not None


def stop_following(subscriber: Server, name: str, token: FencingToken) -> None:
    """Stop the apply worker of a subscription and cut it off its slot, which stays."""
    if not is_subscribed(subscriber, name):
        return
    with open_session(subscriber) as connection, connection.transaction():
        check_fence(connection, token)
        run(connection, "ALTER SUBSCRIPTION {} DISABLE", sql.Identifier(name))
        run(connection, "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", sql.Identifier(name))


def drop_subscription(subscriber: Server, name: str, token: FencingToken) -> None:
    """Drop a subscription and leave its slot to ``drop_slots``: the other side may be down."""
    stop_following(subscriber, name, token)
    with open_session(subscriber) as connection, connection.transaction():
        check_fence(connection, token)
        run(connection, "DROP SUBSCRIPTION IF EXISTS {}", sql.Identifier(name))


def drop_slots(publisher: Server, prefix: str, token: FencingToken) -> None:
    """Drop the slots whose names begin so, and end who follows them. Raises NotReady."""
    drop_matching(publisher, f"^{prefix}", token)


def slot_is_whole(connection: psycopg.Connection, slot: str) -> bool:
    """Tell whether a slot is there and has all its WAL."""
    query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
    return one_text(connection, query, slot) not in ("", "lost")


def is_unread(ends: Ends, slot: str) -> bool:
    """Tell whether nobody took from a slot what came after the copy that is noted at the target.

    A target that failed over may lack what it had confirmed, and that never comes again.
    """
    with open_session(ends.target) as connection:
        query = "SELECT lsn FROM shardwright.moved WHERE move_id = %s"
        lsn = one_text(connection, query, ends.move.id)
    with open_session(ends.source) as connection:
        query = "SELECT confirmed_flush_lsn <= %s::pg_lsn FROM pg_replication_slots"
        return one_text(connection, f"{query} WHERE slot_name = %s", lsn or None, slot) == "True"


def drop_matching(publisher: Server, pattern: str, token: FencingToken) -> None:
    """Drop the slots whose names match a pattern, and end who follows them. Raises NotReady."""
    with open_session(publisher) as connection:
        for _ in range(DROP_ATTEMPTS_MAX):
            names = [name for name, _ in _slots(connection, pattern)]
            if not names:
                return
            with connection.transaction():
                check_fence(connection, token)
                followed = connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE slot_name = ANY(%s) AND active_pid IS NOT NULL",
                    [names],
                ).fetchall()
            if followed:
                connection.execute("SELECT pg_sleep(%s)", [DROP_PAUSE_S])
            # Followed again, or gone, since it was looked at:
            with suppress(pg.ObjectInUse, pg.UndefinedObject), connection.transaction():
                check_fence(connection, token)
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                    " WHERE slot_name = ANY(%s) AND NOT active",
                    [names],
                )
    raise NotReady(publisher.subject, f"slot {', '.join(names)} is followed again and again")


def drop_forward(ends: Ends) -> None:
    """Drop the forward subscription, then its slot: on 15 both ways at once make rows go round."""
    stop_following(ends.target, ends.forward, ends.token)
    drop_slots(ends.source, ends.forward, ends.token)
    drop_subscription(ends.target, ends.forward, ends.token)
    drop_syncs(ends)


def drop_syncs(ends: Ends) -> None:
    """Drop the slots that tablesync made at the source, once nothing is there to use them.

    They are forgotten last, and only when the target has no subscription that makes new ones.
    """
    move, query = ends.move, "SELECT syncs FROM shardwright.moved WHERE move_id = %s"
    with open_session(ends.source) as connection:
        if one_text(connection, "SELECT to_regclass('shardwright.moved')") == "":
            return
        pattern = one_text(connection, query, move.id)
        if not pattern:
            return
    drop_matching(ends.source, pattern, ends.token)
    if is_subscribed(ends.target, ends.forward):
        raise NotReady(ends.target.subject, "its subscription may make such slots again")
    with open_session(ends.source) as connection, connection.transaction():
        check_fence(connection, ends.token)
        connection.execute("DELETE FROM shardwright.moved WHERE move_id = %s", [move.id])


def drop_publication(publisher: Server, name: str, token: FencingToken) -> None:
    """Drop a publication, if it is there."""
    with open_session(publisher) as connection, connection.transaction():
        check_fence(connection, token)
        run(connection, "DROP PUBLICATION IF EXISTS {}", sql.Identifier(name))


def _slots(connection: psycopg.Connection, pattern: str) -> list[tuple[str, str]]:
    """Return name and ``wal_status`` of the slots of this database whose names match."""
    rows = connection.execute(
        "SELECT slot_name, coalesce(wal_status, '') FROM pg_replication_slots"
        " WHERE slot_name ~ %s AND database = current_database()",
        [pattern],
    ).fetchall()
    return [(str(name), str(status)) for name, status in rows]
