"""The cached copy of one repository: what is asked of its server, and what is read from the copy.

Commits and trees are fetched whole, files only those that are read, where the server lets us say
so (``uploadpack.allowFilter``, as forges do); from one that does not everything comes, up to a
bound. Only commands that are meant to may talk to the server, and only they have credentials.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from reconciler.edges.git_address import GitAddress
from reconciler.edges.git_command import GitFailed, run_git_command, write_settings
from reconciler.edges.git_credentials import Access
from reconciler.edges.git_revision import revision_of
from reconciler.edges.git_tree import TREE_REFUSED, Tree, TreeLimits, read_tree
from reconciler.edges.git_versions import newest
from reconciler.model.desired import Revision
from reconciler.model.errors import ReconcilerError
from reconciler.model.git import SCHEMES
from reconciler.spec.documents import APPROVAL_TRAILER

_FETCH = (
    "fetch", "--quiet", "--no-tags", "--force", "--no-recurse-submodules",
    "--no-write-fetch-head", "--no-auto-gc", "--filter=blob:none",
)  # fmt: skip
_REMOTE = "cache"


class GitRevisionUnknown(ReconcilerError):
    """The repository has no such branch, tag or commit."""

    code = "SO101"


class GitUnreachable(ReconcilerError):
    """The repository does not answer, does not exist, or does not let us in."""

    code = "SO103"
    transient = True


class GitCacheUnusable(ReconcilerError):
    """The folder in which fetched repositories are kept cannot be used.

    It is `shardwright/git` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`. Nothing in
    it is needed for long: it may be deleted whenever no command runs.
    """

    code = "SO110"


class GitRepositoryTooLarge(ReconcilerError):
    """The repository's server sends more than is taken in one fetch.

    A server that allows filters sends only the files that are read, so that the size of the
    repository does not matter. Git's own servers allow them when uploadpack.allowFilter is set.
    """

    code = "SO112"


@dataclass(frozen=True, slots=True)
class GitReference:
    """Which state: a branch, a tag, a commit, ``any`` of these by name, or the default branch.

    ``semver``: the newest tag of the range of versions that ``name`` is.
    """

    kind: Literal["default", "branch", "tag", "commit", "any", "semver"] = "default"
    name: str = ""


@dataclass(frozen=True, slots=True)
class GitRepository:
    """The cached copy of one repository; used only while its lock is held."""

    home: Path
    address: GitAddress
    timeout_s: float
    access: Access
    fetch_bytes_max: int

    def prepare(self) -> None:
        """Make the bare repository and the settings git runs with, when they are missing."""
        if not (self.home / "settings").exists():  # written last
            self.make()
        write_settings(self.home / "settings")

    def make(self) -> None:
        """Make the bare repository anew; what was there may have been cut short by a kill."""
        if self.home.exists():
            shutil.rmtree(self.home)
        self.home.mkdir(mode=0o700)
        self.git("init", "--quiet", "--bare", str(self.home))
        self.git("config", f"remote.{_REMOTE}.url", self.address.url)
        write_settings(self.home / "settings")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git on the cache alone: what is missing there is not fetched. Raises GitFailed."""
        return self._run(arguments, {"GIT_ALLOW_PROTOCOL": "none"}, stdin)

    def ask(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git with the server and its credentials in reach. Raises GitFailed."""
        allowed = {"GIT_ALLOW_PROTOCOL": ":".join(SCHEMES)}
        return self._run(arguments, allowed | self.access.environment, stdin, self.fetch_bytes_max)

    def _run(
        self, arguments: tuple[str, ...], environment: dict[str, str], stdin: bytes,
        file_bytes_max: int = 0,
    ) -> bytes:  # fmt: skip
        own = {
            "GIT_CONFIG_GLOBAL": str(self.home / "settings"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": str(self.home),
        }
        try:
            return run_git_command(
                [*arguments], own | environment, self.timeout_s, stdin, file_bytes_max
            )
        except GitFailed as failed:
            failed.text = self.access.clean(failed.text)
            raise

    def read(
        self, reference: GitReference, inside: str, limits: TreeLimits | None, known: str
    ) -> tuple[str, str, Tree] | None:
        """Return the reference's name and commit, and what is below the path; None when known.

        A path that is not there, holds no specs or too much is a problem of that revision.
        """
        name, commit = self.resolve(reference)
        if revision_of(name, commit).text == known:
            return None
        try:
            tree = read_tree(self.git, commit, inside, limits or TreeLimits(), self._bring)
        except TREE_REFUSED as refused:
            tree = (), (refused,)
        return name, commit, tree

    def read_anew(
        self, reference: GitReference, inside: str, limits: TreeLimits | None, known: str
    ) -> tuple[str, str, Tree] | None:
        """Read with an empty cache. Raises GitCacheUnusable when that fails as well."""
        self._make_again()
        try:
            return self.read(reference, inside, limits, known)
        except GitFailed as failed:
            raise unusable(self.home.parent, failed) from None

    def descends(self, commit: str, standing: str) -> bool:
        """Tell whether a commit follows on a revision in force, by its whole history."""
        before = Revision(standing).content.partition(":")[2]
        if not self._has(before):
            return False
        return not self.git("rev-list", "--max-count=1", before, f"^{commit}")

    def approvals(self, commit: str) -> tuple[str, ...]:
        """Return the approvals in a commit's trailers."""
        wanted = f"--format=%(trailers:key={APPROVAL_TRAILER},valueonly,separator=%x20)"
        return tuple(self.git("log", "-1", wanted, commit).decode("utf-8", "replace").split())

    def resolve(self, reference: GitReference) -> tuple[str, str]:
        """Return the reference's name and commit, fetched. Raises GitRevisionUnknown."""
        name, commit = self._ask(reference)
        if not commit:
            commit = self._find_commit(reference)
        elif not self._has(commit):
            self._fetch(f"+{name}:refs/cache/{name.removeprefix('refs/')}")
        short = name.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return short or commit[:7], commit

    def _ask(self, reference: GitReference) -> tuple[str, str]:
        """Return a ref's full name and commit as the repository has it; empty when it has not."""
        if reference.kind == "commit":
            return "", ""
        if reference.kind == "default":
            return self._default_branch()
        if reference.kind == "semver":
            refs = self._remote_refs("refs/tags/*")
            tags = [name for name in refs if not name.endswith("^{}")]
            tag = newest([name.removeprefix("refs/tags/") for name in tags], reference.name)
            name = f"refs/tags/{tag}"
            return name, refs.get(f"{name}^{{}}", refs[name])
        wanted = {
            "branch": [f"refs/heads/{reference.name}"],
            "tag": [f"refs/tags/{reference.name}"],
        }.get(reference.kind, [f"refs/heads/{reference.name}", f"refs/tags/{reference.name}"])
        refs = self._remote_refs(*wanted, *(f"{w}^{{}}" for w in wanted))
        for name in wanted:
            if name in refs:
                return name, refs.get(f"{name}^{{}}", refs[name])
        if reference.kind == "any":
            return "", ""
        raise self._unknown(reference)

    def _default_branch(self) -> tuple[str, str]:
        output = self._remote("ls-remote", "--symref", "--", _REMOTE, "HEAD").decode()
        name = re.search(r"^ref: (\S+)\tHEAD$", output, re.MULTILINE)
        commit = re.search(r"^([0-9a-f]{40,64})\tHEAD$", output, re.MULTILINE)
        if commit is None:
            remedy = "push a first commit, or name a branch"
            raise GitRevisionUnknown(self.address.shown, "it has no commit yet", remedy=remedy)
        return name[1] if name else "HEAD", commit[1]

    def _remote_refs(self, *patterns: str) -> dict[str, str]:
        lines = self._remote("ls-remote", "--", _REMOTE, *patterns).decode("utf-8", "replace")
        pairs = (line.split("\t", 1) for line in lines.splitlines() if "\t" in line)
        return {name: commit for commit, name in pairs}

    def _remote(self, *arguments: str, stdin: bytes = b"") -> bytes:
        try:
            return self.ask(*arguments, stdin=stdin)
        except GitFailed as failed:
            problem = f"git cannot read it: {failed.text}"
            remedy = _reach_remedy(failed.text, from_files=self.access.from_files)
            raise GitUnreachable(self.address.shown, problem, remedy=remedy) from None

    def _fetch(self, *refspecs: str) -> None:
        """Fetch commits and trees. Raises GitUnreachable and GitRepositoryTooLarge."""
        command = (*_FETCH, "--", _REMOTE, *refspecs)
        try:
            self.ask(*command)
        except GitFailed as failed:  # one that was killed leaves locks, and half of what it fetched
            self._make_again()
            if "File too large" in failed.text:
                raise self._too_large() from None
            self._remote(*command)
        with suppress(GitFailed):  # the next one packs
            self.git("gc", "--auto", "--quiet")

    def _bring(self, blobs: list[str]) -> None:
        """Fetch files that are not here yet. Raises as ``_fetch`` does."""
        asked = "".join(f"{blob}\n" for blob in blobs).encode()
        no_haves = ("-c", "fetch.negotiationAlgorithm=noop")
        try:
            self.ask(*no_haves, *_FETCH, "--stdin", "--", _REMOTE, stdin=asked)
        except GitFailed as failed:
            self._make_again()
            if "File too large" in failed.text:
                raise self._too_large() from None
            raise

    def _too_large(self) -> GitRepositoryTooLarge:
        return GitRepositoryTooLarge(
            self.address.shown,
            f"its server sends more than the {self.fetch_bytes_max:,} bytes allowed in one fetch",
            remedy="let the server filter (git config uploadpack.allowFilter true), or put the "
            "specs into a repository of their own",
        )

    def _make_again(self) -> None:
        try:
            self.make()
        except (OSError, GitFailed) as error:
            raise unusable(self.home.parent, error) from None

    def _has(self, commit: str) -> bool:
        try:
            self.git("cat-file", "-e", f"{commit}^{{commit}}")
        except GitFailed:
            return False
        return True

    def _find_commit(self, reference: GitReference) -> str:
        """Return a commit by its full or abbreviated digest, fetching all when it is not here."""
        if not re.fullmatch(r"[0-9a-f]{4,64}", reference.name):
            raise self._unknown(reference)
        for fetched in (False, True):
            if fetched:
                self._fetch("+refs/heads/*:refs/cache/heads/*", "+refs/tags/*:refs/cache/tags/*")
            try:
                output = self.git(
                    "rev-parse", "--verify", "--quiet", f"{reference.name}^{{commit}}"
                )
            except GitFailed:
                continue
            return output.decode().strip()
        raise self._unknown(reference)

    def _unknown(self, reference: GitReference) -> GitRevisionUnknown:
        refs = self._remote_refs("refs/heads/*", "refs/tags/*")
        names = sorted({r.removesuffix("^{}").split("/", 2)[2] for r in refs if r.count("/") >= 2})
        what = "branch, tag or commit" if reference.kind == "any" else reference.kind
        near = get_close_matches(reference.name, names, n=3) or names[:5]
        remedy = f"there is {', '.join(near)}" if near else ""
        problem = f'it has no {what} "{reference.name}"'
        return GitRevisionUnknown(self.address.shown, problem, remedy=remedy)


def unusable(folder: Path, error: OSError | GitFailed) -> GitCacheUnusable:
    """Return what to say of a folder that fetched repositories cannot be kept in."""
    reason = error.text if isinstance(error, GitFailed) else error.strerror or str(error)
    remedy = "set XDG_CACHE_HOME to a folder you may write, with some room"
    return GitCacheUnusable(str(folder), f"fetched repositories go there: {reason}", remedy=remedy)


def _reach_remedy(text: str, *, from_files: bool) -> str:
    lowered = text.lower()
    if "could not read username" in lowered or "authentication" in lowered:
        if from_files:
            return "look into the files of the source's credentials: the server refuses them"
        return "give git a credential helper, GIT_ASKPASS, or an SSH key"
    if "host key" in lowered:
        if from_files:
            return "make sure whose key it is before you add it to the file of known hosts"
        return "add the server's key to known_hosts, once you made sure that it is the server's"
    if "permission denied (publickey" in lowered:
        if from_files:
            return "look into identityFile: the server does not take this key"
        return "load the key into the SSH agent, or set GIT_SSH_COMMAND"
    return "check the address and that this machine may read it"
