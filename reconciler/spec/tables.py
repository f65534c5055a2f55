"""Which tables the schema files make, and whether the spec says of each where its rows live.

Decided is what a statement says by itself: ``CREATE TABLE`` (also inside ``CREATE SCHEMA``),
``CREATE TABLE AS`` and ``SELECT INTO``, and what later statements of the files make of it: renamed,
moved to another schema, dropped, attached to or detached from a partitioned table. A partition goes
where its parent goes, so only the parent has to be declared; a child by ``INHERITS`` is a table of
its own, because triggers are not inherited. A name without a schema is in public, or in the schema
that the file's own ``SET search_path`` names first. Temporary and foreign tables and views hold no
rows of a shard.

Not decided, and left to the look at the real catalogs, which tells of them in a plan: what ``DO``
blocks, functions and extensions make, statements that the parser does not know, and names without a
schema after ``set_config('search_path', …)``. Where the files hold such a statement, or a whole
schema is renamed, nobody is told that they make no table of a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from reconciler.model.desired import KeyType, Place, SchemaFile, Sharding
from reconciler.model.errors import Position, ReconcilerError
from reconciler.model.hashing import COLUMN_HASHES, HASH_FUNCTIONS
from reconciler.spec.problems import did_you_mean
from reconciler.spec.statements import line_and_column
from reconciler.spec.table_effects import (
    DEFAULT_SCHEMA,
    Column,
    Effect,
    Gone,
    Made,
    Partition,
    Renamed,
    SchemaGone,
    Unclear,
    effects,
)

_DECLARABLE = re.compile(r"[a-z_][a-z0-9_$]{0,62}\.[a-z_][a-z0-9_$]{0,62}")


class UndeclaredTable(ReconcilerError):
    """A schema file makes a table of which the spec does not say where its rows live.

    Rows of a sharded table are kept apart by their shard key; a reference table is whole on every
    shard. Of a table that is neither, nobody could find a row again, or move it with its keys.
    """

    code = "SP119"


class ShardKeyNotThere(ReconcilerError):
    """A table is declared to be sharded by a column that it is not made with."""

    code = "SP120"


class ShardKeyOfAnotherType(ReconcilerError):
    """A table's shard key is a column of another type than the database is sharded by.

    Keys are found by their hash, and only values of one family hash alike: int and bigint, text and
    varchar, uuid. A shard would refuse the guards of such a table, with its schema already applied.
    """

    code = "SP124"


class DeclaredTableNotMade(ReconcilerError):
    """A table is declared under ``sharding``, and no schema file makes it.

    A new shard has what the schema files make and nothing else. A table that stands on the older
    shards only, made by hand, would be missing there, so a plan refuses to move keys to it (PL117).
    """

    code = "SP203"


@dataclass(slots=True)
class _After:
    """What is there after the files: tables with the file that made each, and partitions.

    ``unclear``: there may be more.
    """

    tables: dict[str, tuple[Made, SchemaFile]] = field(default_factory=dict)
    partitions: set[str] = field(default_factory=set)
    unclear: bool = False


def table_problems(
    files: Iterable[SchemaFile], sharding: Sharding, file: str, places: Mapping[str, Place]
) -> Iterator[tuple[Place | Position, ReconcilerError]]:
    """Yield SP119 where an undeclared table is made, SP120 and SP124 where a key is wrong.

    ``places`` are those of the declarations, by the tables' full names, in ``file``.
    """
    keys = {table.name: table.key for table in sharding.tables}
    folder, slash, _ = file.rpartition("/")
    after = _after(files)
    for made, source in after.tables.values():
        at = Position(f"{folder}{slash}{source.name}", *line_and_column(source.text, made.offset))
        if made.table in keys:
            key = keys[made.table]
            if made.columns is not None and key not in made.columns:
                yield places[made.table], _no_key(made, key, at)
            kind = "" if after.unclear or made.columns is None else made.columns.get(key, "")
            if kind and kind not in COLUMN_HASHES[sharding.key_type]:
                yield places[made.table], _other_type(made, key, kind, sharding.key_type, at)
        elif made.table not in sharding.reference:
            yield at, _undeclared(made, tuple(keys.values()))


def table_warnings(
    files: Iterable[SchemaFile], sharding: Sharding, places: Mapping[str, Place]
) -> Iterator[tuple[Place, ReconcilerError]]:
    """Yield SP203 where a table is declared that none of the files makes, as ``table_problems``."""
    for table in unmade_tables(files, sharding):
        yield places[table], _not_made(_shown(table))


def unmade_tables(files: Iterable[SchemaFile], sharding: Sharding) -> tuple[str, ...]:
    """Return the declared tables that the files certainly do not make, sharded ones first."""
    after = _after(files)
    if after.unclear:
        return ()
    declared = (*(table.name for table in sharding.tables), *sharding.reference)
    return tuple(t for t in declared if t not in after.tables and t not in after.partitions)


def _shown(table: str) -> str:
    return table.removeprefix(f"{DEFAULT_SCHEMA}.")


def _no_key(made: Made, key: str, at: Position) -> ShardKeyNotThere:
    problem = f"it is sharded by {key}, and {at} makes it without that column"
    there = sorted(made.columns or ())
    has = f"it has {', '.join(there)}" if there else "it has no columns"
    remedy = did_you_mean(key, there) or f"name the column that its shard follows from; {has}"
    return ShardKeyNotThere(f"table {_shown(made.table)}", problem, remedy=remedy)


def _other_type(
    made: Made, key: str, kind: str, key_type: KeyType, at: Position
) -> ShardKeyOfAnotherType:
    taken = " or ".join(COLUMN_HASHES[key_type])
    fits = [one for one, kinds in COLUMN_HASHES.items() if kinds.get(kind) == HASH_FUNCTIONS[one]]
    problem = f"its shard key {key} is {kind} ({at}), and sharding.type {key_type} takes {taken}"
    instead = f"set sharding.type to {fits[0]}, or " if fits else ""
    remedy = f"{instead}make the column {taken}"
    return ShardKeyOfAnotherType(f"table {_shown(made.table)}", problem, remedy=remedy)


def _undeclared(made: Made, keys: tuple[str, ...]) -> UndeclaredTable:
    name = _shown(made.table)
    problem = "it has no shard key and is not declared a reference table"
    key = next((key for key in keys if key in (made.columns or ())), "its_key_column")
    remedy = f"in sharding add to tables: {{{name}: {key}}}, or to reference: [{name}]"
    if not _DECLARABLE.fullmatch(made.table):
        remedy = "name it in lower-case letters, digits and _, and declare it in sharding"
    return UndeclaredTable(f"table {name}", problem, remedy=remedy)


def _not_made(table: str) -> DeclaredTableNotMade:
    return DeclaredTableNotMade(
        f"table {table}",
        "no schema file makes it, so a new shard would be without it",
        remedy=f"add a schema file with CREATE TABLE IF NOT EXISTS {table}, or take it out of "
        "sharding",
    )


def _after(files: Iterable[SchemaFile]) -> _After:
    after = _After()
    for file in files:
        for effect in effects(file.text):
            _take(after, effect, file)
    return after


def _take(after: _After, effect: Effect, file: SchemaFile) -> None:  # noqa: C901  a dispatch table
    tables, partitions = after.tables, after.partitions
    match effect:
        case Made(table):
            partitions.discard(table)
            tables.setdefault(table, (effect, file))
        case Partition(table):
            tables.pop(table, None)
            partitions.add(table)
        case Gone(table):
            tables.pop(table, None)
            partitions.discard(table)
        case SchemaGone(schema):
            for table in [t for t in (*tables, *partitions) if t.startswith(f"{schema}.")]:
                _take(after, Gone(table), file)
        case Renamed(table, new):
            if table in partitions:
                partitions.remove(table)
                partitions.add(new)
            if found := tables.pop(table, None):
                tables[new] = (replace(found[0], table=new), found[1])
        case Column(table):
            if (found := tables.get(table)) and found[0].columns is not None:
                columns = dict(found[0].columns)
                kind = effect.kind or columns.get(effect.went, "")
                columns.pop(effect.went, None)
                if effect.came:
                    columns[effect.came] = kind
                tables[table] = (replace(found[0], columns=columns), found[1])
        case Unclear():
            after.unclear = True
        case _:
            assert_never(effect)
