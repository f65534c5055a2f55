"""What the specs ask for; each thing knows the place where it was written.

A ``Place`` is cheap (file, document, path in the document); the shell turns it into a ``Position``
with line and column only where somebody will read it, because finding lines costs ten times what
reading the document does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, Scope, ShardName
from reconciler.model.platform import Resources, ShardBlueprint


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was written: file, index of the document in it, path in the document."""

    file: str
    document: int = 0
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Place:
        """Return the place of something inside."""
        return Place(self.file, self.document, self.path + path)


class KeyType(StrEnum):
    """The type of the shard key, one for a database."""

    BIGINT = "bigint"
    INT = "int"
    TEXT = "text"
    UUID = "uuid"


class Deletion(StrEnum):
    """What happens to the data when a database leaves the specs."""

    PROTECTED = "protected"
    KEEP_DATA = "keepData"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One SQL file of ``spec.schema.files``, in the order it is applied.

    ``name`` is the path relative to the document's folder: its identity for ever, because a file
    is applied once. ``transactional`` is False when its first lines hold the marker comment
    ``-- shardwright: no-transaction``.
    """

    name: str
    sha256: str
    text: str = field(repr=False)
    transactional: bool = True


@dataclass(frozen=True, slots=True)
class ShardedTable:
    """A table split over the shards (``public.orders``, with its schema), and its key column."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Sharding:
    """How rows find their shard."""

    key_type: KeyType
    tables: tuple[ShardedTable, ...]
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as the spec wants it. ``moved_from`` is its former name, when it was renamed.

    ``keys`` are all it owns, with the isolated keys of other shards already taken out.
    """

    name: ShardName
    keys: KeySet
    instances: int
    synchronous: bool
    resources: Resources
    place: Place
    moved_from: ShardName | None = None


class CopyDriver(StrEnum):
    """Who brings the rows of a move to its target."""

    OWN = "own"
    """Our own copier: parallel, in binary, indexes afterwards; cut short, it starts over."""
    NATIVE = "native"
    """PostgreSQL's tablesync: slower, but it goes on by itself after any crash."""
    PHYSICAL = "physical"
    """A physical copy of all of the source, left with the keys: for a new, large shard."""


@dataclass(frozen=True, slots=True)
class Resharding:
    """Limits of online moves: the pause of writers, the way back, the slow-down allowed.

    ``copy`` is the driver that brings the rows; None lets each plan choose.
    """

    pause_max_ms: int = 100
    rollback_window_s: int = 86_400
    latency_ratio_max: float = 2.0
    copy: CopyDriver | None = None


class Mode(StrEnum):
    """Whether the daemon does something by itself."""

    YES = "yes"
    APPROVAL = "approval"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class AutoApply:
    """What the daemon does by itself, by what may go wrong with it."""

    online: Mode = Mode.YES
    restart: Mode = Mode.YES
    move: Mode = Mode.YES
    destroy: Mode = Mode.APPROVAL

    def mode(self, kind: str) -> Mode:
        """Return the mode of a kind by its name in the spec."""
        return {
            "online": self.online, "restart": self.restart, "move": self.move,
            "destroy": self.destroy,
        }[kind]  # fmt: skip


class DriftPolicy(StrEnum):
    """What the daemon does about what changed without its spec."""

    CORRECT = "correct"
    REPORT = "report"


class GateLanguage(StrEnum):
    """What a gate is written in."""

    SQL = "sql"
    PROMQL = "promql"


@dataclass(frozen=True, slots=True)
class Gate:
    """A question whose every answer has to lie between ``least`` and ``most``; None: no bound."""

    name: str
    language: GateLanguage
    text: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """The shards that get a change before all others, and what has to hold then.

    ``bake_s``: how long nobody else gets it. The gates hold all the while, and before each of the
    other shards.
    """

    shards: tuple[ShardName, ...]
    bake_s: float
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """How much of a database is changed at once; None: as much as the settings allow.

    ``shards_max`` bounds the shards under change, ``restarts_max`` those that restart,
    ``bytes_max`` the data of moves under way, those in their rollback window included.
    """

    shards_max: int | None = None
    bytes_max: int | None = None
    restarts_max: int = 1
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """One sharded database as the specs want it.

    ``digest`` is the SHA-256 of its meaning (not of its text): two documents that ask for the
    same have the same digest. ``parameters`` are sorted by name and hold only what the spec says.
    Raising ``password_generation`` (``spec.postgres.passwords.generation``) rotates the passwords
    of the owner and the application role.
    """

    key: DatabaseKey
    version: str
    sharding: Sharding
    shards: tuple[Shard, ...]
    place: Place
    labels: tuple[tuple[str, str], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    schema: tuple[SchemaFile, ...] = ()
    resharding: Resharding = field(default_factory=Resharding)
    deletion: Deletion = Deletion.PROTECTED
    password_generation: int = 1
    suspend: bool = False
    auto_apply: AutoApply = field(default_factory=AutoApply)
    drift_policy: DriftPolicy = DriftPolicy.CORRECT
    rollout: Rollout = field(default_factory=Rollout)
    digest: str = ""

    def blueprint(self, shard: Shard, scope: Scope) -> ShardBlueprint:
        """Return what a platform needs to run one of its shards."""
        return ShardBlueprint(
            namespace=self.key.namespace,
            database=self.key.name,
            scope=scope,
            version=self.version,
            instances=shard.instances,
            synchronous=shard.synchronous,
            parameters=self.parameters,
            resources=shard.resources,
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """Which state of the sources was read: ``main@sha1:4f2a9c1…``, or ``files@sha256:…``.

    ``uncommitted`` is True when the working tree held changes that no commit has.
    """

    text: str
    uncommitted: bool = False

    def __str__(self) -> str:
        return f"{self.text}{' with uncommitted changes' if self.uncommitted else ''}"

    @property
    def content(self) -> str:
        """What was read, whatever it was called by: ``sha1:4f2a9c1…`` of ``main@sha1:4f2a9c1…``."""
        return self.text.rpartition("@")[2]

    @property
    def name(self) -> str:
        """What it was called by, ``main``, empty when that is only a digest."""
        return self.text.rpartition("@")[0]

    @property
    def short(self) -> str:
        """The revision with its digest cut to seven digits, for people."""
        head, separator, digest = self.text.rpartition(":")
        return (
            f"{head}{separator}{digest[:7]}{' + uncommitted changes' if self.uncommitted else ''}"
        )


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All databases of one source at one revision, sorted by key.

    ``source`` names the folder or repository and path: a database that this source applied and no
    longer holds is deleted; one that another source applied is left alone. Paths in places begin
    with ``root``, as the user wrote it. ``files_without_spec``, relative to the source, are read
    and hold no spec (empty, unreadable, or another tool's): a database that came from one of them
    did not leave on purpose.
    """

    source: str
    revision: Revision
    databases: tuple[Database, ...]
    foreign_files: int = 0
    root: str = ""
    files_without_spec: frozenset[str] = frozenset()

    def file_of(self, place: Place) -> str:
        """Return a place's file relative to the source: the same from wherever it was read."""
        return place.file.removeprefix(self.root)
