"""What a physical copy of a shard would bring, and what of it nobody could tell whose it is."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from reconciler.edges.replication_ends import Ends, open_session
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import SeedFacts

NAMED_MAX = 3
_FACTS = (files(__package__) / "sql" / "move_seed.sql").read_text()


class SeedRefused(ReconcilerError):
    """A physical copy would bring the target what it must not have.

    It copies all that the source has: rows of tables that the spec does not shard, other databases.
    The copy is thrown away before the target is touched; such a move needs `resharding.copy: own`.
    """

    code = "MV215"


def seed_facts(ends: Ends, *, possible: bool) -> SeedFacts:
    """Return how much a physical copy would be, and all that forbids it.

    ``possible``: there is somebody who can make one.
    """
    move = ends.move
    if not possible:
        return SeedFacts(0, ("this platform makes no physical copies",))
    with open_session(ends.source) as connection:
        seen = facts(connection, ends)
        filled = filled_of(connection, seen["others"] or [])
    found = []
    if move.target_keys:
        found.append(f"{move.target} serves keys of its own")
    if seen["databases"]:
        found.append(f"{move.source} has other databases: {', '.join(seen['databases'])}")
    if seen["tablespaces"]:
        found.append(f"{move.source} has tablespaces")
    if filled:
        found.append(f"{listed(filled)} of {move.source} would come along, and no key says whose")
    return SeedFacts(int(seen["bytes"]), tuple(found))


def facts(connection: psycopg.Connection, ends: Ends) -> dict[str, Any]:
    """Return the answer of ``move_seed.sql``."""
    declared = [*(t.name for t in ends.move.tables), *ends.move.reference]
    values = {"database": ends.source.database, "tables": declared}
    row = connection.execute(_FACTS, values).fetchone()
    assert row is not None  # noqa: S101  it is an aggregate
    return dict(row[0])


def filled_others(connection: psycopg.Connection, ends: Ends) -> list[str]:
    """Return the tables that no key divides and that hold a row."""
    return filled_of(connection, list(facts(connection, ends)["others"] or []))


def filled_of(connection: psycopg.Connection, tables: list[list[str]]) -> list[str]:
    """Return those of the tables, each by schema and name, that hold a row."""
    found = []
    for schema, name in tables:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, name))
        row = connection.execute(query).fetchone()
        if row and row[0]:
            found.append(f"{schema}.{name}")
    return found


def listed(names: list[str]) -> str:
    """Say whose rows, in a few words."""
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"rows of {', '.join(names[:NAMED_MAX])}{more}"
