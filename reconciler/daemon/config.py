"""The daemon's own configuration: read whole, kept when a later one is wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET, UnsetType

from reconciler.engine.saved import SourceRequest
from reconciler.model.errors import Position, ProblemsFound, ReconcilerError
from reconciler.model.git import without_login
from reconciler.settings import read_config, source_of
from reconciler.spec.documents import MANIFEST_SUFFIXES
from reconciler.spec.manifest_other import ReconcilerConfig
from reconciler.spec.manifest_other import Source as WrittenSource
from reconciler.spec.quantities import duration_ms

FOLDER_INTERVAL_S = 30.0
"""How often a folder is read whole even when nothing was heard of a change."""

GIT_S = 60.0
"""How often a repository is asked when its source does not say."""
LOOK_S = 30.0
"""How often every database is looked at when the configuration does not say."""
INTERVAL_S_MIN = 1.0
"""Shorter intervals are taken for this: a forge is asked at most once a second."""


class DaemonUnconfigured(ReconcilerError):
    """The daemon was started without a source of specs.

    It follows the sources of a ReconcilerConfig (`--config FILE`), or the one that is named on the
    command line.
    """

    code = "DM101"


class WebhookWithoutSecret(ReconcilerError):
    """A source is to hear push events, and the configuration names no secret for them.

    Anybody could send one. `spec.webhook.secretFile` names a file that holds the secret that is
    entered at the forge as well.
    """

    code = "DM104"


@dataclass(frozen=True, slots=True)
class FollowedSource:
    """One source: what to read, how often (seconds), and how to notice changes sooner.

    ``watch``: a folder to watch, empty for Git. ``mounted``: it is the mount of a ConfigMap.
    ``hears``: push events of its forge make it look at once. ``holds_rewrites``: what does not
    follow on the revision in force is quarantined.
    """

    name: str
    request: SourceRequest
    interval_s: float
    watch: str = ""
    mounted: bool = False
    hears: bool = False
    holds_rewrites: bool = False


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What the daemon follows and how often it looks at everything, in seconds.

    ``webhook_secret`` is the file of the secret that forges sign with, None without webhooks.
    ``at_start`` are (field, contents) of what is taken over only when the daemon starts.
    """

    sources: tuple[FollowedSource, ...]
    interval_s: float = LOOK_S
    webhook_secret: Path | None = None
    at_start: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class ConfigFile:
    """A ReconcilerConfig in a file, read again when it changes; the last good one stays in force.

    ``problem`` is what was wrong with the newest contents, None when they are in force.
    """

    path: Path
    problem: ReconcilerError | None = None
    _seen: bytes = b""

    @property
    def problems(self) -> tuple[ReconcilerError, ...]:
        """Each thing that is wrong with the newest contents."""
        if isinstance(self.problem, ProblemsFound):
            return self.problem.problems
        return (self.problem,) if self.problem else ()

    def read(self) -> DaemonConfig:
        """Read it now. Raises what ``read_config`` raises, and WebhookWithoutSecret."""
        self._seen = self._bytes()
        return from_manifest(read_config(self.path), self.path)

    def news(self) -> DaemonConfig | None:
        """Return the configuration when it changed and is right, else None; see ``problem``."""
        if self._bytes() == self._seen:
            return None
        try:
            config = self.read()
        except ReconcilerError as error:
            self.problem = error
            return None
        self.problem = None
        return config

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            return f"unreadable: {error}".encode()


def from_manifest(config: ReconcilerConfig, file: Path) -> DaemonConfig:
    """Return what a ReconcilerConfig in ``file`` asks for. Raises WebhookWithoutSecret."""
    folder = file.absolute().parent
    sources = tuple(_followed(one, folder) for one in config.spec.sources)
    webhook = config.spec.webhook
    secret = folder / webhook.secret_file if webhook is not UNSET else None
    if secret is None and any(source.hears for source in sources):
        raise WebhookWithoutSecret(
            str(file), "a source hears webhooks, and no secret is there to check them with",
            remedy="write spec.webhook.secretFile, or leave webhook out of the source",
            where=Position(str(file)),
        )  # fmt: skip
    spec = config.spec
    fixed = {
        "movesMax": spec.moves_max, "platform": spec.platform, "prometheus": spec.prometheus,
    }  # fmt: skip
    at_start = tuple((name, "" if part is UNSET else repr(part)) for name, part in fixed.items())
    return DaemonConfig(sources, _seconds(spec.interval, LOOK_S), secret, at_start)


def _followed(written: WrittenSource, folder: Path) -> FollowedSource:
    source = source_of(written, folder)
    request = SourceRequest(source.path, source.git, source.ref, source.keys, source.credentials)
    if source.git:
        git = written.git
        interval = _seconds(git.interval if git is not UNSET else UNSET, GIT_S)
        return FollowedSource(
            str(source), request, interval, hears=source.webhook,
            holds_rewrites=source.holds_rewrites,
        )  # fmt: skip
    mounted = written.config_map is not UNSET
    return FollowedSource(source.path, request, FOLDER_INTERVAL_S, source.path, mounted)


def _seconds(text: str | UnsetType, default: float) -> float:
    return default if text is UNSET else max(INTERVAL_S_MIN, duration_ms(text) / 1000)


def from_request(request: SourceRequest, interval_s: float) -> DaemonConfig:
    """Return the configuration of a daemon that follows one source from the command line."""
    if request.git:
        shown = f"{without_login(request.git)}{f'@{request.ref}' if request.ref else ''}"
        return DaemonConfig((FollowedSource(shown, request, interval_s),))
    if request.path == "-":
        raise DaemonUnconfigured("-", "standard input cannot be followed", remedy="name a folder")
    path = os.path.abspath(request.path)
    alone = Path(path).is_file() or path.lower().endswith(MANIFEST_SUFFIXES)
    folder = str(Path(path).parent) if alone else path
    return DaemonConfig((FollowedSource(path, SourceRequest(path), FOLDER_INTERVAL_S, folder),))
