"""``shardwright router``: one PostgreSQL address in front of all shards of a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import click

from reconciler.cli.lazy import LazyCommand, LazyGroup, command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import tell_line, write

if TYPE_CHECKING:
    from reconciler.router.registration import Registration
    from reconciler.router.server import RouterConfig
    from reconciler.sdk.config import Config
    from reconciler.settings import Settings

_ME = "reconciler.cli.router:"


@click.group(
    "router",
    cls=LazyGroup,
    table={
        "run": LazyCommand("Commands", _ME + "run", "Serve until it is stopped."),
        "follow": LazyCommand(
            "Commands", _ME + "follow", "Tell another router each new map, beside it."
        ),
        "map": LazyCommand(
            "Commands", _ME + "show_map", "Print the routing map in a router's language."
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
def router() -> None:
    """Run the reference router.

    It sends each statement to the shard that owns its key. For one machine, and for tests.
    """


@command("run")
@click.argument("database")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:6432",
    show_default=True,
    help="Where clients connect; port 0 chooses one.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@click.option(
    "--users",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help='Lines of "user" "password or SCRAM verifier"; default: the app role.',
)
@click.option(
    "--map",
    "map_file",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Serve by this map, read again at SIGHUP; default: watch the one in etcd.",
)
@click.option("--cert", type=click.Path(dir_okay=False, exists=True), help="Certificate (PEM).")
@click.option("--key", type=click.Path(dir_okay=False, exists=True), help="Its key (PEM).")
@click.option("--require-tls", is_flag=True, help="Refuse clients without TLS.")
@click.option(
    "--hold-s",
    type=click.FloatRange(0.1, 600),
    default=30.0,
    show_default=True,
    help="How long a client waits while its keys change owner.",
)
@click.option(
    "--drain-s",
    type=click.FloatRange(0, 3600),
    default=20.0,
    show_default=True,
    help="How long transactions may go on after SIGTERM.",
)
@click.option(
    "--backends-max",
    type=click.IntRange(1, 10_000),
    default=80,
    show_default=True,
    help="Sessions at one shard, of each process.",
)
@click.pass_obj
def run(session: Session, /, database: str, **options: object) -> int:
    """Serve until it is stopped.

    Clients log in as the database's app role, whose password stands in the home, or as --users
    says. SIGTERM lets transactions end first; SIGHUP reads users, certificates and --map again.
    """
    from reconciler.router.processes import run_processes

    config, logins = _config(session.settings(), database, options)
    tell_line(f"clients of database {config.database.name} log in as {logins}", "dim")
    return run_processes(config)


@command("map")
@click.argument("database")
@click.option(
    "--for",
    "kind",
    type=click.Choice(("reference", "pgdog", "spqr")),
    default="reference",
    show_default=True,
    help="Whose language.",
)
@click.option("--key-column", default="", metavar="NAME", help="The column with a key's hash.")
@output_option("text", "json")
@click.pass_obj
def show_map(session: Session, database: str, kind: str, key_column: str, output: str) -> None:
    """Print the routing map in a router's language.

    That is: the steps by which routers take it up, each to be done at all of them before the next.
    """
    from reconciler.cli.owners import read_routing
    from reconciler.render.router import DRIVERS
    from reconciler.render.router.driver import RunStatements, SendSignal, WriteFile
    from reconciler.wiring import open_reading_world

    routing = read_routing(open_reading_world(session.settings()), database)
    steps = DRIVERS[kind](key_column).steps(routing)
    if output == "json":
        import json
        from dataclasses import asdict

        write(json.dumps([{"step": type(s).__name__, **asdict(s)} for s in steps], indent=2))
        return
    for step in steps:
        match step:
            case WriteFile(name, text):
                write(f"# write {name}\n{text.rstrip()}")
            case RunStatements(statements):
                write("# at the console\n" + "\n".join(f"{one};" for one in statements))
            case SendSignal(name):
                write(f"# kill -{name}")
            case _:
                assert_never(step)


@command("follow")
@click.argument("database")
@click.option(
    "--for",
    "kind",
    type=click.Choice(("reference", "pgdog")),
    required=True,
    help="Whose language.",
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file that the router reads; replaced as a whole.",
)
@click.option(
    "--console",
    default="",
    metavar="COMMAND",
    help="Gets the statements for its console on standard input; no shell.",
)
@click.option(
    "--pid-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Holds the id of the process that gets signals.",
)
@click.option("--key-column", default="", metavar="NAME", help="The column with a key's hash.")
@click.pass_obj
def follow(
    session: Session,
    database: str,
    kind: str,
    file: Path,
    console: str,
    pid_file: Path | None,
    key_column: str,
) -> int:
    """Tell another router each new map, beside it.

    Each map is taken up as soon as it is published, and tried again when that fails; meanwhile the
    shards refuse what goes to the wrong one, and no move prunes rows.
    """
    import shlex
    import signal

    from reconciler.cli.owners import read_routing
    from reconciler.render.router import DRIVERS
    from reconciler.router.follow import Follower, Outlets
    from reconciler.wiring import open_reading_world

    steps = DRIVERS[kind](key_column).steps
    outlets = Outlets(file, tuple(shlex.split(console)), pid_file)
    settings = session.settings()
    lacking = outlets.lacks(steps(read_routing(open_reading_world(settings), database)))
    if lacking:
        raise click.UsageError(f"the steps of {kind} need {lacking}")
    follower = Follower(*_beside(settings, database, kind), steps, outlets, write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: follower.stop())
    follower.run()
    return 0


def _beside(settings: Settings, name: str, kind: str) -> tuple[Config, Registration]:
    import os
    import socket

    from reconciler.cli.owners import database_key
    from reconciler.edges.local.etcd_users import EtcdUser
    from reconciler.router.registration import Registration
    from reconciler.sdk.config import Config
    from reconciler.wiring import etcd_login, local_platform

    platform, key = local_platform(settings), database_key(name)
    etcd, tls, host = platform.etcd_endpoints(), platform.client_tls(), socket.gethostname()
    login = etcd_login(settings, EtcdUser.ROUTER)
    config = Config(etcd, key.name, "", key.namespace, tls=tls, etcd_login=login)
    return config, Registration(etcd, tls, key, f"{kind}-{host}-{os.getpid()}", host, login)


def _config(settings: Settings, name: str, options: dict[str, object]) -> tuple[RouterConfig, str]:
    """Return the router's configuration, and who may log in, for people."""
    from reconciler.cli.owners import database_key, read_routing
    from reconciler.edges.local.etcd_users import EtcdUser
    from reconciler.model.names import Scope, ScopeKey, app_role
    from reconciler.router.dispatch import SessionLimits
    from reconciler.router.pool import PoolLimits
    from reconciler.router.scram import Verifier, read_verifier
    from reconciler.router.server import RouterConfig
    from reconciler.router.users import read_users
    from reconciler.wiring import etcd_login, local_platform, open_reading_world

    routing = read_routing(open_reading_world(settings), name)
    platform, database = local_platform(settings), database_key(name)
    role = app_role(database.name)
    file = str(options["users"] or "")
    first = ScopeKey(database.namespace, routing.owners[0].scope)
    own = f"{role}, with the password in {platform.credential_file(first, role)}"
    logins = f"the users of {file}" if file else own

    def users() -> dict[str, Verifier]:
        if file:
            return read_users(Path(file))
        return {role: read_verifier(platform.credential(first, role).password)}

    host, _, port = str(options["listen"]).rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter("write HOST:PORT", param_hint="--listen")
    config = RouterConfig(
        database=database,
        etcd=platform.etcd_endpoints(),
        tls=platform.client_tls(),
        etcd_login=etcd_login(settings, EtcdUser.ROUTER),
        credential_of=lambda scope: platform.credential(
            ScopeKey(database.namespace, Scope(scope)), role
        ),
        users=users,
        host=host.strip("[]") or "127.0.0.1",
        port=int(port),
        map_file=str(options["map_file"] or ""),
        cert=str(options["cert"] or ""),
        key=str(options["key"] or ""),
        tls_required=bool(options["require_tls"]),
        processes=int(str(options["processes"])),
        drain_s=float(str(options["drain_s"])),
        pools=PoolLimits(backends_max=int(str(options["backends_max"]))),
        sessions=SessionLimits(hold_s=float(str(options["hold_s"]))),
    )
    return config, logins
