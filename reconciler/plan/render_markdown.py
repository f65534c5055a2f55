"""A plan as a comment on a pull request: the verdict on top, the details folded, never too long.

GitHub takes 65,536 characters a comment; counted here in UTF-8 bytes, which are never fewer. The
hidden marker lets a bot find its own comment and replace it instead of adding another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.plan.render_fold import Row, Section, sections, unseen_lines
from reconciler.plan.render_layout import clean
from reconciler.plan.render_report import PlanReport, counted
from reconciler.plan.render_verdict import (
    observed,
    policies_line,
    revision_line,
    timing,
    verdict,
)

MARKER = "<!-- shardwright:plan -->"
BYTES_MAX = 65_535
RESERVE = 400
"""Kept free for the line that says that something was left out, and for closing what is open."""
FENCE = "```"
"""No line of the details closes it: each begins with its sign."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|@!~])")
_DIFF_MARKS = {"+": "+", "-": "-", "!": "!", "~": "!", ">": "!", "·": "#"}


def render_markdown(report: PlanReport) -> str:
    """Return the plan as GitHub's and GitLab's Markdown, of less than 65,536 bytes."""
    text, used = [], 0
    room = BYTES_MAX - RESERVE
    for block in _blocks(report):
        size = len(block.encode()) + 1
        if used + size > room:
            text.append("\n_The rest did not fit into a comment: see `shardwright plan`._")
            break
        text.append(block)
        used += size
    return "\n".join(text) + "\n"


def _blocks(report: PlanReport) -> Iterator[str]:
    yield f"{MARKER}\n### {_plain(verdict(report))}\n"
    facts = [revision_line(report), observed(report), policies_line(report), timing(report)]
    facts += report.asides
    yield "  \n".join(_plain(fact) for fact in facts if fact) + "\n"
    for text in unseen_lines(report.unseen):
        yield f"> {_plain(text)}\n"
    for found in report.findings[:100]:
        place = report.place(found.place)
        subject = f" {_plain(found.database)}" if found.database else ""
        where = f" ({_code(place)})" if place else ""
        rule = _plain(f"{found.policy}/{found.rule}")
        yield f"- **{_plain(found.outcome)}** {rule}{subject}: {_plain(found.message)}{where}"
    for section in sections(report):
        yield _section(section)
    if report.plan.steps:
        name = report.saved_as or report.plan.id
        yield f"\n<sub>{_code(name)}, valid until something in it changes.</sub>"


SECTION_MAX = 24_000
"""Bytes of one database's details, so that one large one leaves room for the others."""


def _section(section: Section) -> str:
    rows = counted(len(section.rows), "line")
    head = f"\n<details><summary><b>{_html(str(section.key))}</b>: {rows}, "
    head += f"{section.risk.label}</summary>\n\n{FENCE}diff\n"
    body, used = [], 0
    for line in _lines(section.rows, 0):
        used += len(line.encode()) + 1
        if used > SECTION_MAX:
            body.append("# … more: shardwright plan")
            break
        body.append(line)
    return head + "\n".join(body) + f"\n{FENCE}\n</details>"


def _lines(rows: tuple[Row, ...], depth: int) -> Iterator[str]:
    for row in rows:
        right = " · ".join(part for part in (row.estimate, row.place) if part)
        space = "  " * depth
        # The sign in the first column is what colours a line of a diff.
        sign = _DIFF_MARKS[row.mark]
        mark = "" if depth == 0 and sign == row.mark else f"{row.mark} "
        text = f"{space}{mark}{row.text}{f'   ({right})' if right else ''}"
        yield f"{sign} {clean(text)}"
        yield from (f"#   {space}{clean(note)}" for note in row.notes)
        yield from _lines(row.rows, depth + 1)


def _plain(text: str) -> str:
    """Escape what Markdown would read as its own, mentions included."""
    return _MARKDOWN.sub(r"\\\1", clean(text))


def _html(text: str) -> str:
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    return f"`{clean(text).replace('`', chr(39))}`"
