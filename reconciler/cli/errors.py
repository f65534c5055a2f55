"""How errors are told: typed ones in their words, usage mistakes with a hint, bugs in short."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import __version__
from reconciler.cli.terminal import style_for, tell_line, width_of
from reconciler.model.errors import ProblemsFound, ReconcilerError

if TYPE_CHECKING:
    from reconciler.cli.session import Session

BUG = "CL999"
USAGE = "CL001"


def tell(error: Exception, session: Session) -> int:
    """Write an error to stderr and return the exit code."""
    if isinstance(error, ReconcilerError):
        if session.wants_json:
            _write_json([fields_of(one) for one in _each(error)])
        else:
            _write_text(error)
        return session.error_exit
    if isinstance(error, click.ClickException):
        tell_line(f"{USAGE}  {error.format_message()}")
        return session.error_exit
    return _tell_bug(error, session)


def tell_usage(mistake: click.UsageError, session: Session) -> int:
    """Write a mistake in the call, with a hint where to read on."""
    where = mistake.ctx.command_path if mistake.ctx else "shardwright"
    message = mistake.format_message()
    remedy = _for_all(mistake, where) or f"{where} --help"
    if session.wants_json:
        _write_json([_record(USAGE, where, message, remedy)])
    else:
        tell_line(f"{USAGE}  {where}: {message}\n      try: {remedy}")
    return session.error_exit


def _for_all(mistake: click.UsageError, where: str) -> str:
    """Say where an option stands that is of all commands, empty for any other mistake."""
    if not isinstance(mistake, click.NoSuchOption) or mistake.ctx is None:
        return ""
    option, root = mistake.option_name, mistake.ctx.find_root()
    if not any(option in one.opts for one in root.command.params):
        return ""
    program, _, command = where.partition(" ")
    return f"{program} {option} ... {command}: it stands before the command"


def _each(error: ReconcilerError) -> tuple[ReconcilerError, ...]:
    return error.problems if isinstance(error, ProblemsFound) else (error,)


def fields_of(error: ReconcilerError) -> dict[str, object]:
    """Return an error as the fields of its JSON form."""
    where = error.where
    return _record(
        error.code, error.subject, error.problem, error.remedy,
        where.file if where else "", where.line if where else 0, where.column if where else 0,
    )  # fmt: skip


def _record(
    code: str,
    subject: str,
    problem: str,
    remedy: str,
    file: str = "",
    line: int = 0,
    column: int = 0,
) -> dict[str, object]:
    return {
        "code": code, "file": file, "line": line, "column": column,
        "subject": subject, "problem": problem, "remedy": remedy,
    }  # fmt: skip


def _write_json(records: list[dict[str, object]]) -> None:
    import json

    print(json.dumps({"errors": records}, indent=2, ensure_ascii=False), file=sys.stderr)


def _write_text(error: ReconcilerError) -> None:
    problems = _each(error)
    for problem in problems:
        tell_error(problem)
    codes = sorted({problem.code for problem in problems})
    if len(problems) > 1:
        tell_line(f"\n{len(problems)} problems; more: shardwright explain {codes[0]}", "dim")
    elif codes:
        tell_line(f"      more: shardwright explain {codes[0]}", "dim")


def tell_error(problem: ReconcilerError) -> None:
    """Write one error: code, place, what, and what to try."""
    paint = style_for(sys.stderr)
    head, *rest = str(problem).splitlines()
    if problem.where and problem.subject == problem.where.file:  # it stands there already
        head = head.replace(f"  {problem.subject}: ", "  ", 1)
    first, *more = _fitted(head)
    code, text = first[: len(problem.code)], first[len(problem.code) :]
    tell_line(paint("error", code) + text)
    for line in (*more, *(part for one in rest for part in _fitted(one))):
        tell_line(line)


def _fitted(line: str) -> list[str]:
    """Return a line in as many as a terminal needs; elsewhere as it is, for programs."""
    if not sys.stderr.isatty():
        return [line]
    from reconciler.plan.render_layout import unpainted, wrapped

    text = line.lstrip(" ")
    indent = len(line) - len(text)
    return list(wrapped(text, width_of(sys.stderr), indent, unpainted, "", hang=6 - indent or 5))


def _tell_bug(error: Exception, session: Session) -> int:
    path = write_report(error)
    summary = f"a bug in Shardwright ({type(error).__name__})"
    remedy = f"please report it with the details in {path}" if path else "please report it"
    if session.wants_json:
        _write_json([_record(BUG, "shardwright", summary, remedy)])
    else:
        tell_line(f"{style_for(sys.stderr)('error', BUG)}  {summary}\n      {remedy}")
    return session.error_exit


def write_report(error: Exception) -> str:
    """Write the details of a bug to a file of mode 0600 and return its path, "" when not possible.

    Beside the home, not in it: a folder with a report in it would not be taken for a new home.
    Only the options' names are noted of the call, because a value may be a secret.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = f"bug-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    options = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("-")]
    text = "".join(
        [
            f"shardwright {__version__}, Python {sys.version}\n",
            f"options: {' '.join(options)}\n\n",
            *traceback.format_exception(error),
        ]
    )
    for folder in (state / "shardwright-reports", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as out:
                out.write(text)
            return str(folder / name)
    return ""
