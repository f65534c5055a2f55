"""Whether both sides of a move have what schema files bring beside tables.

Views, functions, extensions, policies, owners, grants, memberships and comments are not replicated:
the target has them from its own schema files. A change by hand at one side would show only once the
keys are there. So a plan refuses a move while a side has what the other has not, and a cut waits
for what came later, as it does for the tables' own shape (``replication_tables``). All schemas but
PostgreSQL's, ours, and what belongs to an extension; owners, grants and comments of what a move is
about: its tables and their sequences, views and functions; members of the roles in these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files

import psycopg

from reconciler.model.moves import Move, Obstacle, SchemaObject

_LOOK = (files(__package__) / "sql" / "move_schema.sql").read_text()

_OF_ITS_VERSION = {"view", "materialized view", "function", "procedure", "aggregate", "policy"} | {
    "trigger", "rule", "type", "extension",
}  # fmt: skip
"""What PostgreSQL brings, or writes down anew when asked: each major version has its own."""
_MADE = {"extension", "view", "materialized view", "function", "procedure", "aggregate", "type"}
"""What a schema file makes by its name; the rest belongs to something else."""
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Schema:
    """One side: its server's major version, and its objects by kind and name.

    Of each a digest, and the name of what it belongs to: nothing is told twice.
    """

    major: int
    objects: dict[tuple[str, str], tuple[str, str]]


def read_schema(connection: psycopg.Connection, tables: Iterable[str]) -> Schema:
    """Return what is here beside these tables, by one query of the catalogue."""
    rows = connection.execute(_LOOK, {"names": list(tables)}).fetchall()
    major = connection.info.server_version // 10_000
    return Schema(major, {(kind, name): (said, owner) for kind, name, said, owner in rows})


def differences(source: Schema, target: Schema, names: tuple[str, str]) -> list[str]:
    """Name each object that is at one side only, or not the same; ``names`` are the sides'.

    Between major versions definitions are not compared, only whether they are there.
    """
    here, there = source.objects, target.objects
    alone = {name for _, name in here.keys() ^ there.keys()}
    found = []
    for kind, name in sorted(here.keys() | there.keys()):
        mine, theirs = here.get((kind, name)), there.get((kind, name))
        if mine is None or theirs is None:
            _, owner = mine or theirs or ("", "")
            if owner not in alone:
                found.append(f"{kind} {name} is only at {names[1] if mine is None else names[0]}")
        elif mine != theirs and (source.major == target.major or kind not in _OF_ITS_VERSION):
            found.append(f"{kind} {name} is not the same at {names[0]} and {names[1]}")
    return found


def obstacles(
    here: psycopg.Connection, there: psycopg.Connection, move: Move, tables: Iterable[str]
) -> Iterator[Obstacle]:
    """Yield what keeps a move from beginning, since its cut would wait for it.

    ``tables`` are those that both sides have; of others it is told that they are missing.
    """
    sides = read_schema(here, tables), read_schema(there, tables)
    found = differences(*sides, (move.source, move.target))
    for text in found[:SHOWN_MAX]:
        cure = (
            "bring it to both shards by a schema file, or drop it"
            if " only at " in text
            else ("bring both shards to the same by a schema file")
        )
        yield Obstacle("", text, cure)
    if len(found) > SHOWN_MAX:
        more = f"{len(found) - SHOWN_MAX} more differences of their schemas"
        yield Obstacle("", more, "bring both shards to the same by schema files")


def made_objects(connection: psycopg.Connection) -> tuple[SchemaObject, ...]:
    """Return what is here beside tables that a schema file makes by its name."""
    objects = read_schema(connection, ()).objects
    return tuple(SchemaObject(kind, name) for kind, name in sorted(objects) if kind in _MADE)
