"""``shardwright route DB KEY``: which shard owns a key, from the routing map alone."""

from __future__ import annotations

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import write


@command(
    "route", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]}
)
@click.argument("database")
@click.argument("key")
@output_option("text", "json", "name")
@click.pass_obj
def route(session: Session, database: str, key: str, output: str) -> None:
    """Print the shard that owns a key.

    Nothing but etcd is asked, so this works while shards are down. A negative number is a key too.
    """
    from reconciler.cli.owners import owner_of, read_routing
    from reconciler.model.keyspace import SPACE_END
    from reconciler.wiring import open_reading_world

    routing = read_routing(open_reading_world(session.settings()), database)
    position, owner = owner_of(routing, key)
    at = f"{position:0{len(f'{SPACE_END - 1:x}')}x}"
    if output == "name":
        write(f"shard/{routing.database}/{owner.shard}")
        return
    endpoints = [(m.name, m.endpoint.host, m.endpoint.postgres_port) for m in owner.members]
    if output == "json":
        import json

        facts = {
            "database": str(routing.database), "key": key, "keyType": routing.key_type.value,
            "position": at, "shard": owner.shard, "scope": owner.scope, "keys": str(owner.keys),
            "epoch": routing.epoch,
            "members": [{"name": n, "host": h, "port": p} for n, h, p in endpoints],
        }  # fmt: skip
        write(json.dumps(facts, indent=2))
        return
    members = ", ".join(f"{name} {host}:{port}" for name, host, port in endpoints)
    write(
        f"{routing.database}/{owner.shard}\n"
        f"  {routing.key_type.value} {key} is at {at}, in {owner.keys} (epoch {routing.epoch})\n"
        f"  members: {members or 'none known'}"
    )
