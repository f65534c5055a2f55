"""All that a client has to be told, in one frozen value; every bound with its unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace, app_role
from reconciler.model.platform import TlsFiles
from reconciler.sdk.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one client. Seconds, unless the name says otherwise."""

    pool_max: int = 10
    """Connections to one shard at once, for writing; as many again for reading."""
    checkout_s: float = 30.0
    """How long to wait for a connection: a free one, or a primary after a failover."""
    fence_wait_s: float = 30.0
    """How long ``run`` and ``execute`` go on trying while a shard refuses a key (PS001)."""
    connect_s: int = 3
    """One attempt at one member of a shard; libpq takes whole seconds, 2 at least."""
    idle_s: float = 300.0
    """A connection unused for longer is closed instead of lent."""
    start_s: float = 10.0
    """How long opening waits for the first routing map."""
    etcd_connect_s: float = 1.0
    """One attempt at one etcd endpoint."""
    etcd_read_s: float = 3.0
    """One answer of etcd to a read."""
    resync_s: float = 10.0
    """A watch that was silent for so long is checked by a read: a dead connection is silent too."""
    etcd_retry_max_s: float = 5.0
    """The longest pause between attempts while etcd is away; they begin at 0.1."""
    scatter_parallel: int = 8
    """Shards that one ``scatter`` asks at once."""


@dataclass(frozen=True, slots=True)
class Config:
    """Where the routing map is, and how to log in to the shards that it names.

    ``etcd_endpoints`` are URLs (``https://host:port``). ``password`` is a text, or a function from
    a shard's scope (``shop-s0``) to its password, called for each new connection. ``tls`` are the
    files that etcd is reached with; its authority also verifies the shards' certificates
    (``sslmode=verify-full``). ``options`` are further libpq options of each connection.
    ``repr`` never shows a password. Raises ConfigInvalid.
    """

    etcd_endpoints: tuple[str, ...]
    database: str
    password: str | Callable[[str], str] = field(repr=False)
    namespace: str = "default"
    user: str = ""
    """The role to log in as; by default the database's application role."""
    tls: TlsFiles | None = None
    etcd_login: EtcdLogin | None = None
    """The user to read as, where etcd knows users."""
    limits: Limits = field(default_factory=Limits)
    application_name: str = "shardwright-sdk"
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name in ("database", "namespace"):
            if not getattr(self, name) or "/" in getattr(self, name):
                raise ConfigInvalid(f"config {name}", "must be a name, as in the spec")
        if not self.etcd_endpoints or isinstance(self.etcd_endpoints, str):
            raise ConfigInvalid("config etcd_endpoints", "must name at least one URL, in a tuple")
        for endpoint in self.etcd_endpoints:
            _check_endpoint(endpoint)
        for bound in fields(Limits):
            if getattr(self.limits, bound.name) <= 0:
                raise ConfigInvalid(f"config limits.{bound.name}", "must be more than 0")

    @property
    def key(self) -> DatabaseKey:
        """The database's identity."""
        return DatabaseKey(Namespace(self.namespace), DatabaseName(self.database))

    @property
    def role(self) -> str:
        """The role that connections log in as."""
        return self.user or app_role(DatabaseName(self.database))

    def password_of(self, scope: str) -> str:
        """Return the password for one shard now."""
        return self.password if isinstance(self.password, str) else self.password(scope)


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:
        fine = False
    if not fine:
        raise ConfigInvalid(f"config etcd endpoint {endpoint!r}", "must be https://host:port")
