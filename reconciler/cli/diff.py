"""``shardwright diff``: which fields differ, after kubectl's manner."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.report import named_unseen
from reconciler.cli.session import Session, output_option, session_of
from reconciler.cli.source import Where, chosen, load, source_options
from reconciler.cli.terminal import style_for, tell_line, write

if TYPE_CHECKING:
    from reconciler.cli.differences import Difference
    from reconciler.engine.world import Outlook

ERROR = 2
"""Above 1, as kubectl has it: 1 says that there are differences."""


@command("diff")
@source_options
@output_option("text", "json")
@click.pass_context
def diff(ctx: click.Context, where: Where, output: str) -> int:
    """Show the fields that differ; exit 0, 1, or above 1.

    0 when none differs, 1 when some do, above 1 on errors, as kubectl diff has it.
    """
    session: Session = session_of(ctx)
    session.error_exit = ERROR
    from reconciler.cli.differences import differences_of
    from reconciler.cli.report import place_text
    from reconciler.engine import loop
    from reconciler.wiring import open_reading_world

    loaded = load(chosen(where, session))
    outlook = loop.look(open_reading_world(session.settings()), loaded)
    found = differences_of(outlook.difference.changes)
    locate = place_text(loaded.locate)
    if output == "json":
        import json

        items = [
            {
                "database": one.database, "shard": one.shard, "field": one.field,
                "before": one.before, "after": one.after,
                "place": locate(one.place) if one.place else "",
            }
            for one in found
        ]  # fmt: skip
        write(json.dumps(items, indent=2, ensure_ascii=False))
    elif found:
        write(_text(found, locate))
    _tell_rest(outlook)
    if outlook.observed.unseen and not found:
        return ERROR  # what did not answer may differ
    return 1 if found or outlook.difference.refusals else 0


def _text(found: tuple[Difference, ...], locate: object) -> str:
    from reconciler.plan.render_layout import clean

    paint = style_for(sys.stdout)
    lines: list[str] = []
    subject = ""
    for one in found:
        if one.subject != subject:
            subject = one.subject
            lines.append(paint("bold", subject))
        where = f"  {locate(one.place)}" if one.place and callable(locate) else ""
        if one.before is not None:
            lines.append(paint("remove", f"  - {one.field}: {clean(one.before)}"))
        if one.after is not None:
            lines.append(paint("add", f"  + {one.field}: {clean(one.after)}") + paint("dim", where))
    return "\n".join(lines)


def _tell_rest(outlook: Outlook) -> None:
    difference = outlook.difference
    for refusal in difference.refusals:
        tell_line(f"{refusal.kind.code}  {refusal.subject}: {refusal.problem}", "attention")
    for unseen in named_unseen(outlook.observed):
        tell_line(f"unseen: {unseen}", "warn")
    for standstill in difference.standstills:
        tell_line(f"left alone: {standstill.subject}: {standstill.reason}", "warn")
