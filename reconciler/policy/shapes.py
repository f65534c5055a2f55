"""How a frozen dataclass looks to CEL: the names of its message and fields, and their types."""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

PACKAGE = "shardwright"
PAIRS = tuple[tuple[str, str], ...]
"""The type of a field that is a map in CEL."""


def camel(name: str) -> str:
    """``shards_changed`` to ``shardsChanged``."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def message_name(kind: type) -> str:
    """Return the message's name in CEL, such as ``shardwright.Database``."""
    return f"{PACKAGE}.{kind.__name__.removesuffix('Facts')}"


@cache
def types_of(kind: type) -> dict[str, Any]:
    """Return a dataclass's field types by field name; cached, since resolving them is slow."""
    return get_type_hints(kind)


def item_type(hint: Any) -> type | None:
    """Return X for ``tuple[X, ...]`` and ``X | None``, which both hold at most that; else None."""
    if get_origin(hint) is UnionType:
        return next(arg for arg in get_args(hint) if arg is not NoneType)  # type: ignore[no-any-return]
    return get_args(hint)[0] if get_origin(hint) is tuple else None
