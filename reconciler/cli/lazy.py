"""A click group whose commands are imported only when one of them runs.

Start-up counts: ``--help`` and completion read the table of commands and import nothing else. The
one-line helps therefore stand in the table; a test holds them against the commands' own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import click

Decorator = Callable[[Callable[..., int | None]], click.Command]
"""What ``click.command`` and ``click.group`` give; a command returns its exit code, None for 0."""


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and what the overview says of it."""

    section: str
    module: str
    help: str


class LazyGroup(click.Group):
    """A group over a table of commands; ``module`` is ``package.module:attribute``."""

    def __init__(self, *, table: Mapping[str, LazyCommand], **settings: Any) -> None:
        super().__init__(**settings)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names in the order of the table."""
        return list(self.table)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        cmd_name: str,
    ) -> click.Command | None:
        """Import a command now that it is asked for."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.module.partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, list(self.table), n=1, cutoff=0.6)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'there is no command "{name}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the overview by sections, from the table."""
        width = max(len(name) for name in self.table)
        sections = dict.fromkeys(entry.section for entry in self.table.values())
        for section in sections:
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), entry.help)
                        for name, entry in self.table.items()
                        if entry.section == section
                    ]
                )

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete names of commands from the table, options as every command does."""
        names = [
            click.shell_completion.CompletionItem(name, help=entry.help)
            for name, entry in self.table.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def command(name: str, **settings: Any) -> Decorator:
    """Declare a command; the first line of its docstring is its line in the overview."""
    settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
    return cast(Decorator, click.command(name, **settings))
