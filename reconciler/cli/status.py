"""``shardwright status``: what the daemon says of its sources and databases."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, tell_line, write

if TYPE_CHECKING:
    from reconciler.model.status import Status

_WORDS = {True: "True", False: "False", None: "Unknown"}


@command("status")
@click.argument("database", required=False)
@output_option("text", "json")
@click.pass_obj
def status(session: Session, database: str | None, output: str) -> int:
    """Show what the daemon says, and who leads.

    Of each source the revision in force, and why a newer one is not; of each database its
    conditions. Exits 1 when a database is stalled or a revision is quarantined.
    """
    from reconciler import wiring
    from reconciler.engine import status as records
    from reconciler.engine.records import APPLIER
    from reconciler.model.records import ROOT

    found = wiring.open_reading_world(session.settings()).eyes.store.read(ROOT)
    daemon = json.loads(found[records.DAEMON].value) if records.DAEMON in found else None
    leader = json.loads(found[APPLIER].value)["owner"] if APPLIER in found else ""
    statuses = records.read_statuses(found)
    chosen = [s for key, s in sorted(statuses.items()) if database in (None, str(key), key.name)]
    if output == "json":
        write(_as_json(daemon, leader, chosen))
    else:
        _show(daemon, leader, chosen)
    quarantined = any(source["problems"] for source in (daemon or {"sources": []})["sources"])
    return 1 if quarantined or any(s.stalled for s in chosen) else 0


def _as_json(daemon: dict[str, Any] | None, leader: str, statuses: list[Status]) -> str:
    from reconciler.engine.status import encode_status

    databases = [{"name": str(s.database), **json.loads(encode_status(s))} for s in statuses]
    told = {"leader": leader or None, "daemon": daemon, "databases": databases}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _show(daemon: dict[str, Any] | None, leader: str, statuses: list[Status]) -> None:
    from reconciler.cli.table import table
    from reconciler.model.desired import Revision

    paint = style_for(sys.stdout)
    if daemon is None:
        tell_line("no daemon has run here: shardwright run", "dim")
        return
    if leader == daemon["actor"]:
        write(f"leads: {leader}, since {daemon['since']}")
    else:
        now = f"; {leader} applies" if leader else ""
        write(f"{paint('warn', 'nobody leads')}: {daemon['actor']} did{now}")
    for source in daemon["sources"]:
        revision = Revision(source["revision"]).short if source["revision"] else "nothing yet"
        write(f"source {source['name']}: {revision} in force")
        if source["problems"]:
            attempted = Revision(source["attempted"]).short
            write(f"  {paint('error', 'quarantined')}: {attempted}")
        for line in source["problems"]:
            write(f"    {line}")
        if source["unreachable"]:
            write(f"  {paint('warn', 'unreachable')}: {source['unreachable']}")
    rows = [
        (
            str(s.database), _WORDS[s.ready], _WORDS[s.reconciling], _WORDS[s.stalled],
            s.reason, s.since, s.message,
        )
        for s in statuses
    ]  # fmt: skip
    head = ("DATABASE", "READY", "RECONCILING", "STALLED", "REASON", "SINCE", "MESSAGE")
    write(table(head, rows, paint))
