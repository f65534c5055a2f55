"""Facts written by hand in a case: plain YAML data filled into the frozen types, strictly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from datetime import timedelta
from types import UnionType
from typing import Any, TypeVar, cast, get_origin

from reconciler.plan.actions import Risk
from reconciler.policy.shapes import PAIRS, camel, item_type, types_of
from reconciler.spec.problems import did_you_mean, quoted
from reconciler.spec.quantities import duration_ms, size_bytes

Path = tuple[str | int, ...]
T = TypeVar("T")


@dataclass(eq=False)
class Misfit(Exception):
    """Something written that no fact can hold; ``path`` leads to it from the case."""

    problem: str
    remedy: str
    path: Path


def fill(kind: type[T], written: Any, path: Path, default: T | None = None) -> T:
    """Return the default with what is written put in; names are camelCase. Raises Misfit."""
    if not isinstance(written, dict):
        raise Misfit("it must be a mapping", "", path)
    hints: dict[str, Any] = types_of(kind)  # type: ignore[arg-type]  # a type is hashable
    names = {camel(name): name for name in hints}
    values: dict[str, Any] = {}
    for key, value in written.items():
        if key not in names:
            remedy = did_you_mean(str(key), list(names)) or f"it has {', '.join(names)}"
            raise Misfit(f"there is no field {quoted(key)}", remedy, (*path, key))
        values[names[key]] = _convert(hints[names[key]], value, (*path, key))
    return replace(default or kind(), **values)  # type: ignore[type-var]


def _convert(hint: Any, value: Any, path: Path) -> Any:
    inner = item_type(hint)
    if hint == PAIRS:
        return tuple(sorted(_text_pairs(value, path)))
    if get_origin(hint) is UnionType:
        return None if value is None else _convert(inner, value, path)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise Misfit("it must be a list", "", path)
        return tuple(_item(inner, item, (*path, index)) for index, item in enumerate(value))
    return _scalar(hint, value, path)


def _item(kind: Any, value: Any, path: Path) -> Any:
    if is_dataclass(kind):
        return fill(cast(type[Any], kind), value, path)
    return _convert(kind, value, path)


def _text_pairs(value: Any, path: Path) -> list[tuple[str, str]]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise Misfit("it must be a mapping of texts", "quote numbers, true and false", path)
    return list(value.items())


def _scalar(hint: Any, value: Any, path: Path) -> Any:
    if isinstance(value, str) and hint in _FROM_TEXT:
        try:
            return _FROM_TEXT[hint](value)
        except ValueError as error:
            raise Misfit(str(error), "", path) from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        remedy = "quote it" if hint is str else ""
        raise Misfit(f"{quoted(value)} must be {_WORDS[hint]}", remedy, path)
    return value


def _number(text: str) -> int:
    """Read a size, or a risk by its name."""
    return int(Risk[text]) if text in Risk.__members__ else size_bytes(text)


def _duration(text: str) -> timedelta:
    return timedelta(milliseconds=duration_ms(text))


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {int: _number, timedelta: _duration}
_WORDS = {
    int: "a whole number or a size",
    float: "a number",
    str: "text",
    bool: "true or false",
    timedelta: "a duration such as 24h",
}
