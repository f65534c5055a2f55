"""Check a document's form against its kind's schema, and say what is wrong in a user's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs

from reconciler.model.errors import ReconcilerError
from reconciler.spec.manifest import PATTERN_STORIES
from reconciler.spec.problems import (
    MissingField,
    NeedsQuotes,
    UnknownField,
    ValueNotAllowed,
    WrongType,
    did_you_mean,
    quoted,
)
from reconciler.spec.schema import json_schema

FormProblem = tuple[tuple[str | int, ...], ReconcilerError]
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


@cache
def _validator(kind: str) -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(json_schema(kind))


def check_form(kind: str, document: dict[str, Any]) -> list[FormProblem]:
    """Return every violation of the kind's schema, each with its path in the document."""
    validator = _validator(kind)
    if validator.is_valid(document):
        return []
    return [p for error in validator.iter_errors(document) for p in _problems(kind, error)]


def _problems(kind: str, error: Any) -> Iterator[FormProblem]:
    """Turn an error of the validator into ours, of which there may be several."""
    if error.kind.name == "anyOf" and (branch := _meant_branch(error)):
        for inner in branch:
            yield from _problems(kind, inner)
        return
    path = tuple(error.instance_path)
    schema = _schema_at(kind, error.schema_path)
    detail = error.kind.as_dict()
    value = error.instance
    match error.kind.name:
        case "additionalProperties":
            for name in detail["unexpected"]:
                yield (*path, name), _unknown_field(path, name, schema)
        case "required":
            problem = f"the field {quoted(detail['property'])} is missing"
            yield path, MissingField(_subject(path), problem, remedy=_add_it(schema, detail))
        case "type" | "anyOf":
            yield (
                path,
                _unreadable(path, schema, value)
                or wrong_type(_subject(path), _types(schema), value),
            )
        case "enum":
            yield path, _not_one_of(path, [str(o) for o in detail["options"]], value)
        case "pattern":
            yield path, _not_as(path, detail["pattern"], value)
        case _:
            yield path, ValueNotAllowed(_subject(path), _bounds(error, schema))


def _not_as(path: tuple[str | int, ...], pattern: str, value: object) -> ReconcilerError:
    story, example = PATTERN_STORIES.get(pattern, ("is not allowed here", ""))
    remedy = f"for example {example}" if example else ""
    return ValueNotAllowed(_subject(path), f"{quoted(value)} {story}", remedy=remedy)


def _unreadable(
    path: tuple[str | int, ...], schema: dict[str, Any], value: object
) -> ReconcilerError | None:
    """Say what a number lacks that quotes alone would not mend, such as its unit."""
    pattern = schema.get("pattern")
    if pattern is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if re.search(pattern, str(value)) else _not_as(path, pattern, value)


def _meant_branch(error: Any) -> list[Any]:
    """Return the errors of the alternative whose type fits the value; none when no type does."""
    for branch in error.kind.as_dict()["context"]:
        if not any(
            e.kind.name == "type" and e.instance_path == error.instance_path for e in branch
        ):
            return list(branch)
    return []


def _schema_at(kind: str, schema_path: list[str | int]) -> dict[str, Any]:
    """Return the schema that holds the keyword which was violated."""
    node: Any = json_schema(kind)
    for step in schema_path[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[str(step)]
    return node if isinstance(node, dict) else {}


def _subject(path: tuple[str | int, ...]) -> str:
    """``spec.shards[1].keys``; ``document`` for the whole."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".") or "document"


def _unknown_field(
    path: tuple[str | int, ...], name: str, schema: dict[str, Any]
) -> ReconcilerError:
    known = list(schema.get("properties", {}))
    remedy = did_you_mean(name, known) or f"its fields are {', '.join(known)}"
    return UnknownField(_subject(path), f"there is no field {quoted(name)}", remedy=remedy)


def _add_it(schema: dict[str, Any], detail: dict[str, Any]) -> str:
    field = schema.get("properties", {}).get(detail["property"], {})
    description = field.get("description", "")
    return f"add it: {description[0].lower()}{description[1:].rstrip('.')}" if description else ""


def _types(schema: dict[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [t for branch in schema["anyOf"] for t in _types(branch)]
    if "enum" in schema:
        return ["string"]
    kinds = schema.get("type", "object")
    return [kinds] if isinstance(kinds, str) else list(kinds)


def wrong_type(subject: str, wanted: list[str], value: object) -> ReconcilerError:
    """Say that a value is of the wrong type; a text that YAML misread needs quotes."""
    if value is None:
        problem = "it has no value"
        return WrongType(subject, problem, remedy="give it one, or remove the line")
    if "string" in wanted and isinstance(value, int | float):
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        meaning = "true or false" if isinstance(value, bool) else "a number"
        problem = f"it must be text, but unquoted YAML reads it as {meaning} ({shown})"
        shown = _as_typed(value)
        if subject.endswith(".version"):  # 16.10 has become 16.1, and only the major counts
            shown = shown.partition(".")[0]
        return NeedsQuotes(subject, problem, shown)
    words = " or ".join(dict.fromkeys(_WORDS[w] for w in wanted))
    return WrongType(subject, f"it must be {words}, not {_name_of(value)}")


def _as_typed(value: bool | int | float) -> str:
    """Guess what was typed: the same for numbers; for a boolean, any of YAML's words."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _name_of(value: object) -> str:
    match value:
        case bool():
            return f"{str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


POSTGRESQL_TYPES = {
    **dict.fromkeys(("int8", "bigserial", "serial8"), "bigint"),
    **dict.fromkeys(("int4", "integer", "serial", "serial4"), "int"),
    **dict.fromkeys(("varchar", "character varying"), "text"),
}
"""What PostgreSQL has more names for, by the one that specs use."""


def _not_one_of(path: tuple[str | int, ...], options: list[str], value: object) -> ReconcilerError:
    if value is None or isinstance(value, bool | int | float | list | dict):
        return wrong_type(_subject(path), ["string"], value)
    listed = ", ".join(options)
    meant = POSTGRESQL_TYPES.get(str(value).lower())
    remedy = did_you_mean(meant if meant in options else str(value), options)
    problem = f"{quoted(value)} is not one of {listed}"
    return ValueNotAllowed(_subject(path), problem, remedy=remedy)


def _bounds(error: Any, schema: dict[str, Any]) -> str:
    if error.kind.name == "minItems":
        return "the list must not be empty"
    if "minimum" in schema and "maximum" in schema:
        low, high = schema["minimum"], schema["maximum"]
        return f"{error.instance} is out of bounds: it must be {low} to {high}"
    return str(error.message).splitlines()[0]
