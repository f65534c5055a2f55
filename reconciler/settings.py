"""One frozen Settings; each value remembers where it came from.

Order: flag > environment (``SHARDWRIGHT_…``) > file (a ReconcilerConfig) > default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from reconciler.model.errors import Position, ReconcilerError
from reconciler.model.git import NO_CREDENTIALS, CredentialFiles

if TYPE_CHECKING:
    from reconciler.spec.manifest_other import GitSource, ReconcilerConfig
    from reconciler.spec.manifest_other import Source as WrittenSource

ENVIRONMENT_PREFIX = "SHARDWRIGHT_"
SEMVER = "semver:"
"""What the reference of a source begins with that is a range of versions."""


class SettingInvalid(ReconcilerError):
    """A setting has a value of the wrong kind, or out of its bounds.

    The order is flag, environment, file, default; `shardwright config show` says where each value
    comes from.
    """

    code = "CL201"


class ConfigUnreadable(ReconcilerError):
    """The file given with --config cannot be read, or holds no ReconcilerConfig."""

    code = "CL202"


class EtcdNotOurs(ReconcilerError):
    """The configuration names an etcd, and the local platform runs one of its own.

    Patroni's leases, the routing map and the journal have to be in one etcd, or a fence in the one
    would not stop a write through the other. `spec.etcd` is for platforms that run none.
    """

    code = "CL203"


@dataclass(frozen=True, slots=True)
class Source:
    """Where specs come from by the configuration: a folder, or a path in a Git repository.

    ``ref`` is a full name (``refs/heads/main``) or a commit, empty for the default branch.
    ``webhook``: a push event triggers a look; ``keys``: a file of the signers of its commits, empty
    when they need no signature. ``holds_rewrites``: a branch has to follow on what is in force.
    ``credentials``: files with what the repository asks for.
    """

    path: str
    git: str = ""
    ref: str = ""
    webhook: bool = False
    keys: str = ""
    holds_rewrites: bool = False
    credentials: CredentialFiles = NO_CREDENTIALS

    def __str__(self) -> str:
        if not self.git:
            return self.path
        ref = f"@{self.ref.removeprefix('refs/heads/').removeprefix('refs/tags/')}"
        return f"{self.git}{ref if self.ref else ''}{f'//{self.path}' if self.path != '.' else ''}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, with units in the names.

    ``home``: folder of the local platform and of caches.
    ``platform``: what runs the members; ``local`` is the one there is.
    ``parallel``: steps of an apply that run at once (1 to 64).
    ``moves_parallel``: moves of keys that run at once, over all databases (1 to 64); ``movesMax``
    in the file. A shard takes part in one at a time, and a database's moves go one after another.
    ``observe_parallel``: shards that are asked at once (1 to 256).
    ``answer_s``: how long one question to etcd, Patroni or PostgreSQL may take (0.1 to 60).
    ``start_s``: how long new or restarted members may take until they are healthy (1 to 86400).
    ``lease_s``: how long the applier's lease outlives an applier that died (5 to 300).
    ``sources``: where specs come from when neither -f nor --git says it; only in the file.
    ``etcd_user``, ``etcd_password_file``: the login at etcd; by default that of the platform's own
    users: one that may only read for what only looks, one that may write for what applies.
    ``interval``: how often the daemon looks at everything; only in the file.
    ``prometheus``: address of the Prometheus that gates of roll-outs ask, empty without one;
    ``prometheus_ca`` and ``prometheus_token`` are files: whom to trust, and the bearer token.
    ``origins``: where each value came from, by name.
    """

    home: str
    platform: str = "local"
    parallel: int = 4
    moves_parallel: int = 2
    observe_parallel: int = 16
    answer_s: float = 5.0
    start_s: float = 180.0
    lease_s: int = 10
    sources: tuple[Source, ...] = ()
    etcd_user: str = ""
    etcd_password_file: str = ""
    interval: str = "30s"
    prometheus: str = ""
    prometheus_ca: str = ""
    prometheus_token: str = ""
    origins: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def origin(self, name: str) -> str:
        """Return where a value came from: flag, environment, a file's path, or default."""
        return dict(self.origins).get(name, "default")


_ONLY_IN_FILE = ("sources", "interval")
_BOUNDS: dict[str, tuple[float, float]] = {
    "parallel": (1, 64),
    "moves_parallel": (1, 64),
    "observe_parallel": (1, 256),
    "answer_s": (0.1, 60),
    "start_s": (1, 86_400),
    "lease_s": (5, 300),
}
_KINDS: dict[str, Callable[[str], Any]] = {
    "parallel": int,
    "moves_parallel": int,
    "observe_parallel": int,
    "answer_s": float,
    "start_s": float,
    "lease_s": int,
}


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's state folder for Shardwright, by the XDG rules."""
    base = environ.get("XDG_STATE_HOME") or os.path.join(
        environ.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return Path(base) / "shardwright"


def load(
    flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Return the settings of one call. Raises SettingInvalid and what ``read_config`` does."""
    values: dict[str, Any] = {"home": str(state_folder(environ))}
    origins: dict[str, str] = {}
    written = _from_file(file) if file else {}
    for name in (f.name for f in fields(Settings) if f.name != "origins"):
        variable = ENVIRONMENT_PREFIX + name.upper()
        if name in flags:
            values[name], origins[name] = flags[name], "flag"
        elif environ.get(variable) and name not in _ONLY_IN_FILE:
            values[name], origins[name] = environ[variable], f"environment {variable}"
        elif name in written:
            values[name], origins[name] = written[name], f"file {file}"
        if name in origins and name not in _ONLY_IN_FILE:
            values[name] = _checked(name, str(values[name]), origins[name])
    values["home"] = os.path.abspath(os.path.expanduser(values["home"]))
    return Settings(**values, origins=tuple(sorted(origins.items())))


def _checked(name: str, text: str, origin: str) -> Any:
    if name == "platform" and text != "local":
        raise SettingInvalid(
            f"setting {name} ({origin})", f"there is no platform {text!r}", remedy="write: local"
        )
    kind = _KINDS.get(name)
    if kind is None:
        return text
    low, high = _BOUNDS[name]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise SettingInvalid(
            f"setting {name} ({origin})",
            f"{text!r} is not a number from {low:g} to {high:g}",
            remedy=f"write a number from {low:g} to {high:g}",
        )
    return value


def _from_file(file: Path) -> dict[str, Any]:
    """Return the settings that a ReconcilerConfig gives, by our names."""
    spec = read_config(file).spec
    found: dict[str, Any] = {
        "platform": spec.platform,
        "sources": tuple(source_of(one, file.absolute().parent) for one in spec.sources),
        "interval": spec.interval,
        "moves_parallel": spec.moves_max,
    }
    if spec.prometheus is not UNSET:
        folder = file.absolute().parent
        found["prometheus"] = spec.prometheus.url
        for name, path in (("ca", spec.prometheus.ca), ("token", spec.prometheus.token_file)):
            found[f"prometheus_{name}"] = str(folder / path) if path else UNSET
    return {name: value for name, value in found.items() if value is not UNSET}


def read_config(file: Path) -> ReconcilerConfig:
    """Read a ReconcilerConfig. Raises ConfigUnreadable, EtcdNotOurs and ProblemsFound."""
    from reconciler.model.desired import Revision
    from reconciler.spec import read
    from reconciler.spec.documents import Documents, SourceFile

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigUnreadable(
            str(file), f"cannot be read: {error.strerror}", where=Position(str(file))
        ) from None
    documents = Documents(str(file), Revision("file"), (SourceFile(str(file), data),))
    config = read(documents).config
    if config is None:
        raise ConfigUnreadable(
            str(file),
            "holds no ReconcilerConfig",
            remedy="let it be YAML with apiVersion: shardwright.dev/v1alpha1 and "
            "kind: ReconcilerConfig, or leave --config out",
            where=Position(str(file)),
        )
    if config.spec.etcd is not UNSET:  # the one platform that there is
        raise EtcdNotOurs(
            str(file), "names an etcd, and the local platform runs one of its own",
            remedy="leave spec.etcd out", where=Position(str(file)),
        )  # fmt: skip
    return config


def source_of(source: WrittenSource, folder: Path) -> Source:
    """Return a source as written; a relative path in it begins at the file's folder."""
    git = source.git
    if git is UNSET:
        named = source.folder or source.config_map
        return Source(str(folder / named.path) if named else str(folder))
    ref = git.commit or ""
    for kind, name in (("heads", git.branch), ("tags", git.tag)):
        ref = f"refs/{kind}/{name}" if name else ref
    if git.semver:
        ref = f"{SEMVER}{git.semver}"
    url = str(folder / git.url) if git.url.startswith(".") else git.url
    keys = str(folder / git.verify.keys) if git.verify is not UNSET else ""
    return Source(
        git.path, url, ref, git.webhook, keys, git.on_rewrite == "hold",
        _credential_files(git, folder),
    )  # fmt: skip


def _credential_files(git: GitSource, folder: Path) -> CredentialFiles:
    written = git.credentials
    if written is UNSET:
        return NO_CREDENTIALS

    def path(file: str | UnsetType) -> str:
        return "" if file is UNSET else str(folder / file)

    return CredentialFiles(
        username=path(written.username_file),
        password=path(written.password_file),
        bearer_token=path(written.bearer_token_file),
        ca=path(written.ca_file),
        identity=path(written.identity_file),
        known_hosts=path(written.known_hosts_file),
    )
