"""``shardwright doctor``: is this machine fit, and what to do where it is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import style_for, width_of, write

if TYPE_CHECKING:
    from reconciler.cli.checks import Check

SIGNS = {"ok": ("ok  ", "good"), "warn": ("warn", "warn"), "fail": ("fail", "error")}


@command("doctor")
@output_option("text", "json")
@click.pass_obj
def doctor(session: Session, output: str) -> int:
    """Check this machine and say the remedies.

    Exit 1 when something fails that Shardwright cannot do without. Nothing is changed.
    """
    from reconciler.cli.checks import run_checks

    checks = run_checks(session.settings())
    failed = any(check.state == "fail" for check in checks)
    if output == "json":
        import json
        from dataclasses import asdict

        write(json.dumps({"ok": not failed, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        write("\n".join(line for check in checks for line in _lines(check)))
        counts = {state: sum(c.state == state for c in checks) for state in SIGNS}
        write(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return 1 if failed else 0


def _lines(check: Check) -> list[str]:
    from reconciler.plan.render_layout import unpainted, wrapped

    sign, style = SIGNS[check.state]
    paint, width = style_for(sys.stdout), width_of(sys.stdout)
    first, *more = wrapped(f"{check.name}: {check.fact}", width - 6, 0, unpainted, "", hang=2)
    lines = [f"{paint(style, sign)}  {first}", *(f"      {line}" for line in more)]
    if check.remedy:
        lines += [
            f"      {line}"
            for line in wrapped(f"try: {check.remedy}", width - 6, 0, unpainted, "", hang=5)
        ]
    return lines
