"""What the router must know of a statement before it can be sent anywhere. Pure.

``read`` looks at a text once and remembers it; a hint spares the parser for plain statements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import Any

import pgparse

from reconciler.router.keyed import (
    Confinement,
    Constant,
    Node,
    Parameter,
    Tables,
    Term,
    confinement,
)

REMEMBERED_MAX = 4096
"""Statements kept with their reading; the oldest goes first."""
REMEMBERED_CHARS_MAX = 4096
"""Longer texts are read anew each time: they are rarely equal."""

_HINT = r"/\*\s*(shard_key|shard|scatter)\s*:\s*(?:'((?:[^']|'')*)'|([^\s*']+))\s*\*/"
_LEADING = re.compile(rf"\s*{_HINT}\s*")
_TRAILING = re.compile(rf"{_HINT}\s*;?\s*\Z")
PLAIN_WORDS = "select|insert|update|delete|with|merge|values|table"
"""How statements begin that ask or change rows, and nothing else."""
_PLAIN = re.compile(rf"\s*(?:{PLAIN_WORDS})\b", re.IGNORECASE)


class Kind(Enum):
    """What a statement does, as far as sending it is concerned."""

    READ = auto()
    WRITE = auto()
    COPY = auto()
    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()
    SET = auto()
    SHOW = auto()
    DEALLOCATE = auto()
    DISCARD = auto()
    LISTEN = auto()
    CURSOR = auto()
    EMPTY = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """SET and RESET. ``value`` is None for the default."""

    name: str
    value: str | None
    local: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text.

    ``apart`` says why rows from several shards, one after the other, are not its answer.
    ``commits``: it may commit inside, so that it is never sent twice.
    """

    kind: Kind
    text: str
    confined: Confinement = field(default_factory=Confinement)
    setting: Setting | None = None
    name: str = ""
    apart: str = ""
    commits: bool = False


@dataclass(frozen=True)
class Reading:
    """A text's hint and its statements. ``parsed`` False: a hinted text that was not looked into.

    ``unreadable`` is the parser's complaint; the shard's own words are better, so it is sent on.
    """

    statements: tuple[Statement, ...]
    hint: str = ""
    value: str = ""
    unreadable: str = ""

    @property
    def only(self) -> Statement | None:
        """The statement, when there is just one."""
        return self.statements[0] if len(self.statements) == 1 else None

    @cached_property
    def term(self) -> Term | None:
        """The one key that says where it goes; None where more is to be looked at."""
        only = self.only
        if only is None or only.kind not in (Kind.READ, Kind.WRITE):
            return None
        if self.hint:
            return hinted(self.value) if self.hint == "shard_key" else None
        confined = only.confined
        return confined.terms[0] if len(confined.terms) == 1 and not confined.unconfined else None


def hinted(value: str) -> Term:
    """Return a hint's key; it may be a parameter: ``/* shard_key: $1 */``."""
    number = value.removeprefix("$")
    return Parameter(int(number)) if value[:1] == "$" and number.isdecimal() else Constant(value)


class Reader:
    """Reads statements for one routing map's tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[str, Reading] = {}

    def read(self, text: str) -> Reading:
        """Return what a text says."""
        known = self._known.get(text)
        if known is not None:
            return known
        reading = self.read_once(text)
        if len(text) <= REMEMBERED_CHARS_MAX and reading.hint != "shard_key":
            if len(self._known) >= REMEMBERED_MAX:
                del self._known[next(iter(self._known))]
            self._known[text] = reading
        return reading

    def read_once(self, text: str) -> Reading:
        """Return what a text says, and remember nothing."""
        match = (_LEADING.match(text) or _TRAILING.search(text)) if "/*" in text else None
        hint, value = (
            (match[1], (match[2] or match[3] or "").replace("''", "'")) if match else ("", "")
        )
        if hint in ("shard_key", "shard") and match is not None:
            rest = text[match.end() :] if match.start() == 0 else text[: match.start()]
            if _PLAIN.match(rest) and ";" not in rest.rstrip().removesuffix(";"):
                return Reading((Statement(Kind.WRITE, text),), hint, value)
        try:
            trees = pgparse.parse(text)
        except (pgparse.PGQueryError, ValueError) as problem:
            return Reading((Statement(Kind.OTHER, text),), hint, value, str(problem) or "?")
        source = text.encode()
        statements = tuple(self._statement(tree, source) for tree in trees)
        return Reading(statements or (Statement(Kind.EMPTY, text),), hint, value)

    def _statement(self, tree: Node, source: bytes) -> Statement:
        start = tree.get("stmt_location", 0)
        end = start + tree["stmt_len"] if tree.get("stmt_len") else len(source)
        text = source[start:end].decode()
        ((name, body),) = tree["stmt"].items()
        if name in _DATA:
            return self._data(name, body, tree["stmt"], text)
        kind = _KINDS.get(name, Kind.OTHER)
        if name == "TransactionStmt":
            kind = _TRANSACTION.get(body["kind"].removeprefix("TRANS_STMT_"), Kind.OTHER)
        setting = _setting(body) if name == "VariableSetStmt" else None
        called = str(body.get("name", ""))
        confined = Confinement(unconfined="the statement", sharded=True)
        return Statement(
            kind,
            text,
            confined if kind is Kind.OTHER else Confinement(),
            setting,
            called,
            commits=name in ("CallStmt", "DoStmt"),
        )

    def _data(self, name: str, body: Node, tree: Node, text: str) -> Statement:
        if name == "CopyStmt":
            whole = {"RangeVar": body["relation"]} if "relation" in body else body
            confined = confinement(whole, self._tables)
            copied_in = body.get("is_from", False)
            loose = confined.unconfined or ("COPY" if copied_in else "")
            confined = Confinement((), loose, True, confined.shared) if loose else confined
            return Statement(Kind.COPY, text, confined)
        confined = confinement(tree, self._tables)
        writes = _writes(tree)
        kind = Kind.WRITE if writes else Kind.READ
        return Statement(kind, text, confined, apart=_apart(name, body))


_DATA = ("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt",
         "ExplainStmt", "DeclareCursorStmt")  # fmt: skip
_KINDS = {
    "VariableSetStmt": Kind.SET,
    "VariableShowStmt": Kind.SHOW,
    "DeallocateStmt": Kind.DEALLOCATE,
    "DiscardStmt": Kind.DISCARD,
    "ListenStmt": Kind.LISTEN,
    "UnlistenStmt": Kind.LISTEN,
    "NotifyStmt": Kind.LISTEN,
    "FetchStmt": Kind.CURSOR,
    "ClosePortalStmt": Kind.CURSOR,
}
_TRANSACTION = {
    "BEGIN": Kind.BEGIN,
    "START": Kind.BEGIN,
    "COMMIT": Kind.COMMIT,
    "ROLLBACK": Kind.ROLLBACK,
    "SAVEPOINT": Kind.SAVEPOINT,
    "RELEASE": Kind.SAVEPOINT,
    "ROLLBACK_TO": Kind.SAVEPOINT,
}
_WRITING = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "intoClause", "lockingClause")
_AGGREGATES = frozenset((
    "count", "sum", "avg", "min", "max", "array_agg", "string_agg", "json_agg", "jsonb_agg",
    "json_object_agg", "jsonb_object_agg", "bool_and", "bool_or", "every", "bit_and", "bit_or",
    "bit_xor", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp",
    "percentile_cont", "percentile_disc", "mode", "any_value", "range_agg",
))  # fmt: skip


def _setting(body: Node) -> Setting:
    values = [_value(argument) for argument in body.get("args", ())]
    kind = body["kind"]
    value = ", ".join(values) if kind in ("VAR_SET_VALUE", "VAR_SET_MULTI") else None
    name = body.get("name", "*" if kind == "VAR_RESET_ALL" else "")
    return Setting(name.lower(), value, body.get("is_local", False))


def _value(argument: Node) -> str:
    constant = argument.get("A_Const", {})
    for name, convert in (("sval", str), ("ival", str), ("fval", str), ("boolval", str)):
        if name in constant:
            return convert(constant[name].get(name, "0" if name == "ival" else ""))
    return ""


def _writes(node: Any) -> bool:
    if isinstance(node, dict):
        return any(name in _WRITING or _writes(body) for name, body in node.items())
    return isinstance(node, list) and any(_writes(one) for one in node)


def _apart(name: str, body: Node) -> str:
    if name != "SelectStmt":
        return "only a plain SELECT can be"
    if body.get("op", "SETOP_NONE") != "SETOP_NONE":
        return "UNION, INTERSECT and EXCEPT are not"
    for clause, called in (
        ("sortClause", "ORDER BY"), ("limitCount", "LIMIT"), ("limitOffset", "OFFSET"),
        ("distinctClause", "DISTINCT"), ("groupClause", "GROUP BY"), ("havingClause", "HAVING"),
    ):  # fmt: skip
        if clause in body:
            return f"{called} is not"
    called = _aggregate(body.get("targetList", ()))
    return f"{called}() is not" if called else ""


def _aggregate(node: Any) -> str:
    """Return the name of an aggregate or window function of this level, or nothing."""
    if isinstance(node, list | tuple):
        return next(filter(None, map(_aggregate, node)), "")
    if not isinstance(node, dict) or "SelectStmt" in node:
        return ""
    call = node.get("FuncCall")
    if call is not None:
        name = str(call["funcname"][-1]["String"]["sval"])
        if name in _AGGREGATES or "over" in call or "agg_star" in call:
            return name
    return next(filter(None, map(_aggregate, node.values())), "")
