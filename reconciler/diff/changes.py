"""Changes: differences between what is wanted and what is there. A closed set.

A change says *what* differs; the planner turns it into actions that say *how*. Whatever stands in
the way of acting on a difference is a ``Refusal`` (a person or a commit has to decide) or a
``Standstill`` (something was not seen, or is suspended): neither is ever dropped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from reconciler.model.desired import (
    Database,
    Deletion,
    Place,
    SchemaFile,
    Shard,
    ShardedTable,
)
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import AS_USUAL, CopyChoice, Move, MoveId, NumberBlock, Wish
from reconciler.model.names import DatabaseKey, Epoch, MemberName, ScopeKey, ShardName
from reconciler.model.routing import RoutingMap


@dataclass(frozen=True, slots=True)
class AddShard:
    """A shard is wanted and its platform does not have it, or holds it stopped (``kept``)."""

    database: Database
    shard: Shard
    scope: ScopeKey
    kept: bool = False


@dataclass(frozen=True, slots=True)
class StartMembers:
    """Members exist whose processes are gone; the platform is certain of it."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    members: tuple[MemberName, ...]


@dataclass(frozen=True, slots=True)
class ResizeShard:
    """More or fewer members are wanted: the names to add, or to remove."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    before: int
    after: int
    add: tuple[MemberName, ...]
    remove: tuple[MemberName, ...]
    leader: MemberName | None
    place: Place


@dataclass(frozen=True, slots=True)
class ChangeParameters:
    """Parameters or replication mode of a shard differ: (name, before, after), None is absent.

    ``restart`` names those that only a restart brings into force.
    """

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    parameters: tuple[tuple[str, str | None, str | None], ...]
    synchronous: tuple[bool, bool] | None
    restart: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class RestartPending:
    """Members run with old values of parameters that wait for a restart."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    members: tuple[MemberName, ...]
    parameters: tuple[str, ...]
    leader: MemberName | None


@dataclass(frozen=True, slots=True)
class PrepareDatabase:
    """Roles, the database or our own schema are missing in a shard."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApplySchema:
    """Schema files that a shard does not have yet, in order."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    files: tuple[SchemaFile, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class ChangeGuards:
    """Guard triggers that are missing or say something else.

    ``dropped`` are tables that have a guard and that the spec does not shard any more.
    """

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    tables: tuple[ShardedTable, ...]
    keys: KeySet
    epoch: Epoch
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RotatePasswords:
    """The spec asks for a later generation of passwords than the shard has."""

    database: DatabaseKey
    shard: ShardName
    scope: ScopeKey
    before: int
    after: int
    place: Place


@dataclass(frozen=True, slots=True)
class RenameShard:
    """A shard gets another name; its scope, data and keys stay."""

    database: DatabaseKey
    scope: ScopeKey
    before: ShardName
    after: ShardName
    place: Place


@dataclass(frozen=True, slots=True)
class PublishRouting:
    """The routing map is missing, or its endpoints, names or tables are out of date."""

    database: DatabaseKey
    before: RoutingMap | None
    after: RoutingMap


@dataclass(frozen=True, slots=True)
class MoveKeys:
    """Keys that the routing map gives to one shard and the spec to another.

    ``tables`` are (name, bytes, rows) on the source, scaled by the share of its keys that moves;
    None when the source was not seen. ``blocks`` are of the sequences that it divides.
    """

    database: DatabaseKey
    source: ShardName
    target: ShardName
    source_scope: ScopeKey
    target_scope: ScopeKey
    keys: KeySet
    tables: tuple[tuple[str, int, int], ...] | None
    pause_max_ms: int
    rollback_window_s: int
    place: Place
    latency_ratio_max: float = 0.0
    copying: CopyChoice = AS_USUAL
    blocks: tuple[NumberBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class EndMove:
    """A move under way that is aborted, taken back, or whose rollback window is over."""

    database: DatabaseKey
    move: Move
    how: Wish
    reason: str
    place: Place


@dataclass(frozen=True, slots=True)
class RetireShard:
    """A shard that owns no keys (any more) and is not in the spec."""

    database: DatabaseKey
    shard: ShardName | None
    scope: ScopeKey
    deletion: Deletion
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Leaver:
    """A shard that leaves with its database; ``shard`` and ``bytes`` None: nobody knows."""

    scope: ScopeKey
    shard: ShardName | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class DeleteDatabase:
    """A database that this source applied and no longer holds.

    The versions are those of its map and record as they were read, 0 for one that is not there.
    """

    database: DatabaseKey
    shards: tuple[Leaver, ...]
    deletion: Deletion
    routing_version: int = 0
    record_version: int = 0


@dataclass(frozen=True, slots=True)
class RecordApplied:
    """The last-applied record does not say what the spec says now, or where it stands.

    ``version`` is the record's as it was read, 0 when there is none. ``released`` are the holds of
    moves that the spec does not ask for any more.
    """

    database: DatabaseKey
    digest: str
    deletion: Deletion
    file: str = ""
    version: int = 0
    parts: tuple[tuple[str, str], ...] = ()
    released: tuple[MoveId, ...] = ()


Change: TypeAlias = (
    AddShard
    | StartMembers
    | ResizeShard
    | ChangeParameters
    | RestartPending
    | PrepareDatabase
    | ApplySchema
    | ChangeGuards
    | RotatePasswords
    | RenameShard
    | PublishRouting
    | MoveKeys
    | EndMove
    | RetireShard
    | DeleteDatabase
    | RecordApplied
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A difference that cannot be acted on; nothing of its database is applied.

    ``kind`` gives the code; ``place`` where the spec asks for it.
    """

    database: DatabaseKey
    kind: type[ReconcilerError]
    subject: str
    problem: str
    remedy: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Standstill:
    """Something that is left alone: unseen, suspended, or another source's.

    ``unseen`` tells the first from the others: more may be planned once it answers. ``held``: a
    person took it back, and nothing goes on by itself.
    """

    database: DatabaseKey
    subject: str
    reason: str
    unseen: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """Something a reader should know that changes nothing, such as a table nobody shards."""

    database: DatabaseKey
    text: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """All that ``diff`` found, in the order of databases and shards."""

    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    standstills: tuple[Standstill, ...] = ()
    remarks: tuple[Remark, ...] = ()
