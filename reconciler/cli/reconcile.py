"""``shardwright reconcile``: ask the daemon to look at a database now."""

from __future__ import annotations

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session
from reconciler.cli.terminal import write, write_wrapped


@command("reconcile")
@click.argument("database")
@click.option("--wait/--no-wait", default=True, help="Wait until the daemon has looked.")
@click.option("--timeout", type=click.FloatRange(0.1, 86_400), default=60, show_default=True,
              help="Seconds to wait.")  # fmt: skip
@click.pass_obj
def reconcile(session: Session, database: str, wait: bool, timeout: float) -> int:
    """Ask the daemon to look at once.

    Waits until it has looked at DATABASE, and tells what it found.
    """
    from reconciler import wiring
    from reconciler.cli.owners import database_key
    from reconciler.engine import status as records

    world = wiring.open_world(session.settings())
    key = database_key(database)
    store = world.eyes.store
    if key not in records.read_statuses(store.read(records.STATUS)):
        raise records.NotFollowed(
            f"database {database}",
            "no daemon has a status of it",
            remedy="shardwright status lists those that it follows",
        )
    mark = records.request(store, world.actor, key, world.clock.now())
    if not wait:
        write(f"asked: {mark}")
        return 0
    left = timeout
    while left > 0:
        status = records.read_statuses(store.read(records.status_key(key))).get(key)
        if status and status.handled >= mark:
            write_wrapped(f"{key}: {status.reason}: {status.message}")
            return 1 if status.stalled else 0
        world.clock.sleep(0.2)
        left -= 0.2
    raise records.NotAnswered(
        f"database {database}",
        f"the daemon has not looked at it in {timeout:g} s",
        remedy="shardwright status tells whether one leads",
    )
