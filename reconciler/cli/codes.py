"""Codes that are not typed errors of ours: mistakes in a call, bugs, and what shards answer.

PS codes are SQLSTATEs that the functions of schema shardwright raise inside PostgreSQL
(``edges/sql``), so that any client may meet them.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass

from reconciler.model.errors import ReconcilerError

WIDTH = 96
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"])")


@dataclass(frozen=True, slots=True)
class Story:
    """What is told of a code. ``transient``: the same attempt may succeed later."""

    code: str
    name: str
    text: str
    transient: bool = False

    @property
    def fact(self) -> str:
        """The first sentence, on one line."""
        return self._split()[0]

    @property
    def rest(self) -> str:
        """All after the first sentence."""
        return self._split()[1]

    def _split(self) -> tuple[str, str]:
        first, _, others = self.text.partition("\n\n")
        fact, *more = _SENTENCE_END.split(first, maxsplit=1)
        flowing = [textwrap.fill(" ".join(part.split()), WIDTH) for part in more]
        told = "\n\n".join(part for part in (*flowing, others) if part)
        return " ".join(fact.split()), told.strip()


def story_of(kind: type[ReconcilerError]) -> Story:
    """Return an error's story: its docstring, without the marks of reStructuredText."""
    text = inspect.cleandoc(kind.__doc__ or kind.__name__).replace("``", "`")
    return Story(kind.code, kind.__name__, text, kind.transient)


OTHERS = (
    Story(
        "CL001", "UsageMistake",
        "The call itself is mistaken: an option, an argument, or a command that is not there.\n\n"
        "Nothing was done. The help of every command is shown by --help.",
    ),
    Story(
        "CL999", "Bug",
        "Shardwright itself is at fault: something happened that it does not know.\n\n"
        "The details are in the file that was named; it holds no values of options.",
    ),
    Story(
        "PS001", "KeyRefused",
        "A shard refused a row because it does not own the row's key.\n\n"
        "The guards of a shard say so to every client, the superuser included. The client was led\n"
        "by an older routing map, its keys have moved, or it dialled the wrong shard:\n"
        "`shardwright route DATABASE KEY` names the right one. After a move of keys, updates and\n"
        "deletes are refused as well to sessions that do not tell a routing map's epoch at least\n"
        "as new as the move's: SET shardwright.epoch. Our client library and router do both.\n"
        "To mend rows by hand: `shardwright connect --admin --past-guards`.",
        transient=True,
    ),
    Story(
        "PS002", "ApplierFencedOff",
        "A shard refused an applier because a later one has taken over.\n\n"
        "Every apply holds a lease with a rising number. Who was cut off and comes back later has\n"
        "a lower one, and can do no harm any more. Run apply again.",
    ),
    Story(
        "PS003", "SchemaTaken",
        "A schema named shardwright exists and is not owned by a superuser.\n\n"
        "Guards and records are kept in that schema; in somebody else's they could be turned off.\n"
        "Rename that schema, then apply again.",
    ),
    Story(
        "PS004", "SchemaFileNotAnnounced",
        "A schema file was noted as done that no applier had announced.\n\n"
        "Only an apply may note schema files; a file that calls shardwright's functions itself\n"
        "cannot.",
    ),
    Story(
        "PS005", "GuardChanged",
        "The guard of a table was changed while a move of keys was at work on it.\n\n"
        "The move stops before it replaces a guard that it does not know. Apply again.",
        transient=True,
    ),
    Story(
        "PS006", "HeldByMove",
        "A shard refused a statement that a move of keys which is under way cannot carry.\n\n"
        "That is a TRUNCATE of a table that moves, which knows no key range, and an UPDATE of the\n"
        "shard key from a moving to a staying value or back. No other shard would take it, so\n"
        "clients do not try again by themselves. DELETE does the same as TRUNCATE, DELETE and\n"
        "INSERT the same as the UPDATE; or wait: `shardwright get operations` tells what moves.",
    ),
)  # fmt: skip
"""In the order of their codes."""
