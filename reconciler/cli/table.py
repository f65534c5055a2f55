"""Tables as kubectl prints them: a heading in capitals, columns by their widest cell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from reconciler.cli.terminal import Paint, plain, width_of
from reconciler.plan.render_layout import clean, columns_of, wrapped

GAP, GAP_CLOSE = 3, 2
STATES = {
    "True": "good",
    "False": "bad",
    "Unknown": "warn",
    "Suspended": "warn",
    "ok": "good",
    "fail": "bad",
}
"""Cells that are coloured when they are a whole word of ours."""


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint = plain, gap: int = GAP
) -> str:
    """Return the table, one line a row, without spaces at line ends."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [
        max(columns_of(text) for text in column) for column in zip(heads, *cells, strict=True)
    ]

    def state(text: str) -> str:
        return paint(STATES.get(text, ""), text)

    head = _line(heads, widths, lambda text: paint("bold", text), gap)
    return "\n".join([head, *(_line(row, widths, state, gap) for row in cells)])


def table_with_texts(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, paint: Paint = plain
) -> str:
    """Return a table whose last column is a text: beside its row where it fits, else below it.

    One that says nothing is left out where it does not fit, and columns come closer then.
    """
    most = [row[:-1] for row in rows]
    gap = GAP if _widest(table(heads[:-1], most)) + GAP <= width else GAP_CLOSE
    head, *lines = table(heads[:-1], most, paint, gap).splitlines()
    bare = table(heads[:-1], most, gap=gap).splitlines()
    begins = max(map(columns_of, bare)) + gap
    found = [f"{head}{' ' * (begins - columns_of(bare[0]))}{paint('bold', heads[-1])}".rstrip()]
    for line, plainly, row in zip(lines, bare[1:], rows, strict=True):
        text = clean(row[-1])
        if begins + columns_of(text) <= width:
            found.append(f"{line}{' ' * (begins - columns_of(plainly))}{text}".rstrip())
        elif text in ("", "-"):
            found.append(line)
        else:
            found += [line, *wrapped(text, width, 4, plain, "")]
    return "\n".join(found)


def _widest(text: str) -> int:
    return max(map(columns_of, text.splitlines()))


def shown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint = plain) -> str:
    """Return a table for stdout: on a terminal a long last cell goes below its row.

    Elsewhere a row is a line, because programs read it.
    """
    if sys.stdout.isatty():
        return table_with_texts(heads, rows, width_of(sys.stdout), paint)
    return table(heads, rows, paint)


def _line(
    cells: Sequence[str], widths: Sequence[int], painted: Callable[[str], str], gap: int
) -> str:
    *most, last = zip(cells, widths, strict=True)
    text = "".join(painted(c) + " " * (width - columns_of(c) + gap) for c, width in most)
    return (text + painted(last[0])).rstrip()
