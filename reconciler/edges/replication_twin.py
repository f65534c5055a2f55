"""Making the physical copy of a source a shard that owns nothing, while nobody else can reach it.

It begins as the source's twin, which accepts the source's keys and follows whom the source follows.
Guards refuse everything, subscriptions and foreign notes go, then the rows of other keys, and last
come its note and the target's logins. Its server keeps nothing through a crash, so deleting costs
no page images, no flush and no standby's time; a copy whose server dies is thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from reconciler.edges.postgres_roles import password_statement
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_clean import check_refused, delete_pages, first_pages
from reconciler.edges.replication_copy import CopyStopped
from reconciler.edges.replication_ends import (
    Ends,
    check_fence,
    install,
    open_session,
    patient,
    run,
)
from reconciler.edges.replication_guards import GuardChange, change_guards, read_guards
from reconciler.edges.replication_seed_facts import SeedRefused, filled_others, listed
from reconciler.edges.replication_tables import Heap, sharded_tables
from reconciler.model.keyspace import KeySet
from reconciler.model.names import Epoch
from reconciler.model.platform import Credential

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


@dataclass(frozen=True, slots=True)
class Seed:
    """Where a copy's stream begins, on which timeline of the source, and whose passwords it has."""

    slot: str
    lsn: str
    begun_on: str
    generation: str


def put_right(
    ends: Ends,
    clone: Server,
    seed: Seed,
    logins: tuple[Credential, ...],
    stopping: Callable[[], bool],
) -> None:
    """Make the copy a shard that owns nothing and follows nobody, with the moved rows only.

    Its note and the logins come last. Raises SeedRefused, CopyStopped.
    """
    _follow_nobody(clone)
    install(clone, ends.token)
    with open_session(patient(clone, ends.limits)) as connection:
        _refuse_everything(connection, clone, ends)
        filled = filled_others(connection, ends)
    if filled:
        remedy = "empty or shard them, or abort the move and set resharding.copy: own"
        raise SeedRefused(f"move {ends.move.id}", f"{listed(filled)} came along", remedy=remedy)
    _leave_only_keys(ends, clone, stopping)
    with open_session(clone) as connection, connection.transaction():
        check_fence(connection, ends.token)
        _note(connection, ends, seed)
        for login in logins:
            there = "SELECT FROM pg_roles WHERE rolname = %s"
            if connection.execute(there, [login.role]).fetchone() is not None:
                connection.execute(password_statement(connection, login))


def _note(connection: psycopg.Connection, ends: Ends, seed: Seed) -> None:
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


Part = tuple[Heap, sql.Composable]


def _leave_only_keys(ends: Ends, clone: Server, stopping: Callable[[], bool]) -> None:
    """Delete the rows of other keys, by several sessions at once."""
    check_refused(ends, clone)
    with open_session(clone) as connection:
        parts: list[Part] = [
            (heap, sql.SQL("({}) IS NOT TRUE").format(table.where(ends.move.keys)))
            for table in sharded_tables(connection, ends.move)
            for heap in table.heaps
        ]
    batches = deque((part, first) for part in parts for first in first_pages(part[0], ends.limits))

    def take() -> tuple[Part, int] | None:
        if stopping():
            raise CopyStopped(f"move {ends.move.id}", "stopped while the copy lost its other rows")
        with suppress(IndexError):
            return batches.popleft()
        return None

    def work() -> None:
        at = patient(clone, ends.limits)
        try:
            with open_session(at, session_replication_role="replica") as connection:
                while batch := take():
                    delete_pages(connection, ends, clone, *batch)
        except BaseException:
            batches.clear()  # so that the others end as well
            raise

    with ThreadPoolExecutor(ends.limits.workers) as pool:
        for working in [pool.submit(work) for _ in range(ends.limits.workers)]:
            working.result()
