"""Where a mistake inside an expression stands in its file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import yaml

from reconciler.model.desired import Place
from reconciler.model.errors import Position

Sources = Mapping[str, bytes]
"""The files' bytes, by the path in their places."""


def locate_expression(place: Place, sources: Sources, line: int = 1, column: int = 1) -> Position:
    """Return the file's line and column of a point in a scalar (both counted from 1 in its value).

    Exact for plain and quoted texts on one line and for block texts (``|``); for texts that YAML
    folds or unescapes it is the scalar's beginning. Only called for mistakes: composing the
    document costs more than reading it did.
    """
    text = sources.get(place.file, b"").decode(errors="replace")
    node = _find(text, place)
    if node is None:
        return Position(place.file)
    mark = node.start_mark
    start = Position(place.file, mark.line + 1, mark.column + 1)
    if not isinstance(node, yaml.ScalarNode):
        return start
    if node.style == "|":
        below = mark.line + line
        lines = text.splitlines()
        source = lines[below] if below < len(lines) else ""
        indent = len(source) - len(source.lstrip(" ")) if line == 1 else _indent(lines, mark.line)
        return Position(place.file, below + 1, indent + column)
    one_line = mark.line == node.end_mark.line and node.style != ">"
    verbatim = node.end_mark.column - mark.column in (len(node.value), len(node.value) + 2)
    if not one_line or not verbatim or line != 1:
        return start
    return Position(place.file, start.line, start.column + (node.style in ("'", '"')) + column - 1)


def _indent(lines: list[str], header: int) -> int:
    """Return a block text's indentation: that of its first line that is not empty."""
    inside = next((text for text in lines[header + 1 :] if text.strip()), "")
    return len(inside) - len(inside.lstrip(" "))


def _find(text: str, place: Place) -> Any:
    """Return the node at a place, or the last one on the way to it; None without a document."""
    try:
        documents = yaml.compose_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        node = next(islice(documents, place.document, None), None)
    except yaml.YAMLError:
        return None
    for part in place.path:
        inner = _inside(node, part)
        if inner is None:
            break
        node = inner
    return node


def _inside(node: Any, part: str | int) -> Any:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return next(islice(node.value, part, None), None)
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None
