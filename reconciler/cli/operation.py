"""``shardwright operation``: what a person can ask of a move of keys that is under way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, tell_line, write

if TYPE_CHECKING:
    from reconciler.model.moves import Move


@click.group("operation", context_settings={"help_option_names": ["-h", "--help"]})
def operation() -> None:
    """Pause, abort, take back or finish a move.

    Moves are begun and ended by editing the spec; these commands are for the hurried.
    """


def _wishing(name: str, wish: str, text: str) -> Callable[..., int | None]:
    @command(name, help=text)
    @click.argument("move")
    @click.pass_obj
    def wished(session: Session, move: str) -> None:
        from reconciler import wiring
        from reconciler.cli.orders import poke
        from reconciler.engine.wishes import record_wish
        from reconciler.model.moves import Wish

        world = wiring.open_world(session.settings())
        found = record_wish(world, move, Wish(wish))
        poke(world, found.database)
        write(f"{_told(found)}: {_after(found)}")

    return wished


def _told(move: Move) -> str:
    return f"{move.id} {move.database}: {move.keys} from {move.source} to {move.target}"


_HELD = "it is not begun again until spec.shards changes, or `shardwright operation retry {}`"


def _after(move: Move) -> str:
    held = _HELD.format(move.id)
    return {
        "forward": "goes on with the apply that runs, or with the next one",
        "pause": "pauses before its next step",
        "abort": f"is aborted by the apply that runs, or by the next one; {held}",
        "rollback": f"is taken back by the next apply; {held}",
        "finish": "gives up its way back with the next apply",
    }[move.wish.value]


for _name, _wish, _text in (
    ("pause", "pause", "Stop before the next step; nothing is undone."),
    ("resume", "forward", "Go on with a paused move."),
    ("abort", "abort", "Undo a move that is not cut over yet; free at any time before."),
    ("rollback", "rollback", "Take a move back while its window is open."),
    ("finish", "finish", "End the rollback window now."),
):
    operation.add_command(_wishing(_name, _wish, _text))  # type: ignore[arg-type]


@command("retry")
@click.argument("move")
@click.pass_obj
def retry(session: Session, move: str) -> None:
    """Let a move begin again that was aborted or taken back.

    Its id is in the plan, which says what waits for this.
    """
    from reconciler import wiring
    from reconciler.cli.orders import poke
    from reconciler.engine.wishes import let_go

    world = wiring.open_world(session.settings())
    database, hold = let_go(world, move)
    poke(world, database)
    write(f"{database}: {hold.keys} move from {hold.source} to {hold.target} with the next apply")


operation.add_command(retry)


@command("sweep")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def sweep(session: Session, *, yes: bool) -> None:
    """Remove what moves left behind whose record is gone.

    Slots, publications, subscriptions, triggers and notes on the shards, keys in etcd; each with
    the reason why it is safe. No apply may run meanwhile. Rows are never touched.
    """
    from reconciler import wiring
    from reconciler.cli.confirm import confirm
    from reconciler.engine.sweeping import find_orphans, sweep_orphans

    world = wiring.open_world(session.settings())
    found = find_orphans(world)
    if not found:
        tell_line("nothing is left of any move that has ended", "dim")
        return
    for one in found:
        write(f"{one.scope or 'etcd'}: {one.found}: {one.proof}")
    confirm(f"Remove {len(found)} of them?", yes=yes)
    for one in sweep_orphans(world):
        write(f"removed {one.scope or 'etcd'}: {one.found}: {one.proof}")


operation.add_command(sweep)


@command("list")
@click.option("-a", "--all", "ended", is_flag=True, help="List those that ended too.")
@output_option("text", "json")
@click.pass_obj
def list_(session: Session, ended: bool, output: str) -> None:
    """List the moves under way."""
    from reconciler import wiring
    from reconciler.cli.columns import columns_for
    from reconciler.cli.looking import look_around
    from reconciler.cli.table import shown_table

    world = wiring.open_reading_world(session.settings())
    moves = look_around(world, "moves", ended=ended).objects["moves"]
    if output == "json":
        import json

        write(json.dumps(moves, indent=2, ensure_ascii=False))
    elif not moves:
        tell_line("nothing moves", "dim")
    else:
        columns = columns_for("moves", wide=False, with_namespace=False)
        rows = [[cell(item) for _, cell in columns] for item in moves]
        write(shown_table([head for head, _ in columns], rows, style_for(sys.stdout)))


operation.add_command(list_)
