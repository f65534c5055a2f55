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
Bring = Callable[[list[str]], None]
"""Fetches blobs by their digests."""
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


TREE_REFUSED = (GitPathUnknown, GitTreeTooLarge, GitNoSpecs)
"""A revision that cannot be read, whatever its files say: its own fault, not the repository's."""
SOME_DOCUMENT = (
    "name a folder that holds specs; if the last database is to go, leave another document there, "
    "such as a policy"
)


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    blob: str


def path_inside(path: str) -> str:
    """Return a path of a repository without detours; empty for its root. Raises GitPathUnknown."""
    clean = posixpath.normpath(path.strip("/") or ".")
    if clean.split("/")[0] == "..":
        raise GitPathUnknown(path, "it leads out of the repository", remedy="name a path inside it")
    return "" if clean == "." else clean


def read_tree(
    git: Git, commit: str, path: str, limits: TreeLimits, bring: Bring | None = None
) -> Tree:
    """Return the files below a path, named from the repository's root, and what was refused.

    ``bring`` fetches those files that are read and not here; None when git does so by itself.
    """
    root = _folder_of(git, commit, path)
    entries = _entries(git, commit, root)
    absent = _absent(git, commit, root) if bring else frozenset()
    problems: list[ReconcilerError] = []
    wanted: dict[str, _Entry] = {}
    linked = {name: entry for name, entry in entries.items() if entry.mode == _LINK}
    if bring:
        _bring_absent(bring, absent, linked)
    links = _links(git, linked)
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
        raise GitNoSpecs(path or "the repository", problem, remedy=SOME_DOCUMENT)
    _check_files(path, len(wanted), limits)
    if bring:
        _bring_absent(bring, absent, wanted)
    _check_bytes(git, path, wanted, limits)
    return _blobs(git, wanted), tuple(problems)


def _folder_of(git: Git, commit: str, path: str) -> str:
    """Return the folder to list: the path itself, or a file's folder. Raises GitPathUnknown."""
    if not path:
        return ""
    listed = git("ls-tree", "-z", "--full-tree", commit, "--", path).decode("utf-8", "replace")
    if not listed:
        raise _unknown_path(git, commit, path)
    return posixpath.dirname(path) if listed.split()[1] == "blob" else path


def _unknown_path(git: Git, commit: str, path: str) -> GitPathUnknown:
    names = git("ls-tree", "-r", "-t", "-z", "--name-only", commit).decode("utf-8", "replace")
    near = get_close_matches(path, names.split("\0"), n=3)
    top = sorted({name.split("/")[0] for name in names.split("\0") if name})
    remedy = f"there is {', '.join(near or top[:5])}" if top else ""
    return GitPathUnknown(path, f"{commit[:7]} has no such path", remedy=remedy)


def _entries(git: Git, commit: str, root: str) -> dict[str, _Entry]:
    """Return everything below a folder by its name, links and submodules included."""
    tree = f"{commit}:{root}" if root else commit
    listed = git("ls-tree", "-r", "-z", "--full-tree", tree).decode("utf-8", "replace")
    prefix = f"{root}/" if root else ""
    found: dict[str, _Entry] = {}
    for line in listed.split("\0"):
        head, tab, name = line.partition("\t")
        if tab:
            mode, _, blob = head.split()
            found[prefix + name] = _Entry(mode, blob)
    return found


def _absent(git: Git, commit: str, root: str) -> frozenset[str]:
    """Return the digests of what is below a folder and was not fetched."""
    listed = git(
        "rev-list", "--objects", "--missing=print", "--no-object-names", f"{commit}:{root}"
    )
    return frozenset(line[1:] for line in listed.decode().splitlines() if line.startswith("?"))


def _bring_absent(bring: Bring, absent: frozenset[str], wanted: dict[str, _Entry]) -> None:
    missing = sorted({entry.blob for entry in wanted.values()} & absent)
    if missing:
        bring(missing)


def _is_hidden(name: str, root: str) -> bool:
    inside = name.removeprefix(f"{root}/") if root else name
    return any(part.startswith(".") for part in inside.split("/"))


def _matters(name: str, path: str, root: str) -> bool:
    """Of a single file's folder only the file itself counts, and SQL below it."""
    return path == root or name == path or name.lower().endswith(".sql")


def _links(git: Git, links: dict[str, _Entry]) -> dict[str, str]:
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


def _check_files(path: str, files: int, limits: TreeLimits) -> None:
    """Count before anything is fetched."""
    if files > limits.files_max:
        raise _too_large(path, f"{files:,} files, more than the {limits.files_max:,} allowed")


def _check_bytes(git: Git, path: str, wanted: dict[str, _Entry], limits: TreeLimits) -> None:
    asked = "".join(f"{entry.blob}\n" for entry in wanted.values()).encode()
    sizes = git("cat-file", "--batch-check=%(objectsize)", stdin=asked).split()
    total = sum(int(size) for size in sizes if size.isdigit())
    if total > limits.total_bytes_max:
        problem = (
            f"{len(wanted):,} files of {total:,} bytes together, more than the "
            f"{limits.total_bytes_max:,} bytes allowed"
        )
        raise _too_large(path, problem)


def _too_large(path: str, problem: str) -> GitTreeTooLarge:
    return GitTreeTooLarge(path or "the repository", problem, remedy="name the specs' folder")


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
