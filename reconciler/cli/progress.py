"""How an apply is watched: bars on a terminal, one line an event elsewhere."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from reconciler.cli.terminal import style_for, tell_line
from reconciler.engine.events import (
    ApplyEnded,
    ApplyEvent,
    ApplyStarted,
    StepDone,
    StepFailed,
    StepStarted,
    StepWaits,
    Watcher,
)
from reconciler.engine.problems import MovePaused, StoppedByUser
from reconciler.plan.actions import Plan, Step
from reconciler.plan.render_layout import clean
from reconciler.plan.render_report import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Column

WAITS_EVERY_S = 5.0
"""A plain line about one waiting step comes at most this often, unless the reason changes."""
_AMOUNTS = re.compile(r"\d[\d,.]*")
"""Amounts in a reason: another amount is no other reason."""
_SHARE = re.compile(r"(?<!\S)(\d{1,3})%")


@contextlib.contextmanager
def watcher_for(plan: Plan, *, quiet: bool) -> Iterator[Watcher]:
    """Yield what shows an apply's events on stderr."""
    if quiet:
        yield Failures()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with bars(plan) as watcher:
            yield watcher
    else:
        yield Lines(plan)


def title_of(step: Step) -> str:
    """Return a step's title with its database's and its shard's name in it."""
    return clean(f"{step.database}: {step.text}")


def stopped(event: StepFailed) -> bool:
    """Whether a step ended because its user asked, which is no failure."""
    return isinstance(event.error, StoppedByUser | MovePaused)


class Failures:
    """Shows only what failed."""

    def __call__(self, event: ApplyEvent) -> None:
        """Take note."""
        if isinstance(event, StepFailed) and not stopped(event):
            _tell_failure(event)


class Lines:
    """One line an event, with the time: for pipelines and files."""

    def __init__(self, plan: Plan) -> None:
        self._total = len(plan.steps)
        self._ended = 0
        self._said: dict[str, tuple[str, datetime]] = {}

    def __call__(self, event: ApplyEvent) -> None:
        """Take note."""
        match event:
            case ApplyStarted():
                after = f", goes on after {event.resumed}" if event.resumed else ""
                self._say(event.at, f"apply {event.operation} begins{after}")
            case StepStarted():
                self._say(event.at, f"begins {title_of(event.step)}")
            case StepWaits():
                self._wait(event)
            case StepDone():
                self._ended += 1
                what = f"{title_of(event.step)}"
                self._say(event.at, f"done   {what} ({duration(event.seconds)}) {self._count()}")
            case StepFailed():
                self._ended += 1
                if stopped(event):
                    why = event.error.problem
                    self._say(event.at, f"stops  {title_of(event.step)}: {why}")
                else:
                    self._say(event.at, f"failed {title_of(event.step)}")
                    _tell_failure(event)
            case ApplyEnded():
                pass  # the command itself says how it ended
            case _:
                assert_never(event)

    def _count(self) -> str:
        return f"{self._ended}/{self._total}"

    def _wait(self, event: StepWaits) -> None:
        said = self._said.get(event.step.id)
        lately = said and (event.at - said[1]).total_seconds() < WAITS_EVERY_S
        stem = _AMOUNTS.sub("#", event.reason)
        if said and said[0] == stem and lately:
            return
        self._said[event.step.id] = (stem, event.at)
        verb = "does   " if event.works else "waits  "
        self._say(event.at, f"{verb}{title_of(event.step)}: {event.reason}")

    def _say(self, at: datetime, text: str) -> None:
        tell_line(f"{at.astimezone():%H:%M:%S}  {clean(text)}")


def _tell_failure(event: StepFailed) -> None:
    from reconciler.cli.errors import tell_error

    tell_error(event.error)


@contextlib.contextmanager
def bars(plan: Plan) -> Iterator[Watcher]:
    """Yield a watcher that draws one bar for all, and one line for each step under way."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    progress = Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}", markup=False, table_column=_one_line(2)),
        BarColumn(bar_width=bar_width(console.width)),
        TextColumn("{task.fields[said]}", style="dim", markup=False, table_column=_one_line(3)),
        TimeElapsedColumn(),
        console=console,
        expand=True,
    )
    with progress:
        yield Bars(progress, plan)


def bar_width(columns: int) -> int:
    """Return how many of a terminal's columns a bar takes; what a step waits for needs more."""
    return max(6, min(24, columns // 10))


def _one_line(ratio: int) -> Column:
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)


class Bars:
    """Moves the bars as events come in."""

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        total = len(plan.steps)
        self._all = progress.add_task("apply", total=total, said=f"0/{total}")
        self._total, self._ended = total, 0
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: ApplyEvent) -> None:
        """Take note."""
        match event:
            case ApplyStarted() if event.resumed:
                self._progress.console.print(f"goes on after {event.resumed}", style="dim")
            case ApplyStarted() | ApplyEnded():
                pass
            case StepStarted():
                text = f"  {title_of(event.step)}"
                self._tasks[event.step.id] = self._progress.add_task(text, total=None, said="")
            case StepWaits():
                if (task := self._tasks.get(event.step.id)) is not None:
                    self._waits(task, clean(event.reason))
            case StepDone():
                self._end(event.step)
                text = f"{title_of(event.step)} ({duration(event.seconds)})"
                self._print("✓", "good", f"{text}")
            case StepFailed():
                self._end(event.step)
                self._failed(event)
            case _:
                assert_never(event)

    def _waits(self, task: TaskID, reason: str) -> None:
        """Say what a step waits for; a share in it moves the step's own bar."""
        if share := _SHARE.search(reason):
            self._progress.update(task, said=reason, total=100, completed=min(int(share[1]), 100))
        else:
            self._progress.update(task, said=reason)

    def _failed(self, event: StepFailed) -> None:
        if stopped(event):
            self._print("·", "warn", f"{title_of(event.step)}: {event.error.problem}")
            return
        self._print("✗", "error", f"{title_of(event.step)}")
        self._progress.console.print(str(event.error), markup=False, highlight=False)

    def _print(self, sign: str, style: str, text: str) -> None:
        from rich.text import Text

        painted = style_for(sys.stderr)(style, sign)
        self._progress.console.print(Text.from_ansi(f"{painted} {text}"))

    def _end(self, step: Step) -> None:
        self._ended += 1
        self._progress.update(self._all, advance=1, said=f"{self._ended}/{self._total}")
        task = self._tasks.pop(step.id, None)
        if task is not None:
            self._progress.remove_task(task)
