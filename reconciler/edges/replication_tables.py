"""The tables of a move as one side has them, and the conditions that pick the moved rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from reconciler.model.desired import ShardedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import COLUMN_HASHES
from reconciler.model.keyspace import WHOLE, KeySet
from reconciler.model.moves import Move

_LOOK = (files(__package__) / "sql" / "move_tables.sql").read_text()

PAGE_BYTES = 8192
HASHES = {kind: name for kinds in COLUMN_HASHES.values() for kind, name in kinds.items()}
"""The hash of a key column by its type; int4 and int8 hash equal values alike."""

_EVERYTHING = sql.SQL("true")


class TableMissing(ReconcilerError):
    """A table of a move, or its key column, is not there at one of the two shards.

    Both shards of a move must have the same schema. A schema file that was applied to one of them
    only, or DDL by hand, is the usual cause.
    """

    code = "MV204"


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``portable`` when its binary form means the same on another server."""

    name: str
    declared: str
    kind: str
    generated: bool
    portable: bool


@dataclass(frozen=True, slots=True)
class Heap:
    """One ordinary table that holds rows: the table itself, or a partition."""

    schema: str
    name: str
    main_bytes: int
    all_bytes: int

    @property
    def identifier(self) -> sql.Identifier:
        """Its quoted name."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class MovedTable:
    """A table whose rows move: a sharded one by its key, a reference table (``key`` "") whole.

    ``shape`` are its defaults, constraints, indexes, triggers and partitions, as SQL tells them.
    """

    name: str
    key: str
    identity: str
    partitioned: bool
    columns: tuple[Column, ...]
    heaps: tuple[Heap, ...]
    shape: tuple[str, ...] = ()

    @property
    def identifier(self) -> sql.Identifier:
        """Its quoted name."""
        schema, _, relation = self.name.partition(".")
        return sql.Identifier(schema, relation)

    @property
    def copied(self) -> tuple[Column, ...]:
        """The columns that carry values; generated ones are computed again."""
        return tuple(c for c in self.columns if not c.generated)

    @property
    def portable(self) -> bool:
        """Whether its rows may be copied in binary."""
        return all(c.portable for c in self.copied)

    @property
    def all_bytes(self) -> int:
        """What its rows take on disk, without indexes."""
        return sum(heap.all_bytes for heap in self.heaps)

    def position(self) -> sql.Composable:
        """Return the SQL of a row's position, as a signed bigint."""
        kind = next(c.kind for c in self.columns if c.name == self.key)
        return sql.SQL("pg_catalog.{}({}, 0)").format(
            sql.SQL(HASHES[kind]), sql.Identifier(self.key)
        )

    def where(self, keys: KeySet) -> sql.Composable:
        """Return the condition that a row is of these keys; a row filter accepts it as well."""
        if not self.key:
            return _EVERYTHING
        if keys.ranges == (WHOLE,):
            return sql.SQL("({} IS NOT NULL)").format(sql.Identifier(self.key))
        parts = (
            sql.SQL("{} BETWEEN {} AND {}").format(self.position(), *map(_bigint, r.sql_bounds))
            for r in keys.ranges
        )
        return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))


def _bigint(value: int) -> sql.Composable:
    """Quoted: -9223372036854775808 without quotes is a numeric."""
    return sql.SQL("{}::pg_catalog.int8").format(sql.Literal(str(value)))


def odd_columns(mine: MovedTable, theirs: MovedTable, sides: tuple[str, str]) -> list[str]:
    """Say how the columns of a table differ between two sides, which are named; [] when equal."""
    here, there = _declared(mine), _declared(theirs)
    found = []
    for column in sorted(here.keys() | there.keys()):
        one, other = here.get(column), there.get(column)
        if one is None or other is None:
            found.append(f"{column} {one or other} is only at {sides[other is not None]}")
        elif one != other:
            found.append(f"{column} is {one} at {sides[0]}, {other} at {sides[1]}")
    return found


def _declared(table: MovedTable) -> dict[str, str]:
    generated = {True: " (generated)", False: ""}
    return {c.name: f"{c.declared}{generated[c.generated]}" for c in table.columns}


def sharded_tables(connection: psycopg.Connection, move: Move) -> tuple[MovedTable, ...]:
    """Return the move's sharded tables as they are here. Raises TableMissing."""
    return _read(connection, move, move.tables)


def all_tables(connection: psycopg.Connection, move: Move) -> tuple[MovedTable, ...]:
    """Return the sharded tables, and the reference tables where the target is new."""
    return _read(connection, move, (*move.tables, *new_reference(move)))


def new_reference(move: Move) -> tuple[ShardedTable, ...]:
    """Return the reference tables that a target without keys of its own still needs."""
    return () if move.target_keys else tuple(ShardedTable(name, "") for name in move.reference)


def known_tables(
    connection: psycopg.Connection, wanted: Iterable[ShardedTable]
) -> dict[str, MovedTable]:
    """Return those of the tables that are here, by name."""
    keys = {t.name: t.key for t in wanted}
    rows = connection.execute(_LOOK, {"names": list(keys)}).fetchall()
    return {seen["name"]: _decode(seen, keys[seen["name"]]) for (seen,) in rows}


def _read(
    connection: psycopg.Connection, move: Move, wanted: tuple[ShardedTable, ...]
) -> tuple[MovedTable, ...]:
    found = known_tables(connection, wanted)
    subject = f"move {move.id}, {connection.info.host}:{connection.info.port}"
    for table in wanted:
        seen = found.get(table.name)
        if seen is None:
            raise TableMissing(subject, f"table {table.name} is not there", remedy="apply again")
        if table.key and _key_kind(seen) not in HASHES:
            raise TableMissing(
                subject, f"table {table.name} has no key column {table.key} of a type that hashes"
            )
    return tuple(found[table.name] for table in wanted)


def _key_kind(table: MovedTable) -> str:
    return next((c.kind for c in table.columns if c.name == table.key), "")


def _decode(seen: dict[str, Any], key: str) -> MovedTable:
    return MovedTable(
        name=seen["name"],
        key=key,
        identity=seen["identity"],
        partitioned=seen["kind"] == "p",
        columns=tuple(
            Column(name, declared, kind, bool(generated.strip()), portable)
            for name, declared, kind, generated, portable in seen["columns"] or ()
        ),
        heaps=tuple(Heap(*heap) for heap in seen["heaps"] or ()),
        shape=tuple(seen["shape"] or ()),
    )
