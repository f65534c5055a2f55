"""A Git repository by address or path, read at a branch, tag or commit without a checkout.

A bare repository in the cache holds what was fetched; blobs come through ``cat-file --batch``.
Nothing of the repository is ever executed: no hooks, no filters, no submodules, only the file,
https and ssh transports. Passwords in an address travel through the environment of the one ``git``
command, never through its arguments, and never into a message.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Literal, TextIO

from reconciler.edges.git_address import SCHEMES, USER_INFO, GitAddress
from reconciler.edges.git_command import GitFailed, run_git_command, write_settings
from reconciler.edges.git_revision import revision_of
from reconciler.edges.git_signatures import disbelieved
from reconciler.edges.git_tree import Tree, TreeLimits, path_inside, read_tree
from reconciler.edges.git_versions import newest
from reconciler.model.desired import Revision
from reconciler.model.errors import ReconcilerError
from reconciler.spec.documents import APPROVAL_TRAILER, Documents

GIT_TIMEOUT_S = 60.0
"""Longest wait for one git command, and for another command's fetch, in seconds."""
LOCK_POLL_S = 0.05


class GitRevisionUnknown(ReconcilerError):
    """The repository has no such branch, tag or commit."""

    code = "SO101"


class GitUnreachable(ReconcilerError):
    """The repository does not answer, does not exist, or does not let us in."""

    code = "SO103"
    transient = True


class HistoryRewritten(ReconcilerError):
    """A branch was force-pushed: its head does not follow on the revision in force.

    What was reviewed and applied may be gone from its history, so nothing of it is taken up by
    itself. `onRewrite: follow` at the source lets any head of the branch count.
    """

    code = "SO142"


class GitCacheUnusable(ReconcilerError):
    """The folder in which fetched repositories are kept cannot be used.

    It is `shardwright/git` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`. Nothing in
    it is needed for long: it may be deleted whenever no command runs.
    """

    code = "SO110"


class GitCacheBusy(ReconcilerError):
    """Another command has been fetching the same repository for longer than a fetch may take."""

    code = "SO111"
    transient = True


_HELPER = (
    '!f() { test "$1" = get && echo "username=$SHARDWRIGHT_GIT_USER" '
    '&& echo "password=$SHARDWRIGHT_GIT_PASSWORD"; }; f'
)


@dataclass(frozen=True, slots=True)
class GitReference:
    """Which state: a branch, a tag, a commit, ``any`` of these by name, or the default branch.

    ``semver``: the newest tag of the range of versions that ``name`` is.
    """

    kind: Literal["default", "branch", "tag", "commit", "any", "semver"] = "default"
    name: str = ""


@dataclass(frozen=True, slots=True)
class GitCache:
    """A folder of bare repositories, one for each address."""

    folder: Path
    timeout_s: float = GIT_TIMEOUT_S

    @contextmanager
    def repository(self, address: GitAddress) -> Iterator[GitRepository]:
        """Hold an address's bare repository alone, made when it is not there yet.

        Raises GitCacheUnusable and GitCacheBusy.
        """
        name = sha256(address.url.encode()).hexdigest()[:24]
        repository = GitRepository(self.folder / name, address, self.timeout_s)
        with ExitStack() as held:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = held.enter_context(open(self.folder / f"{name}.lock", "w"))
                self._lock(lock, address)
                repository.prepare()
            except (OSError, GitFailed) as error:
                raise _unusable(self.folder, error) from None
            yield repository

    def _lock(self, lock: TextIO, address: GitAddress) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    problem = f"another command fetches it, since {self.timeout_s:g} s or longer"
                    remedy = f"look who holds it: fuser {self.folder}/*.lock"
                    raise GitCacheBusy(address.shown, problem, remedy=remedy) from None
            time.sleep(LOCK_POLL_S)


def _unusable(folder: Path, error: OSError | GitFailed) -> GitCacheUnusable:
    reason = error.text if isinstance(error, GitFailed) else error.strerror or str(error)
    remedy = "set XDG_CACHE_HOME to a folder you may write, with some room"
    return GitCacheUnusable(str(folder), f"fetched repositories go there: {reason}", remedy=remedy)


@dataclass(frozen=True, slots=True)
class GitRepository:
    """The cached copy of one repository; used only while its lock is held."""

    home: Path
    address: GitAddress
    timeout_s: float

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
        write_settings(self.home / "settings")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git on the cache. Raises GitFailed, GitUnreachable and GitMissing."""
        environment = {
            "GIT_CONFIG_GLOBAL": str(self.home / "settings"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": str(self.home),
            "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
        }
        if self.address.user or self.address.password:
            environment |= {
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "credential.helper",
                "GIT_CONFIG_VALUE_0": "",
                "GIT_CONFIG_KEY_1": "credential.helper",
                "GIT_CONFIG_VALUE_1": _HELPER,
                "SHARDWRIGHT_GIT_USER": self.address.user,
                "SHARDWRIGHT_GIT_PASSWORD": self.address.password,
            }
        try:
            return run_git_command([*arguments], environment, self.timeout_s, stdin)
        except GitFailed as failed:
            failed.text = self.without_secrets(failed.text)
            raise

    def without_secrets(self, text: str) -> str:
        """Return a text without user information of addresses and without the password."""
        text = USER_INFO.sub("", text)
        return text.replace(self.address.password, "***") if self.address.password else text

    def read(
        self, reference: GitReference, inside: str, limits: TreeLimits | None, known: str
    ) -> tuple[str, str, Tree] | None:
        """Return the reference's name and commit, and what is below the path; None when known."""
        name, commit = self.resolve(reference)
        if revision_of(name, commit).text == known:
            return None
        return name, commit, read_tree(self.git, commit, inside, limits or TreeLimits())

    def read_anew(
        self, reference: GitReference, inside: str, limits: TreeLimits | None, known: str
    ) -> tuple[str, str, Tree] | None:
        """Read with an empty cache. Raises GitCacheUnusable when that fails as well."""
        self._make_again()
        try:
            return self.read(reference, inside, limits, known)
        except GitFailed as failed:
            raise _unusable(self.home.parent, failed) from None

    def descends(self, commit: str, standing: str) -> bool:
        """Tell whether a commit follows on a revision in force; of an unknown one, it does."""
        before = Revision(standing).content.partition(":")[2]
        if not self._has(before):
            return True
        try:
            self.git("merge-base", "--is-ancestor", before, commit)
        except GitFailed:
            return False
        return True

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
        output = self._remote("ls-remote", "--symref", "--", self.address.url, "HEAD").decode()
        name = re.search(r"^ref: (\S+)\tHEAD$", output, re.MULTILINE)
        commit = re.search(r"^([0-9a-f]{40,64})\tHEAD$", output, re.MULTILINE)
        if commit is None:
            remedy = "push a first commit, or name a branch"
            raise GitRevisionUnknown(self.address.shown, "it has no commit yet", remedy=remedy)
        return name[1] if name else "HEAD", commit[1]

    def _remote_refs(self, *patterns: str) -> dict[str, str]:
        lines = self._remote("ls-remote", "--", self.address.url, *patterns).decode(
            "utf-8", "replace"
        )
        pairs = (line.split("\t", 1) for line in lines.splitlines() if "\t" in line)
        return {name: commit for commit, name in pairs}

    def _remote(self, *arguments: str) -> bytes:
        try:
            return self.git(*arguments)
        except GitFailed as failed:
            problem = f"git cannot read it: {failed.text}"
            raise GitUnreachable(
                self.address.shown, problem, remedy=_reach_remedy(failed.text)
            ) from None

    def _fetch(self, *refspecs: str) -> None:
        command = (
            "fetch", "--quiet", "--no-tags", "--force", "--no-recurse-submodules",
            "--no-write-fetch-head", "--no-auto-gc", "--", self.address.url, *refspecs,
        )  # fmt: skip
        try:
            self.git(*command)
        except GitFailed:  # a fetch that was killed leaves locks, and half of what it fetched
            self._make_again()
            self._remote(*command)

    def _make_again(self) -> None:
        try:
            self.make()
        except (OSError, GitFailed) as error:
            raise _unusable(self.home.parent, error) from None

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


def read_repository(
    address: GitAddress,
    reference: GitReference,
    path: str,
    cache: GitCache,
    limits: TreeLimits | None = None,
    keys: Path | None = None,
) -> Documents:
    """Read the specs of a repository at a reference, below a path (``.`` for all of it).

    When nothing moved this asks for the ref and fetches nothing. Raises GitUnreachable,
    GitRevisionUnknown, GitPathUnknown, GitTreeTooLarge, GitMissing, GitCacheUnusable and
    GitCacheBusy; links out of the path and submodules are in the documents' ``problems``, and so
    is a commit that none of the signers in ``keys`` signed, without any file of it.
    """
    found = read_news(address, reference, path, cache, "", limits, keys)
    assert found is not None  # noqa: S101  no revision is known, so that any is news
    return found


def read_news(
    address: GitAddress,
    reference: GitReference,
    path: str,
    cache: GitCache,
    known: str,
    limits: TreeLimits | None = None,
    keys: Path | None = None,
    standing: str = "",
) -> Documents | None:
    """Read as ``read_repository`` does, or return None at once at the revision that is known.

    ``standing`` is the revision in force: what does not descend from it is handed on as a problem.
    """
    inside = path_inside(path)
    with cache.repository(address) as repository:
        try:
            read = repository.read(reference, inside, limits, known)
        except GitFailed:  # objects are missing or damaged; what is fetched anew is whole
            read = repository.read_anew(reference, inside, limits, known)
        if read is None:
            return None
        name, commit, (files, problems) = read
        revision, approved = revision_of(name, commit), repository.approvals(commit)
        if keys is not None:
            doubt = disbelieved(repository.home, commit, keys, revision)
            files, problems = ((), (doubt,)) if doubt else (files, problems)
        if standing and not problems and not repository.descends(commit, standing):
            files, problems = (), (_rewritten(name, commit, standing),)
    source = f"{address.shown}//{inside}" if inside else address.shown
    return Documents(source, revision, files, problems=problems, approved=approved)


def _rewritten(name: str, commit: str, standing: str) -> HistoryRewritten:
    short = revision_of(name, commit).short
    return HistoryRewritten(
        f"revision {short}", f"does not follow on {Revision(standing).short}, which is in force",
        remedy="push what follows on it, or say onRewrite: follow at the source",
    )  # fmt: skip


def _reach_remedy(text: str) -> str:
    lowered = text.lower()
    if "could not read username" in lowered or "authentication" in lowered:
        return "give git a credential helper, GIT_ASKPASS, or an SSH key"
    if "host key" in lowered:
        return "add the server's key to known_hosts, once you made sure that it is the server's"
    if "permission denied (publickey" in lowered:
        return "load the key into the SSH agent, or set GIT_SSH_COMMAND"
    return "check the address and that this machine may read it"
