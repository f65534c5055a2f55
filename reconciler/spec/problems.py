"""The mistakes a document can hold, and the collector that gathers them all.

SP0xx speak of reading and of form, SP1xx of meaning, SP2xx are warnings. A problem is collected
with its ``Place``; line and column are looked up at the end, for those that are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from reconciler.model.desired import Place
from reconciler.model.errors import Position, ProblemsFound, ReconcilerError

Locate = Callable[[Place], Position]
Found = tuple[Place | Position, ReconcilerError]


class Problems:
    """Gathers problems and warnings of one run; the order does not matter."""

    def __init__(self) -> None:
        self._found: list[Found] = []
        self._warnings: list[Found] = []

    def add(self, place: Place | Position, error: ReconcilerError) -> None:
        """Note a problem: the run will fail."""
        self._found.append((place, error))

    def warn(self, place: Place | Position, error: ReconcilerError) -> None:
        """Note something that is worth a look but stops nothing."""
        self._warnings.append((place, error))

    @property
    def noted(self) -> tuple[Found, ...]:
        """All problems so far."""
        return tuple(self._found)

    @property
    def noted_warnings(self) -> tuple[Found, ...]:
        """All warnings so far."""
        return tuple(self._warnings)

    def raise_if_any(self, locate: Locate) -> None:
        """Raise ProblemsFound with every problem noted, each with line and column."""
        if self._found:
            raise ProblemsFound(_located(self._found, locate))

    def warnings(self, locate: Locate) -> tuple[ReconcilerError, ...]:
        """Return the warnings, each with line and column, in the order of their places."""
        found = _located(self._warnings, locate)
        return tuple(sorted(found, key=lambda w: (w.where or Position(""), w.code, w.problem)))


def _located(found: list[Found], locate: Locate) -> tuple[ReconcilerError, ...]:
    seen: dict[tuple[Position | None, str], ReconcilerError] = {}
    for place, error in found:
        if error.where is None:
            error.where = locate(place) if isinstance(place, Place) else place
        seen.setdefault((error.where, str(error)), error)
    return tuple(seen.values())


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ``did you mean "x"?`` for a near word, else an empty text."""
    folded = {k.lower(): k for k in known}
    near = get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f'did you mean "{folded[near[0]]}"?' if near else ""


def quoted(value: object, length_max: int = 60) -> str:
    """Show a value of the user's on one line, cut when long."""
    text = str(value).replace("\n", "\\n")
    return f'"{text if len(text) <= length_max else text[: length_max - 1] + "…"}"'


class NotUtf8(ReconcilerError):
    """A specification file is not UTF-8 text.

    Every spec is read as UTF-8, with or without a byte order mark. Other encodings would give
    different names on different machines, so they are refused instead of guessed.
    """

    code = "SP001"


class FileTooLarge(ReconcilerError):
    """A specification file is larger than the limit.

    No hand-written spec comes near ten megabytes; such a file is a data file that strayed into the
    folder, or an attack on the daemon's memory.
    """

    code = "SP002"


class NotYaml(ReconcilerError):
    """A specification file is not well-formed YAML.

    The text after the place is what the YAML reader says. Nothing after that point was read.
    """

    code = "SP003"


class TabIndentation(ReconcilerError):
    """A line is indented with a tab.

    YAML forbids tabs in indentation, because their width is a matter of taste and the indentation
    is the meaning. Set the editor to insert spaces.
    """

    code = "SP004"


class DuplicateKey(ReconcilerError):
    """One mapping holds the same key twice.

    Most YAML readers silently keep the last one, so that half of what was written has no effect.
    """

    code = "SP005"


class NestedTooDeep(ReconcilerError):
    """A document nests deeper than any spec needs."""

    code = "SP006"


class TooManyNodes(ReconcilerError):
    """A document grows beyond the limit when it is read, mostly by aliases of aliases.

    A few lines of nested aliases ("billion laughs") can stand for gigabytes. What aliases add up to
    is therefore counted before anything is expanded.
    """

    code = "SP007"


class TagRefused(ReconcilerError):
    """A value carries a YAML tag, such as !!python/object or !Ref.

    Specs are plain data: text, numbers, true and false, lists and mappings.
    """

    code = "SP008"


class KeyNotText(ReconcilerError):
    """A mapping's key is not text."""

    code = "SP009"


class UnknownApiVersion(ReconcilerError):
    """A document's apiVersion is meant for Shardwright but is none that this version reads."""

    code = "SP010"


class UnknownKind(ReconcilerError):
    """A document of Shardwright's apiVersion has a kind that does not exist."""

    code = "SP011"


class UnknownField(ReconcilerError):
    """A document holds a field that its kind does not have.

    An unknown field is nearly always a misspelt one. Ignoring it would mean to run something else
    than what was written.
    """

    code = "SP020"


class WrongType(ReconcilerError):
    """A field holds a value of another type than it takes."""

    code = "SP021"


class MissingField(ReconcilerError):
    """A field that must be there is missing."""

    code = "SP022"


class ValueNotAllowed(ReconcilerError):
    """A field's value is of the right type but none of those it takes."""

    code = "SP023"


class NeedsQuotes(ReconcilerError):
    """A text was written so that YAML reads it as a number, or as true or false.

    Unquoted, 16.10 is the number 16.1, no is false, and 1e3 is a thousand. In quotes each is the
    text that was typed.
    """

    code = "SP024"

    def __init__(self, subject: str, problem: str, meant: str) -> None:
        super().__init__(subject, problem, remedy=f'quote it: "{meant}"')
        self.meant = meant


class DocumentTwice(ReconcilerError):
    """Two documents describe the same thing.

    Both places are named. Which of them should win cannot be known, so neither does.
    """

    code = "SP025"


class NotExactlyOne(ReconcilerError):
    """Of some fields exactly one is needed, and none or several are there."""

    code = "SP026"


class CredentialsUnfit(ReconcilerError):
    """The credentials of a Git source do not fit together, or not to the address of the source.

    For https: usernameFile and passwordFile (a token is a password as well), or bearerTokenFile;
    caFile beside them. For SSH: identityFile and knownHostsFile, as no unknown host is trusted.
    """

    code = "SP027"


class ForeignFileUnreadable(ReconcilerError):
    """A file that is not recognisably Shardwright's is no YAML; it was left alone.

    Templates of other tools often are not. If it was meant for Shardwright, its apiVersion line is
    missing or misspelt.
    """

    code = "SP201"
