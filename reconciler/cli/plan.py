"""``shardwright plan``: the same line as apply, up to the point where something would change."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.notes import of_problems
from reconciler.cli.session import Session, output_option
from reconciler.cli.source import Where, chosen, load, source_options
from reconciler.cli.terminal import style_for, tell_line, width_of, write
from reconciler.model.errors import ProblemsFound
from reconciler.plan.render_notes import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.engine.world import Outlook
    from reconciler.plan.render_notes import Note
    from reconciler.plan.render_report import PlanReport
    from reconciler.spec.loaded import Loaded

NOTHING, CHANGES, DENIED, HELD, STALE = 0, 2, 4, 5, 6
"""Exit codes with --detailed-exitcode; 3 is drift, which ``plan`` does not tell apart."""


@command("plan")
@source_options
@click.option("--base", metavar="REF", help="Show what --head changes of this.")
@click.option(
    "--head", metavar="REF", default="HEAD", show_default=True, help="With --base: the proposal."
)
@click.option("--state", metavar="FILE", help="Plan against a file of `state export`.")
@click.option("--out", metavar="FILE", help="Save the plan, for: shardwright apply FILE.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="0 nothing to do, 2 changes, 4 denied, 5 held."
)
@output_option("text", "json", "yaml", "markdown", "name", *FORMS)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.pass_obj
def plan(
    session: Session, where: Where, base: str | None, head: str, state: str | None,
    out: str | None, detailed_exitcode: bool, output: str, quiet: bool,
) -> int:  # fmt: skip
    """Show what would be done, and change nothing.

    A plan names the revision that it was made from. Exit 1 also when it is refused, or denied by a
    policy. With --base it is what a pull request would do: what is outstanding without it is left
    out. With --state nothing is connected to.
    """
    from reconciler.cli.report import report_of

    if out and (base or state):
        raise click.UsageError("such a plan cannot be applied; leave --out out")
    if base and (where.path or where.git):
        raise click.UsageError("--base reads the repository here; leave -f and --git out")
    settings = session.settings()
    try:
        outlook, aside = _outlook(session, where, base or "", head, state or "")
    except ProblemsFound as found:
        if output in FORMS:
            write_notes(of_problems(found.problems), output, found.problem)
        raise
    report = report_of(outlook, settings, Path(out).name if out else "")
    report = replace(report, base=base or "", asides=aside)
    if out:
        save(where, outlook, out)
    if not quiet:
        if output not in FORMS:
            tell_warnings(outlook.loaded)
        for line in aside:
            tell_line(line, "dim")
        show(report, outlook, output)
    return exit_code(report, detailed=detailed_exitcode)


def _outlook(
    session: Session, where: Where, base: str, head: str, state: str
) -> tuple[Outlook, tuple[str, ...]]:
    """Return what is to be shown, and lines to tell beside it."""
    from reconciler.engine import loop
    from reconciler.wiring import open_reading_world

    if base:
        from reconciler.cli import proposal

        return proposal.outlook(session, where, base, head, state)
    loaded = load(chosen(where, session))
    if state:
        from reconciler.cli import proposal

        return proposal.against_file(loaded, state)
    return loop.look(open_reading_world(session.settings()), loaded), ()


def tell_warnings(loaded: Loaded) -> None:
    """Tell on stderr what is worth a look in the specs and stops nothing."""
    if loaded.warnings:
        from reconciler.cli.errors import tell_error

        for warning in loaded.warnings:
            tell_error(warning)


def show(report: PlanReport, outlook: Outlook, output: str) -> None:
    """Write the plan to stdout in one of its forms."""
    if output == "json":
        from reconciler.plan.render_json import render_json

        write(render_json(report, outlook.loaded.locate).decode())
    elif output == "yaml":
        import json

        import yaml

        from reconciler.plan.render_json import render_json

        fields = json.loads(render_json(report, outlook.loaded.locate))
        write(str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)))
    elif output == "markdown":
        from reconciler.plan.render_markdown import render_markdown

        write(render_markdown(report))
    elif output in FORMS:
        from reconciler.cli.notes import of_plan
        from reconciler.plan.render_verdict import verdict

        write_notes(of_plan(report, outlook), output, verdict(report))
    elif output == "name":
        from reconciler.plan.render import render_names

        sys.stdout.write(render_names(report))
    else:
        from reconciler.plan.render_text import render_text

        write(render_text(report, width_of(sys.stdout), style_for(sys.stdout)))


def write_notes(notes: Iterable[Note], form: str, line: str) -> None:
    """Write what is to be said about lines of files, in a forge's form."""
    from reconciler.plan.render_notes import render_notes

    write(render_notes(notes, form, line))


def exit_code(report: PlanReport, *, detailed: bool) -> int:
    """Return how a plan ends.

    Refused, denied and unknown (something did not answer) are errors; held and changes are fine.
    """
    from reconciler.plan.render_json import outcome

    codes = {"nothingToDo": NOTHING, "changes": CHANGES, "denied": DENIED, "held": HELD}
    found = outcome(report)
    if detailed:
        return codes.get(found, 1)
    return 1 if found in ("denied", "refused", "unknown") else 0


def save(where: Where, outlook: Outlook, out: str) -> None:
    """Write the plan to a file. Raises FileNotWritten."""
    from reconciler.cli.files import write_private
    from reconciler.engine.saved import encode_saved

    write_private(Path(out), encode_saved(where.request(), outlook.plan))
