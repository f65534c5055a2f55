"""``shardwright platform``: the local platform as a whole."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.confirm import confirm
from reconciler.cli.lazy import LazyCommand, LazyGroup, command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, tell_line, write

if TYPE_CHECKING:
    from reconciler.edges.local.lifecycle import PartStatus, PlatformStatus
    from reconciler.settings import Settings

LOOK_EVERY_S = 0.5
_ME = "reconciler.cli.platform:"


@click.group(
    "platform",
    cls=LazyGroup,
    table={
        "up": LazyCommand("Commands", _ME + "up", "Start everything."),
        "status": LazyCommand("Commands", _ME + "status", "Show each part; exit 1 if one is down."),
        "logs": LazyCommand("Commands", _ME + "logs", "Print the log of a part."),
        "down": LazyCommand("Commands", _ME + "down", "Stop everything; all data stays."),
        "destroy": LazyCommand("Commands", _ME + "destroy", "Stop everything and delete all data."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
def platform() -> None:
    """Run everything on this machine.

    Everything is etcd, and Patroni and PostgreSQL for each member.

    The parts outlive the command that started them. All of it lives in one folder, the home.
    """


@command("up")
@click.option("--wait/--no-wait", default=True, help="Wait until every shard serves [--wait].")
@output_option("text", "json")
@click.pass_obj
def up(session: Session, wait: bool, output: str) -> int:
    """Start everything.

    What was stopped on purpose stays stopped. Creates the home when it is missing. Exit 1 when
    the shards do not serve in time (start_s of "config show").
    """
    from reconciler.edges.local import lifecycle

    settings = session.settings()
    root = Path(settings.home)
    tell_line(f"starting the local platform in {root}", "dim")
    seen = lifecycle.up(root)
    ready = not wait or len(seen.parts) == 1 or _wait_until_ready(settings)
    _show(lifecycle.status(root), output)
    return 0 if ready else 1


def _wait_until_ready(settings: Settings) -> bool:
    """Return whether every shard that should serves, within ``start_s``; say what is waited for."""
    from reconciler.engine.observe import observe
    from reconciler.engine.readiness import not_serving
    from reconciler.wiring import open_reading_world

    world = open_reading_world(settings)
    deadline = time.monotonic() + settings.start_s
    said: tuple[str, ...] = ()
    while waits := not_serving(observe(world.eyes)):
        if time.monotonic() > deadline:
            tell_line(f"not serving after {settings.start_s:g} s: {'; '.join(waits)}", "error")
            return False
        if waits != said:
            tell_line(f"waiting for {'; '.join(waits[:4])}", "dim")
            said = waits
        time.sleep(LOOK_EVERY_S)
    return True


@command("status")
@output_option("text", "json")
@click.pass_obj
def status(session: Session, output: str) -> int:
    """Show each part; exit 1 if one is down."""
    from reconciler.edges.local import lifecycle

    seen = lifecycle.status(Path(session.settings().home))
    _show(seen, output)
    return 0 if seen.complete else 1


@command("logs")
@click.argument("part", default="etcd")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Lines from the end.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.pass_obj
def logs(session: Session, part: str, lines: int, follow: bool) -> None:
    """Print the log of a part.

    PART is etcd or a member (shop-s0-0); with :postgres or :supervisor behind a member's name, its
    other logs.
    """
    from reconciler.edges.local import lifecycle

    root = Path(session.settings().home)
    for line in lifecycle.logs(root, part, lines, follow=follow):
        write(line)
        if follow:
            sys.stdout.flush()


@command("down")
@output_option("text", "json")
@click.pass_obj
def down(session: Session, output: str) -> None:
    """Stop everything; all data stays."""
    from reconciler.edges.local import lifecycle

    _show(lifecycle.down(Path(session.settings().home)), output)


@command("destroy")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def destroy(session: Session, yes: bool) -> None:
    """Stop everything and delete all data."""
    from reconciler.edges.local import lifecycle

    root = Path(session.settings().home)
    seen = lifecycle.status(root)
    members = sum(part.kind == "member" for part in seen.parts)
    confirm(f"Delete {root} with the data of {members} members for ever?", yes=yes)
    lifecycle.destroy(root)
    tell_line(f"{root} is gone")


def _show(seen: PlatformStatus, output: str) -> None:
    if output == "json":
        import msgspec

        write(msgspec.json.format(msgspec.json.encode(seen), indent=2).decode())
        return
    from reconciler.cli.table import table

    heads = ("PART", "STATE", "SINCE", "PID", "VERSION", "PORTS")
    write(table(heads, [_row(part) for part in seen.parts], style_for(sys.stdout)))
    write(f"\nhome: {seen.home}")


def _row(part: PartStatus) -> tuple[str, ...]:
    state = "running" if part.running else "stopped" if part.stopped_on_purpose else "down"
    since = ""
    if part.since is not None:
        since = datetime.fromtimestamp(part.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    ports = " ".join(f"{what} {port}" for what, port in part.ports)
    return part.name, state, since, str(part.pid or ""), part.version, ports
