"""Starting is cheap: an overview or a completion imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from reconciler.cli.lazy import LazyGroup
from reconciler.cli.main import COMMANDS, cli
from tests.cli.calls import Caller

HEAVY = (
    "psycopg", "yaml", "urllib3", "rich", "cryptography", "msgspec", "cel_expr_python", "psutil",
    "etcd3gw", "patroni", "reconciler.wiring", "reconciler.spec", "reconciler.engine",
)  # fmt: skip


def imported(code: str, **environment: str) -> str:
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", [["--help"], [], ["--version"], ["plann"], ["plan", "--help"]])
def test_an_overview_imports_nothing_heavy(words: list[str]) -> None:
    assert imported(f"from reconciler.cli.main import run\nrun({words!r})", LANG="C.UTF-8") == ""


def test_completion_imports_no_command() -> None:
    code = (
        "from reconciler.cli.main import run\nrun([])\nprint()\n"
        "assert not [m for m in sys.modules if m.startswith('reconciler.cli.') and m.split('.')[2]"
        " not in ('main', 'lazy', 'session')], sys.modules"
    )
    environment = {"_SHARDWRIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "shardwright p"}
    assert imported(code, COMP_CWORD="1", **environment) == ""


def test_completion_completes_commands_and_choices(call: Caller) -> None:
    def complete(words: str, place: int) -> str:
        return call(
            _SHARDWRIGHT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(place)
        ).out

    assert complete("shardwright pl", 1).split() == ["plain,plan", "plain,platform"]
    assert complete("shardwright plan -o js", 3).split() == ["plain,json"]
    assert complete("shardwright platform d", 2).split() == ["plain,down", "plain,destroy"]


def tables() -> list[tuple[str, LazyGroup]]:
    groups = [("", cli)]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, LazyGroup):
            groups.append((name, command))
    return [(name, group) for name, group in groups if isinstance(group, LazyGroup)]


@pytest.mark.parametrize(("name", "group"), tables())
def test_the_table_says_what_each_command_says_of_itself(name: str, group: LazyGroup) -> None:
    for entry_name, entry in group.table.items():
        command = group.get_command(click.Context(group), entry_name)
        assert command is not None
        assert command.name == entry_name
        assert command.get_short_help_str(200).rstrip(".") == entry.help.rstrip("."), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call: Caller, name: str) -> None:
    ended = call(name, "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: shardwright {name}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(call: Caller, shell: str) -> None:
    ended = call("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert "_SHARDWRIGHT_COMPLETE" in ended.out
    if shell == "bash":
        subprocess.run(["bash", "-n", "-c", ended.out], check=True)
