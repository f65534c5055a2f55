"""``shardwright apply``: show the plan, ask, then do exactly that."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.plan import CHANGES, DENIED, HELD, STALE, exit_code, show, tell_warnings
from reconciler.cli.session import Session, output_option
from reconciler.cli.source import Where, chosen, load, source_options
from reconciler.cli.terminal import style_for, tell_line

if TYPE_CHECKING:
    from reconciler.cli.applied import Tally
    from reconciler.engine.events import ApplyEnded
    from reconciler.engine.saved import SavedPlan, SourceRequest
    from reconciler.engine.world import Outlook, World
    from reconciler.plan.actions import Step
    from reconciler.plan.render_report import PlanReport

INTERRUPTED = 130
_COMMIT = re.compile(r"sha(?:1|256):([0-9a-f]{40,64})")


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of apply: from where, from which file, and how it talks."""

    session: Session
    where: Where
    plan_file: str
    yes: bool
    detailed: bool
    quiet: bool
    output: str

    @property
    def again(self) -> str:
        """The command that goes on after an interruption; a used plan file cannot be used again."""
        return f"shardwright apply {self.where.arguments}"


@command("apply")
@click.argument("plan_file", required=False, metavar="[PLAN]")
@source_options
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="0 none, 2 done, 4 denied, 5 held, 6 stale."
)
@output_option("text", "json", "markdown", "name")
@click.option("-q", "--quiet", is_flag=True, help="Print neither the plan nor the progress.")
@click.pass_obj
def apply(
    session: Session, plan_file: str | None, where: Where, yes: bool, detailed_exitcode: bool,
    output: str, quiet: bool,
) -> int:  # fmt: skip
    """Do what a plan says.

    PLAN is a file written by "plan --out": exactly that plan is applied, once, or refused with what
    moved since. Without it, -f or --git name the specs; the plan is made, shown and asked about.
    """
    saved = None
    if plan_file:
        if where:
            raise click.UsageError("a saved plan knows its source; leave -f and --git out")
        saved, where = _opened(plan_file)
    call = _Call(
        session, chosen(where, session), plan_file or "", yes, detailed_exitcode, quiet, output
    )
    try:
        return _apply(call, saved)
    except Exception as error:
        code = _detailed(error) if detailed_exitcode else None
        if code is None:
            raise
        from reconciler.cli.errors import tell

        tell(error, session)
        return code


def _opened(plan_file: str) -> tuple[SavedPlan, Where]:
    """Read a saved plan, and where its specs are: at the very commit that it was made from."""
    from reconciler.cli.files import read_all
    from reconciler.engine.saved import BYTES_MAX, decode_saved

    saved = decode_saved(read_all(Path(plan_file), BYTES_MAX), plan_file)
    return saved, _pinned(saved.request, saved.revision)


def _pinned(request: SourceRequest, revision: str) -> Where:
    if not request.git:
        return Where(path=request.path)
    commit = _COMMIT.search(revision)
    ref = commit[1] if commit else request.ref
    return Where(
        git=request.git, ref=ref, subpath=request.path, keys=request.keys,
        credentials=request.credentials,
    )  # fmt: skip


def _detailed(error: Exception) -> int | None:
    from reconciler.engine import problems

    match error:
        case problems.PolicyDenies():
            return DENIED
        case problems.PolicyHolds():
            return HELD
        case problems.PlanStale() | problems.PlanUsed():
            return STALE
        case _:
            return None


def _apply(call: _Call, saved: SavedPlan | None) -> int:
    from reconciler.cli.report import report_of
    from reconciler.engine import loop
    from reconciler.wiring import open_world

    loaded = load(call.where, called=saved.revision if saved else "")
    settings = call.session.settings()
    world = open_world(settings)
    loop.outlive_dead(world, lambda: tell_line("an apply was killed; waiting for its lease to end"))
    outlook = loop.look(world, loaded)
    if saved:
        from reconciler.engine.saved import check_saved

        check_saved(saved, outlook.plan, outlook.observed)
    name = Path(call.plan_file).name
    report = report_of(outlook, settings, name)
    if not call.quiet:
        tell_warnings(loaded)
        if call.output != "json":  # with JSON it is told at the end, with what came of it
            show(report, outlook, call.output)
            sys.stdout.flush()
    if not outlook.plan.steps:
        if outlook.observed.operation:  # it was cut off when all was done: let it end
            loop.act(world, outlook, lambda _: None, threading.Event())
        _tell_json(call, report, outlook, None)
        return exit_code(report, detailed=call.detailed)
    if not report.blocking:
        if not outlook.ready:
            return _wait(call, world, outlook)
        _ask(call, report, outlook.ready)
    return _perform(call, world, outlook, report, single_use=saved is not None)


def _wait(call: _Call, world: World, outlook: Outlook) -> int:
    """Say what a roll-out waits for, of which nothing can be done now."""
    from reconciler.engine import loop

    loop.act(world, outlook, lambda _: None, threading.Event())  # it is noted since when it bakes
    for one in outlook.standings:
        tell_line(f"{style_for(sys.stderr)('warn', one.phase.value)}: {one.database}: {one.text}")
    tell_line(f"      go on with: {call.again}")
    return HELD if call.detailed else 1


def _ask(call: _Call, report: PlanReport, ready: tuple[Step, ...]) -> None:
    from reconciler.cli.confirm import confirm
    from reconciler.plan.actions import Risk
    from reconciler.plan.render_report import counted

    visible = sum(step.visible for step in ready)
    if not visible:  # notes of our own, which change nothing of anybody's
        return
    steps = counted(visible, "step")
    loses = " DATA IS DESTROYED." if report.plan.risk is Risk.DATA_LOSS else ""
    confirm(f"Apply these {steps}?{loses}", yes=call.yes)


def _perform(
    call: _Call, world: World, outlook: Outlook, report: PlanReport, *, single_use: bool
) -> int:
    from reconciler.cli.applied import Tally
    from reconciler.cli.interrupts import stopping
    from reconciler.cli.progress import watcher_for
    from reconciler.engine import loop

    stop = threading.Event()
    with stopping(stop, call.again), watcher_for(outlook.plan, quiet=call.quiet) as watcher:
        tally = Tally(watcher)
        try:
            ended = loop.act(world, outlook, tally, stop, single_use=single_use)
        finally:
            _tell_json(call, report, outlook, tally)
    return _finish(call, outlook, ended, tally.stopped)


def _tell_json(call: _Call, report: PlanReport, outlook: Outlook, tally: Tally | None) -> None:
    """Write the plan and what came of it, where JSON was asked for."""
    if call.output != "json" or call.quiet:
        return
    from reconciler.cli.applied import Tally
    from reconciler.cli.terminal import write
    from reconciler.plan.render_json import render_json

    told = tally or Tally(lambda _: None)
    write(told.as_json(render_json(report, outlook.loaded.locate)))


def sum_of(ended: ApplyEnded, stopped: set[str]) -> str:
    """Return how many steps ended in which way: ``2 steps done, 1 stopped, 3 not begun``."""
    from reconciler.plan.render_report import counted

    failed = [id_ for id_ in ended.failed if id_ not in stopped]
    parts = [f"{counted(len(ended.done), 'step')} done"]
    parts += [f"{len(failed)} failed"] if failed else []
    parts += [f"{len(stopped)} stopped"] if stopped else []
    parts += [f"{len(ended.left)} not begun"] if ended.left else []
    return ", ".join(parts)


def _finish(call: _Call, outlook: Outlook, ended: ApplyEnded, stopped: set[str]) -> int:
    from reconciler.plan.render_report import duration

    done = sum_of(ended, stopped)
    paint = style_for(sys.stderr)
    if ended.interrupted:
        tell_line(f"{paint('warn', 'stopped at a safe point')}: {done}")
        tell_line(f"      go on with: {call.again}")
        return INTERRUPTED
    if ended.failed or ended.left:
        tell_line(f"{paint('error', 'not finished')}: {done}")
        for one in outlook.standings if not ended.failed else ():
            bake = duration(one.canary.bake_s)
            tell_line(f"      {one.database}: {one.phase.value}; the others follow after {bake}")
        tell_line(f"      when the cause is gone, go on with: {call.again}")
        return 1
    tell_line(f"{paint('good', 'applied')}: {done}, {outlook.plan.revision.short}")
    if outlook.plan.refusals:
        return 1
    if any(still.unseen for still in outlook.plan.standstills):
        tell_line("      what did not answer was left alone; when it does, go on with:", "warn")
        tell_line(f"      {call.again}")
        return 1
    return CHANGES if call.detailed else 0
