"""From problems, findings and refusals to notes at lines of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.plan.render_notes import Level, Note

if TYPE_CHECKING:
    from reconciler.engine.world import Outlook
    from reconciler.model.desired import Place
    from reconciler.model.errors import Position, ReconcilerError
    from reconciler.plan.render_report import PlanReport

_LEVELS = {"deny": Level.ERROR, "hold": Level.WARNING, "warn": Level.WARNING}


def of_problems(problems: Iterable[ReconcilerError], level: Level = Level.ERROR) -> Iterator[Note]:
    """Yield a note for each problem of the specs."""
    for error in problems:
        remedy = f"\ntry: {error.remedy}" if error.remedy else ""
        subject = f"{error.subject}: " if error.subject else ""
        yield _note(level, error.where, error.code, f"{subject}{error.problem}{remedy}")


def of_plan(report: PlanReport, outlook: Outlook) -> Iterator[Note]:
    """Yield a note for each refusal, finding of a policy and remark of a plan."""
    locate = outlook.loaded.locate

    def at(place: Place | None) -> Position | None:
        return locate(place) if place else None

    for refusal in report.plan.refusals:
        text = f"{refusal.subject}: {refusal.problem}\ntry: {refusal.remedy}"
        yield _note(Level.ERROR, at(refusal.place), refusal.kind.code, text)
    for found in report.findings:
        subject = f"{found.database}: " if found.database else ""
        code = f"{found.policy}/{found.rule}"
        yield _note(_LEVELS[found.outcome], at(found.place), code, f"{subject}{found.message}")
    for remark in report.plan.remarks:
        text = f"{remark.database}: {remark.text}"
        yield _note(Level.NOTICE, at(remark.place), "remark", text)
    yield from of_problems(outlook.loaded.warnings, Level.WARNING)


def _note(level: Level, where: Position | None, code: str, text: str) -> Note:
    if where is None:
        return Note(level, "", 0, 0, code, text)
    return Note(level, where.file, where.line or 0, where.column or 0, code, text)
