"""Which shard keys a statement is confined to, from its parse tree. Pure.

A statement may be sent to one shard when *every* sharded table in it is confined to keys of that
shard: by ``key = constant`` (or a parameter, or IN a list) among its conditions, or by equality
with the key of a table that is. What cannot be shown this way counts as unconfined; a wrong *yes*
would give an answer with rows missing, a wrong *no* only asks for a hint.

The rules, and why:

* only conditions joined by AND count, each at its own level of SELECT;
* with an outer join at a level, constants count from WHERE only: in ON they do not confine the
  preserved side, while a link between keys still carries what WHERE says;
* a link from a subquery to a table outside confines the subquery, never the table outside, because
  the subquery may stand under NOT or OR.

The tree is that of libpg_query as JSON: ``{"NodeName": {...}}``, absent fields left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Constant:
    """A key written in the statement, as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key given as parameter ``$number``."""

    number: int


Term = Constant | Parameter


@dataclass(frozen=True, slots=True)
class Tables:
    """Names as the routing map has them: sharded ones with their key column, and reference ones."""

    keys: dict[str, str]
    reference: frozenset[str]

    def key_of(self, relation: Node) -> str | None:
        """Return a sharded table's key column. An unqualified name may be of any schema."""
        return _find(self.keys, relation)

    def is_shared(self, relation: Node) -> bool:
        """Tell whether every shard answers alike: reference tables and the system's catalogs."""
        name, schema = relation["relname"], relation.get("schemaname", "")
        if schema in ("pg_catalog", "information_schema") or (not schema and name[:3] == "pg_"):
            return True
        return _find(dict.fromkeys(self.reference, ""), relation) is not None


def _find(names: dict[str, str], relation: Node) -> str | None:
    name = relation["relname"]
    if schema := relation.get("schemaname"):
        return names.get(f"{schema}.{name}")
    return next((v for k, v in names.items() if k.rpartition(".")[2] == name), None)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a sharded table stands in the text: ``at`` is its first byte, ``name`` its parts."""

    at: int
    name: tuple[str, ...]
    key: str
    aliased: bool
    whole: bool
    """Not ``ONLY``."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a statement touches. ``terms`` are all its keys; they must all be of one shard.

    ``unconfined`` names a sharded or unknown table that no key confines; empty when all are.
    ``unknown`` names one that is neither sharded nor shared: a view, or a table of its own.
    """

    terms: tuple[Term, ...] = ()
    unconfined: str = ""
    sharded: bool = False
    shared: bool = False
    unknown: str = ""
    spots: tuple[Spot, ...] = ()


@dataclass(slots=True)
class _Level:
    """One SELECT, UPDATE or DELETE: the names that its conditions may use."""

    outer: _Level | None
    aliases: dict[str, int | None] = field(default_factory=dict)
    outer_joined: bool = False

    def own(self) -> list[int]:
        return [index for index in self.aliases.values() if index is not None]


@dataclass(slots=True)
class _Table:
    name: str
    key: str
    level: _Level
    spot: Spot


@dataclass(slots=True)
class _Walk:
    tables: Tables
    found: list[_Table] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    shared: bool = False
    constants: list[tuple[int, tuple[Term, ...]]] = field(default_factory=list)
    links: list[tuple[int, int]] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    """Names of common table expressions."""

    def any(self, node: object, level: _Level | None) -> None:
        """Look for statements anywhere below."""
        if isinstance(node, list):
            for one in node:
                self.any(one, level)
        elif isinstance(node, dict):
            for name, body in node.items():
                if name in _STATEMENTS:
                    self.statement(name, body, level)
                elif isinstance(body, dict | list):
                    self.any(body, level)

    def statement(self, name: str, body: Node, level: _Level | None) -> None:
        if name == "SelectStmt":
            self.select(body, level)
        elif name == "InsertStmt":
            self.insert(body, level)
        elif name == "RangeVar":
            self.relation(body, level or _Level(None))
        else:
            self.change(body, level)

    def common(self, body: Node, outer: _Level | None) -> None:
        clause = body.get("withClause", {})
        for one in clause.get("ctes", ()):
            self.views.append(one["CommonTableExpr"]["ctename"])
        for one in clause.get("ctes", ()):
            self.any(one["CommonTableExpr"]["ctequery"], outer)

    def select(self, body: Node, outer: _Level | None) -> _Level:
        level = _Level(outer)
        self.common(body, outer)
        for side in ("larg", "rarg"):
            if side in body:
                self.select(body[side], outer)
        self.sources(body.get("fromClause", ()), level)
        self.conditions(body.get("whereClause"), level, constants=True)
        for name, part in body.items():
            if name not in ("withClause", "larg", "rarg", "fromClause"):
                self.any(part, level)
        return level

    def change(self, body: Node, outer: _Level | None) -> None:
        """UPDATE and DELETE."""
        level = _Level(outer)
        self.common(body, outer)
        self.relation(body["relation"], level)
        self.sources([*body.get("fromClause", ()), *body.get("usingClause", ())], level)
        self.conditions(body.get("whereClause"), level, constants=True)
        for name in ("targetList", "whereClause", "returningList"):
            self.any(body.get(name), level)

    def insert(self, body: Node, outer: _Level | None) -> None:
        level = _Level(outer)
        self.common(body, outer)
        target = self.relation(body["relation"], level)
        source = body.get("selectStmt", {}).get("SelectStmt")
        inner = self.select(source, outer) if source else None
        if target is not None and source is not None and inner is not None:
            names = [column["ResTarget"]["name"] for column in body.get("cols", ())]
            if (key := self.found[target].key) in names:
                self.inserted(target, names.index(key), source, inner)
        self.any(body.get("onConflictClause"), level)
        self.any(body.get("returningList"), level)

    def inserted(self, target: int, position: int, source: Node, level: _Level) -> None:
        """Confine an INSERT's table by what stands at the key's place in its rows."""
        terms: list[Term] = []
        for row in source.get("valuesLists", ()):
            cells = row["List"]["items"]
            term = _term(cells[position]) if position < len(cells) else None
            if term is None:
                return
            terms.append(term)
        wanted = source.get("targetList", ())
        if position < len(wanted) and source.get("op") == "SETOP_NONE":
            value = wanted[position]["ResTarget"]["val"]
            if term := _term(value):
                terms.append(term)
            for index in self.columns(value, level):
                self.links.append((index, target))
        if terms:
            self.constants.append((target, tuple(terms)))

    def relation(self, relation: Node, level: _Level) -> int | None:
        """Note a table; its index when it is sharded."""
        name = relation["relname"]
        alias = relation.get("alias", {}).get("aliasname", name)
        level.aliases[alias] = None
        if name in self.views and "schemaname" not in relation:
            return None
        key = self.tables.key_of(relation)
        if key is None:
            if self.tables.is_shared(relation):
                self.shared = True
            else:
                self.unknown.append(name)
            return None
        self.found.append(_Table(name, key, level, _spot(relation, key)))
        level.aliases[alias] = len(self.found) - 1
        return level.aliases[alias]

    def sources(self, nodes: Any, level: _Level) -> None:
        for node in nodes:
            if "RangeVar" in node:
                self.relation(node["RangeVar"], level)
            elif "JoinExpr" in node:
                self.join(node["JoinExpr"], level)
            else:  # a subquery or a function: its columns may have any name
                body = next(iter(node.values()))
                name = body.get("alias", {}).get("aliasname", f" {len(level.aliases)}")
                level.aliases[name] = None
                self.any(node, level)

    def join(self, body: Node, level: _Level) -> None:
        before = set(level.own())
        self.sources([body["larg"]], level)
        left = set(level.own()) - before
        self.sources([body["rarg"]], level)
        right = set(level.own()) - before - left
        outer = body.get("jointype", "JOIN_INNER") != "JOIN_INNER"
        level.outer_joined |= outer
        shared = {column["String"]["sval"] for column in body.get("usingClause", ())}
        for one in left:
            for other in right:
                same = self.found[one].key == self.found[other].key
                if same and (self.found[one].key in shared or body.get("isNatural")):
                    self.links += [(one, other), (other, one)]
        self.conditions(body.get("quals"), level, constants=not level.outer_joined)
        self.any(body.get("quals"), level)

    def conditions(self, node: Node | None, level: _Level, *, constants: bool) -> None:
        """Note what the AND-ed conditions of one level say about keys."""
        for kind, left, right in _equalities(node):
            mine, others = self.columns(left, level), self.columns(right, level)
            for one in mine:
                for other in others:
                    self.link(one, other)
            if not constants:
                continue
            for index, value in ((mine, right), (others, left)):
                terms = _terms(value) if kind == "AEXPR_IN" else _single(value)
                if terms:
                    self.constants += [(one, terms) for one in index]

    def link(self, one: int, other: int) -> None:
        inner, outer = self.found[one].level, self.found[other].level
        if inner is outer or _within(outer, inner):
            self.links.append((one, other))
        if inner is outer or _within(inner, outer):
            self.links.append((other, one))

    def columns(self, node: Node, level: _Level) -> list[int]:
        """Return the tables whose shard key a column is."""
        reference = _unwrapped(node).get("ColumnRef")
        if reference is None:
            return []
        names = [part.get("String", {}).get("sval", "") for part in reference["fields"]]
        at: _Level | None = level
        while at is not None:
            if len(names) > 1:
                if names[-2] in at.aliases:
                    index = at.aliases[names[-2]]
                    return [index] if index is not None and self._is_key(index, names) else []
            elif at.aliases:
                found = [index for index in at.own() if self._is_key(index, names)]
                if found or len(at.own()) < len(at.aliases):
                    return found
            at = at.outer
        return []

    def _is_key(self, index: int, names: list[str]) -> bool:
        return self.found[index].key == names[-1]

    def result(self) -> Confinement:
        """Spread what is known along the links."""
        confined = {index for index, _ in self.constants}
        while more := {b for a, b in self.links if a in confined and b not in confined}:
            confined |= more
        loose = [t.name for index, t in enumerate(self.found) if index not in confined]
        terms = dict.fromkeys(term for _, terms in self.constants for term in terms)
        loose += self.unknown
        return Confinement(
            tuple(terms),
            loose[0] if loose else "",
            bool(self.found or self.unknown),
            self.shared,
            self.unknown[0] if self.unknown else "",
            tuple(t.spot for t in self.found),
        )


def _spot(relation: Node, key: str) -> Spot:
    name = (relation.get(n, "") for n in ("catalogname", "schemaname", "relname"))
    parts = tuple(part for part in name if part)
    at = int(relation.get("location", 0))
    return Spot(at, parts, key, "alias" in relation, relation.get("inh", False))


def _within(inner: _Level, outer: _Level) -> bool:
    at = inner.outer
    while at is not None:
        if at is outer:
            return True
        at = at.outer
    return False


_STATEMENTS = frozenset(("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "RangeVar"))


def _equalities(node: Node | None) -> Iterator[tuple[str, Node, Node]]:
    """Yield each AND-ed ``a = b`` and ``a IN (…)``."""
    if not node:
        return
    if both := node.get("BoolExpr"):
        if both["boolop"] == "AND_EXPR":
            for one in both["args"]:
                yield from _equalities(one)
        return
    test = node.get("A_Expr")
    if not test or test["kind"] not in ("AEXPR_OP", "AEXPR_IN") or "lexpr" not in test:
        return
    if test["name"] == [{"String": {"sval": "="}}]:
        yield test["kind"], test["lexpr"], test["rexpr"]


def _unwrapped(node: Node) -> Node:
    """A cast does not change which key a value is, as long as it is one of the key's type."""
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return node


def _term(node: Node) -> Term | None:
    node = _unwrapped(node)
    if "ParamRef" in node:
        return Parameter(int(node["ParamRef"].get("number", 0)))
    constant = node.get("A_Const")
    if constant is None or constant.get("isnull"):
        return None
    if "ival" in constant:
        return Constant(str(constant["ival"].get("ival", 0)))  # 0 is left out of the JSON
    for name in ("sval", "fval"):
        if name in constant:
            return Constant(str(constant[name].get(name, "")))
    return None


def _single(node: Node) -> tuple[Term, ...]:
    term = _term(node)
    return (term,) if term else ()


def _terms(node: Node) -> tuple[Term, ...]:
    terms = [_term(item) for item in node.get("List", {}).get("items", ())]
    return () if None in terms else tuple(t for t in terms if t is not None)


def confinement(statement: Node, tables: Tables) -> Confinement:
    """Return what one parsed statement is confined to."""
    walk = _Walk(tables)
    walk.any(statement, None)
    return walk.result()
