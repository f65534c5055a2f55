"""``shardwright comment``: say a plan on its pull request, in one comment that stays one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TextIO

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session
from reconciler.cli.terminal import write
from reconciler.model.errors import ReconcilerError

if TYPE_CHECKING:
    from reconciler.edges.forges import Forge

TEXT_CHARS_MAX = 65_536
_VARIABLES = {
    "github": ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"),
    "gitea": ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"),
    "gitlab": ("CI_API_V4_URL", "CI_PROJECT_ID", "GITLAB_TOKEN"),
}


class ForgeNotNamed(ReconcilerError):
    """A variable that says where the pull request is, or who writes, is not set.

    The forges' own runners set the addresses; the token is handed in as a secret.
    """

    code = "FG103"


@command("comment")
@click.option(
    "--forge", type=click.Choice(list(_VARIABLES)), required=True, help="Whose API it is."
)
@click.option("--request", required=True, metavar="N", help="Number of the pull or merge request.")
@click.option("--commit", metavar="SHA", help="Set the status of this commit as well.")
@click.option("--outcome", type=int, default=0, show_default=True,
              help="The plan's exit code: 0 is a success, 4 and 1 failures, 5 waits.")  # fmt: skip
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.pass_obj
def comment(
    session: Session, forge: str, request: str, commit: str | None, outcome: int,
    file: TextIO,
) -> int:  # fmt: skip
    """Say a plan on its pull request.

    FILE is written by "plan -o markdown".

    The comment is found again by its hidden first line, and edited. Where and as whom is in the
    runner's variables: GITHUB_API_URL, GITHUB_REPOSITORY and GITHUB_TOKEN, also at Gitea;
    CI_API_V4_URL, CI_PROJECT_ID and GITLAB_TOKEN.
    """
    from reconciler.plan.render_markdown import MARKER

    del session
    text = file.read(TEXT_CHARS_MAX)
    if not text.startswith(MARKER):
        text = f"{MARKER}\n{text}"
    there = _forge(forge)
    is_new = there.comment(request, MARKER, text)
    write("commented" if is_new else "comment updated")
    if commit:
        line = next((s for s in text.splitlines() if s.startswith("#")), "plan").lstrip("# ")
        state = _state(outcome)
        there.status(commit, state, line.replace("\\", ""), "shardwright/plan")
        write(f"status of {commit[:7]}: {state}")
    return 0


def _state(outcome: int) -> Literal["success", "failure", "pending"]:
    if outcome in (0, 2, 3):
        return "success"
    return "pending" if outcome == 5 else "failure"


def _forge(kind: str) -> Forge:
    """Return the project that the runner's variables name. Raises ForgeNotNamed."""
    from reconciler.edges.forges import Forge

    missing = [name for name in _VARIABLES[kind] if not os.environ.get(name)]
    if missing:
        raise ForgeNotNamed(
            f"--forge {kind}", f"not set: {', '.join(missing)}",
            remedy="run it in the forge's runner, and hand the token in as a secret",
        )  # fmt: skip
    api, project, token = (os.environ[name] for name in _VARIABLES[kind])
    return Forge(kind, api, project, token)  # type: ignore[arg-type]
