"""``shardwright import``: a first spec for a database that runs already."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler.cli.lazy import command
from reconciler.cli.terminal import tell_line, write


@command("import")
@click.option("--dsn", required=True, help="postgresql://user@host/database, without a password.")
@click.option(
    "--shards",
    type=click.IntRange(1, 4096),
    default=2,
    show_default=True,
    help="Shards to plan for.",
)
@click.option("--name", default="", help="The spec's name; the database's if left out.")
@click.option(
    "--out", metavar="FILE", help="Write to a file instead of stdout; never over another."
)
def import_(dsn: str, shards: int, name: str, out: str | None) -> None:
    """Write a spec from a running PostgreSQL.

    Reads catalogs only, in a read-only session. The password comes from PGPASSWORD or PGPASSFILE.
    What a person must decide is marked DECIDE. No data is moved.
    """
    from reconciler.cli.files import FileNotWritten
    from reconciler.cli.import_yaml import spec_yaml
    from reconciler.edges.postgres_import import read_database

    text = spec_yaml(read_database(dsn), shards, name)
    if out is None:
        write(text)
        return
    try:
        with Path(out).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise FileNotWritten(out, problem, remedy="name a new file") from error
    tell_line(f"wrote {out}; look for DECIDE, then: shardwright validate -f {out}")
