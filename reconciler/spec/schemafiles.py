"""Find the SQL files of ``spec.schema.files`` among the files of the source."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from itertools import islice, takewhile

from reconciler.model.desired import Place, SchemaFile
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.documents import MANIFEST_SUFFIXES
from reconciler.spec.problems import Problems, did_you_mean, quoted
from reconciler.spec.statements import line_and_column, statement_problems

SCHEMA_FILE_BYTES_MAX = 1 << 20
"""Largest schema file, in bytes: a schema file defines tables, it does not load data."""
SCHEMA_FILES_MAX = 10_000
"""Most schema files of one database."""
NO_TRANSACTION = "-- shardwright: no-transaction"
"""Marker in the first lines of a file that cannot run in a transaction (concurrent indexes)."""
_MARKER_LINES = 5


class SchemaFileMissing(ReconcilerError):
    """A pattern of schema.files matches no file.

    Patterns are relative to the folder of the document that names them. An empty match is refused:
    it would create shards without tables.
    """

    code = "SP116"


class SchemaFileOutOfTree(ReconcilerError):
    """A pattern of schema.files leads out of the document's folder.

    A revision of the specs must hold all that it means; a file elsewhere would not be part of it.
    """

    code = "SP117"


class SchemaFileUnfit(ReconcilerError):
    """A schema file cannot be applied: it is too large, or not UTF-8 text."""

    code = "SP118"


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """A schema file as all documents of a folder share it; ``problem`` says why it is unfit."""

    file: SchemaFile
    problem: str
    wrong: tuple[tuple[int, ReconcilerError], ...]


class SchemaTree:
    """The SQL files of a source. What is found and read is kept: many documents of a folder ask for
    the same.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._paths = sorted(path for path in files if not _is_manifest(path))
        self._matches: dict[tuple[str, str], list[str]] = {}
        self._marks: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
        self._read: dict[tuple[str, str], _ReadFile] = {}

    def inside(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, relative to it, sorted."""
        prefix = f"{folder}/" if folder else ""
        start = bisect_left(self._paths, prefix)
        paths = takewhile(lambda p: p.startswith(prefix), islice(self._paths, start, None))
        return [path.removeprefix(prefix) for path in paths]

    def matching(self, folder: str, pattern: str) -> list[str]:
        """Return the names of the files below a folder that match a pattern, sorted."""
        key = (folder, pattern)
        if key not in self._matches:
            full = _matcher(pattern).fullmatch
            self._matches[key] = [name for name in self.inside(folder) if full(name)]
        return self._matches[key]

    def read(self, folder: str, name: str) -> _ReadFile:
        """Return a file below a folder, read."""
        key = (folder, name)
        if key not in self._read:
            self._read[key] = _read(name, self._files[f"{folder}/{name}" if folder else name])
        return self._read[key]

    def marks(self, folder: str, pattern: str) -> tuple[tuple[str, str], ...]:
        """Return names and digests of the files that a pattern of a document finds."""
        key = (folder, pattern)
        if key not in self._marks:
            names = self.matching(folder, _clean(pattern))
            self._marks[key] = tuple((n, self.read(folder, n).file.sha256) for n in names)
        return self._marks[key]


def find_schema_files(
    patterns: Iterable[str], place: Place, tree: SchemaTree, problems: Problems
) -> tuple[SchemaFile, ...]:
    """Return the files in the order in which they are applied.

    Pattern by pattern, sorted by name within a pattern, each file once. ``place`` is that of the
    list; reports SP116, SP117, SP118, PG232 and PG233.
    """
    folder = place.file.rpartition("/")[0]
    found: dict[str, SchemaFile] = {}
    for index, pattern in enumerate(patterns):
        at = place.at(index)
        clean = _clean(pattern)
        if _leads_out(clean):
            problem = f"{quoted(pattern)} leads out of the folder of {place.file}"
            problems.add(at, SchemaFileOutOfTree("schema", problem, remedy="move the file inside"))
            continue
        names = tree.matching(folder, clean)
        if not names:
            problems.add(at, _missing(pattern, folder, tree.inside(folder)))
        for name in names:
            if name not in found:
                _add(found, tree.read(folder, name), at, problems)
    return tuple(found.values())


def _is_manifest(path: str) -> bool:
    return path.lower().endswith(MANIFEST_SUFFIXES)


def _clean(pattern: str) -> str:
    return pattern.removeprefix("./")


def _leads_out(pattern: str) -> bool:
    return pattern.startswith(("/", "~")) or ".." in pattern.split("/") or "\\" in pattern


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> re.Pattern[str]:
    """Compile a pattern: * and ? stay within a folder, ** stands for any number of folders."""
    parts = []
    for segment in pattern.split("/"):
        if segment == "**":
            parts.append("(?:[^/]+/)*")
        else:
            parts.append(translate(segment)[4:-3].replace(".*", "[^/]*") + "/")
    return re.compile("".join(parts).removesuffix("/"), re.DOTALL)


def _missing(pattern: str, folder: str, inside: list[str]) -> ReconcilerError:
    problem = f"{quoted(pattern)} matches no file in {folder or 'the folder'}"
    sql = [name for name in inside if name.endswith(".sql")]
    if not sql:
        return SchemaFileMissing("schema", problem, remedy="no .sql file is there at all")
    seen = did_you_mean(pattern, sql)
    remedy = seen or f"there is {', '.join(sql[:3])}{' …' if len(sql) > 3 else ''}"
    return SchemaFileMissing("schema", problem, remedy=remedy)


def _read(name: str, data: bytes) -> _ReadFile:
    problem = text = ""
    if not name.endswith(".sql"):
        problem = "its name does not end in .sql"
    elif len(data) > SCHEMA_FILE_BYTES_MAX:
        problem = f"it has {len(data):,} bytes, more than the {SCHEMA_FILE_BYTES_MAX:,} allowed"
    elif b"\0" in data:
        problem = "it holds a NUL character"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        problem = problem or f"byte {bad.start} is not UTF-8"
    head = (line.strip().lower() for line in text.splitlines()[:_MARKER_LINES])
    file = SchemaFile(name, sha256(data).hexdigest(), text, NO_TRANSACTION not in head)
    return _ReadFile(file, problem, () if problem else tuple(statement_problems(file)))


def _add(found: dict[str, SchemaFile], read: _ReadFile, place: Place, problems: Problems) -> None:
    name, problem = read.file.name, read.problem
    if len(found) >= SCHEMA_FILES_MAX:
        problem = f"it is one more than the {SCHEMA_FILES_MAX:,} schema files allowed"
    if problem:
        problems.add(place, SchemaFileUnfit(f"schema file {name}", problem))
        return
    found[name] = read.file
    folder, slash, _ = place.file.rpartition("/")
    for offset, error in read.wrong:
        where = Position(f"{folder}{slash}{name}", *line_and_column(read.file.text, offset))
        problems.add(where, error)
