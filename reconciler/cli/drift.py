"""``shardwright drift``: what changed without its spec. It cannot write."""

from __future__ import annotations

import click

from reconciler.cli.lazy import command
from reconciler.cli.plan import show
from reconciler.cli.session import Session, output_option
from reconciler.cli.source import Where, chosen, load, source_options

DRIFT = 3


@command("drift")
@click.argument("database", required=False)
@source_options
@click.option("--detailed-exitcode", is_flag=True, help="3 when something drifted.")
@output_option("text", "json", "markdown", "name")
@click.pass_obj
def drift(
    session: Session, database: str | None, where: Where, detailed_exitcode: bool, output: str
) -> int:
    """Show what changed without its spec.

    Nothing is changed.

    Each difference is pending (the spec moved since it was applied), drift (the world moved), or
    another owner's; only drift is shown, as the steps that would correct it. Nothing can be written
    by this command: its sessions at PostgreSQL are read-only, and its store takes no write.
    """
    from reconciler.cli.looking import not_found
    from reconciler.cli.owners import database_key
    from reconciler.cli.report import report_of
    from reconciler.diff.origin import only_drift
    from reconciler.engine import loop
    from reconciler.engine.foresight import observe_and_diff
    from reconciler.wiring import open_reading_world

    loaded = load(chosen(where, session))
    settings = session.settings()
    world = open_reading_world(settings)
    only = frozenset({database_key(database)}) if database else None
    desired = loaded.desired
    observed, difference = observe_and_diff(world.eyes, world.mover, desired, only)
    known = {one.key for one in desired.databases} | {one.key for one in observed.databases}
    if database and only and not observed.unseen and not only & known:
        raise not_found(f"database {database}", database, map(str, known))
    found = only_drift(difference, desired, observed)
    outlook = loop.judge(loaded, observed, found, world.clock.now(), only=only)
    report = report_of(outlook, settings)
    show(report, outlook, output)
    if outlook.observed.unseen:
        return 1
    return DRIFT if detailed_exitcode and found.changes else 0
