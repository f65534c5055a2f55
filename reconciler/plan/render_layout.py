"""Lines of text: how wide they are, how they wrap, and what must not reach a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

Paint = Callable[[str, str], str]
"""(style, text) → text, with escape sequences when the shell wants colour."""


def unpainted(_style: str, text: str) -> str:
    """Return the text as it is."""
    return text


def clean(text: str) -> str:
    """Return the text on one line and without control characters.

    Texts come from specs and policies; an escape sequence in one must not steer a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def columns_of(text: str) -> int:
    """Return how many columns a terminal gives to a text: two for wide, none for combining."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def wrapped(
    text: str, width: int, indent: int, paint: Paint, style: str, hang: int = 0
) -> Iterator[str]:
    """Yield the text in lines of at most ``width`` columns; later lines hang by ``hang`` more.

    A word longer than a line stays whole: a broken path cannot be copied.
    """
    line, used = "", 0
    room = max(width - indent, 20)
    for word in clean(text).split(" "):
        needed = columns_of(word)
        if line.strip() and used + 1 + needed > room:
            yield " " * indent + paint(style, line)
            line, used = " " * hang + word, hang + needed
        else:
            line, used = (f"{line} {word}", used + 1 + needed) if line else (word, needed)
    yield " " * indent + paint(style, line)


def beside(left: str, right: str, width: int, paint: Paint) -> Iterator[str]:
    """Yield both texts on one line, the second flush right, or on two when they do not fit."""
    left, right = clean(left), clean(right)
    gap = width - columns_of(left) - columns_of(right)
    if gap >= 2 and right:
        yield paint("bold", left) + " " * gap + paint("dim", right)
        return
    yield from wrapped(left, width, 0, paint, "bold")
    if right:
        yield from wrapped(right, width, 0, paint, "dim", hang=2)
