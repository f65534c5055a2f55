"""``shardwright config show``: each setting, and where it comes from."""

from __future__ import annotations

import sys
from dataclasses import fields

import click

from reconciler.cli.lazy import LazyCommand, LazyGroup, command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, write


@click.group(
    "config",
    cls=LazyGroup,
    table={
        "show": LazyCommand(
            "Commands", "reconciler.cli.config:show", "Print each setting and where it comes from."
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
def config() -> None:
    """Show the settings and their origins."""


@command("show")
@output_option("text", "json")
@click.pass_obj
def show(session: Session, output: str) -> None:
    """Print each setting and where it comes from.

    Order: flag, environment (SHARDWRIGHT_…), file (--config), default.
    """
    settings = session.settings()
    names = [one.name for one in fields(settings) if one.name != "origins"]
    rows = [(name, _plain(getattr(settings, name)), settings.origin(name)) for name in names]
    if output == "json":
        import json

        values = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        write(json.dumps(values, indent=2))
        return
    from reconciler.cli.table import table

    texts = [(name, _text(value), origin) for name, value, origin in rows]
    write(table(("NAME", "VALUE", "FROM"), texts, style_for(sys.stdout)))


def _plain(value: object) -> object:
    return [str(one) for one in value] if isinstance(value, tuple) else value


def _text(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
