"""Statements that differ in their constants alone are read once. Pure.

A text without its numbers and strings is its *shape*. Texts of one shape are made of the same
tokens, so PostgreSQL's grammar makes one tree of them, up to the constants. A shape is read
with constants that occur nowhere else, and so tells which of a text's constants is its key.

That holds only where it is sure what is a constant, so a text with comments, quoted names, escapes
or dollar quotes has no shape.

Most texts differ from one seen before in their key alone, so what stood before and after a key is
remembered by how the text begins: a text between the two has the same shape, and needs no look at
its other constants.
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

BEGINNING_BYTES = 24
"""Of texts that begin alike, only the last one's surroundings of its key are remembered."""

_NUMERAL = re.compile(rb"0|[1-9]\d{0,18}")
_TOKEN = re.compile(
    rb"""('[^'\\]*'|(?<![\w.])(?:""" + _NUMERAL.pattern + rb""")|["\\$\x00-\x02]|--|/\*)"""
)
"""Strings and whole numbers, and then whatever makes a text shapeless."""
_STRING, _NUMBER = b"\1", b"\2"


class Shapes:
    """What texts of known shapes are about, as ``read`` says of their first."""

    def __init__(self, read: Callable[[str], Reading]) -> None:
        self._read = read
        self._known: dict[bytes, int | None] = {}
        self._around: dict[bytes, tuple[bytes, bytes]] = {}

    def key_of(self, text: bytes) -> bytes | None:
        """Return the one key a statement is confined to; None where a parser has to look."""
        if len(text) > SHAPED_BYTES_MAX or not text.isascii():
            return None
        around = self._around.get(text[:BEGINNING_BYTES])
        if around is not None and (key := _between(text, *around)) is not None:
            return key
        tokens = _TOKEN.split(text)
        slot = self._slot(tokens)
        if slot is None:
            return None
        at = 2 * slot + 1
        self._remember(b"".join(tokens[:at]), tokens[at], b"".join(tokens[at + 1 :]))
        return tokens[at].strip(b"'")

    def _slot(self, tokens: list[bytes]) -> int | None:
        """Return which of a text's constants is its key."""
        parts = tokens.copy()
        for at in range(1, len(parts), 2):
            kind = _kind(parts[at])
            if kind is None:
                return None
            parts[at] = kind
        shape = b"".join(parts)
        return self._known[shape] if shape in self._known else self._learn(shape, parts)

    def _remember(self, before: bytes, constant: bytes, after: bytes) -> None:
        """Note what surrounds a key; its quotes do, too."""
        if constant[:1] == b"'":
            before, after = before + b"'", b"'" + after
        if len(self._around) >= SHAPES_MAX:
            self._around.clear()
        self._around[before[:BEGINNING_BYTES]] = before, after

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


def _between(text: bytes, before: bytes, after: bytes) -> bytes | None:
    """Return what is between, when all of it is one constant."""
    start, end = len(before), len(text) - len(after)
    if end < start or not (text.startswith(before) and text.endswith(after)):
        return None
    key = text[start:end]
    if after[:1] == b"'":
        return None if b"'" in key or b"\\" in key else key
    return key if _NUMERAL.fullmatch(key) else None


def _sentinel(kind: bytes, index: int) -> bytes:
    return b"'~%d~'" % index if kind == _STRING else b"%d" % (100_000_000 + index)
