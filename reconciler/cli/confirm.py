"""Asking before something that cannot be undone."""

from __future__ import annotations

import sys

from reconciler.cli.terminal import style_for
from reconciler.model.errors import ReconcilerError


class NotConfirmed(ReconcilerError):
    """Something that changes or deletes was not confirmed, so it was not done.

    On a terminal the question is answered with "yes"; anything else means no. Where nobody can
    answer, in a script or a pipeline, --yes says it beforehand.
    """

    code = "CL002"


def confirm(question: str, *, yes: bool) -> None:
    """Return when the user agrees. Raises NotConfirmed."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(
            "confirmation",
            "nobody can be asked here, because there is no terminal",
            remedy="look at the plan first, then say --yes",
        )
    prompt = style_for(sys.stderr)("bold", f'{question} Only "yes" goes on: ')
    print(prompt, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise NotConfirmed("confirmation", "the answer was not yes; nothing was done")
