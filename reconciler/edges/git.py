"""A Git repository by address or path, read at a branch, tag or commit without a checkout.

A bare repository in the cache holds what was fetched; blobs come through ``cat-file --batch``.
Nothing of the repository is ever executed: no hooks, no filters, no submodules, only the file,
https and ssh transports. Passwords travel through the environment of the one ``git`` command,
never through its arguments, and never into a message.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from reconciler.edges.git_address import GitAddress
from reconciler.edges.git_command import GitFailed
from reconciler.edges.git_credentials import reaching
from reconciler.edges.git_repository import GitReference, GitRepository, unusable
from reconciler.edges.git_revision import revision_of
from reconciler.edges.git_signatures import disbelieved
from reconciler.edges.git_tree import TREE_REFUSED, TreeLimits, path_inside
from reconciler.model.desired import Revision
from reconciler.model.errors import ReconcilerError
from reconciler.model.git import NO_CREDENTIALS, CredentialFiles
from reconciler.spec.documents import Documents

GIT_TIMEOUT_S = 60.0
"""Longest wait for one git command, and for another command's fetch, in seconds."""
LOCK_POLL_S = 0.05
FETCH_BYTES_MAX = 1_000_000_000
"""Most bytes that one fetch may bring."""


class HistoryRewritten(ReconcilerError):
    """A branch was force-pushed, or a tag moved: it does not follow on the revision in force.

    What was reviewed and applied may be gone from its history, so nothing of it is taken up by
    itself. `onRewrite: follow` at the source lets any head of the branch count, and any tag. Of a
    range of versions another tag need not follow on the one in force.
    """

    code = "SO142"


class GitCacheBusy(ReconcilerError):
    """Another command has been fetching the same repository for longer than a fetch may take."""

    code = "SO111"
    transient = True


@dataclass(frozen=True, slots=True)
class GitCache:
    """A folder of bare repositories, one for each address."""

    folder: Path
    timeout_s: float = GIT_TIMEOUT_S
    fetch_bytes_max: int = FETCH_BYTES_MAX

    @contextmanager
    def repository(
        self, address: GitAddress, credentials: CredentialFiles = NO_CREDENTIALS
    ) -> Iterator[GitRepository]:
        """Hold an address's bare repository alone, made when it is not there yet.

        Raises GitCacheUnusable, GitCacheBusy, CredentialUnreadable and CredentialTooOpen.
        """
        name = sha256(f"2 {address.url}".encode()).hexdigest()[:24]  # its second form
        with ExitStack() as held:
            access = held.enter_context(reaching(address, credentials))
            repository = GitRepository(
                self.folder / name, address, self.timeout_s, access, self.fetch_bytes_max
            )
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = held.enter_context(open(self.folder / f"{name}.lock", "w"))
                self._lock(lock, address)
                repository.prepare()
            except (OSError, GitFailed) as error:
                raise unusable(self.folder, error) from None
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


def read_repository(
    address: GitAddress,
    reference: GitReference,
    path: str,
    cache: GitCache,
    limits: TreeLimits | None = None,
    keys: Path | None = None,
    credentials: CredentialFiles = NO_CREDENTIALS,
) -> Documents:
    """Read the specs of a repository at a reference, below a path (``.`` for all of it).

    When nothing moved this asks for the ref and fetches nothing. Raises GitUnreachable,
    GitRevisionUnknown, GitPathUnknown, GitTreeTooLarge, GitRepositoryTooLarge, GitMissing,
    GitCacheUnusable, GitCacheBusy, CredentialUnreadable and CredentialTooOpen; links out of the
    path and submodules are in the documents' ``problems``, and so is a commit that none of the
    signers in ``keys`` signed, without any file of it.
    """
    found = read_news(address, reference, path, cache, "", limits, keys, credentials=credentials)
    assert found is not None  # noqa: S101  no revision is known, so that any is news
    for problem in found.problems:
        if isinstance(problem, TREE_REFUSED):
            raise problem
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
    credentials: CredentialFiles = NO_CREDENTIALS,
) -> Documents | None:
    """Read as ``read_repository`` does, or return None at once at the revision that is known.

    ``standing`` is the revision in force: what does not descend from it is handed on as a problem,
    unless it is another tag of a range. So is a revision whose path is gone, empty or too large.
    """
    inside = path_inside(path)
    with cache.repository(address, credentials) as repository:
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
        other_tag = reference.kind == "semver" and Revision(standing).name != name
        bound = standing and not problems and not other_tag
        if bound and not repository.descends(commit, standing):
            files, problems = (), (_rewritten(name, commit, standing),)
    source = f"{address.shown}//{inside}" if inside else address.shown
    return Documents(source, revision, files, problems=problems, approved=approved)


def follows(address: GitAddress, cache: GitCache, revision: str, standing: str) -> bool:
    """Tell whether a fetched revision follows on another, by what is in the cache alone."""
    with cache.repository(address) as repository:
        try:
            return repository.descends(Revision(revision).content.partition(":")[2], standing)
        except GitFailed:
            return False


def _rewritten(name: str, commit: str, standing: str) -> HistoryRewritten:
    short = revision_of(name, commit).short
    return HistoryRewritten(
        f"revision {short}", f"does not follow on {Revision(standing).short}, which is in force",
        remedy="push what follows on it, or say onRewrite: follow at the source",
    )  # fmt: skip
