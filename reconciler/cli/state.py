"""``shardwright state export``: what is observed, as a file for checks of pull requests."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session


@command("state")
@click.argument("verb", type=click.Choice(["export"]))
@click.option("-o", "--out", metavar="FILE", help="Where to write it [stdout].")
@click.pass_obj
def state(session: Session, verb: str, out: str | None) -> int:
    """Export what is observed, for plans elsewhere.

    "state export -o FILE" writes it for "plan --state FILE".

    A check of a pull request can plan against it where the live system cannot be reached. It holds
    names, addresses, sizes and settings, and no secret. Exit 1 when something did not answer: it is
    in the file as unseen.
    """
    from reconciler.cli.files import write_private
    from reconciler.engine.observe import observe
    from reconciler.engine.snapshot import encode_state
    from reconciler.wiring import open_reading_world

    assert verb == "export"  # noqa: S101  the only choice there is
    world = open_reading_world(session.settings())
    observed = observe(world.eyes)
    data = encode_state(observed, world.actor)
    if out:
        write_private(Path(out), data)
    else:
        sys.stdout.write(data.decode())
    return 1 if observed.unseen else 0
