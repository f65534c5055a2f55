"""Which column a table may be sharded by, guessed from its keys. Pure; a person decides.

Rows that are used together must land on one shard, so there is one root (customers), and every
other table is sharded by its reference to that root. The root is the table that most others refer
to by a single column of a type that can be a shard key; its own key is the column referred to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from reconciler.edges.postgres_import import FoundTable

KEY_TYPES = {"bigint": "bigint", "integer": "int", "text": "text", "uuid": "uuid"}
"""PostgreSQL's types that can be a shard key, and our names of them."""
SMALL_ROWS = 10_000
"""A table with fewer rows, referred to by others and referring to none, is likely a reference."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What the tables look like: keys by table with the reason, references, and open questions."""

    key_type: str
    tables: tuple[tuple[str, str, str], ...]
    reference: tuple[str, ...]
    undecided: tuple[tuple[str, str], ...]


def guess_keys(tables: tuple[FoundTable, ...]) -> Guess:
    """Guess; whatever does not follow from a key is left undecided, with the reason."""
    root = _root(tables)
    if root is None:
        return _each_for_itself(tables)
    table, column = root
    key_type = KEY_TYPES[dict(table.columns)[column]]
    keys = {table.name: (column, "the table that most others refer to")}
    for one in tables:
        if one.name != table.name and (found := _key_of(one, table, column, key_type)):
            keys[one.name] = found
    reference = [t.name for t in tables if t.name not in keys and _is_reference(t, tables)]
    undecided = [
        (t.name, f"nothing in it leads to {table.name}")
        for t in tables
        if t.name not in keys and t.name not in reference
    ]
    chosen = tuple((name, key, why) for name, (key, why) in keys.items())
    return Guess(key_type, chosen, tuple(reference), tuple(undecided))


def _root(tables: tuple[FoundTable, ...]) -> tuple[FoundTable, str] | None:
    """Return the table that most others refer to directly, and the column they refer to."""
    by_name = {table.name: table for table in tables}
    votes: Counter[tuple[str, str]] = Counter()
    for table in tables:
        for key in table.foreign_keys:
            single = len(key.referenced) == 1 and key.table != table.name
            if single and _can_be_key(by_name[key.table], key.referenced[0]):
                votes[key.table, key.referenced[0]] += 1
    if not votes:
        return None

    def merit(vote: tuple[str, str]) -> tuple[int, bool, int, str]:
        table = by_name[vote[0]]
        # Codes (text) are the keys of look-up tables; of equals the larger table has the rows.
        return votes[vote], dict(table.columns)[vote[1]] != "text", table.rows, table.name

    name, column = max(votes, key=merit)
    return by_name[name], column


def _can_be_key(table: FoundTable, column: str) -> bool:
    return dict(table.columns).get(column) in KEY_TYPES


def _key_of(
    table: FoundTable, root: FoundTable, column: str, key_type: str
) -> tuple[str, str] | None:
    kinds = dict(table.columns)
    for key in table.foreign_keys:
        if key.table == root.name and key.referenced == (column,):
            return key.columns[0], f"refers to {root.name}.{column}"
    short = root.name.rpartition(".")[2]
    for name in dict.fromkeys((f"{short.rstrip('s')}_{column}", f"{short}_{column}")):
        if name in kinds and KEY_TYPES.get(kinds[name]) == key_type:
            return name, f"named like a reference to {root.name}, without a foreign key"
    return None


def _is_reference(table: FoundTable, tables: tuple[FoundTable, ...]) -> bool:
    """Small, referred to, and referring to nothing: whole on every shard is likely right."""
    referred = any(key.table == table.name for other in tables for key in other.foreign_keys)
    return referred and not table.foreign_keys and table.rows < SMALL_ROWS


def _each_for_itself(tables: tuple[FoundTable, ...]) -> Guess:
    """Without references between tables, each one's primary key is all there is to go by."""
    keys = [(t, t.primary_key[0]) for t in tables if t.primary_key]
    usable = [(t, column) for t, column in keys if _can_be_key(t, column)]
    kinds = Counter(KEY_TYPES[dict(t.columns)[column]] for t, column in usable)
    key_type = kinds.most_common(1)[0][0] if kinds else "bigint"
    chosen = [
        (t.name, column, "the first column of its primary key")
        for t, column in usable
        if KEY_TYPES[dict(t.columns)[column]] == key_type
    ]
    known = {name for name, _, _ in chosen}
    undecided = [(t.name, "no column can be its key") for t in tables if t.name not in known]
    return Guess(key_type, tuple(chosen), (), tuple(undecided))
