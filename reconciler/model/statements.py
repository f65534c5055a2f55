"""The SQL of the step under way, for the audit: edges note it, the engine takes it.

Parameters are never noted, and passwords in a text are taken out of it here, the one place that
every statement passes. What worker threads of a step run (the rows of a copy) is not noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TEXT_MAX = 2000
"""Longer statements are cut; a schema file is known by its digest."""
STATEMENTS_MAX = 100
_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)
_SECRETS = (
    (re.compile(r"(\bPASSWORD\s+)('(?:[^']|'')*'|\$\w*\$.*?\$\w*\$)", re.IGNORECASE | re.DOTALL),
     r"\1'***'"),
    (re.compile(r"(\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s']+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"SCRAM-SHA-256\$[^'\"\s]+"), "***"),
)  # fmt: skip
_READS = re.compile(
    r"""\s*(?: (?:SHOW|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b
        | (?:SELECT|WITH|TABLE)\b (?!.*\b(?: INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|TRUNCATE|GRANT
          |REVOKE|setval|set_config|shardwright\.\w+\(
          |pg_\w*(?:create|drop|advance|emit)\w*\( )) )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""What certainly only reads, or marks a transaction's ends."""


@contextmanager
def noting() -> Iterator[list[str]]:
    """Yield the list that gets what is said to databases within, in this thread."""
    statements: list[str] = []
    token = _noted.set(statements)
    try:
        yield statements
    finally:
        _noted.reset(token)


def is_noting() -> bool:
    """Whether somebody wants to hear: to render a statement costs a little."""
    return _noted.get() is not None


def note(text: str) -> None:
    """Note a statement that may write, without its parameters and passwords."""
    statements = _noted.get()
    if statements is None or len(statements) >= STATEMENTS_MAX or _READS.match(text):
        return
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    text = " ".join(text.split())
    statements.append(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…")
