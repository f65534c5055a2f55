"""``shardwright history``: what was applied, newest first."""

from __future__ import annotations

import sys

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, tell_line, write


@command("history")
@click.argument("name", required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many operations to show.",
)
@output_option("text", "wide", "json")
@click.pass_obj
def history(session: Session, name: str | None, limit: int, output: str) -> None:
    """Show what was applied, and when.

    NAME is a database; without it, all are shown. The last 50 operations are kept.
    """
    from reconciler.cli.looking import look_around, names_of
    from reconciler.wiring import open_reading_world

    world = open_reading_world(session.settings())
    items = look_around(world, "operations").objects["operations"]
    if name:
        items = [item for item in items if name in names_of(item)]
    items = items[:limit]
    if output == "json":
        import json

        write(json.dumps(items, indent=2, ensure_ascii=False))
        return
    if not items:
        tell_line(f"nothing was applied yet{f' to {name}' if name else ''}", "dim")
        return
    from reconciler.cli.columns import columns_for
    from reconciler.cli.table import shown_table

    columns = columns_for("operations", wide=output == "wide", with_namespace=False)
    rows = [[cell(item) for _, cell in columns] for item in items]
    write(shown_table([head for head, _ in columns], rows, style_for(sys.stdout)))
