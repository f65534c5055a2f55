"""Files on this machine: one file, a folder, or standard input, read into Documents.

Only what may matter is read: YAML and JSON everywhere in the folder, SQL beside it. Hidden folders
(``.git``, ``.venv``) are skipped, links are followed inside the tree and refused where they lead
out of it, and devices or pipes are never opened. Mounted ConfigMaps work, whose files are links
into a hidden ``..data``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path

from reconciler.model.desired import Revision
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.documents import MANIFEST_SUFFIXES, Documents, SourceFile

SUFFIXES = (*MANIFEST_SUFFIXES, ".sql")
_SQL_WORD = re.compile(rb"\"([^\"\n]*\.sql)\"|'([^'\n]*\.sql)'|([^\s\"'\[\],{}#]+\.sql)")
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""Non-blocking: a pipe that somebody named shop.yaml must not hang the reader."""
_MAGIC = re.compile(r"[*?\[]")

RevisionOf = Callable[[Path], Revision | None]
"""Asks which commit a path belongs to; ``edges.git.work_tree_revision``. None: to none."""


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """How much one source may hold."""

    files_max: int = 20_000
    """Most files looked at, whatever their kind."""
    file_bytes_max: int = 10_000_000
    """Most bytes read of one file; the spec layer refuses what is longer."""
    total_bytes_max: int = 512_000_000
    """Most bytes of all files together."""


class SourceNotThere(ReconcilerError):
    """The file or folder to read specs from does not exist, or is neither."""

    code = "SO001"


class NoSpecsFound(ReconcilerError):
    """There is nothing to read where specs were looked for.

    An empty source is refused instead of taken for "no database is wanted": that would mean to
    delete them all.
    """

    code = "SO002"


class LinkOutOfTree(ReconcilerError):
    """A symbolic link leads out of the folder of specs, or nowhere.

    What a revision means must be inside it. A link to elsewhere on the machine would make the same
    revision mean different things, and could show files that are nobody's business.
    """

    code = "SO003"


class SourceTooLarge(ReconcilerError):
    """A source holds more files or bytes than is allowed.

    Mostly the wrong folder was given, such as a home folder or a whole disk.
    """

    code = "SO004"


class FileUnreadable(ReconcilerError):
    """A file or folder among the specs cannot be read."""

    code = "SO005"


def read_folder(
    argument: str, *, revision_of: RevisionOf = lambda _: None, limits: FolderLimits | None = None
) -> Documents:
    """Read a file, a folder, or standard input (``-``), as named by the user.

    Paths in the result begin as the user wrote them. Raises SourceNotThere, NoSpecsFound and
    SourceTooLarge; what concerns single files is in ``problems``.
    """
    reader = _Reader(limits or FolderLimits())
    if argument == "-":
        reader.add("<stdin>.yaml", sys.stdin.buffer.read(reader.limits.file_bytes_max + 1))
        reader.read_schema_of(reader.files["<stdin>.yaml"], Path(), "")
        return _documents(reader, "stdin", None, "")
    path = Path(argument)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceNotThere(argument, f"it cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        prefix = _prefix(argument)
        reader.read_tree(path, prefix)
        if not any(name.lower().endswith(MANIFEST_SUFFIXES) for name in reader.files):
            _nothing_found(argument, reader)
    elif stat.S_ISREG(mode):
        folder = path.parent
        prefix = _prefix(str(folder)) if os.path.dirname(argument) else ""
        reader.read_file(path, prefix + path.name, path.parent.resolve(), is_named=True)
        if data := reader.files.get(prefix + path.name):
            reader.read_schema_of(data, folder, prefix)
    else:
        raise SourceNotThere(argument, "it is neither a file nor a folder")
    return _documents(reader, str(path.resolve()), revision_of(path), prefix)


def _prefix(folder: str) -> str:
    clean = os.path.normpath(folder)
    return "" if clean == "." else clean.rstrip("/") + "/"


def _nothing_found(argument: str, reader: _Reader) -> None:
    if reader.problems:
        return
    problem = (
        f"no specs found: {reader.seen} files seen, none ends in {', '.join(MANIFEST_SUFFIXES)}"
    )
    raise NoSpecsFound(
        argument,
        problem,
        remedy="name a folder that holds specs, or begin with one; if the last "
        "database is to go, leave another document there, such as a policy",
    )


def _documents(reader: _Reader, source: str, revision: Revision | None, root: str) -> Documents:
    files = tuple(SourceFile(path, data) for path, data in sorted(reader.files.items()))
    return Documents(
        source,
        revision or content_revision(files),
        files,
        problems=tuple(reader.problems),
        root=root,
    )


def content_revision(files: tuple[SourceFile, ...]) -> Revision:
    """Name a state of files by their paths and contents: ``files@sha256:…``."""
    digest = sha256()
    for file in files:
        digest.update(f"{len(file.path)} {file.path} {len(file.data)} ".encode("utf-8", "replace"))
        digest.update(file.data)
    return Revision(f"files@sha256:{digest.hexdigest()}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; a loop of links is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _open_unless_link(path: Path) -> int | None:
    """Open a file; None when it is a link. Resolving every path would cost more than reading."""
    try:
        return os.open(path, _READING | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _read_up_to(file: FileIO, most: int) -> bytes:
    """Read a file whole, or its first ``most`` bytes; no buffer is made of the bound's size."""
    size = min(os.fstat(file.fileno()).st_size + 1, most)
    parts, left = [], most
    while left and (part := file.read(min(size, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Reader:
    """Collects files within the limits."""

    def __init__(self, limits: FolderLimits) -> None:
        self.limits = limits
        self.files: dict[str, bytes] = {}
        self.problems: list[ReconcilerError] = []
        self.seen = self._bytes = 0

    def add(self, name: str, data: bytes) -> None:
        """Keep a file. Raises SourceTooLarge."""
        self._bytes += len(data)
        if self._bytes > self.limits.total_bytes_max:
            problem = f"its files have more than {self.limits.total_bytes_max:,} bytes together"
            raise SourceTooLarge(name, problem, remedy="name the folder of the specs itself")
        self.files[name] = data

    def read_tree(self, top: Path, prefix: str) -> None:
        """Read every file that may matter below a folder."""
        root, below = top.resolve(), len(str(top / "_")) - 1
        for path, through_link in self._walk(top, root, frozenset((root,)), through_link=False):
            name = prefix + str(path)[below:]
            if through_link and not name.lower().endswith(".sql"):
                continue  # its target is in the tree, so the document is read there
            self.read_file(path, name, root, is_walked=True)

    def _walk(
        self, folder: Path, root: Path, above: frozenset[Path], *, through_link: bool
    ) -> Iterator[tuple[Path, bool]]:
        for entry in self._entries(folder):
            self._count(str(folder))
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if not _is_folder(entry):
                if entry.name.lower().endswith(SUFFIXES):
                    yield path, through_link
                continue
            real = path.resolve()
            if not real.is_relative_to(root):
                self._leads_out(str(path), real)
            elif real not in above:
                linked = through_link or entry.is_symlink()
                yield from self._walk(path, root, above | {real}, through_link=linked)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda e: e.name)
        except OSError as error:
            self._unreadable(str(folder), error)
            return []

    def _count(self, where: str) -> None:
        self.seen += 1
        if self.seen > self.limits.files_max:
            problem = f"there are more than {self.limits.files_max:,} files"
            raise SourceTooLarge(where, problem, remedy="name the folder of the specs itself")

    def read_file(
        self, path: Path, name: str, root: Path, *, is_named: bool = False, is_walked: bool = False
    ) -> None:
        """Read one file. A file named by the user may itself be a link to elsewhere; one whose
        folder was walked to (``is_walked``) is in the tree unless it is a link itself.
        """
        try:
            descriptor = _open_unless_link(path) if is_walked else None
            if descriptor is None:
                real = path.resolve(strict=True)
                if not is_named and not real.is_relative_to(root):
                    self._leads_out(name, real)
                    return
                descriptor = os.open(real, _READING)
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    self.problems.append(
                        FileUnreadable(name, "it is not a regular file", where=Position(name))
                    )
                    return
                data = _read_up_to(file, self.limits.file_bytes_max + 1)
        except FileNotFoundError:
            self._leads_out(name, None)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            self._unreadable(name, error)
        else:
            self.add(name, data)

    def read_schema_of(self, manifest: bytes, folder: Path, prefix: str) -> None:
        """Read the SQL files that a single manifest can mean, without walking all around it.

        Every word of it that ends in ``.sql`` counts: more than it means, never less.
        """
        root = folder.resolve()
        words = {b"".join(match.groups(b"")) for match in _SQL_WORD.finditer(manifest)}
        for word in sorted(words):
            pattern = word.decode("utf-8", "replace").removeprefix("./")
            segments = pattern.split("/")
            if pattern.startswith("/") or ".." in segments:
                continue  # refused by the spec layer, with its place
            self._read_matching(folder, root, prefix, segments)

    def _read_matching(self, folder: Path, root: Path, prefix: str, segments: list[str]) -> None:
        fixed: list[str] = []
        while segments and not _MAGIC.search(segments[0]):
            fixed.append(segments.pop(0))
        start = folder.joinpath(*fixed)
        # os.path and not Path: those of Path raise for a name too long and a folder not readable.
        if os.path.isfile(start):
            self._read_once(start, prefix + "/".join(fixed), root)
        elif os.path.isdir(start) and start.resolve().is_relative_to(root):
            deep = len(segments) > 1
            for path in self._sql_below(start, root, deep=deep):
                self._read_once(path, prefix + path.relative_to(folder).as_posix(), root)
        elif os.path.isdir(start):
            self._leads_out(str(start), start.resolve())

    def _sql_below(self, start: Path, root: Path, *, deep: bool) -> Iterator[Path]:
        if deep:
            for path, _ in self._walk(
                start, root, frozenset((start.resolve(),)), through_link=False
            ):
                if path.name.lower().endswith(".sql"):
                    yield path
            return
        for entry in self._entries(start):
            self._count(str(start))
            if entry.name.lower().endswith(".sql") and not entry.name.startswith("."):
                yield start / entry.name

    def _read_once(self, path: Path, name: str, root: Path) -> None:
        if name not in self.files:
            self.read_file(path, name, root)

    def _leads_out(self, name: str, target: Path | None) -> None:
        problem = "the link leads nowhere" if target is None else "the link leads out of the folder"
        error = LinkOutOfTree(
            name, problem, remedy="put the file itself there", where=Position(name)
        )
        self.problems.append(error)

    def _unreadable(self, name: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        where = Position(name)
        self.problems.append(FileUnreadable(name, f"it cannot be read: {reason}", where=where))
