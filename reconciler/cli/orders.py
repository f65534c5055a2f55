"""``shardwright suspend``, ``resume`` and ``approve``: what people order beside the specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session
from reconciler.cli.terminal import write, write_wrapped

if TYPE_CHECKING:
    from reconciler.engine.world import World
    from reconciler.model.names import DatabaseKey
    from reconciler.model.status import Status


@command("suspend")
@click.argument("database")
@click.option("--reason", default="", help="Why, for whoever asks.")
@click.pass_obj
def suspend(session: Session, database: str, reason: str) -> int:
    """Leave a database alone until it is resumed.

    Nothing of it is begun any more, by the daemon, plan or apply; what runs ends (a move: pause it
    with "operation pause"). Its shards go on serving.
    """
    from reconciler.engine import orders

    world, key = known(session, database)
    orders.suspend(world.eyes.store, world.actor, key, reason, world.clock.now())
    poke(world, key)
    write(f"{key} suspended; go on with: shardwright resume {key.name}")
    return 0


@command("resume")
@click.argument("database")
@click.pass_obj
def resume(session: Session, database: str) -> int:
    """Go on with a suspended database.

    What waited is planned again.
    """
    from reconciler.engine import orders

    world, key = known(session, database)
    was = orders.resume(world.eyes.store, world.actor, key, world.clock.now())
    poke(world, key)
    write(f"{key} resumed" if was else f"{key} was not suspended by command")
    return 0


@command("approve")
@click.argument("database")
@click.option("--plan", "id_", metavar="ID", help="What was read: ap-… of the status or the plan.")
@click.option("--hours", type=click.FloatRange(0.01, 24 * 90), default=24, show_default=True,
              help="How long it holds.")  # fmt: skip
@click.option("--withdraw", is_flag=True, help="Take the approval back.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.pass_obj
def approve(
    session: Session, database: str, id_: str | None, hours: float, withdraw: bool, yes: bool
) -> int:
    """Let the daemon do what it waits for.

    An approval binds to the steps and to the spec that asks for them: when either changes, it is
    void. A commit approves as well, by the trailer "Shardwright-Approve: ap-…" in its message.
    """
    from reconciler.cli.confirm import confirm
    from reconciler.engine import orders

    world, key = known(session, database)
    store = world.eyes.store
    if withdraw:
        was = orders.withdraw(store, world.actor, key, world.clock.now())
        write(f"{key}: the approval is taken back" if was else f"{key}: there is no approval")
        return 0
    status = _status(world, key)
    waiting = status.approval if status else ""
    if not waiting:
        raise orders.NothingToApprove(
            f"database {key}", "the daemon waits for no approval of it",
            remedy="shardwright status tells what it does",
        )  # fmt: skip
    if id_ and id_ != waiting:
        raise orders.ApprovalStale(
            f"database {key}", f"{id_} is not what waits: {waiting} is",
            remedy=f"look at it, then: shardwright approve {key.name} --plan {waiting}",
        )  # fmt: skip
    if status and not id_:
        write_wrapped(f"{key}: {status.message.partition('; try: ')[0]}")
    confirm(f"Approve {waiting} of {key}?", yes=yes)
    given = orders.approval(waiting, world.actor, world.clock.now(), hours)
    orders.approve(store, key, given)
    poke(world, key)
    write(f"{key}: {waiting} approved until {given.until}")
    return 0


def known(session: Session, text: str) -> tuple[World, DatabaseKey]:
    """Return the world, and the database that is named. Raises NotFollowed for an unknown one."""
    from reconciler import wiring
    from reconciler.cli.owners import database_key
    from reconciler.engine import status as records
    from reconciler.engine.records import database_prefix

    world = wiring.open_world(session.settings())
    key = database_key(text)
    store = world.eyes.store
    if not store.read(database_prefix(key)) and not store.read(records.status_key(key)):
        raise records.NotFollowed(
            f"database {text}", "nothing is known of it: no map, no record, no status",
            remedy="shardwright get databases lists those that there are",
        )  # fmt: skip
    return world, key


def _status(world: World, key: DatabaseKey) -> Status | None:
    from reconciler.engine import status as records

    return records.read_statuses(world.eyes.store.read(records.status_key(key))).get(key)


def poke(world: World, key: DatabaseKey) -> None:
    """Let a daemon look at once; without one the order waits for the next."""
    from reconciler.engine import status as records

    if records.DAEMON in world.eyes.store.read(records.DAEMON):
        records.request(world.eyes.store, world.actor, key, world.clock.now())
