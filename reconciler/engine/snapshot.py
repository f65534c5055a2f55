"""What was observed, as a file: for plans where the live system cannot be reached.

A pull request's check plans against it with the code that plans against the live system. It holds
names, addresses, sizes and settings; no credential is part of what is observed, and of settings
that may hold one only the name is kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from reconciler.model import (
    keyspace,
    moves,
    names,
    observed,
    platform,
    rollouts,
    routing,
    unseen,
)
from reconciler.model.desired import CopyDriver, Deletion, KeyType, ShardedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.observed import Catalog, ObservedShard, ObservedState

FORMAT = "shardwright.dev/state/v1"
BYTES_MAX = 512 * 1024 * 1024
"""A longer state file is refused: some 100,000 shards fit."""
HIDDEN = "(hidden)"
_SECRETIVE = re.compile(r"password|passphrase|conninfo|secret|command|key_file", re.IGNORECASE)
_CLASSES: dict[str, type[Any]] = {
    found.__name__: found
    for module in (keyspace, moves, names, observed, platform, rollouts, routing, unseen)
    for found in vars(module).values()
    if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Enum))
} | {found.__name__: found for found in (CopyDriver, Deletion, KeyType, ShardedTable)}


class StateUnreadable(ReconcilerError):
    """A state file is not one that `shardwright state export` wrote, or is of another version."""

    code = "ST101"


def encode_state(state: ObservedState, actor: str) -> bytes:
    """Return what was observed as JSON, without anything that may be a secret."""
    shown = replace(
        state,
        databases=tuple(
            replace(database, shards=tuple(_without_secrets(s) for s in database.shards))
            for database in state.databases
        ),
    )
    head = {"format": FORMAT, "at": state.looked_at, "by": actor.partition(" ")[0]}
    return json.dumps({**head, "state": _plain(shown)}, separators=(",", ":")).encode() + b"\n"


def _without_secrets(shard: ObservedShard) -> ObservedShard:
    if not isinstance(shard.catalog, Catalog):
        return shard
    overrides = tuple(
        (name, HIDDEN if _SECRETIVE.search(name) else value)
        for name, value in shard.catalog.overrides
    )
    return replace(shard, catalog=replace(shard.catalog, overrides=overrides))


def decode_state(data: bytes, file: str) -> ObservedState:
    """Read a state file. Raises StateUnreadable."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, and this version reads {FORMAT}")
        state = _made(found["state"])
        if not isinstance(state, ObservedState):
            raise ValueError("it holds no state")
        datetime.fromisoformat(state.looked_at)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise StateUnreadable(
            file, f"is no state file: {problem}",
            remedy="write it with this version: shardwright state export -o FILE",
        ) from None  # fmt: skip
    return state


def _plain(value: object) -> object:
    """Return a value of the model as JSON: a class by its name, a tuple as a list."""
    match value:
        case None | bool() | int() | float():
            return value
        case Enum():
            return {"$": type(value).__name__, "": value.value}
        case str():
            return str(value)
        case tuple():
            return [_plain(one) for one in value]
        case frozenset():
            return {"$": "set", "": [_plain(one) for one in sorted(value)]}
        case _ if is_dataclass(value):
            known = ((f.name, getattr(value, f.name)) for f in fields(value) if f.init)
            return {"$": type(value).__name__, **{name: _plain(one) for name, one in known}}
        case _:
            raise TypeError(f"{type(value).__name__} is no part of the model")


def _made(value: Any) -> Any:
    """Return the model's value of a piece of JSON; only classes of the model are ever made."""
    if isinstance(value, list):
        return tuple([_made(one) for one in value])
    if not isinstance(value, dict):
        return value
    name = value.get("$")
    if not isinstance(name, str):
        raise ValueError("a mapping without a class")
    if "" in value:
        plain = value[""]
        if name == "set" and isinstance(plain, list):
            return frozenset([_made(one) for one in plain])
        return _CLASSES[name](plain)
    return _CLASSES[name](**{key: _made(one) for key, one in value.items() if key != "$"})
