"""Tables as kubectl prints them: a heading in capitals, columns by their widest cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reconciler.cli.terminal import Paint, plain
from reconciler.plan.render_layout import clean, columns_of, wrapped

GAP = 3
STATES = {
    "True": "good",
    "False": "bad",
    "Unknown": "warn",
    "Suspended": "warn",
    "ok": "good",
    "fail": "bad",
}
"""Cells that are coloured when they are a whole word of ours."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint = plain) -> str:
    """Return the table, one line a row, without spaces at line ends."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [
        max(columns_of(text) for text in column) for column in zip(heads, *cells, strict=True)
    ]

    def state(text: str) -> str:
        return paint(STATES.get(text, ""), text)

    head = _line(heads, widths, lambda text: paint("bold", text))
    return "\n".join([head, *(_line(row, widths, state) for row in cells)])


def table_with_texts(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, paint: Paint = plain
) -> str:
    """Return a table whose last column is a text: beside its row where it fits, else below it."""
    head, *lines = table(heads[:-1], [row[:-1] for row in rows], paint).splitlines()
    bare = table(heads[:-1], [row[:-1] for row in rows]).splitlines()
    begins = max(map(columns_of, bare)) + GAP
    found = [f"{head}{' ' * (begins - columns_of(bare[0]))}{paint('bold', heads[-1])}"]
    for line, plainly, row in zip(lines, bare[1:], rows, strict=True):
        text = clean(row[-1])
        if begins + columns_of(text) <= width:
            found.append(f"{line}{' ' * (begins - columns_of(plainly))}{text}".rstrip())
        else:
            found += [line, *wrapped(text, width, 4, plain, "")]
    return "\n".join(found)


def _line(cells: Sequence[str], widths: Sequence[int], painted: Callable[[str], str]) -> str:
    *most, last = zip(cells, widths, strict=True)
    text = "".join(painted(c) + " " * (width - columns_of(c) + GAP) for c, width in most)
    return (text + painted(last[0])).rstrip()
