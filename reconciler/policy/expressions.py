"""CEL: compiling expressions with static types, and evaluating them without surprises.

The only module that imports cel_expr_python, and it does so (and protobuf) only when the first rule
is compiled: a command without policies does not pay for them. Two traps of that library are closed
here: a run-time error comes back as an error *value* (or, beyond the iteration budget of about
10,000 elements an evaluation, as a RuntimeError), and compile errors are texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from reconciler.policy.facts import CONSTANTS, DatabaseFacts, FleetFacts, PlanFacts, StepFacts
from reconciler.policy.shapes import message_name
from reconciler.spec.quantities import size_bytes

if TYPE_CHECKING:
    from reconciler.policy.messages import MessageTypes


class Stage(StrEnum):
    """When a rule is checked."""

    SPEC = "spec"
    PLAN = "plan"
    APPLY = "apply"


VARIABLES: Mapping[Stage, Mapping[str, type]] = {
    Stage.SPEC: {"database": DatabaseFacts},
    Stage.PLAN: {"database": DatabaseFacts, "plan": PlanFacts, "fleet": FleetFacts},
    Stage.APPLY: {
        "database": DatabaseFacts,
        "plan": PlanFacts,
        "fleet": FleetFacts,
        "step": StepFacts,
    },
}
"""The variables of each stage besides ``now`` and the constants."""
MACROS = ("all", "exists", "exists_one", "filter", "map", "has")
FUNCTIONS = (
    *MACROS,
    "quantity", "size", "matches", "startsWith", "endsWith", "contains", "duration", "timestamp",
    "getHours", "getMinutes", "getDayOfWeek", "getDayOfMonth", "getDayOfYear", "getDate",
    "getMonth", "getFullYear", "int", "double", "string", "lowerAscii", "upperAscii", "join",
    "split", "replace", "trim",
)  # fmt: skip
"""What a misspelt function is likely to have meant."""
_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*?)(?: \[[A-Z_]+\])?$", re.MULTILINE)
UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_STATUS = re.compile(r"^[A-Z_]+: |\s*\[[A-Z_]+\]$")


@dataclass(eq=False)
class CompileError(Exception):
    """CEL's complaint; line and column are counted from 1 inside the expression, 0 when unknown."""

    text: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """An expression that had no result, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Values:
    """What the variables stand for in one evaluation, as CEL holds it."""

    activation: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression whose result is true or false."""

    program: Any = field(repr=False)

    def evaluate(self, values: Values) -> bool | Failed:
        """Return the result; every failure is a value too."""
        try:
            result = self.program.eval(values.activation).value()
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            return Failed(_reason(str(error)))
        return result if isinstance(result, bool) else Failed(_reason(str(result)))


class Environment:
    """The variables, types and functions of one stage."""

    def __init__(self, stage: Stage) -> None:
        from cel_expr_python import cel
        from cel_expr_python.ext import ext_strings

        self.stage = stage
        self._cel = cel
        self._types = _message_types()
        variables = {n: cel.Type(message_name(k)) for n, k in VARIABLES[stage].items()}
        variables |= {"now": cel.Type.TIMESTAMP} | dict.fromkeys(CONSTANTS, cel.Type.INT)
        quantity = cel.Overload(
            "quantity_string",
            return_type=cel.Type.INT,
            parameters=[cel.Type.STRING],
            impl=size_bytes,
        )
        self._env = cel.NewEnv(
            descriptor_pool=self._types.pool,
            variables=variables,
            functions=[cel.FunctionDecl("quantity", [quantity])],
            extensions=[ext_strings.ExtStrings()],
        )
        self.names = [*VARIABLES[stage], "now", *CONSTANTS]

    def fields_of(self, message: str) -> list[str]:
        """Return the field names of a message type, none for an unknown one."""
        return self._types.fields.get(message, [])

    def compile(self, text: str) -> tuple[Expression, str]:
        """Return the expression and the name of its result's type. Raises CompileError."""
        try:
            program = self._env.compile(text)
        except (RuntimeError, TypeError, ValueError) as error:
            raise _complaint(str(error)) from None
        return Expression(program), str(program.return_type().name())

    def values(self, now: datetime, messages: Mapping[str, Any]) -> Values:
        """Bind the stage's variables; ``now`` must carry its time zone."""
        if now.tzinfo is None:
            raise ValueError("now must carry its time zone")
        return Values(self._env.Activation({"now": now} | dict(CONSTANTS) | dict(messages)))

    def message(self, facts: Any) -> Any:
        """Return facts in the form that ``values`` takes; made once, bound often."""
        return self._types.message(facts)


@cache
def environment(stage: Stage) -> Environment:
    """Return the stage's environment; the first call imports CEL."""
    return Environment(stage)


@cache
def _message_types() -> MessageTypes:
    from reconciler.policy.messages import MessageTypes

    return MessageTypes(DatabaseFacts, PlanFacts, FleetFacts, StepFacts)


def _complaint(text: str) -> CompileError:
    """Pick the complaint to show: the first, unless a misspelt macro is what the others follow."""
    matches = list(_ERROR.finditer(text))
    if not matches:
        return CompileError(_STATUS.sub("", text.splitlines()[0]))
    match = next((m for m in matches if _names_a_macro(m[3])), matches[0])
    return CompileError(match[3], max(int(match[1]), 0), max(int(match[2]), 0))


def _names_a_macro(complaint: str) -> bool:
    name = UNDECLARED.match(complaint)
    return name is not None and bool(get_close_matches(name[1], MACROS, n=1, cutoff=0.7))


def _reason(text: str) -> str:
    """Say a run-time error in a user's words where CEL's own are not."""
    text = _STATUS.sub("", text)
    if "Iteration budget" in text:
        return "it walks over more than 10,000 elements; use a count such as plan.shardsChanged"
    if "null_type" in text:
        return "it compares a value that is not known (null), such as a size that was not seen"
    return text.strip() or "no result"
