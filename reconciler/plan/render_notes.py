"""What a plan or a check has to say about lines of files, as the forges read it.

GitHub shows at most 10 annotations of a kind a step, and 50 a job; the worst come first and the
last says how many were left out. SARIF is 2.1.0, GitLab's is Code Climate's JSON, JUnit one test
case a note.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from reconciler.plan.render_layout import clean

GITHUB_KIND_MAX = 10
SARIF_RESULTS_MAX = 5000
ADDRESS = "https://shardwright.dev"


class Level(IntEnum):
    """How much it matters, worst first."""

    ERROR = 0
    WARNING = 1
    NOTICE = 2


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """One thing to say; ``line`` and ``column`` begin at 1, 0 where nobody knows.

    ``code`` is an error's code or a policy's rule, ``text`` one or a few lines.
    """

    level: Level
    file: str
    line: int
    column: int
    code: str
    text: str


FORMS = ("github", "sarif", "gitlab", "junit")
"""The forms that ``render_notes`` knows."""


def render_notes(notes: Iterable[Note], form: str, verdict: str) -> str:
    """Return the notes, worst first, in one of ``FORMS``; ``verdict`` is the line on top."""
    ordered = sorted(set(notes))
    match form:
        case "github":
            return _github(ordered, verdict)
        case "sarif":
            return json.dumps(_sarif(ordered), indent=2, ensure_ascii=False)
        case "gitlab":
            return json.dumps([_gitlab(note) for note in ordered], indent=2, ensure_ascii=False)
        case "junit":
            return _junit(ordered, verdict)
        case _:
            raise ValueError(form)


def _github(notes: Sequence[Note], verdict: str) -> str:
    """Return workflow commands, escaped as GitHub's runner reads them."""
    lines = []
    for level in Level:
        mine = [note for note in notes if note.level is level]
        shown = mine if len(mine) <= GITHUB_KIND_MAX else mine[: GITHUB_KIND_MAX - 1]
        lines += [_command(note) for note in shown]
        if left := len(mine) - len(shown):
            kind = level.name.lower()
            lines.append(f"::{kind} title=shardwright::{left} more of this kind: see the log")
    return "\n".join([*lines, verdict])


def _command(note: Note) -> str:
    where = {"file": note.file, "line": note.line or "", "col": note.column or ""}
    named = {**where, "title": note.code} if note.file else {"title": note.code}
    properties = ",".join(f"{k}={_property(str(v))}" for k, v in named.items() if v)
    return f"::{note.level.name.lower()} {properties}::{_data(note.text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


_SARIF_LEVELS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTICE: "note"}


def _sarif(notes: Sequence[Note]) -> dict[str, Any]:
    codes = list(dict.fromkeys(note.code for note in notes))
    driver = {
        "name": "shardwright",
        "informationUri": ADDRESS,
        "rules": [{"id": code} for code in codes],
    }
    results = [
        {
            "ruleId": note.code,
            "ruleIndex": codes.index(note.code),
            "level": _SARIF_LEVELS[note.level],
            "message": {"text": note.text},
            "partialFingerprints": {"shardwright/v1": fingerprint(note)},
            **({"locations": [_location(note)]} if note.file else {}),
        }
        for note in notes[:SARIF_RESULTS_MAX]
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
        ],
    }


def _location(note: Note) -> dict[str, Any]:
    region = {"startLine": note.line} if note.line else {}
    if note.line and note.column:
        region["startColumn"] = note.column
    place = {"artifactLocation": {"uri": note.file, "uriBaseId": "%SRCROOT%"}}
    return {"physicalLocation": {**place, **({"region": region} if region else {})}}


def fingerprint(note: Note) -> str:
    """Return what stays the same while only lines move: a forge tells old notes from new by it."""
    text = "\0".join((note.code, note.file, note.text))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_GITLAB_LEVELS = {Level.ERROR: "critical", Level.WARNING: "major", Level.NOTICE: "info"}


def _gitlab(note: Note) -> dict[str, Any]:
    return {
        "description": note.text,
        "check_name": note.code,
        "fingerprint": fingerprint(note),
        "severity": _GITLAB_LEVELS[note.level],
        "location": {"path": note.file or ".", "lines": {"begin": max(note.line, 1)}},
    }


def _junit(notes: Sequence[Note], verdict: str) -> str:
    errors = sum(note.level is Level.ERROR for note in notes)
    head = f'<testsuite name="shardwright" tests="{len(notes) + 1}" failures="{errors}">'
    whole = f'  <testcase classname="shardwright" name={quoteattr(clean(verdict))}/>'
    cases = [_case(note) for note in notes]
    return "\n".join(
        ['<?xml version="1.0" encoding="UTF-8"?>', head, whole, *cases, "</testsuite>"]
    )


def _case(note: Note) -> str:
    where = f"{note.file}:{note.line}" if note.line else note.file
    name = quoteattr(" ".join(part for part in (note.code, where) if part))
    lines = "\n".join(clean(line) for line in note.text.splitlines())
    head = f'  <testcase classname="shardwright" name={name}>'
    if note.level is Level.ERROR:
        first = quoteattr(lines.partition("\n")[0])
        return f"{head}<failure message={first}>{escape(lines)}</failure></testcase>"
    return (
        f"{head}<system-out>{escape(f'{note.level.name.lower()}: {lines}')}</system-out></testcase>"
    )
