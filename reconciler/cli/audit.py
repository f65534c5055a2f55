"""``shardwright audit``: who changed what, and whether that record is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, write

if TYPE_CHECKING:
    from reconciler.engine.audit import Trail


@command("audit")
@click.argument("verb", type=click.Choice(["list", "export", "verify"]), default="list")
@click.option("-n", "--last", type=click.IntRange(1), default=30, show_default=True,
              help="With list: how many.")  # fmt: skip
@click.option("--file", metavar="FILE", help="Read an export instead of etcd.")
@click.option(
    "--since", metavar="FILE", help="With verify: an earlier export that it goes on from."
)
@output_option("text", "json")
@click.pass_obj
def audit(
    session: Session, verb: str, last: int, file: str | None, since: str | None, output: str
) -> int:
    """Show who changed what; verify that it is whole.

    Every step and order is an entry that is bound to the one before.

    "audit export > FILE" keeps it elsewhere; "audit verify" finds an entry that was changed,
    removed or moved, in etcd or with --file in an export, and exits 1. With --since it also finds
    an end that was cut off, or a chain that was written anew, since that export was made.
    """
    import json

    from reconciler.engine.audit import encode_trail, verify, verify_since

    if since and verb != "verify":
        raise click.UsageError("--since belongs to verify")
    trail = _trail(session, file)
    if verb == "export":
        sys.stdout.write(encode_trail(trail))
    elif verb == "verify":
        number = verify(trail)
        until = f"; it begins after entry {trail.anchor[0]}" if trail.anchor[0] else ""
        if since:
            earlier = _trail(session, since)
            verify(earlier)
            until += f"; it goes on from the export at entry {verify_since(trail, earlier)}"
        write(f"whole: {number} entries{until}")
    elif output == "json":
        write(json.dumps(list(trail.entries[-last:]), indent=2, ensure_ascii=False))
    else:
        _show(trail, last)
    return 0


def _trail(session: Session, file: str | None) -> Trail:
    from reconciler.engine.audit import decode_trail, read_trail

    if file:
        from reconciler.cli.files import read_all
        from reconciler.engine.snapshot import BYTES_MAX

        return decode_trail(read_all(Path(file), BYTES_MAX).decode().splitlines(), file)
    from reconciler.wiring import open_reading_world

    return read_trail(open_reading_world(session.settings()).eyes.store)


def _show(trail: Trail, last: int) -> None:
    from reconciler.cli.table import shown_table

    rows = [_row(entry) for entry in trail.entries[-last:]]
    head = ("NO", "AT", "ACTOR", "WHAT", "OUTCOME", "REVISION", "TEXT")
    write(shown_table(head, rows, style_for(sys.stdout)))


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return an entry's cells; a step's id names its database, all else is told with it."""
    from reconciler.model.desired import Revision

    what, database = str(entry["what"]), entry.get("database", "")
    if database and not what.startswith((f"{database}/", f"{database}-")):
        what = f"{what} {database}"
    return (
        str(entry["number"]), entry["at"][:19], entry["actor"].partition(" ")[0],
        what, entry["outcome"], Revision(entry.get("revision", "")).short,
        entry.get("error", "") or entry.get("text", ""),
    )  # fmt: skip
