"""What a platform is asked to run, and what it says is there.

A platform (the local one, later Kubernetes) runs members: each is Patroni with its PostgreSQL. It
knows scopes and members, not key ranges, schemas or routing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.model.names import DatabaseName, MemberName, Namespace, Scope, ScopeKey


@dataclass(frozen=True, slots=True)
class Resources:
    """What one member may use; quantities as written in the spec (``10Gi``, ``1``, ``2Gi``)."""

    storage_size: str = "10Gi"
    storage_class: str = ""
    cpu: str = ""
    memory: str = ""


@dataclass(frozen=True, slots=True)
class ShardBlueprint:
    """One shard as a platform has to run it: enough to start it from nothing.

    ``parameters`` are PostgreSQL's own (``work_mem`` → ``16MB``), sorted by name. They are used
    when the shard is bootstrapped; later changes go through Patroni's dynamic configuration.
    """

    namespace: Namespace
    database: DatabaseName
    scope: Scope
    version: str
    instances: int
    synchronous: bool
    parameters: tuple[tuple[str, str], ...] = ()
    resources: Resources = field(default_factory=Resources)

    @property
    def key(self) -> ScopeKey:
        """The shard's identity on the platform."""
        return ScopeKey(self.namespace, self.scope)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member listens: one host, PostgreSQL's port and the port of Patroni's REST API.

    ``postgres_tls`` is False where PostgreSQL was built without TLS (the wheel's, on the local
    platform's loopback); Patroni's API always speaks TLS.
    """

    host: str
    postgres_port: int
    patroni_port: int
    postgres_tls: bool = True


@dataclass(frozen=True, slots=True)
class PlatformMember:
    """A member as its platform knows it; ``running`` speaks of its processes, not of its health."""

    name: MemberName
    endpoint: Endpoint
    running: bool


@dataclass(frozen=True, slots=True)
class PlatformShard:
    """A shard as its platform knows it, members sorted by ordinal.

    ``stopped`` is True when it was stopped on purpose and its data kept (``deletion: keepData``).
    ``staged`` names the roles with a password that a rotation made and did not put in use.
    ``unreadable`` says why the platform's own record of it cannot be read; then nothing but its key
    and its database is known.
    """

    key: ScopeKey
    database: DatabaseName
    version: str
    members: tuple[PlatformMember, ...]
    synchronous: bool
    resources: Resources
    stopped: bool = False
    staged: tuple[str, ...] = ()
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A login of one shard. ``repr`` never shows the password."""

    role: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a client's certificate files in PEM; ``key`` is readable by its owner only."""

    ca: str
    cert: str
    key: str


BASE_PARAMETERS: tuple[tuple[str, str], ...] = (
    ("max_connections", "100"),
    ("max_logical_replication_workers", "20"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("max_worker_processes", "32"),
    ("shared_buffers", "32MB"),
    ("wal_level", "logical"),
    ("wal_log_hints", "on"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_retrieve_retry_interval", "500ms"),
)
"""What every shard runs with unless the spec says otherwise.

Logical WAL, slots and workers are what resharding needs (resharding.md, section 6), so that a later
move never waits for a restart. From PostgreSQL 16 on a walsender can miss the flush that it is to
send (``WalSndWait`` joins the condition variable after it looked for WAL; neon's pull request 6179
has the story), and a lone writer then waits for its synchronous standby until that one says
something: every second, not every ten. They live with the user's parameters in Patroni's dynamic
configuration, so that there is one place to compare.
"""


RESTART_IN_PLACE_S = 300
"""How long a crashed primary may recover where no synchronous standby could take over."""


SYNCED_SLOTS_SINCE = 17
SYNCED_SLOTS: tuple[tuple[str, str], ...] = (
    ("hot_standby_feedback", "on"),
    ("sync_replication_slots", "on"),
)
"""Standbys keep a move's slots as well, so that it goes on after a failover of its source."""


def effective_parameters(
    wanted: tuple[tuple[str, str], ...], version: str
) -> tuple[tuple[str, str], ...]:
    """Return the base parameters of a version overlaid with the spec's, sorted by name."""
    synced = SYNCED_SLOTS if int(version) >= SYNCED_SLOTS_SINCE else ()
    return tuple(sorted((dict(BASE_PARAMETERS) | dict(synced) | dict(wanted)).items()))
