"""Cut a SQL file into its statements, as psql does, each with the place where it begins.

A file is run statement by statement so that an error can name its line, so that one that ends our
transaction is seen before it runs, and so that ``CREATE INDEX CONCURRENTLY`` stands alone. The
rules are those of psql's scanner (psqlscan.l): quotes, dollar quotes, nested comments,
parentheses, and ``BEGIN ATOMIC … END`` bodies of functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from reconciler.model.desired import SchemaFile
from reconciler.model.errors import ReconcilerError

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<line>--[^\n]*)
  | (?P<block>/\*)
  | (?P<escape>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*")
  | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)?\$)
  | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9$\x80-\U0010ffff]*)
  | (?P<number>[0-9][0-9A-Za-z_.$]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class TransactionInSchemaFile(ReconcilerError):
    """A schema file begins or ends a transaction.

    Shardwright runs each file in one transaction of its own, together with the note that it was
    applied. A COMMIT inside would make half of it happen without a note.
    """

    code = "PG232"


class NotOneStatement(ReconcilerError):
    """A file marked ``no-transaction`` holds more or less than one statement.

    Without a transaction a failure between two statements could not be resumed.
    """

    code = "PG233"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; ``offset`` counts characters from the start of its file.

    ``words`` are its first words in lower case, enough to tell what it is.
    """

    text: str
    offset: int
    words: tuple[str, ...]

    @property
    def ends_transaction(self) -> bool:
        """Whether it begins or ends a transaction (savepoints do not)."""
        match self.words:
            case ("rollback", "to", *_) | ("rollback", "work" | "transaction", "to", *_):
                return False
            case ("begin" | "start" | "commit" | "end" | "abort" | "rollback", *_):
                return True
            case ("prepare", "transaction", *_):
                return True
        return False


@dataclass(slots=True)
class _Shape:
    """Where the scanner stands within one statement."""

    start: int = -1
    end: int = 0
    parentheses: int = 0
    atomic: int = 0
    words: tuple[str, ...] = ()

    def see_word(self, word: str) -> None:
        """Follow ``BEGIN ATOMIC``: inside, CASE and BEGIN nest and END closes, as in psql."""
        if len(self.words) < 6:
            self.words += (word,)
        if not _makes_routine(self.words) or self.parentheses:
            return
        if word == "begin" or (word == "case" and self.atomic):
            self.atomic += 1
        elif word == "end" and self.atomic:
            self.atomic -= 1


def split(text: str) -> tuple[Statement, ...]:
    """Return the statements of a file, comments around them left out."""
    return tuple(_statements(text))


def statement_problems(file: SchemaFile) -> Iterator[tuple[int, ReconcilerError]]:
    """Yield what forbids to run a file, as PG232 or PG233, each with its offset."""
    subject = f"schema file {file.name}"
    ends, count, second = _outline(file.text)
    for offset, words in ends:
        yield (
            offset,
            TransactionInSchemaFile(
                subject,
                f"it says {words}",
                remedy="leave it out; the file is one transaction already",
            ),
        )
    if not file.transactional and count != 1:
        yield (
            second,
            NotOneStatement(
                subject,
                f"it is marked no-transaction and holds {count} statements",
                remedy="one statement a file; put each into a file of its own",
            ),
        )


@lru_cache(maxsize=1024)
def _outline(text: str) -> tuple[tuple[tuple[int, str], ...], int, int]:
    """Return where transactions begin or end, how many statements there are, where the second is.

    Kept: many databases of one source mostly have the same files.
    """
    statements = split(text)
    ends = tuple(
        (s.offset, " ".join(s.words[:2]).upper()) for s in statements if s.ends_transaction
    )
    return ends, len(statements), statements[1].offset if len(statements) > 1 else 0


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return the place of a character, both counted from 1."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _statements(text: str) -> Iterator[Statement]:
    shape, position = _Shape(), 0
    while position < len(text):
        kind, begin, position = _token(text, position)
        if kind in ("space", "line", "block"):
            continue
        piece = text[begin:position]
        if piece == ";" and not shape.parentheses and not shape.atomic:
            if shape.start >= 0:
                yield _statement(text, shape)
            shape = _Shape()
            continue
        if shape.start < 0:
            shape.start = begin
        shape.end = position
        if kind == "word":
            shape.see_word(piece.lower())
        shape.parentheses = max(0, shape.parentheses + {"(": 1, ")": -1}.get(piece, 0))
    if shape.start >= 0:
        yield _statement(text, shape)


def _statement(text: str, shape: _Shape) -> Statement:
    return Statement(text[shape.start : shape.end], shape.start, shape.words)


def _token(text: str, position: int) -> tuple[str, int, int]:
    """Return kind, begin and end of the next token; one that never ends takes the rest."""
    match = _TOKEN.match(text, position)
    assert match is not None  # noqa: S101 (``mark`` takes any character)
    kind = match.lastgroup or "mark"
    end = match.end()
    if kind == "block":
        end = _comment_end(text, end)
    elif kind == "dollar":
        closing = text.find(match[0], end)
        end = len(text) if closing < 0 else closing + len(match[0])
    elif kind == "mark" and match[0] in "'\"":
        end = len(text)
    return kind, position, end


def _comment_end(text: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def _makes_routine(words: tuple[str, ...]) -> bool:
    match words:
        case ("create", "function" | "procedure", *_):
            return True
        case ("create", "or", "replace", "function" | "procedure", *_):
            return True
    return False
