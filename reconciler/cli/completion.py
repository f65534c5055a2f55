"""``shardwright completion``: the script that makes a shell complete our words."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete as ClickBash
from click.shell_completion import FishComplete, ShellComplete, ZshComplete

from reconciler.cli.lazy import command
from reconciler.cli.terminal import write


class BashComplete(ClickBash):
    """click's script, without asking the bash on PATH for its version: it may be another one."""

    @staticmethod
    def _check_version() -> None:
        return None


SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print a completion script.

    bash: source <(shardwright completion bash). zsh: the same, after compinit. fish: shardwright
    completion fish | source
    """
    from reconciler.cli.main import cli

    write(SHELLS[shell](cli, {}, "shardwright", "_SHARDWRIGHT_COMPLETE").source())
