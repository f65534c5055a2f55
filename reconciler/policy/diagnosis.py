"""CEL's complaints as typed errors with a place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.model.desired import Place
from reconciler.model.errors import Position, ReconcilerError
from reconciler.policy.expressions import (
    FUNCTIONS,
    UNDECLARED,
    VARIABLES,
    CompileError,
    Environment,
    Failed,
    Stage,
)
from reconciler.policy.places import Sources, locate_expression
from reconciler.policy.problems import (
    BadLiteral,
    NotAtThisStage,
    NotTrueOrFalse,
    RuleSyntax,
    RuleTooComplex,
    UnknownName,
    WrongTypes,
)
from reconciler.spec.problems import did_you_mean, quoted

_NO_FIELD = re.compile(r"undefined field '([^']*)' not found in struct '([^']*)'")
_NO_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '(.*)'$")
_QUOTED = r"[rR]?'(?:[^'\\\n]|\\.)*'|[rR]?\"(?:[^\"\\\n]|\\.)*\""
_LITERAL_CALL = re.compile(
    rf"\b(get[A-Z]\w*|quantity|duration|timestamp|matches)\(\s*({_QUOTED})\s*\)|{_QUOTED}"
)
"""A call whose only argument is a text written out; other texts are matched to be stepped over."""
_UNEXPECTED = re.compile(r"(?:mismatched|extraneous) input (.*?)(?: expecting .*)?$")
LENGTH_MAX = 4_000
GROWING_MAX = 3
"""With both limits a rule's texts stay below about 300 MB: each call multiplies by its length."""
_GROWING = re.compile(r"\.\s*(?:map|replace|format|join)\s*\(")
_TOO_COMPLEX = ("recursion", "codepoint limit")


@dataclass(frozen=True, slots=True)
class ExpressionPlace:
    """Where an expression is written, and the files to look it up in."""

    place: Place
    sources: Sources

    def at(self, line: int = 1, column: int = 1) -> Position:
        """Return the position of a point inside; both counted from 1."""
        return locate_expression(self.place, self.sources, max(line, 1), max(column, 1))


def check_size(subject: str, text: str, where: ExpressionPlace) -> None:
    """Refuse, before CEL sees it, an expression that could use up the memory.

    Raises RuleTooComplex.
    """
    problem = ""
    if len(text) > LENGTH_MAX:
        problem = f"the expression has {len(text):,} characters, more than {LENGTH_MAX:,}"
    elif (calls := len(_GROWING.findall(text))) > GROWING_MAX:
        problem = f"{calls} calls of map, replace, format and join; at most {GROWING_MAX} may be"
    if problem:
        raise RuleTooComplex(subject, problem, remedy="split the rule", where=where.at())


def explain(
    cel: Environment, subject: str, text: str, error: CompileError, where: ExpressionPlace
) -> ReconcilerError:
    """Turn CEL's complaint about an expression into a typed error."""
    complaint = error.text
    if any(word in complaint for word in _TOO_COMPLEX):
        remedy = "split the rule, or chain its parts with && and ||"
        problem = "the expression nests deeper than CEL reads"
        return RuleTooComplex(subject, problem, remedy=remedy, where=where.at())
    if match := UNDECLARED.match(complaint):
        return _undeclared(cel, subject, text, match[1], error, where)
    if match := _NO_FIELD.match(complaint):
        return _no_field(cel, subject, text, match, error, where)
    position = where.at(error.line, error.column)
    if match := _NO_OVERLOAD.match(complaint):
        problem, remedy = _no_overload(match[1], match[2])
        return WrongTypes(subject, problem, remedy=remedy, where=position)
    if complaint.startswith("expression of type"):
        remedy = "only messages and maps have fields"
        return WrongTypes(subject, complaint, remedy=remedy, where=position)
    if not text.strip():
        return RuleSyntax(subject, "the expression is empty", remedy="write true", where=position)
    problem = complaint.removeprefix("Syntax error: ").partition(" expecting {")[0]
    problem = _UNEXPECTED.sub(_unexpected, problem)
    return RuleSyntax(subject, f"not CEL: {problem}", where=position)


def _unexpected(match: re.Match[str]) -> str:
    return "it ends too early" if match[1] == "'<EOF>'" else f"{match[1]} is not expected here"


def _undeclared(
    cel: Environment,
    subject: str,
    text: str,
    name: str,
    error: CompileError,
    where: ExpressionPlace,
) -> ReconcilerError:
    head = name.partition(".")[0]
    position = where.at(error.line, _start_of(text, head, error))
    stages = [stage for stage in Stage if head in VARIABLES[stage]]
    if stages:
        problem = f'there is no "{head}" yet at {cel.stage}'
        remedy = f"at: [{', '.join(stages)}]"
        return NotAtThisStage(subject, problem, remedy=remedy, where=position)
    known = [*cel.names, *FUNCTIONS]
    remedy = did_you_mean(head, known) or f"there are {', '.join([*VARIABLES[cel.stage], 'now'])}"
    problem = f"there is no variable or function {quoted(head)}"
    return UnknownName(subject, problem, remedy=remedy, where=position)


def _no_field(
    cel: Environment,
    subject: str,
    text: str,
    match: re.Match[str],
    error: CompileError,
    where: ExpressionPlace,
) -> ReconcilerError:
    name, message = match[1], match[2]
    known = cel.fields_of(message)
    remedy = did_you_mean(name, known) or f"it has {', '.join(known)}"
    kind = message.rpartition(".")[2].lower()
    position = where.at(error.line, _start_of(text, name, error))
    return UnknownName(subject, f"a {kind} has no {quoted(name)}", remedy=remedy, where=position)


def _start_of(text: str, name: str, error: CompileError) -> int:
    """Return the column where a name begins: CEL points at the dot or parenthesis beside it."""
    lines = text.splitlines()
    line = lines[error.line - 1] if 0 < error.line <= len(lines) else ""
    start = line.rfind(name, 0, error.column + len(name))
    return start + 1 if start >= 0 else error.column


def _no_overload(operator: str, types: str) -> tuple[str, str]:
    is_symbol = re.search(r"\W", operator) is not None  # _!=_, _[_], @in
    name = operator.replace("_", "").replace("@", "") if is_symbol else operator
    shown = re.sub(r"wrapper\((\w+)\)", r"\1", types).replace("shardwright.", "").lower()
    remedy = ""
    if "double" in shown and "int" in shown:
        remedy = "write the number with a point, such as 1.0, or convert it with double()"
    elif "string" in shown and "int" in shown:
        remedy = 'put text in quotes; a size in text is converted by quantity("10Gi")'
    return f'"{name}" does not take {shown}', remedy


def check_literals(
    cel: Environment, subject: str, text: str, result: str, where: ExpressionPlace
) -> None:
    """Refuse an expression that is no boolean, or holds texts that can only fail at run time.

    Raises NotTrueOrFalse or BadLiteral.
    """
    if result != "BOOL":
        problem = f"its result is {result.lower()}, not true or false"
        remedy = "compare it with something, for example == or > 0"
        raise NotTrueOrFalse(subject, problem, remedy=remedy, where=where.at())
    for function, literal, offset in _literal_calls(text):
        reason = _try(cel, function, literal)
        if reason:
            line = text.count("\n", 0, offset) + 1
            column = offset - (text.rfind("\n", 0, offset) + 1) + 1
            problem = f"{function}({literal}) can only fail: {reason}"
            raise BadLiteral(
                subject, problem, remedy=_example(function), where=where.at(line, column)
            )


def _literal_calls(text: str) -> Iterator[tuple[str, str, int]]:
    for match in _LITERAL_CALL.finditer(text):
        if match[1]:
            yield match[1], match[2], match.start(2)


def _try(cel: Environment, function: str, literal: str) -> str:
    """Return why a call with a literal fails, "" when it does not."""
    if function.startswith("get"):
        probe = f"now.{function}({literal}) >= 0"
    elif function == "matches":
        probe = f"''.matches({literal}) in [true, false]"
    else:
        probe = f"{function}({literal}) == {function}({literal})"
    try:
        outcome = cel.compile(probe)[0].evaluate(cel.values(datetime(2026, 1, 1, tzinfo=UTC), {}))
    except CompileError:
        return ""  # a function of the same name on another type: not ours to judge
    return outcome.reason if isinstance(outcome, Failed) else ""


def _example(function: str) -> str:
    if function.startswith("get"):
        return 'a name of the tz database, such as "Europe/Paris", or an offset such as "+02:00"'
    return {
        "quantity": 'a size such as "10Gi"',
        "duration": 'a duration such as "90s" or "24h"',
        "timestamp": 'a time such as "2026-01-31T22:00:00Z"',
        "matches": "a regular expression of RE2",
    }[function]
