"""A plan in each of its forms. Pure: the shell supplies the width, the colours and the places."""

from __future__ import annotations

from reconciler.plan.render_json import plan_schema, render_json
from reconciler.plan.render_markdown import render_markdown
from reconciler.plan.render_report import PlanReport, ShownDatabase, ShownFinding
from reconciler.plan.render_text import render_text

__all__ = [
    "PlanReport",
    "ShownDatabase",
    "ShownFinding",
    "plan_schema",
    "render_json",
    "render_markdown",
    "render_names",
    "render_text",
]


def render_names(report: PlanReport) -> str:
    """Return the ids of the steps, one a line, in the order in which they may run."""
    return "".join(f"{step.id}\n" for step in report.plan.steps)
