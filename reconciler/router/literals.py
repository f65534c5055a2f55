"""Statements that differ in their constants alone are read once. Pure.

A text without its numbers and strings is its *shape*. Texts of one shape are made of the same
tokens, so PostgreSQL's grammar makes one tree of them, up to the constants. A shape is read
with constants that occur nowhere else, and so tells which of a text's constants is its key.

That holds only where it is sure what is a constant, so a text with comments, quoted names, escapes
or dollar quotes has no shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from reconciler.router.keyed import Constant
from reconciler.router.statements import Reading

SHAPES_MAX = 4096
"""Shapes remembered; when they are too many, all are forgotten."""
SHAPED_BYTES_MAX = 4096
"""Longer texts have no shape: most of them are constants."""

_TOKEN = re.compile(rb"""('[^'\\]*'|(?<![\w.])(?:0|[1-9]\d{0,18})|["\\$\x00-\x02]|--|/\*)""")
"""Strings and whole numbers, and then whatever makes a text shapeless."""
_STRING, _NUMBER = b"\1", b"\2"


class Shapes:
    """What texts of known shapes are about, as ``read`` says of their first."""

    def __init__(self, read: Callable[[str], Reading]) -> None:
        self._read = read
        self._known: dict[bytes, int | None] = {}

    def key_of(self, text: bytes) -> bytes | None:
        """Return the one key a statement is confined to; None where a parser has to look."""
        if len(text) > SHAPED_BYTES_MAX or not text.isascii():
            return None
        parts = _TOKEN.split(text)
        constants = parts[1::2]
        for index, constant in enumerate(constants):
            kind = _kind(constant)
            if kind is None:
                return None
            parts[2 * index + 1] = kind
        shape = b"".join(parts)
        slot = self._known[shape] if shape in self._known else self._learn(shape, parts)
        return None if slot is None else constants[slot].strip(b"'")

    def _learn(self, shape: bytes, parts: list[bytes]) -> int | None:
        """Read a shape with constants of our own, and see which of them is the key."""
        own = [_sentinel(kind, index) for index, kind in enumerate(parts[1::2])]
        parts[1::2] = own
        term = self._read(b"".join(parts).decode()).term
        values = [one.strip(b"'") for one in own]
        found = term.text.encode() if isinstance(term, Constant) else b""
        if len(self._known) >= SHAPES_MAX:
            self._known.clear()
        self._known[shape] = slot = values.index(found) if found in values else None
        return slot


def _kind(token: bytes) -> bytes | None:
    """Return what stands for a constant in a shape; None for a token that makes it shapeless."""
    if token[:1] == b"'":
        return _STRING
    return _NUMBER if token.isdigit() else None


def _sentinel(kind: bytes, index: int) -> bytes:
    return b"'~%d~'" % index if kind == _STRING else b"%d" % (100_000_000 + index)
