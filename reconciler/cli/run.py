"""``shardwright run``: the daemon."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session
from reconciler.cli.source import Where, source_options

if TYPE_CHECKING:
    from types import FrameType

    from reconciler.daemon.config import ConfigFile, DaemonConfig
    from reconciler.daemon.daemon import Daemon
    from reconciler.daemon.http import Endpoints


@command("run")
@source_options
@click.option("--interval", type=click.FloatRange(1, 86_400), default=30, show_default=True,
              help="Seconds between looks at everything, with -f or --git.")  # fmt: skip
@click.option("--listen", default="127.0.0.1:9187", show_default=True, metavar="HOST:PORT",
              help="Where /healthz, /readyz, /metrics and /webhook are.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
              default="info", show_default=True, help="What is logged.")  # fmt: skip
@click.pass_obj
def run(session: Session, where: Where, interval: float, listen: str, log_level: str) -> int:
    """Follow the sources and keep every database as they say.

    The sources are those of the ReconcilerConfig given with --config, which is read again when it
    changes, or the one named here. Logs are JSON lines on stderr. One daemon leads; others wait.
    SIGTERM stops it at a safe point.
    """
    from reconciler.daemon.daemon import Daemon
    from reconciler.telemetry import open_log
    from reconciler.wiring import import_all, open_world

    config, file = _configured(session, where, interval)
    daemon = Daemon(open_world(session.settings()), config, open_log(sys.stderr, log_level), file)
    web = _listen(listen, daemon)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _asked_to_stop(daemon, number, _))
    import_all()
    web.start()
    daemon.log.info("listening", address=web.address)
    try:
        daemon.run()
    finally:
        web.stop()
    return 0


def _asked_to_stop(daemon: Daemon, number: int, _frame: FrameType | None) -> None:
    if daemon.is_stopping():  # the second time: at once; the journal has what was under way
        os._exit(128 + number)
    daemon.stop()


def _configured(
    session: Session, where: Where, interval: float
) -> tuple[DaemonConfig, ConfigFile | None]:
    from reconciler.daemon import config

    if where:
        return config.from_request(where.request(), interval), None
    named = session.config or os.environ.get("SHARDWRIGHT_CONFIG", "")
    if not named:
        raise config.DaemonUnconfigured(
            "run",
            "no source of specs is named",
            remedy="shardwright --config FILE run, or name one: run -f DIR, run --git URL",
        )
    file = config.ConfigFile(Path(named))
    return file.read(), file


def _listen(listen: str, daemon: Daemon) -> Endpoints:
    from reconciler.daemon.http import AddressTaken, Endpoints, Post
    from reconciler.daemon.webhook import BODY_BYTES_MAX, Webhook

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError(f"--listen {listen}: write HOST:PORT, such as 127.0.0.1:9187")

    def ready() -> tuple[int, str, bytes]:
        missing = daemon.why_not_ready()
        text = "".join(f"{line}\n" for line in missing or ["ready"])
        return (503 if missing else 200), "text/plain", text.encode()

    def ready_in_full() -> tuple[int, str, bytes]:
        status, kind, text = ready()
        states = "".join(f"{line}\n" for line in daemon.dependencies())
        return status, kind, text + states.encode()

    pages = {
        "/healthz": lambda: (200, "text/plain", b"ok\n"),
        "/readyz": ready,
        "/readyz?verbose": ready_in_full,
        "/metrics": lambda: (200, "text/plain; version=0.0.4", daemon.metrics.render()),
    }
    hook = Webhook(
        lambda: daemon.config.webhook_secret,
        daemon.hear_push,
        lambda forge, result: daemon.metrics.webhooks.labels(forge, result).inc(),
    )
    posts = {"/webhook": Post(BODY_BYTES_MAX, hook.answer)}
    try:
        return Endpoints(host.strip("[]"), int(port), pages, posts)
    except OSError as error:
        raise AddressTaken(
            f"--listen {listen}",
            f"cannot listen there: {error.strerror}",
            remedy="name another address: --listen 127.0.0.1:0 takes any free port",
        ) from None
