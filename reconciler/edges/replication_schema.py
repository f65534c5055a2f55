"""Whether both sides of a move have what schema files bring beside tables.

Views, functions, policies, grants and comments are not replicated: the target has them from its
own schema files. A change by hand at one side would show only once the keys are there. So a cut
waits while a side has what the other has not, as it does for the tables' own shape
(``replication_tables``). All schemas but PostgreSQL's, ours, and what belongs to an extension;
grants and comments of what a move is about: its tables and their sequences, views and functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

import psycopg

_LOOK = (files(__package__) / "sql" / "move_schema.sql").read_text()

_DEPARSED = {"view", "materialized view", "function", "procedure", "aggregate", "policy"} | {
    "trigger", "rule", "type",
}  # fmt: skip
"""What PostgreSQL writes down anew when asked, which its major versions do in different words."""


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
        elif mine != theirs and (source.major == target.major or kind not in _DEPARSED):
            found.append(f"{kind} {name} is not the same at {names[0]} and {names[1]}")
    return found
