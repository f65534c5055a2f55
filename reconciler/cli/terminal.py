"""Terminals: how wide, whether colour is wanted, and talk on stderr.

Our own sixteen colours instead of rich, because most calls print text that is laid out already, and
rich takes longer to import than a plan takes to make.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TextIO

Paint = Callable[[str, str], str]
"""(style, text) → text, with escape sequences when colour is on."""

WIDTH_DEFAULT = 100
WIDTH_MIN, WIDTH_MAX = 60, 120

ANSI = {
    "add": "32", "change": "33", "remove": "31", "move": "36", "attention": "1;31",
    "dim": "2", "bold": "1", "warn": "33", "error": "1;31", "good": "32", "bad": "31",
}  # fmt: skip
"""Terminal codes by style."""


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour a stream: only on a terminal, and never against NO_COLOR (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def style_for(stream: TextIO) -> Paint:
    """Return what paints text for a stream."""
    return painted if wants_colour(stream) else plain


def painted(style: str, text: str) -> str:
    """Return the text in a style's colour."""
    code = ANSI.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def plain(_style: str, text: str) -> str:
    """Return the text as it is."""
    return text


def width_of(stream: TextIO) -> int:
    """Return how many columns to lay out for: the terminal's within bounds, else 100."""
    if not stream.isatty() and "COLUMNS" not in os.environ:
        return WIDTH_DEFAULT
    columns = shutil.get_terminal_size((WIDTH_DEFAULT, 24)).columns
    return max(WIDTH_MIN, min(columns, WIDTH_MAX))


def tell_line(text: str, style: str = "") -> None:
    """Write a line of talk to stderr."""
    print(style_for(sys.stderr)(style, text), file=sys.stderr, flush=True)


def write_wrapped(text: str, indent: int = 0) -> None:
    """Write a sentence to stdout: on a terminal in lines, elsewhere on one."""
    from reconciler.plan.render_layout import unpainted, wrapped

    if sys.stdout.isatty():
        text = "\n".join(wrapped(text, width_of(sys.stdout), indent, unpainted, "", hang=2))
        indent = 0
    write(" " * indent + text)


def write(text: str) -> None:
    """Write data to stdout, with one newline at its end."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
