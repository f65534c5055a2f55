"""``shardwright connect DB --key K``: psql at the shard that owns a key.

The password goes to psql in a file that exists in memory only, so it is in no argument, in no
environment and on no disk. Where the server has TLS, its certificate is verified, name included.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, session_of
from reconciler.cli.terminal import tell_line
from reconciler.model.errors import ReconcilerError

if TYPE_CHECKING:
    from reconciler.engine.world import World
    from reconciler.model.platform import Credential
    from reconciler.model.routing import RoutingMap, RoutingOwner


class PsqlNotStarted(ReconcilerError):
    """psql could not be started.

    It comes with PostgreSQL, from the same place as the servers of the local platform.
    """

    code = "CL009"


@command("connect")
@click.argument("database")
@click.option("--key", help="Value of the shard key; its owner is opened.")
@click.option("--shard", help="Name of the shard, instead of a key.")
@click.option("--admin", is_flag=True, help="As superuser; the guards hold all the same.")
@click.option(
    "--past-guards",
    is_flag=True,
    help="With --admin: guards, triggers and foreign keys do not act, to mend rows by hand.",
)
@click.argument("psql_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PSQL ARGUMENTS]")
@click.pass_context
def connect(
    ctx: click.Context,
    database: str,
    key: str | None,
    shard: str | None,
    admin: bool,
    past_guards: bool,
    psql_arguments: tuple[str, ...],
) -> int:
    """Open psql at the shard that owns a key.

    Guards refuse rows of other shards to everybody, the superuser included. What follows "--" goes
    to psql: shardwright connect shop --key 42 -- -c "select 1"
    """
    from reconciler.cli.owners import owner_of, read_routing, shard_named
    from reconciler.wiring import open_reading_world

    if (key is None) == (shard is None):
        raise click.UsageError("name the shard: --key KEY, or --shard NAME")
    if past_guards and not admin:
        raise click.UsageError("--past-guards needs --admin: only the superuser may")
    session: Session = session_of(ctx)
    world = open_reading_world(session.settings())
    routing = read_routing(world, database)
    if shard is not None:
        owner = shard_named(routing, shard)
    else:
        _, owner = owner_of(routing, key or "")
    return _run(world, routing, owner, psql_arguments, admin=admin, past_guards=past_guards)


def _run(
    world: World,
    routing: RoutingMap,
    owner: RoutingOwner,
    arguments: tuple[str, ...],
    *,
    admin: bool,
    past_guards: bool,
) -> int:
    from reconciler.cli.looking import NotFound
    from reconciler.model.names import ScopeKey, app_role
    from reconciler.wiring import local_platform

    platform = world.eyes.platform
    key = ScopeKey(routing.database.namespace, owner.scope)
    shard = next((s for s in platform.observe() if s.key == key), None)
    if shard is None:
        raise NotFound(f"shard {key}", "the routing map names it, the platform does not have it")
    login = platform.credential(key, "superuser" if admin else app_role(routing.database.name))
    tls = all(member.endpoint.postgres_tls for member in shard.members)
    hosts = [(m.endpoint.host, m.endpoint.postgres_port) for m in shard.members]
    environment = os.environ | {
        "PGHOST": ",".join(host for host, _ in hosts),
        "PGPORT": ",".join(str(port) for _, port in hosts),
        "PGDATABASE": routing.database.name,
        "PGUSER": login.role,
        "PGTARGETSESSIONATTRS": "read-write",
        # The wheel's PostgreSQL has no TLS; it listens on loopback only, and so do its clients.
        "PGSSLMODE": "verify-full" if tls else "disable",
        "PGSSLROOTCERT": platform.client_tls().ca,
        "PGAPPNAME": "shardwright connect",
        "PGCONNECT_TIMEOUT": "10",
        "PGOPTIONS": options_for(
            os.environ.get("PGOPTIONS", ""), routing.epoch, admin=admin, past_guards=past_guards
        ),
    }
    environment.pop("PGPASSWORD", None)
    environment["PGPASSFILE"] = passfile(login)
    program = local_platform(world.settings).psql_path(shard.version)
    if past_guards:
        tell_line("past the guards: no guard, trigger or foreign key acts in this session", "warn")
    try:
        os.execve(program, [program, *arguments], environment)  # noqa: S606 - psql, and no shell
    except OSError as error:
        raise PsqlNotStarted(program, error.strerror or type(error).__name__) from error


def options_for(own: str, epoch: int, *, admin: bool = False, past_guards: bool = False) -> str:
    """Return the session's PGOPTIONS: the user's own, then ours, which win.

    The superuser is called as our own schema is, so ``"$user"`` would make tables in there.

    The epoch says which routing map this session was led by: after keys have moved, shards refuse
    updates and deletes of a session that does not tell it. Guards are triggers that act in mode
    ``origin``; ``replica``, which only a superuser may set, is what replication itself runs in.
    """
    ours = [f"-c shardwright.epoch={epoch}"]
    ours += ["-c session_replication_role=replica"] if past_guards else []
    first = ["-c search_path=public"] if admin else []
    return " ".join([*first, *([own] if own else []), *ours])


def passfile(login: Credential) -> str:
    """Return the path of a password file that exists in memory only, for the program we become.

    libpq takes a plain file of mode 0600, which this is; it lives as long as its descriptor, which
    psql inherits. memfd_create(2) is Linux's.
    """
    handle = os.memfd_create("pgpass", 0)  # without close-on-exec
    os.fchmod(handle, 0o600)
    escaped = login.password.replace("\\", "\\\\").replace(":", "\\:")
    os.write(handle, f"*:*:*:*:{escaped}\n".encode())
    return f"/proc/self/fd/{handle}"
