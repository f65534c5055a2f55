"""The one place that knows every concrete edge: it makes a ``World`` for a call."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine.observe import Eyes
from reconciler.engine.world import World
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.settings import SEMVER

if TYPE_CHECKING:
    from reconciler.edges.etcd_gateway import EtcdTimeouts
    from reconciler.edges.git import GitCache
    from reconciler.edges.git_address import GitAddress
    from reconciler.edges.git_repository import GitReference
    from reconciler.edges.local.etcd_users import EtcdUser
    from reconciler.edges.local.platform import LocalPlatform
    from reconciler.edges.patroni import PatroniTimeouts
    from reconciler.edges.postgres_session import PostgresTimeouts
    from reconciler.edges.prometheus import Prometheus
    from reconciler.engine.saved import SourceRequest
    from reconciler.settings import Settings
    from reconciler.spec.documents import Documents


LATE_IMPORTS = (
    "cel_expr_python.cel", "pgparse", "reconciler.edges.configmaps", "reconciler.edges.folder",
    "reconciler.edges.git", "reconciler.engine.apply", "reconciler.spec.loaded", "urllib3",
    "watchdog.observers",
)  # fmt: skip
"""What is imported only by the first who needs it, so that other commands begin sooner."""


def import_all() -> None:
    """Import what a daemon's threads would import otherwise, all at once when they begin.

    Before Python 3.12 such threads may wait for one another for ever (CPython's issue 91351).
    """
    for name in LATE_IMPORTS:
        import_module(name)


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def open_world(settings: Settings) -> World:
    """Return all edges of one call. Raises NotAHome when there is no platform yet."""
    return _open(settings, reads_only=False)


def open_reading_world(settings: Settings) -> World:
    """Return edges that cannot write: PostgreSQL and etcd refuse it, and nothing of it is sent.

    Raises NotAHome.
    """
    return _open(settings, reads_only=True)


def _open(settings: Settings, *, reads_only: bool) -> World:
    from reconciler.edges.etcd import EtcdStore
    from reconciler.edges.local.clone import LocalClones
    from reconciler.edges.local.etcd_users import EtcdUser
    from reconciler.edges.patroni import PatroniRest
    from reconciler.edges.postgres import PostgresSql
    from reconciler.edges.replication import LogicalMover

    platform = local_platform(settings)
    tls, clock = platform.client_tls(), SystemClock()
    etcd, patroni, postgres = timeouts(settings.answer_s)
    postgres = replace(postgres, read_only=reads_only)
    login = etcd_login(settings, EtcdUser.READER if reads_only else EtcdUser.WRITER)
    store = EtcdStore(platform.etcd_endpoints(), tls, etcd, login=login, reads_only=reads_only)
    return World(
        eyes=Eyes(
            platform=platform,
            store=store,
            patroni=PatroniRest(patroni),
            postgres=PostgresSql(postgres),
            clock=clock,
            parallel=settings.observe_parallel,
        ),
        mover=LogicalMover(
            timeouts=postgres, room=platform.free_bytes, clones=LocalClones(platform)
        ),
        clock=clock,
        settings=settings,
        actor=actor(),
        is_gone=is_gone,
        gauge=_gauge(settings),
    )


def etcd_login(settings: Settings, user: EtcdUser) -> EtcdLogin:
    """Return the login that the settings name, else that of one of the platform's own users."""
    if settings.etcd_user:
        return EtcdLogin(settings.etcd_user, settings.etcd_password_file)
    return local_platform(settings).etcd_login(user)


def _gauge(settings: Settings) -> Prometheus | None:
    if not settings.prometheus:
        return None
    from reconciler.edges.prometheus import Prometheus

    return Prometheus(
        settings.prometheus, settings.prometheus_ca, settings.prometheus_token, settings.answer_s
    )


def timeouts(answer_s: float) -> tuple[EtcdTimeouts, PatroniTimeouts, PostgresTimeouts]:
    """Return the edges' bounds when one question may take ``answer_s``; the others are fixed."""
    from reconciler.edges.etcd_gateway import EtcdTimeouts
    from reconciler.edges.patroni import PatroniTimeouts
    from reconciler.edges.postgres_session import PostgresTimeouts

    connect_s = math.ceil(min(answer_s, PostgresTimeouts().connect_s))
    return (
        EtcdTimeouts(connect_s=min(answer_s, EtcdTimeouts().connect_s), read_s=answer_s),
        PatroniTimeouts(deadline_s=answer_s),
        PostgresTimeouts(connect_s=connect_s, look_ms=math.ceil(answer_s * 1000)),
    )


def cache_folder() -> Path:
    """Return the user's cache folder for Shardwright, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "shardwright"


def local_platform(settings: Settings) -> LocalPlatform:
    """Return the local platform in its home. Raises NotAHome."""
    from reconciler.edges.local.platform import LocalPlatform

    return LocalPlatform(Path(settings.home))


def fetch(request: SourceRequest) -> Documents:
    """Read the specs that a call asks for, at one revision. Raises SO errors."""
    from reconciler.edges.git_revision import work_tree_revision

    if request.git:
        from reconciler.edges.git import read_repository

        return read_repository(
            *_repository(request), keys=_keys(request), credentials=request.credentials
        )
    from reconciler.edges.folder import read_folder

    return read_folder(request.path, revision_of=work_tree_revision)


def fetch_news(
    request: SourceRequest, known: str, *, mounted: bool = False, standing: str = ""
) -> Documents | None:
    """Read a source for the daemon; None when it is still at the revision that is known.

    Folders are known by their contents, whatever Git says of them; a mounted ConfigMap is read
    whole from one of its states. ``standing`` is the revision in force that a branch has to follow
    on, empty when it need not. Raises SO errors.
    """
    if request.git:
        from reconciler.edges.git import read_news

        return read_news(
            *_repository(request), known, keys=_keys(request), standing=standing,
            credentials=request.credentials,
        )  # fmt: skip
    from reconciler.edges.configmaps import read_mounted
    from reconciler.edges.folder import read_folder

    path = request.path
    documents = read_mounted(path, read_folder) if mounted else read_folder(path)
    return None if str(documents.revision) == known else documents


def fetch_again(request: SourceRequest, revision: str) -> Documents:
    """Read a repository at the commit of a revision, from what was fetched if it is there.

    Raises SO errors.
    """
    from reconciler.edges.git import read_repository
    from reconciler.edges.git_repository import GitReference
    from reconciler.model.desired import Revision

    address, _, path, cache = _repository(request)
    commit = GitReference("commit", Revision(revision).content.partition(":")[2])
    documents = read_repository(
        address, commit, path, cache, keys=_keys(request), credentials=request.credentials
    )
    return replace(documents, revision=Revision(revision))


def follows(request: SourceRequest, revision: str, standing: str) -> bool:
    """Tell whether a revision that was read follows on another; unsure is no."""
    from reconciler.edges.git import follows as follows_in

    address, _, _, cache = _repository(request)
    try:
        return follows_in(address, cache, revision, standing)
    except ReconcilerError:
        return False


def _keys(request: SourceRequest) -> Path | None:
    return Path(request.keys) if request.keys else None


def _repository(request: SourceRequest) -> tuple[GitAddress, GitReference, str, GitCache]:
    from reconciler.edges.git import GitCache
    from reconciler.edges.git_address import parse_address
    from reconciler.edges.git_repository import GitReference

    reference = GitReference("any", request.ref) if request.ref else GitReference()
    if request.ref.startswith("refs/heads/"):
        reference = GitReference("branch", request.ref.removeprefix("refs/heads/"))
    elif request.ref.startswith(SEMVER):
        reference = GitReference("semver", request.ref.removeprefix(SEMVER))
    elif request.ref.startswith("refs/tags/"):
        reference = GitReference("tag", request.ref.removeprefix("refs/tags/"))
    cache = GitCache(cache_folder() / "git")
    return parse_address(request.git), reference, request.path, cache


_ACTOR = re.compile(r"pid (\d+) start (\d+) boot ([0-9a-f-]+)")


def actor() -> str:
    """Return who acts: user, host, and the process in a form that ``is_gone`` understands."""
    from reconciler.edges.local.process_identity import identity_of

    me = identity_of(os.getpid())
    process = f"pid {me.pid} start {me.start_time} boot {me.boot_id}" if me else ""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()} {process}"


def is_gone(text: str) -> bool:
    """Tell whether the process named in a text is certainly dead: of this boot, and not there.

    Another machine's process, or none that is named, is not certain.
    """
    from reconciler.edges.local.process_identity import ProcessIdentity, boot_id, is_alive

    match = _ACTOR.search(text)
    if match is None or match[3] != boot_id():
        return False
    return not is_alive(ProcessIdentity(int(match[1]), int(match[2]), match[3]))
