"""What was seen, and what could not be seen.

Unknown is not empty: wherever an answer can be missing its type says ``| Unseen``, so that no
change can be derived from silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Move, MoveHold, Preflight
from reconciler.model.names import DatabaseKey, Epoch, Lsn, MemberName, ScopeKey, ShardName
from reconciler.model.platform import Endpoint, PlatformShard
from reconciler.model.rollouts import RolloutRecord
from reconciler.model.routing import AppliedRecord, RoutingMap
from reconciler.model.unseen import Unseen as Unseen


class Role(StrEnum):
    """What Patroni says a member is."""

    PRIMARY = "primary"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True)
class ObservedMember:
    """A member by its own Patroni; ``state`` is Patroni's word: running, streaming, starting…

    ``lag_bytes`` is None for a primary or when unknown. ``pending_restart`` names the parameters
    that wait for a restart; ``lowered`` those among them that a standby cannot lower before its
    primary has (PostgreSQL's five limits that hot standby compares).
    """

    name: MemberName
    endpoint: Endpoint
    role: Role
    state: str
    timeline: int | None = None
    lag_bytes: int | None = None
    synchronous: bool = False
    pending_restart: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether it serves: a running primary, or a standby that streams."""
        return self.state in (
            ("running",) if self.role is Role.PRIMARY else ("streaming", "running")
        )


@dataclass(frozen=True, slots=True)
class PatroniView:
    """A shard by Patroni: its members, and the dynamic configuration as it stands.

    ``leader`` is None when no member holds the leader key. ``parameters`` is
    ``postgresql.parameters`` of the dynamic configuration, values as text, sorted by name.
    """

    leader: MemberName | None
    members: tuple[ObservedMember, ...]
    parameters: tuple[tuple[str, str], ...]
    synchronous: bool
    paused: bool = False
    unseen_members: tuple[Unseen, ...] = ()

    def member(self, name: MemberName) -> ObservedMember | None:
        """Return a member by name, or None when it was not seen."""
        return next((m for m in self.members if m.name == name), None)


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """A row of ``shardwright.schema_history``: a schema file that this shard has."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ObservedGuard:
    """The standing guard of one table: the keys that the shard accepts, as its triggers say."""

    table: str
    column: str
    keys: KeySet
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ObservedTable:
    """An application's table; ``rows`` is the planner's estimate (-1 never analysed)."""

    name: str
    bytes: int
    rows: int
    columns: tuple[tuple[str, str], ...] = ()
    """Column names with their types, only for tables that the spec shards."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A shard by the catalogs of its primary.

    ``database_present`` False means only the maintenance database answered, and the fields about
    the database are empty for that reason. ``installed`` is our own schema's version (0: none).
    ``roles`` are the login names that exist; ``password_generation`` says how often
    their passwords were made. ``hash_ok`` is the hash self-test.
    ``standbys`` are (member, flushed LSN) by ``pg_stat_replication``. ``overrides`` are parameters
    set by ALTER SYSTEM, names in lower case, values as written.
    """

    server_version: int
    database_present: bool
    roles: tuple[str, ...] = ()
    installed: int = 0
    password_generation: int = 0
    history: tuple[AppliedFile, ...] = ()
    guards: tuple[ObservedGuard, ...] = ()
    tables: tuple[ObservedTable, ...] = ()
    bytes: int = 0
    hash_ok: bool = True
    standbys: tuple[tuple[MemberName, Lsn], ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedShard:
    """A shard by its platform, by Patroni and by PostgreSQL; each of the last two may be unseen.

    ``name`` is the routing map's name for its scope, or None when the map does not list it.
    """

    key: ScopeKey
    platform: PlatformShard
    patroni: PatroniView | Unseen
    catalog: Catalog | Unseen
    name: ShardName | None = None


@dataclass(frozen=True, slots=True)
class RunningOperation:
    """The journal of an apply that has not ended: who, what, how far.

    ``done`` and ``begun`` are action ids; an action begun and not done may have happened.
    """

    id: str
    databases: tuple[DatabaseKey, ...]
    revision: str
    begun: tuple[str, ...]
    done: tuple[str, ...]
    started_at: str


@dataclass(frozen=True, slots=True)
class ObservedDatabase:
    """One database: its records in etcd and its shards, sorted by scope.

    ``moves`` are the moves of keys that have not ended, in the order in which they began;
    ``preflights`` tell of those that are wanted and have not begun. ``suspended`` is by whom, since
    when and why it was suspended by command, empty when it is not. ``rollout``: its canaries have a
    change that other shards wait for. ``holds`` are moves that a person took back.
    """

    key: DatabaseKey
    routing: RoutingMap | Unseen | None
    record: AppliedRecord | Unseen | None
    shards: tuple[ObservedShard, ...] = ()
    moves: tuple[Move, ...] = ()
    preflights: tuple[Preflight, ...] = ()
    suspended: str = ""
    rollout: RolloutRecord | None = None
    holds: tuple[MoveHold, ...] = ()

    def shard(self, key: ScopeKey) -> ObservedShard | None:
        """Return a shard by its identity on the platform, or None when it is not there."""
        return next((s for s in self.shards if s.key == key), None)


@dataclass(frozen=True, slots=True)
class ObservedState:
    """Everything that was seen in one look, databases sorted by key.

    ``unseen`` lists what did not answer, for the heading of a plan; ``answered`` counts per system
    (answered, asked). ``not_applied`` names spec fields that this platform cannot honour.
    ``looked_at`` is when, in UTC and ISO 8601: what a window that ends is held against.
    ``durations`` are (kind of action, seconds) of earlier applies: what estimates rest on.
    """

    databases: tuple[ObservedDatabase, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    answered: tuple[tuple[str, int, int], ...] = ()
    not_applied: tuple[str, ...] = ()
    operation: RunningOperation | None = None
    looked_at: str = ""
    durations: tuple[tuple[str, float], ...] = ()
    used_plans: frozenset[str] = field(default_factory=frozenset)

    def database(self, key: DatabaseKey) -> ObservedDatabase | None:
        """Return a database by its key, or None when nothing of it is there."""
        return next((d for d in self.databases if d.key == key), None)
