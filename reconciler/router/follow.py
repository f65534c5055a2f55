"""Beside a router that is not ours: take each routing map up as its driver says, once published.

**Where this stands in a cut.** After the map, which is published after the target has opened. A
router told earlier would send clients to a shard that still refuses them; told late, it sends them
to one that refuses by now (``PS001``). So nothing that fails here loses a write, and no move waits
for it but one: rows are pruned from a shard only when every registered router serves the newest
map, and this registers as one (``registration``). It runs where the router runs, as its user: the
applier writes no files there and runs no commands, and a spec cannot name any.

Level, not edge: all steps are done for the newest map, again from the first one after a failure or
a crash, until they succeed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from reconciler.edges.local.home import write_file
from reconciler.model.errors import ReconcilerError
from reconciler.model.routing import RoutingMap
from reconciler.render.router.driver import RunStatements, SendSignal, Step, WriteFile
from reconciler.router.registration import Registration
from reconciler.sdk.config import Config
from reconciler.sdk.feed import MapFeed

CONSOLE_S = 30.0
"""How long the console command of one step may take."""
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
"""Between two attempts at a map; a newer map is tried at once."""
TOLD_CHARS_MAX = 300


class RouterNotTold(ReconcilerError):
    """A router could not be told a routing map: its file, its console, or its process is not there.

    It serves the map before. The shards refuse what it sends to the wrong one, and no rows are
    pruned meanwhile. It is tried again until it succeeds.
    """

    code = "RT011"
    transient = True


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where the steps of a driver go: the router's file, its console, its process.

    ``console`` is a command that gets the statements on its standard input, ``pid_file`` holds the
    id of the process that gets signals.
    """

    file: Path
    console: tuple[str, ...] = ()
    pid_file: Path | None = None

    def lacks(self, steps: tuple[Step, ...]) -> str:
        """Return the option that these steps need and that is not given, "" when all are."""
        if not self.console and any(isinstance(step, RunStatements) for step in steps):
            return "--console"
        if self.pid_file is None and any(isinstance(step, SendSignal) for step in steps):
            return "--pid-file"
        return ""


def perform(step: Step, outlets: Outlets) -> None:
    """Do one step of a driver; twice does no harm. Raises RouterNotTold."""
    try:
        match step:
            case WriteFile(_, text):
                _replace(outlets.file, text)
            case RunStatements(statements):
                _run(outlets.console, "".join(f"{one};\n" for one in statements))
            case SendSignal(name):
                if outlets.pid_file is None:
                    raise RouterNotTold(f"SIG{name}", "no file with the router's process id")
                pid = int(outlets.pid_file.read_text())
                os.kill(pid, signal.Signals[f"SIG{name}"])
            case _:
                assert_never(step)
    except (OSError, ValueError, subprocess.SubprocessError) as problem:
        raise RouterNotTold(type(step).__name__, str(problem)) from problem


def _replace(file: Path, text: str) -> None:
    """Write the file whole or not at all; its mode stays, and nothing in it is secret."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    write_file(file, text.encode(), mode)


def _run(console: tuple[str, ...], text: str) -> None:
    ended = subprocess.run(
        console, input=text, text=True, capture_output=True, timeout=CONSOLE_S, check=False
    )
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip()[-TOLD_CHARS_MAX:]
        raise RouterNotTold(console[0], f"ended with {ended.returncode}: {said}")


class Follower:
    """Tells one router each map. ``run`` returns when ``stop`` was called, from any thread."""

    def __init__(
        self,
        config: Config,
        registration: Registration,
        steps: Callable[[RoutingMap], tuple[Step, ...]],
        outlets: Outlets,
        tell: Callable[[str], None],
    ) -> None:
        self._registration, self._steps, self._outlets = registration, steps, outlets
        self._tell = tell
        self._changed, self._over = threading.Event(), threading.Event()
        self._feed = MapFeed(config, lambda _: self._changed.set())

    def stop(self) -> None:
        """End after the attempt that runs."""
        self._over.set()
        self._changed.set()

    def run(self) -> None:
        """Follow the map. Raises NoMap and RecordUnreadable when there is none to begin with."""
        self._feed.start()
        self._registration.start()
        try:
            self._follow()
        finally:
            self._feed.close()
            self._registration.stop()

    def _follow(self) -> None:
        pause_s, told = RETRY_FIRST_S, ""
        served: RoutingMap | None = None
        while not self._over.is_set():
            self._changed.clear()
            routing = self._feed.routes.routing
            if routing == served:
                self._changed.wait()
                continue
            try:
                for step in self._steps(routing):
                    perform(step, self._outlets)
            except ReconcilerError as error:
                # Which map the router serves is not known any more; it is not the newest.
                self._registration.acknowledge(routing.epoch - 1)
                if told != (told := f"{error.code} {error.subject}: {error.problem}"):
                    self._tell(f"epoch {routing.epoch} not taken up: {told}")
                self._changed.wait(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                continue
            served, pause_s, told = routing, RETRY_FIRST_S, ""
            self._registration.acknowledge(routing.epoch)
            self._tell(f"epoch {routing.epoch} taken up")
