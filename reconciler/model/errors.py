"""Typed errors: what is wrong, with what, where it was written, and what to try.

Codes are two letters and three digits and are never reused. The letters tell the part:
SP spec, SO source, PO policy, PL plan, AP apply, OB observe, PG PostgreSQL, PA Patroni, ET etcd,
LP local platform, MV moves of keys, RT router, SD client library, DM daemon, AU audit, ST state
files, FG forges, PM Prometheus, RO roll-outs, CL command line, IN internal. A module defines the
errors it raises, beside the code that raises them; ``registry()`` finds all that are imported, and
``explain`` imports them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a source: file as the user knows it, line and column counted from 1."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """``specs/shop.yaml:24:13``; parts that are not known are left out."""
        numbers = [str(n) for n in (self.line, self.column) if n]
        return ":".join([self.file, *numbers])


class ReconcilerError(Exception):
    """What is wrong, with what, where it was written, and what to try.

    ``code`` never changes once released. ``transient`` tells the loop that the
    same attempt may succeed later; anything else waits for a person or a commit.
    ``nothing_changed``: what raised it had not begun to change anything.
    The class docstring is the story that ``shardwright explain CODE`` prints: first line the fact,
    then why it matters and how it comes about.
    """

    code: ClassVar[str] = "IN000"
    transient: ClassVar[bool] = False
    nothing_changed: ClassVar[bool] = False

    def __init__(
        self, subject: str, problem: str, *, remedy: str = "", where: Position | None = None
    ) -> None:
        super().__init__(subject, problem)
        self.subject, self.problem, self.remedy, self.where = subject, problem, remedy, where

    def __str__(self) -> str:
        place = f" {self.where}" if self.where else ""
        advice = f"\n      try: {self.remedy}" if self.remedy else ""
        return f"{self.code}{place}  {self.subject}: {self.problem}{advice}"


class ProblemsFound(ReconcilerError):
    """The sources hold mistakes; all of them are listed, sorted by file and line."""

    code = "SP000"

    def __init__(self, problems: tuple[ReconcilerError, ...]) -> None:
        count = len(problems)
        super().__init__("sources", f"{count} problem{'' if count == 1 else 's'} found")
        self.problems = tuple(sorted(problems, key=_by_place))


def _by_place(error: ReconcilerError) -> tuple[Position, str, str]:
    return error.where or Position(""), error.code, error.problem


def registry() -> dict[str, type[ReconcilerError]]:
    """Return every error type that is imported, by its code.

    Raises AssertionError when two types claim one code: a code is never reused.
    """
    found: dict[str, type[ReconcilerError]] = {}
    for kind in _subclasses(ReconcilerError):
        other = found.setdefault(kind.code, kind)
        assert other is kind, f"{kind.code} is claimed by {other.__name__} and {kind.__name__}"  # noqa: S101
    return found


def _subclasses(kind: type[ReconcilerError]) -> Iterator[type[ReconcilerError]]:
    for child in kind.__subclasses__():
        if "code" in vars(child):
            yield child
        yield from _subclasses(child)
