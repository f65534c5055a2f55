"""Which objects a list shows: by kind, name, namespace and labels."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

from reconciler.cli.looking import Seen, in_namespace, named
from reconciler.cli.objects import Object
from reconciler.model.desired import Database, DesiredState

_TERM = re.compile(r"\s*([\w./-]+)\s*(?:(!=|==|=)\s*([\w./-]*))?\s*")


@dataclass(frozen=True, slots=True)
class Choice:
    """What to list. ``namespace`` None: all. ``databases``: only these, as (namespace, name).

    ``desired`` are the specs, as far as the caller has them.
    """

    kind: str
    name: str = ""
    namespace: str | None = "default"
    databases: frozenset[tuple[str, str]] | None = None
    desired: DesiredState | None = None

    def of(self, seen: Seen) -> list[Object]:
        """Return the objects. Raises NotFound for a name that nothing has."""
        items = seen.objects[self.kind]
        if self.name:
            items = named(items, self.name, self.kind)
        elif self.namespace is not None:
            items = in_namespace(items, self.namespace)
        if self.databases is None:
            return items
        return [item for item in items if _database(item) in self.databases]


def _database(item: Object) -> tuple[str, str]:
    return str(item.get("namespace", "")), str(item.get("database", item["name"]))


def matching(desired: DesiredState, selector: str) -> frozenset[tuple[str, str]]:
    """Return the databases whose labels fulfil a selector: ``team=a``, ``team!=a``, ``team``."""
    terms = [_TERM.fullmatch(term) for term in selector.split(",")]
    if not all(terms):
        raise click.UsageError(f'"{selector}" is no selector; write team=checkout,tier!=test')
    wanted = [(str(term[1]), term[2] or "", term[3] or "") for term in terms if term]
    return frozenset(
        (database.key.namespace, database.key.name)
        for database in desired.databases
        if all(_fulfils(database, *term) for term in wanted)
    )


def _fulfils(database: Database, label: str, operator: str, value: str) -> bool:
    labels = dict(database.labels)
    if operator == "!=":
        return labels.get(label) != value
    return labels.get(label) == value if operator else label in labels
