"""The copy by bytes: the target becomes a physical copy of the source as of the slot's beginning.

A slot keeps what is written from before the base backup on; the copy recovers to a position after
the backup, and the stream begins at just that position, which the subscription is told as its
origin's progress (as pg_createsubscriber does): what was committed before is in the copy, what is
committed from there on comes by the stream, and no snapshot is held meanwhile (resharding.md, 7).

It begins as the source's twin, which accepts the source's keys and follows whom the source follows.
So it is put right by a server of its own that nobody else can reach, before it takes the target's
place: guards refuse everything, subscriptions and foreign notes are gone, logins are the target's.
Rows of other keys are deleted afterwards, then the copy is noted as whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Protocol

import psycopg
from psycopg import sql

from reconciler.edges.postgres_roles import password_statement
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_clean import check_refused, delete_rows, vacuum
from reconciler.edges.replication_copy import (
    CopyStopped,
    forget_attempt,
    is_whole,
    noted_slot,
)
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    install,
    one_text,
    open_session,
    patient,
    run,
    timeline,
)
from reconciler.edges.replication_guards import GuardChange, change_guards, read_guards
from reconciler.edges.replication_streams import is_unread, make_slot
from reconciler.edges.replication_tables import sharded_tables
from reconciler.edges.replication_throttle import Throttle
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import CopyProgress, SeedFacts
from reconciler.model.names import Epoch, ScopeKey
from reconciler.model.platform import Credential, Endpoint

POLL_S = 0.1
RECOVER_S_MAX = 3600.0
"""How long a copy may take to catch up with the end of its backup."""
NAMED_MAX = 3
_FACTS = (files(__package__) / "sql" / "move_seed.sql").read_text()
_SEEDED = "SELECT seeded FROM shardwright.moved WHERE move_id = %s"
_SUBSCRIPTIONS = """
SELECT d.datname, s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
"""
_OURS = "SELECT pubname FROM pg_publication WHERE starts_with(pubname, 'shardwright_')"
_FOREIGN_TRIGGERS = """
SELECT n.nspname, c.relname, t.tgname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgparentid = 0 AND t.tgname ~ '^~shardwright_m[0-9a-f]{8}_'
   AND NOT starts_with(t.tgname, %s)
"""


class SeedRefused(ReconcilerError):
    """A physical copy would bring the target what it must not have.

    It copies all that the source has: rows of tables that the spec does not shard, other databases.
    The copy is thrown away before the target is touched; such a move needs `resharding.copy: own`.
    """

    code = "MV215"


class Clones(Protocol):
    """What makes physical copies of shards: the platform's part of it."""

    def take(
        self,
        target: ScopeKey,
        source: ScopeKey,
        at: Endpoint,
        name: str,
        pace: Callable[[int], None],
    ) -> None:
        """Take a base backup of the source beside the target; tells the bytes that come."""
        ...

    def serve(
        self, target: ScopeKey, source: ScopeKey, at: Endpoint, name: str, until: str
    ) -> tuple[Endpoint, Credential]:
        """Let the copy recover up to just before an LSN; return where it listens, and to whom."""
        ...

    def check_alive(self, target: ScopeKey, name: str) -> None:
        """Raise when the copy's server has ended."""
        ...

    def close(self, target: ScopeKey, name: str) -> None:
        """Stop the copy's server cleanly."""
        ...

    def logins(self, target: ScopeKey) -> tuple[Credential, ...]:
        """Return the target's own logins."""
        ...

    def put_in_place(self, target: ScopeKey, name: str) -> None:
        """Give the target the copy as its data, and start it."""
        ...

    def discard(self, target: ScopeKey) -> None:
        """End and delete the copies of a target that are not in place."""
        ...

    def left(self, target: ScopeKey) -> tuple[str, ...]:
        """Return the names of the copies of a target that are not in place."""
        ...


def seed_facts(ends: Ends, clones: Clones | None) -> SeedFacts:
    """Return how much a physical copy would be, and all that forbids it."""
    move = ends.move
    if clones is None:
        return SeedFacts(0, ("this platform makes no physical copies",))
    with open_session(ends.source) as connection:
        seen = _facts(connection, ends)
        filled = _filled(connection, seen["others"] or [])
    found = []
    if move.target_keys:
        found.append(f"{move.target} serves keys of its own")
    if seen["databases"]:
        found.append(f"{move.source} has other databases: {', '.join(seen['databases'])}")
    if seen["tablespaces"]:
        found.append(f"{move.source} has tablespaces")
    if filled:
        found.append(f"{_listed(filled)} of {move.source} would come along, and no key says whose")
    return SeedFacts(int(seen["bytes"]), tuple(found))


def _declared(ends: Ends) -> list[str]:
    return [*(t.name for t in ends.move.tables), *ends.move.reference]


def _filled(connection: psycopg.Connection, tables: list[list[str]]) -> list[str]:
    """Return those of the tables that hold a row."""
    found = []
    for schema, name in tables:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, name))
        row = connection.execute(query).fetchone()
        if row and row[0]:
            found.append(f"{schema}.{name}")
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"rows of {', '.join(names[:NAMED_MAX])}{more}"


def seed_rows(
    ends: Ends,
    clones: Clones,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> None:
    """Make the target a copy of the source; called again once it serves, leave it only the keys.

    Raises CopyStopped, DiskShort, SlotBlocked, SeedRefused, NotReady, and the platform's errors.
    """
    if is_whole(ends):
        return
    slot = noted_slot(ends, _SEEDED)
    if slot and is_unread(ends, slot):
        _leave_only_keys(ends, slot, stopping)
    else:
        _clone(ends, clones, tell, stopping)


def _clone(
    ends: Ends,
    clones: Clones,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> None:
    move, name = ends.move, f"{ends.move.prefix}_clone-{ends.token}"
    target, source, at = move.target_scope, move.source_scope, ends.source.primary
    forget_attempt(ends)
    with open_session(ends.target) as connection:
        generation = one_text(connection, "SELECT password_generation FROM shardwright.meta")
    with open_session(ends.source) as connection:
        size, begun_on = int(_facts(connection, ends)["bytes"]), timeline(connection)
    ends.check_room(size)
    slot = ends.new_slot()
    make_slot(ends.source, slot, ends)
    with Throttle(ends) as throttle:
        flow = _Flow(ends, size, tell, stopping, throttle)
        clones.take(target, source, at, name, flow)
    until = _position(ends.source)
    endpoint, superuser = clones.serve(target, source, at, name, until)
    clone = replace(
        ends.source, primary=endpoint, credential=superuser, name=f"the copy for {ends.target.name}"
    )
    _await_promoted(clone, lambda: clones.check_alive(target, name), stopping)
    _put_right(ends, clone, _Seed(slot, until, begun_on, generation), clones.logins(target))
    clones.close(target, name)
    _refuse_loss(ends)
    clones.put_in_place(target, name)


@dataclass(slots=True)
class _Flow:
    """Tells of the bytes that come, holds them back, and ends them."""

    ends: Ends
    total: int
    tell: Callable[[CopyProgress], None]
    stopping: Callable[[], bool]
    throttle: Throttle
    done: int = 0
    told_at: float = 0.0

    def __call__(self, size: int) -> None:
        self.done += size
        self.throttle.pace(size)
        if time.monotonic() - self.told_at < POLL_S:
            return
        self.told_at = time.monotonic()
        self.tell(CopyProgress(min(self.done, self.total), self.total, 0))
        if self.stopping():
            raise _stopped(self.ends)
        self.ends.check_room()


def _stopped(ends: Ends) -> CopyStopped:
    problem = "stopped while the shard was copied"
    return CopyStopped(f"move {ends.move.id}", problem, remedy="apply again")


def _refuse_loss(ends: Ends) -> None:
    """Raise SeedRefused unless all that the target has may go: it owns nothing, and holds nothing.

    Rows of the sharded tables are copies there, as every guard refuses every key.
    """
    with open_session(ends.target) as connection:
        owned = [g.table for g in read_guards(connection).values() if g.keys]
        filled = owned or _filled(connection, _others(connection, ends))
    if filled:
        problem = f"{_listed(filled)} of {ends.move.target} would be lost"
        remedy = "abort the move and set resharding.copy: own"
        raise SeedRefused(f"move {ends.move.id}", problem, remedy=remedy)


def _others(connection: psycopg.Connection, ends: Ends) -> list[list[str]]:
    """Return schema and name of the tables that no key divides."""
    return list(_facts(connection, ends)["others"] or [])


def _facts(connection: psycopg.Connection, ends: Ends) -> dict[str, Any]:
    values = {"database": ends.source.database, "tables": _declared(ends)}
    row = connection.execute(_FACTS, values).fetchone()
    assert row is not None  # noqa: S101  it is an aggregate
    return dict(row[0])


def _position(source: Server) -> str:
    """Return a position of the source's WAL that something has been written behind."""
    with open_session(source) as connection:
        position = one_text(connection, "SELECT pg_current_wal_insert_lsn()")
        connection.execute("SELECT pg_logical_emit_message(true, 'shardwright', 'seed')")
    return position


def _await_promoted(
    clone: Server, check_alive: Callable[[], None], stopping: Callable[[], bool]
) -> None:
    until = time.monotonic() + RECOVER_S_MAX
    while time.monotonic() < until:
        check_alive()
        if stopping():
            raise CopyStopped(clone.subject, "stopped while it recovered", remedy="apply again")
        try:
            with open_session(clone):
                return
        except ReconcilerError as error:
            if not error.transient:
                raise
        time.sleep(POLL_S)
    raise NotReady(clone.subject, f"it did not recover within {RECOVER_S_MAX:.0f} s")


@dataclass(frozen=True, slots=True)
class _Seed:
    """Where a copy's stream begins, on which timeline of the source, and whose passwords it has."""

    slot: str
    lsn: str
    begun_on: str
    generation: str


def _put_right(ends: Ends, clone: Server, seed: _Seed, logins: tuple[Credential, ...]) -> None:
    """Make the copy a shard that owns nothing and follows nobody. The logins come last."""
    token = ends.token
    _follow_nobody(clone)
    install(clone, token)
    with open_session(patient(clone, ends.limits)) as connection:
        _refuse_everything(connection, clone, ends)
        filled = _filled(connection, _others(connection, ends))
        if filled:
            remedy = "empty or shard them, or abort the move and set resharding.copy: own"
            raise SeedRefused(
                f"move {ends.move.id}", f"{_listed(filled)} came along", remedy=remedy
            )
        with connection.transaction():
            check_fence(connection, token)
            connection.execute("SELECT setval('shardwright.epoch', 1, false)")
            for table in ("moved", "move_ddl", "beat"):
                run(connection, "DELETE FROM shardwright.{}", sql.Identifier(table))
            connection.execute(
                "INSERT INTO shardwright.moved (move_id, begun, seeded, lsn, source_timeline)"
                " VALUES (%s, true, %s, %s::pg_lsn, %s)",
                [ends.move.id, seed.slot, seed.lsn, seed.begun_on],
            )
            connection.execute(
                "UPDATE shardwright.meta SET password_generation = %s", [int(seed.generation or 0)]
            )
            for login in logins:
                there = "SELECT FROM pg_roles WHERE rolname = %s"
                if connection.execute(there, [login.role]).fetchone() is not None:
                    connection.execute(password_statement(connection, login))


def _follow_nobody(clone: Server) -> None:
    """Drop the copied subscriptions, whose slots are the source's, and prepared transactions.

    What was prepared is the source's to end; if it commits, the stream brings it.
    """
    with open_session(clone) as connection:
        found = connection.execute(_SUBSCRIPTIONS).fetchall()
        prepared = connection.execute("SELECT gid, database FROM pg_prepared_xacts").fetchall()
        for (name,) in connection.execute(_OURS).fetchall():
            run(connection, "DROP PUBLICATION {}", sql.Identifier(name))
    for gid, database in prepared:
        with open_session(replace(clone, database=database)) as connection:
            run(connection, "ROLLBACK PREPARED {}", sql.Literal(gid))
    for database, name in found:
        subscription = sql.Identifier(name)
        with open_session(replace(clone, database=database)) as connection:
            run(connection, "ALTER SUBSCRIPTION {} DISABLE", subscription)
            run(connection, "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", subscription)
            run(connection, "DROP SUBSCRIPTION {}", subscription)


def _refuse_everything(connection: psycopg.Connection, clone: Server, ends: Ends) -> None:
    guards, before = read_guards(connection), Epoch(ends.move.epoch - 1)
    changes = [GuardChange(t, guards.get(t.name), KeySet(), before) for t in ends.move.tables]
    change_guards(connection, clone, ends.move, changes, ends.token)
    foreign = connection.execute(_FOREIGN_TRIGGERS, [f"~{ends.move.prefix}_"]).fetchall()
    for schema, table, trigger in foreign:
        on = sql.Identifier(schema, table)
        run(connection, "DROP TRIGGER {} ON {}", sql.Identifier(trigger), on)


def _leave_only_keys(ends: Ends, slot: str, stopping: Callable[[], bool]) -> None:
    """Delete the rows of other keys at the target, which serves nobody, and note the copy whole."""
    check_refused(ends, ends.target)
    at = patient(ends.target, ends.limits)
    with open_session(at, session_replication_role="replica") as connection:
        for table in sharded_tables(connection, ends.move):
            others = sql.SQL("({}) IS NOT TRUE").format(table.where(ends.move.keys))
            for heap in table.heaps:
                if not delete_rows(connection, ends, at, (heap, others), stopping, share=1.0):
                    raise _stopped(ends)
                vacuum(connection, heap)
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        noted = connection.execute(
            "UPDATE shardwright.moved SET slot = seeded, timeline = %s"
            " WHERE move_id = %s AND seeded = %s RETURNING 1",
            [timeline(connection), ends.move.id, slot],
        ).fetchone()
    if noted is None:
        raise NotReady(ends.target.subject, "it is another copy than it was")


def require(clones: Clones | None) -> Clones:
    """Return what makes physical copies. Raises SeedRefused where nothing does."""
    if clones is None:
        remedy = "abort the move and set resharding.copy: own"
        raise SeedRefused("this platform", "it makes no physical copies", remedy=remedy)
    return clones
