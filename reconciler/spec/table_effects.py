"""What the statements of a schema file do to tables, each statement by itself.

``effects`` reads a file's text; ``reconciler.spec.tables`` adds the effects up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from reconciler.spec.statements import Statement, split

_Node: TypeAlias = dict[str, Any]
DEFAULT_SCHEMA = "public"


@dataclass(frozen=True, slots=True)
class Made:
    """A table was made, with the type of each column, where that is one of PostgreSQL's own.

    ``columns`` is None where they cannot be told: by AS, LIKE, INHERITS.
    """

    table: str
    offset: int
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """A table is there, and not one of its own: made or attached as a partition of another."""

    table: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A table was dropped."""

    table: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """What a statement makes cannot be told."""


@dataclass(frozen=True, slots=True)
class SchemaGone:
    """All tables of a schema were dropped, or went out of sight."""

    schema: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """A table has a new name, or another schema."""

    table: str
    new: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column came, went, or both. ``kind`` is the type of what came; of a rename it stays."""

    table: str
    came: str = ""
    went: str = ""
    kind: str = ""


Effect: TypeAlias = Made | Partition | Gone | SchemaGone | Renamed | Column | Unclear

_OWN = {
    **{kind: kind for kind in ("int2", "int4", "int8", "numeric", "float4", "float8", "bool")},
    **{kind: kind for kind in ("text", "varchar", "bpchar", "bytea", "uuid", "json", "jsonb")},
    **{kind: kind for kind in ("date", "time", "timetz", "timestamp", "timestamptz", "interval")},
    **dict.fromkeys(("smallserial", "serial2"), "int2"),
    **dict.fromkeys(("serial", "serial4"), "int4"),
    **dict.fromkeys(("bigserial", "serial8"), "int8"),
}
"""PostgreSQL's own types, by the names that its parser gives them; any other may be a domain."""


@lru_cache(maxsize=1024)
def effects(text: str) -> tuple[Effect, ...]:
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
        self._schema: str | None = DEFAULT_SCHEMA

    def read(self, statement: Statement) -> Iterator[Effect]:
        """Yield what a statement does to tables, as far as it can be told."""
        if statement.words[:1] and statement.words[0] in _CALLING:
            yield Unclear()
        if statement.words[:2] == ("create", "extension"):
            yield Unclear()
        if not _may_matter(statement):
            return
        import pgparse  # only who has schema files needs it

        try:
            (tree,) = pgparse.parse(statement.text)
            ((kind, body),) = tree["stmt"].items()
        except (pgparse.PGQueryError, ValueError, RecursionError):
            yield Unclear()
            return
        if statement.words[0] in _QUERYING and "search_path" in statement.text.lower():
            self._schema = None
        source = statement.text.encode()
        for effect in self._of(kind, body):
            if isinstance(effect, Made):  # the parser counts bytes
                ahead = len(source[: effect.offset].decode(errors="replace"))
                yield replace(effect, offset=statement.offset + ahead)
            else:
                yield effect

    def _of(self, kind: str, body: _Node) -> Iterator[Effect]:  # noqa: C901  a dispatch table
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
                yield Renamed(table, f"{body['newschema']}.{table.partition('.')[2]}")
            case "AlterTableStmt" if table := self._name(body.get("relation", {})):
                for command in body.get("cmds", ()):
                    yield from self._alter(table, command["AlterTableCmd"])
            case "VariableSetStmt" if body.get("name", "search_path") == "search_path":
                self._schema = _first_schema(body)
                if self._schema is None:
                    yield Unclear()

    def _name(self, relation: _Node) -> str:
        """Return a table's full name; an empty text for a temporary one and for an unknown one.

        A name is unknown only after a statement that was told to be unclear.
        """
        schema = relation.get("schemaname") or self._schema
        temporary = relation.get("relpersistence") == "t" or str(schema).startswith("pg_temp")
        return "" if temporary or schema is None else f"{schema}.{relation['relname']}"

    def _made(self, relation: _Node, columns: Mapping[str, str] | None) -> Iterator[Made]:
        if table := self._name(relation):
            yield Made(table, relation.get("location", 0), columns)

    def _create(self, body: _Node) -> Iterator[Effect]:
        if "partbound" in body:
            if table := self._name(body["relation"]):
                yield Partition(table)
            return
        elements = body.get("tableElts", ())
        made = [element["ColumnDef"] for element in elements if "ColumnDef" in element]
        columns = {column["colname"]: _kind(column) for column in made}
        whole = "inhRelations" not in body and "ofTypename" not in body
        whole = whole and not any("TableLikeClause" in element for element in elements)
        yield from self._made(body["relation"], columns if whole else None)

    def _drop(self, body: _Node) -> Iterator[Effect]:
        for item in body["objects"]:
            if body["removeType"] == "OBJECT_SCHEMA":
                yield SchemaGone(item["String"]["sval"])
            elif body["removeType"] == "OBJECT_TABLE":
                *schema, name = (part["String"]["sval"] for part in item["List"]["items"])
                if table := self._name({"relname": name, "schemaname": "".join(schema[-1:])}):
                    yield Gone(table)

    def _rename(self, body: _Node) -> Iterator[Effect]:
        if body["renameType"] == "OBJECT_SCHEMA":  # its tables go out of sight with it
            yield SchemaGone(body["subname"])
            yield Unclear()
            return
        table = self._name(body["relation"]) if "relation" in body else ""
        if not table:
            return
        if body["renameType"] == "OBJECT_TABLE":
            yield Renamed(table, f"{table.partition('.')[0]}.{body['newname']}")
        elif body["renameType"] == "OBJECT_COLUMN":
            yield Column(table, body["newname"], body["subname"])

    def _alter(self, table: str, command: _Node) -> Iterator[Effect]:
        match command["subtype"]:
            case "AT_AddColumn":
                column = command["def"]["ColumnDef"]
                yield Column(table, came=column["colname"], kind=_kind(column))
            case "AT_AlterColumnType":
                name = command["name"]
                yield Column(table, name, name, _kind(command["def"]["ColumnDef"]))
            case "AT_DropColumn":
                yield Column(table, went=command["name"])
            case "AT_AttachPartition":
                if partition := self._name(command["def"]["PartitionCmd"]["name"]):
                    yield Partition(partition)
            case "AT_DetachPartition":
                yield from self._made(command["def"]["PartitionCmd"]["name"], None)


def _kind(column: _Node) -> str:
    """Return the type of a column as the catalogs name it; an empty text where it is not sure."""
    kind = column.get("typeName", {})
    names = [part["String"]["sval"] for part in kind.get("names", ())]
    if "arrayBounds" in kind or names[:-1] not in ([], ["pg_catalog"]):
        return ""
    return _OWN.get("".join(names[-1:]), "")


def _first_schema(body: _Node) -> str | None:
    """Return the schema in which SET search_path makes new tables; None when it names none."""
    if body["kind"] in ("VAR_SET_DEFAULT", "VAR_RESET", "VAR_RESET_ALL"):
        return DEFAULT_SCHEMA
    names = [one.get("A_Const", {}).get("sval", {}).get("sval") for one in body.get("args", ())]
    return next((name for name in names if name != "$user"), None)
