"""A plan on a terminal: places and estimates in columns at the right, long texts wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.plan.render_fold import Mark, Row, Section, sections, unseen_lines
from reconciler.plan.render_layout import Paint, beside, clean, columns_of, unpainted, wrapped
from reconciler.plan.render_report import PlanReport
from reconciler.plan.render_verdict import (
    observed,
    policies_line,
    revision_line,
    timing,
    verdict,
)

INDENT = 2
ROWS_MAX = 200
"""Rows shown of one database; nobody reads more on a terminal."""

STYLES = {
    Mark.ADD: "add",
    Mark.CHANGE: "change",
    Mark.REMOVE: "remove",
    Mark.MOVE: "move",
    Mark.ATTENTION: "attention",
    Mark.STILL: "dim",
}
OUTCOME_STYLES = {"deny": "attention", "hold": "warn", "warn": "warn"}


@dataclass(frozen=True, slots=True)
class _Columns:
    """The layout: all of it ``width`` wide, of which the column at the right takes ``right``."""

    width: int
    right: int
    paint: Paint


def render_text(report: PlanReport, width: int = 100, paint: Paint = unpainted) -> str:
    """Return the plan for people, laid out for ``width`` columns.

    No escape sequence is in it unless ``paint`` puts one there.
    """
    return "\n".join(line.rstrip() for line in _lines(report, width, paint)) + "\n"


def _lines(report: PlanReport, width: int, paint: Paint) -> Iterator[str]:
    yield from beside(revision_line(report), observed(report), width, paint)
    for text in unseen_lines(report.unseen):
        yield from wrapped(text, width, 2, paint, "warn")
    if report.not_applied:
        fields = ", ".join(report.not_applied)
        yield from wrapped(f"not applied on this platform: {fields}", width, 2, paint, "dim")
    shown = sections(report)
    columns = _columns(shown, width, paint)
    for section in shown:
        yield ""
        yield from _section(section, columns)
    yield ""
    yield from _policies(report, width, paint)
    yield from _footer(report, width, paint)


def _columns(shown: tuple[Section, ...], width: int, paint: Paint) -> _Columns:
    texts = [section.place for section in shown]
    texts += [_right(row) for section in shown for row in _all_rows(section.rows)]
    return _Columns(width, _right_width(texts, width), paint)


def _right_width(texts: Iterable[str], width: int) -> int:
    return min(max((columns_of(text) for text in texts), default=0), width * 2 // 5)


def _all_rows(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        yield row
        yield from _all_rows(row.rows)


def _right(row: Row) -> str:
    """Return what stands at the right of a row: its place, else its estimate."""
    return row.place or row.estimate


def _section(section: Section, columns: _Columns) -> Iterator[str]:
    yield from _line(str(section.key), section.place, 0, columns, "bold")
    for row in section.rows[:ROWS_MAX]:
        yield from _row(row, INDENT, columns)
    if len(section.rows) > ROWS_MAX:
        more = len(section.rows) - ROWS_MAX
        text = f"… and {more} more of lower risk; all of them: -o json"
        yield columns.paint("dim", " " * INDENT + text)


def _row(row: Row, indent: int, columns: _Columns) -> Iterator[str]:
    text = f"{row.mark} {row.text}"
    if row.place and row.estimate:
        text = f"{text} ({row.estimate})"
    yield from _line(text, _right(row), indent, columns, STYLES[row.mark])
    for note in row.notes:
        yield from wrapped(note, columns.width, indent + 4, columns.paint, "dim")
    for inner in row.rows:
        yield from _row(inner, indent + 4, columns)


def _line(text: str, right: str, indent: int, columns: _Columns, style: str) -> Iterator[str]:
    """Yield one text, wrapped at the left, with ``right`` in its column on the first line."""
    room = max(columns.width - columns.right - 2 - indent, 24)
    first, *more = wrapped(text, room, 0, unpainted, "", hang=2)
    head = " " * indent + _marked(first, style, columns.paint)
    if right:
        gap = " " * (max(room - columns_of(first), 0) + 2)
        head += gap + columns.paint("dim", _shortened(right, columns.right))
    yield head
    for line in more:
        yield " " * indent + (columns.paint(style, line) if style in WHOLE else line)


WHOLE = ("bold", "attention", "remove", "dim")
"""Styles that colour a whole row; of other rows only the sign is coloured."""


def _marked(text: str, style: str, paint: Paint) -> str:
    return paint(style, text) if style in WHOLE else paint(style, text[:1]) + text[1:]


def _shortened(text: str, room: int) -> str:
    text = clean(text)
    return text if columns_of(text) <= room else "…" + text[-(room - 1) :]


def _policies(report: PlanReport, width: int, paint: Paint) -> Iterator[str]:
    if summary := policies_line(report):
        yield summary
    places = [report.place(found.place) for found in report.findings]
    columns = _Columns(width, _right_width(places, width), unpainted)
    for found, place in zip(report.findings, places, strict=True):
        subject = f" ({found.database})" if found.database else ""
        text = f"{found.outcome:<4}  {found.policy}/{found.rule}{subject}: {found.message}"
        head, *more = _line(text, place, INDENT, columns, "")
        end = INDENT + len(found.outcome)
        style = OUTCOME_STYLES.get(found.outcome, "")
        yield " " * INDENT + paint(style, head[INDENT:end]) + head[end:]
        yield from (f"    {line}" for line in more)


def _footer(report: PlanReport, width: int, paint: Paint) -> Iterator[str]:
    if report.nothing_to_do:
        yield paint("good", verdict(report))
        return
    yield from wrapped(verdict(report), width, 0, paint, "bold")
    if detail := timing(report):
        yield from wrapped(detail, width, 0, paint, "dim", hang=2)
    if report.plan.steps:
        name = report.saved_as or report.plan.id
        yield from wrapped(f"{name}, valid until something in it changes.", width, 0, paint, "dim")
