"""Revisions by their names: of a commit, and of the work tree that a path is in."""

from __future__ import annotations

import posixpath
from pathlib import Path

from reconciler.edges.git_command import GitFailed, GitMissing, run_git_command
from reconciler.model.desired import Revision

GIT_S = 60.0


def work_tree_revision(path: Path) -> Revision | None:
    """Return the commit that a path's work tree stands on, and whether the path differs from it.

    None when the path is in no work tree, git is missing or refuses (a tree of another user), or
    there is no commit yet. Files that git ignores but specs are read from count as uncommitted.
    """
    folder = path if path.is_dir() else path.parent
    base = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder)]
    try:
        head = (
            run_git_command([*base, "rev-parse", "HEAD", "--abbrev-ref", "HEAD"], {}, 10.0)
            .decode()
            .split()
        )
        status = run_git_command(
            [*base, "status", "--porcelain", "-z", "--ignored=matching", "--", str(path.resolve())],
            {},
            GIT_S,
        )
    except (GitFailed, GitMissing):
        return None
    entries = [e for e in status.decode("utf-8", "replace").split("\0") if e]
    changed = any(not e.startswith("!! ") or _may_hold_specs(e) for e in entries)
    return revision_of(head[1] if len(head) > 1 else "HEAD", head[0], uncommitted=changed)


def _may_hold_specs(entry: str) -> bool:
    name = posixpath.basename(entry.rstrip("/"))
    return entry.lower().endswith((".yaml", ".yml", ".json", ".sql")) or (
        entry.endswith("/") and not name.startswith(".")
    )


def revision_of(name: str, commit: str, *, uncommitted: bool = False) -> Revision:
    """Return ``main@sha1:4f2a…``."""
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    return Revision(f"{name}@{algorithm}:{commit}", uncommitted)
