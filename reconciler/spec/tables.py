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
from functools import lru_cache
from typing import Any, TypeAlias, assert_never

from reconciler.model.desired import Place, SchemaFile, Sharding
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.problems import did_you_mean
from reconciler.spec.statements import Statement, line_and_column, split

_Node: TypeAlias = dict[str, Any]
_DEFAULT_SCHEMA = "public"
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


class DeclaredTableNotMade(ReconcilerError):
    """A table is declared under ``sharding``, and no schema file makes it.

    A new shard has what the schema files make and nothing else. A table that stands on the older
    shards only, made by hand, would be missing there, so a plan refuses to move keys to it (PL117).
    """

    code = "SP203"


@dataclass(frozen=True, slots=True)
class _Made:
    """A table was made. ``columns`` is None where they cannot be told: by AS, LIKE, INHERITS."""

    table: str
    offset: int
    columns: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Partition:
    """A table is there, and not one of its own: made or attached as a partition of another."""

    table: str


@dataclass(frozen=True, slots=True)
class _Gone:
    """A table was dropped."""

    table: str


@dataclass(frozen=True, slots=True)
class _Unclear:
    """What a statement makes cannot be told."""


@dataclass(frozen=True, slots=True)
class _SchemaGone:
    schema: str


@dataclass(frozen=True, slots=True)
class _Renamed:
    table: str
    new: str


@dataclass(frozen=True, slots=True)
class _Column:
    """A column came, went, or both."""

    table: str
    came: str = ""
    went: str = ""


_Effect: TypeAlias = _Made | _Partition | _Gone | _SchemaGone | _Renamed | _Column | _Unclear


@dataclass(slots=True)
class _After:
    """What is there after the files: tables with the file that made each, and partitions.

    ``unclear``: there may be more.
    """

    tables: dict[str, tuple[_Made, SchemaFile]] = field(default_factory=dict)
    partitions: set[str] = field(default_factory=set)
    unclear: bool = False


def table_problems(
    files: Iterable[SchemaFile], sharding: Sharding, file: str, places: Mapping[str, Place]
) -> Iterator[tuple[Place | Position, ReconcilerError]]:
    """Yield SP119 where an undeclared table is made, SP120 where a wrong key is declared.

    ``places`` are those of the declarations, by the tables' full names, in ``file``.
    """
    keys = {table.name: table.key for table in sharding.tables}
    folder, slash, _ = file.rpartition("/")
    for made, source in _after(files).tables.values():
        at = Position(f"{folder}{slash}{source.name}", *line_and_column(source.text, made.offset))
        if made.table in keys:
            if made.columns is not None and keys[made.table] not in made.columns:
                yield places[made.table], _no_key(made, keys[made.table], at)
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
    return table.removeprefix(f"{_DEFAULT_SCHEMA}.")


def _no_key(made: _Made, key: str, at: Position) -> ShardKeyNotThere:
    problem = f"it is sharded by {key}, and {at} makes it without that column"
    there = sorted(made.columns or ())
    has = f"it has {', '.join(there)}" if there else "it has no columns"
    remedy = did_you_mean(key, there) or f"name the column that its shard follows from; {has}"
    return ShardKeyNotThere(f"table {_shown(made.table)}", problem, remedy=remedy)


def _undeclared(made: _Made, keys: tuple[str, ...]) -> UndeclaredTable:
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
        for effect in _effects(file.text):
            _take(after, effect, file)
    return after


def _take(after: _After, effect: _Effect, file: SchemaFile) -> None:  # noqa: C901  a dispatch table
    tables, partitions = after.tables, after.partitions
    match effect:
        case _Made(table):
            partitions.discard(table)
            tables.setdefault(table, (effect, file))
        case _Partition(table):
            tables.pop(table, None)
            partitions.add(table)
        case _Gone(table):
            tables.pop(table, None)
            partitions.discard(table)
        case _SchemaGone(schema):
            for table in [t for t in (*tables, *partitions) if t.startswith(f"{schema}.")]:
                _take(after, _Gone(table), file)
        case _Renamed(table, new):
            if table in partitions:
                partitions.remove(table)
                partitions.add(new)
            if found := tables.pop(table, None):
                tables[new] = (replace(found[0], table=new), found[1])
        case _Column(table):
            if (found := tables.get(table)) and found[0].columns is not None:
                columns = (found[0].columns | {effect.came}) - {effect.went}
                tables[table] = (replace(found[0], columns=columns), found[1])
        case _Unclear():
            after.unclear = True
        case _:
            assert_never(effect)


@lru_cache(maxsize=1024)
def _effects(text: str) -> tuple[_Effect, ...]:
    """Return what a file does to tables. Kept: many databases of a source have the same files."""
    reading = _Reading()
    return tuple(effect for statement in split(text) for effect in reading.read(statement))


_QUERYING = frozenset(("select", "with", "values", "table"))
_CALLING = frozenset((*_QUERYING, "do", "call", "execute"))
"""Statements that may call what makes a table."""


def _may_matter(statement: Statement) -> bool:
    """Tell whether a statement is worth the parser: most of a schema's are about other things."""
    match statement.words:
        case ("create", *rest):
            return bool({"table", "schema"} & set(rest))
        case ("alter" | "drop", kind, *_):
            return kind in ("table", "schema")
        case ("set" | "reset", *rest):
            return bool({"search_path", "all"} & set(rest))
        case (first, *_) if first in _QUERYING:
            lowered = statement.text.lower()
            return "into" in lowered or "search_path" in lowered
    return False


class _Reading:
    """Reads the statements of one file in order, and remembers the search path they leave."""

    def __init__(self) -> None:
        self._schema: str | None = _DEFAULT_SCHEMA

    def read(self, statement: Statement) -> Iterator[_Effect]:
        """Yield what a statement does to tables, as far as it can be told."""
        if statement.words[:1] and statement.words[0] in _CALLING:
            yield _Unclear()
        if statement.words[:2] == ("create", "extension"):
            yield _Unclear()
        if not _may_matter(statement):
            return
        import pgparse  # only who has schema files needs it

        try:
            (tree,) = pgparse.parse(statement.text)
            ((kind, body),) = tree["stmt"].items()
        except (pgparse.PGQueryError, ValueError, RecursionError):
            yield _Unclear()
            return
        if statement.words[0] in _QUERYING and "search_path" in statement.text.lower():
            self._schema = None
        source = statement.text.encode()
        for effect in self._of(kind, body):
            if isinstance(effect, _Made):  # the parser counts bytes
                ahead = len(source[: effect.offset].decode(errors="replace"))
                yield replace(effect, offset=statement.offset + ahead)
            else:
                yield effect

    def _of(self, kind: str, body: _Node) -> Iterator[_Effect]:  # noqa: C901  a dispatch table
        match kind:
            case "CreateStmt":
                yield from self._create(body)
            case "CreateTableAsStmt" if body.get("objtype") == "OBJECT_TABLE":
                yield from self._made(body["into"]["rel"], None)
            case "SelectStmt" if into := body.get("intoClause"):
                yield from self._made(into["rel"], None)
            case "CreateSchemaStmt":
                outer, self._schema = self._schema, body.get("schemaname")
                for element in body.get("schemaElts", ()):
                    if "CreateStmt" in element:
                        yield from self._create(element["CreateStmt"])
                self._schema = outer
            case "DropStmt":
                yield from self._drop(body)
            case "RenameStmt":
                yield from self._rename(body)
            case "AlterObjectSchemaStmt" if table := self._name(body.get("relation", {})):
                yield _Renamed(table, f"{body['newschema']}.{table.partition('.')[2]}")
            case "AlterTableStmt" if table := self._name(body.get("relation", {})):
                for command in body.get("cmds", ()):
                    yield from self._alter(table, command["AlterTableCmd"])
            case "VariableSetStmt" if body.get("name", "search_path") == "search_path":
                self._schema = _first_schema(body)
                if self._schema is None:
                    yield _Unclear()

    def _name(self, relation: _Node) -> str:
        """Return a table's full name; an empty text for a temporary one and for an unknown one.

        A name is unknown only after a statement that was told to be unclear.
        """
        schema = relation.get("schemaname") or self._schema
        temporary = relation.get("relpersistence") == "t" or str(schema).startswith("pg_temp")
        return "" if temporary or schema is None else f"{schema}.{relation['relname']}"

    def _made(self, relation: _Node, columns: frozenset[str] | None) -> Iterator[_Made]:
        if table := self._name(relation):
            yield _Made(table, relation.get("location", 0), columns)

    def _create(self, body: _Node) -> Iterator[_Effect]:
        if "partbound" in body:
            if table := self._name(body["relation"]):
                yield _Partition(table)
            return
        elements = body.get("tableElts", ())
        columns = frozenset(e["ColumnDef"]["colname"] for e in elements if "ColumnDef" in e)
        whole = "inhRelations" not in body and "ofTypename" not in body
        whole = whole and not any("TableLikeClause" in element for element in elements)
        yield from self._made(body["relation"], columns if whole else None)

    def _drop(self, body: _Node) -> Iterator[_Effect]:
        for item in body["objects"]:
            if body["removeType"] == "OBJECT_SCHEMA":
                yield _SchemaGone(item["String"]["sval"])
            elif body["removeType"] == "OBJECT_TABLE":
                *schema, name = (part["String"]["sval"] for part in item["List"]["items"])
                if table := self._name({"relname": name, "schemaname": "".join(schema[-1:])}):
                    yield _Gone(table)

    def _rename(self, body: _Node) -> Iterator[_Effect]:
        if body["renameType"] == "OBJECT_SCHEMA":  # its tables go out of sight with it
            yield _SchemaGone(body["subname"])
            yield _Unclear()
            return
        table = self._name(body["relation"]) if "relation" in body else ""
        if not table:
            return
        if body["renameType"] == "OBJECT_TABLE":
            yield _Renamed(table, f"{table.partition('.')[0]}.{body['newname']}")
        elif body["renameType"] == "OBJECT_COLUMN":
            yield _Column(table, body["newname"], body["subname"])

    def _alter(self, table: str, command: _Node) -> Iterator[_Effect]:
        match command["subtype"]:
            case "AT_AddColumn":
                yield _Column(table, came=command["def"]["ColumnDef"]["colname"])
            case "AT_DropColumn":
                yield _Column(table, went=command["name"])
            case "AT_AttachPartition":
                if partition := self._name(command["def"]["PartitionCmd"]["name"]):
                    yield _Partition(partition)
            case "AT_DetachPartition":
                yield from self._made(command["def"]["PartitionCmd"]["name"], None)


def _first_schema(body: _Node) -> str | None:
    """Return the schema in which SET search_path makes new tables; None when it names none."""
    if body["kind"] in ("VAR_SET_DEFAULT", "VAR_RESET", "VAR_RESET_ALL"):
        return _DEFAULT_SCHEMA
    names = [one.get("A_Const", {}).get("sval", {}).get("sval") for one in body.get("args", ())]
    return next((name for name in names if name != "$user"), None)
