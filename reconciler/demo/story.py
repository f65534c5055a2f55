"""What each chapter of the demo needs: commands that are shown, lines to remember, waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reconciler import settings
from reconciler.demo.writer import Outcome
from reconciler.engine.world import World
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import ObservedShard, PatroniView
from reconciler.wiring import open_world
from reconciler.workflow.rollout import Finished, decide_secured

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
WAIT_S = 120


class DemoFailed(Exception):
    """The demo did not see what it should have."""


@dataclass(slots=True)
class Story:
    """One run: where it works, and what it has seen so far."""

    folder: Path
    seen: list[tuple[str, str]] = field(default_factory=list)
    writes: list[tuple[str, Outcome, float]] = field(default_factory=list)
    """What became of the writes in each chapter that had a writer, and the longest wait in s."""

    @property
    def home(self) -> Path:
        """The local platform's home."""
        return self.folder / "home"

    @property
    def specs(self) -> Path:
        """The Git repository with the specs."""
        return self.folder / "specs"

    @property
    def source(self) -> tuple[str, ...]:
        """The options that name the specs."""
        return ("--git", str(self.specs), "--ref", "main")

    def say(self, text: str) -> None:
        """Print a heading."""
        print(f"\n{bold('▍' + text)}", flush=True)

    def note(self, what: str, value: str) -> None:
        """Keep a line for the summary, and print it."""
        self.seen.append((what, value))
        print(f"  {what}: {value}", flush=True)

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,), show: bool = True) -> str:
        """Run a shardwright command as a user would, and show it with what it prints."""
        if show:
            print(dim(f"$ shardwright {' '.join(arguments)}"), flush=True)
        command = [sys.executable, "-m", "reconciler.cli.main", *arguments]
        environment = {**os.environ, "SHARDWRIGHT_HOME": str(self.home), "COLUMNS": "110"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        if show:
            print(done.stdout.rstrip(), flush=True)
        if done.returncode not in codes:
            told = "" if show else f"\n{done.stdout}"
            raise DemoFailed(f"shardwright {arguments[0]} ended with {done.returncode}{told}")
        return done.stdout

    def watch(self, *arguments: str) -> None:
        """Run a command with its progress as it comes: bars on a terminal, else lines."""
        print(dim(f"$ shardwright {' '.join(arguments)}"), flush=True)
        command = [sys.executable, "-m", "reconciler.cli.main", *arguments]
        done = subprocess.run(
            command, env={**os.environ, "SHARDWRIGHT_HOME": str(self.home)},
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DemoFailed(f"shardwright {arguments[0]} ended with {done.returncode}")

    def git(self, *arguments: str) -> None:
        """Run git in the specs' repository."""
        print(dim(f"$ git {' '.join(a if ' ' not in a else repr(a) for a in arguments)}"))
        identity = ["-c", "user.name=demo", "-c", "user.email=demo@example.org"]
        subprocess.run(["git", "-C", self.specs, *identity, *arguments], check=True)

    def world(self) -> World:
        """Return the edges of the demo's home."""
        return open_world(settings.load({"home": str(self.home)}, os.environ))


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Look until it is so. Raises DemoFailed."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {WAIT_S} s for {what}")
        time.sleep(0.05)


def all_well(story: Story) -> bool:
    """Whether all members of running shards serve, a synchronous standby among them."""
    from reconciler.engine.observe import observe

    seen = observe(story.world().eyes).database(SHOP)
    running = [shard for shard in seen.shards if not shard.platform.stopped] if seen else []
    return bool(running) and all(map(_is_well, running))


def _is_well(shard: ObservedShard) -> bool:
    view = shard.patroni
    if not isinstance(view, PatroniView) or view.leader is None or view.unseen_members:
        return False
    names = {member.name for member in shard.platform.members}
    healthy = {member.name for member in view.members if member.healthy}
    return names <= healthy and isinstance(decide_secured(view), Finished)


def bold(text: str) -> str:
    """Make text bold on a terminal."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text


def dim(text: str) -> str:
    """Make text faint on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() else text
