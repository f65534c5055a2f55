"""What one call of the command line knows before its command runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.settings import Settings


@dataclass(slots=True)
class Session:
    """The global options, and the form of output that was asked for.

    Not frozen: a command's own ``-o`` is noted here while it is parsed, so that an error later in
    the same call is written in the form that the caller reads.
    """

    home: str | None = None
    config: str | None = None
    output: str = ""
    error_exit: int = 1

    @property
    def wants_json(self) -> bool:
        """Whether errors are written as JSON."""
        return self.output == "json"

    def settings(self) -> Settings:
        """Return the settings of this call: flag over environment over file over default."""
        from reconciler.cli.configured import load_settings

        return load_settings(self.home, self.config)


def session_of(ctx: click.Context) -> Session:
    """Return the session of a call."""
    return ctx.ensure_object(Session)


def _note_output(ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    session_of(ctx).output = value
    return value


def output_option(
    *choices: str,
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """``-o``, with these choices; the first is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(choices), default=choices[0], show_default=True,
        is_eager=True, callback=_note_output, help="Form of the output.",
    )  # fmt: skip
