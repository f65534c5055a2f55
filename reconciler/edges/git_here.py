"""Commits of the repository that a command stands in: for checks of a pull request.

Read from its own object store, without a fetch: what a forge checked out is often on no branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reconciler.edges.git_command import GitFailed, run_git_command
from reconciler.edges.git_revision import revision_of
from reconciler.edges.git_tree import TreeLimits, path_inside, read_tree
from reconciler.model.errors import ReconcilerError
from reconciler.spec.documents import Documents

GIT_S = 60.0


class NoMergeBase(ReconcilerError):
    """The two commits of a check have no common ancestor in this clone.

    A shallow clone lacks it. A forge's checkout fetches one commit unless it is told otherwise.
    """

    code = "SO130"


class CommitUnknown(ReconcilerError):
    """The repository here has no such commit, or there is no repository here."""

    code = "SO131"


@dataclass(frozen=True, slots=True)
class Here:
    """A work tree's repository."""

    root: Path
    git: Callable[..., bytes]

    def commit(self, reference: str) -> str:
        """Return the commit that a reference names. Raises CommitUnknown."""
        try:
            found = self.git("rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
        except GitFailed:
            raise CommitUnknown(
                f"commit {reference}", "this repository has none of this name",
                remedy="fetch it: git fetch origin, or fetch-depth: 0 for a forge's checkout",
            ) from None  # fmt: skip
        return found.decode().strip()

    def merge_base(self, base: str, head: str) -> str:
        """Return where ``head`` left ``base``. Raises NoMergeBase."""
        try:
            return self.git("merge-base", base, head).decode().strip()
        except GitFailed:
            raise NoMergeBase(
                f"{base[:7]} and {head[:7]}", "have no common ancestor here",
                remedy="fetch the whole history: git fetch --unshallow, or fetch-depth: 0",
            ) from None  # fmt: skip

    def read(self, commit: str, path: str, name: str) -> Documents:
        """Read the specs of a commit, below a path (``.`` for all of it)."""
        inside = path_inside(path)
        files, problems = read_tree(self.git, commit, inside, TreeLimits())
        source = f"{self.root}//{inside}" if inside else str(self.root)
        return Documents(source, revision_of(name, commit), files, problems=problems)


def here(folder: Path) -> Here:
    """Return the repository that a folder is in. Raises CommitUnknown and GitMissing."""
    safe = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder)]
    try:
        root = run_git_command([*safe, "rev-parse", "--show-toplevel"], {}, GIT_S)
    except GitFailed as failed:
        raise CommitUnknown(
            str(folder), f"no repository of Git: {failed.text}", remedy="run it in the checkout"
        ) from None
    return Here(Path(root.decode().strip()), partial(_git, safe))


def _git(safe: list[str], *arguments: str, stdin: bytes = b"") -> bytes:
    return run_git_command([*safe, *arguments], {}, GIT_S, stdin)
