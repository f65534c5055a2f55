"""One tree of a repository: which files may matter, what links stand for, and their bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from reconciler.edges.git_command import GitFailed
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.documents import MANIFEST_SUFFIXES, SourceFile

Git = Callable[..., bytes]
Tree = tuple[tuple[SourceFile, ...], tuple[ReconcilerError, ...]]
"""The files of a tree, and what was refused in it."""
_SUFFIXES = (*MANIFEST_SUFFIXES, ".sql")
_LINK, _SUBMODULE = "120000", "160000"
_LINKS_MAX = 8
"""Longest chain of links that is followed."""


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """How much one revision may hold."""

    files_max: int = 20_000
    """Most files read."""
    total_bytes_max: int = 512_000_000
    """Most bytes of all files together."""


class GitPathUnknown(ReconcilerError):
    """The path does not exist in the repository at that revision."""

    code = "SO102"


class GitSubmodule(ReconcilerError):
    """A submodule stands among the specs.

    What it holds is another repository's and is not part of the revision, so it is refused instead
    of silently left out.
    """

    code = "SO104"


class GitTreeTooLarge(ReconcilerError):
    """The path holds more files or bytes than is allowed."""

    code = "SO105"


class GitLinkOutOfTree(ReconcilerError):
    """A symbolic link in the repository leads out of the path that is read, or nowhere."""

    code = "SO108"


class GitNoSpecs(ReconcilerError):
    """The path holds no specs at that revision.

    An empty source is refused instead of taken for "no database is wanted": that would mean to
    delete them all.
    """

    code = "SO109"


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    blob: str
    size: int


def path_inside(path: str) -> str:
    """Return a path of a repository without detours; empty for its root. Raises GitPathUnknown."""
    clean = posixpath.normpath(path.strip("/") or ".")
    if clean.split("/")[0] == "..":
        raise GitPathUnknown(path, "it leads out of the repository", remedy="name a path inside it")
    return "" if clean == "." else clean


def read_tree(git: Git, commit: str, path: str, limits: TreeLimits) -> Tree:
    """Return the files below a path, named from the repository's root, and what was refused."""
    root = _folder_of(git, commit, path)
    entries = _entries(git, commit, root)
    problems: list[ReconcilerError] = []
    wanted: dict[str, _Entry] = {}
    links = _links(git, entries)
    for name, entry in entries.items():
        if _is_hidden(name, root) or not _matters(name, path, root):
            continue
        if entry.mode == _SUBMODULE:
            remedy = "put the files themselves there"
            problem = "it is a submodule, which is not read"
            problems.append(GitSubmodule(name, problem, remedy=remedy, where=Position(name)))
        elif entry.mode == _LINK:
            found = _follow(name, entries, links)
            wanted |= found
            if not found:
                problem = "the link leads out of the tree, or nowhere"
                where = Position(name)
                problems.append(GitLinkOutOfTree(name, problem, where=where))
        elif name.lower().endswith(_SUFFIXES):
            wanted[name] = entry
    if not problems and not any(name.lower().endswith(MANIFEST_SUFFIXES) for name in wanted):
        problem = f"no specs found at {commit[:7]}: {len(entries)} files seen"
        raise GitNoSpecs(path or "the repository", problem, remedy="name a folder that holds specs")
    _check_limits(path, wanted, limits)
    return _blobs(git, wanted), tuple(problems)


def _folder_of(git: Git, commit: str, path: str) -> str:
    """Return the folder to list: the path itself, or a file's folder. Raises GitPathUnknown."""
    if not path:
        return ""
    try:
        kind = git("cat-file", "-t", f"{commit}:{path}").decode().strip()
    except GitFailed:
        raise _unknown_path(git, commit, path) from None
    return posixpath.dirname(path) if kind == "blob" else path


def _unknown_path(git: Git, commit: str, path: str) -> GitPathUnknown:
    names = git("ls-tree", "-r", "-t", "-z", "--name-only", commit).decode("utf-8", "replace")
    near = get_close_matches(path, names.split("\0"), n=3)
    top = sorted({name.split("/")[0] for name in names.split("\0") if name})
    remedy = f"there is {', '.join(near or top[:5])}" if top else ""
    return GitPathUnknown(path, f"{commit[:7]} has no such path", remedy=remedy)


def _entries(git: Git, commit: str, root: str) -> dict[str, _Entry]:
    """Return everything below a folder by its name, links and submodules included."""
    tree = f"{commit}:{root}" if root else commit
    listed = git("ls-tree", "-r", "-z", "-l", "--full-tree", tree).decode("utf-8", "replace")
    prefix = f"{root}/" if root else ""
    found: dict[str, _Entry] = {}
    for line in listed.split("\0"):
        head, tab, name = line.partition("\t")
        if tab:
            mode, _, blob, size = head.split()
            found[prefix + name] = _Entry(mode, blob, int(size) if size.isdigit() else 0)
    return found


def _is_hidden(name: str, root: str) -> bool:
    inside = name.removeprefix(f"{root}/") if root else name
    return any(part.startswith(".") for part in inside.split("/"))


def _matters(name: str, path: str, root: str) -> bool:
    """Of a single file's folder only the file itself counts, and SQL below it."""
    return path == root or name == path or name.lower().endswith(".sql")


def _links(git: Git, entries: dict[str, _Entry]) -> dict[str, str]:
    links = {name: entry for name, entry in entries.items() if entry.mode == _LINK}
    if not links:
        return {}
    return {file.path: file.data.decode("utf-8", "replace") for file in _blobs(git, links)}


def _follow(name: str, entries: dict[str, _Entry], links: dict[str, str]) -> dict[str, _Entry]:
    """Return what a link stands for, under its own name; of a folder only the SQL files.

    Only what is below the path that is read is in ``entries``: a link out of it finds nothing.
    """
    target = name
    for _ in range(_LINKS_MAX):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(target), links[target]))
        if target not in links:
            break
    if (entry := entries.get(target)) is not None:
        return {name: entry} if entry.mode not in (_LINK, _SUBMODULE) else {}
    below = f"{target}/"
    return {
        f"{name}/{inner.removeprefix(below)}": entry
        for inner, entry in entries.items()
        if inner.startswith(below) and inner.lower().endswith(".sql") and entry.mode != _LINK
    }


def _check_limits(path: str, wanted: dict[str, _Entry], limits: TreeLimits) -> None:
    total = sum(entry.size for entry in wanted.values())
    if len(wanted) > limits.files_max or total > limits.total_bytes_max:
        problem = (
            f"{len(wanted):,} files of {total:,} bytes together, more than the "
            f"{limits.files_max:,} files or {limits.total_bytes_max:,} bytes allowed"
        )
        raise GitTreeTooLarge(path or "the repository", problem, remedy="name the specs' folder")


def _blobs(git: Git, wanted: dict[str, _Entry]) -> tuple[SourceFile, ...]:
    """Return the contents, sorted by name, in one ``cat-file --batch``."""
    names = sorted(wanted)
    output = git(
        "cat-file", "--batch", stdin="".join(f"{wanted[n].blob}\n" for n in names).encode()
    )
    files: list[SourceFile] = []
    at = 0
    for name in names:
        end = output.index(b"\n", at)
        fields = output[at:end].split()  # digest, kind, size; or: digest, "missing"
        if len(fields) != 3:
            raise GitFailed(f"the object of {name} is missing")
        size = int(fields[2])
        files.append(SourceFile(name, output[end + 1 : end + 1 + size]))
        at = end + 1 + size + 1
    return tuple(files)
