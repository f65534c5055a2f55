"""``shardwright rollout``: what a person can say to a change that goes to canaries first."""

from __future__ import annotations

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session
from reconciler.cli.terminal import write


@click.group("rollout", context_settings={"help_option_names": ["-h", "--help"]})
def rollout() -> None:
    """Retry or promote what canaries have.

    Who goes first, how long it bakes and which gates have to hold is in the spec, under rollout.
    """


@command("retry")
@click.argument("database")
@click.pass_obj
def retry(session: Session, database: str) -> int:
    """Let a change that a gate stopped bake again.

    Its gates are asked again all the while.
    """
    from reconciler.cli.orders import known, poke
    from reconciler.engine import rollouts

    world, key = known(session, database)
    record = rollouts.order(world, key, promote=False)
    poke(world, key)
    write(f"{key}: bakes again since {record.since}")
    return 0


@command("promote")
@click.argument("database")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.pass_obj
def promote(session: Session, database: str, yes: bool) -> int:
    """Let all shards have the change that the canaries have.

    It bakes no longer, and its gates are not asked any more.
    """
    from reconciler.cli.confirm import confirm
    from reconciler.cli.orders import known, poke
    from reconciler.engine import rollouts

    world, key = known(session, database)
    confirm(f"Let all shards of {key} have it, whatever its gates say?", yes=yes)
    rollouts.order(world, key, promote=True)
    poke(world, key)
    write(f"{key}: goes on to all shards")
    return 0


rollout.add_command(retry)
rollout.add_command(promote)
