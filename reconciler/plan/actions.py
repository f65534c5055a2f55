"""Actions: the steps that an apply performs. A closed set.

Each action can be run twice and changes nothing the second time, and holds all that its execution
needs apart from credentials, so that a saved plan means exactly one thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias

from reconciler.diff.changes import Refusal, Remark, Standstill
from reconciler.model.desired import (
    Deletion,
    KeyType,
    Place,
    Revision,
    SchemaFile,
    ShardedTable,
)
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import AS_USUAL, CopyChoice, Move, MoveId, NumberBlock, Wish
from reconciler.model.names import DatabaseKey, Epoch, MemberName, ScopeKey, ShardName
from reconciler.model.platform import ShardBlueprint
from reconciler.model.routing import RoutingMap


class Risk(IntEnum):
    """What can go wrong, worst last; plans are sorted by it."""

    ONLINE = 0
    FAILOVER = 1
    RESTART = 2
    DATA_MOVE = 3
    DATA_LOSS = 4

    @property
    def label(self) -> str:
        """``online``, ``moves data``… as plans say it."""
        return ("online", "switches over", "restarts", "moves data", "loses data")[self]


@dataclass(frozen=True, slots=True)
class StartShard:
    """Create or start the members of a shard and wait until all of them are healthy."""

    blueprint: ShardBlueprint
    shard: ShardName
    ordinals: tuple[int, ...]
    kept: bool = False


@dataclass(frozen=True, slots=True)
class AddMember:
    """Add one member and wait until it streams."""

    blueprint: ShardBlueprint
    member: MemberName


@dataclass(frozen=True, slots=True)
class SwitchOver:
    """Let another member lead, if one of ``away_from`` does."""

    scope: ScopeKey
    away_from: tuple[MemberName, ...]


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Remove one standby and its data. A member that leads is refused."""

    scope: ScopeKey
    member: MemberName


@dataclass(frozen=True, slots=True)
class Configure:
    """Make a shard's parameters and replication mode exactly these; members reload."""

    scope: ScopeKey
    parameters: tuple[tuple[str, str], ...]
    synchronous: bool


@dataclass(frozen=True, slots=True)
class RestartMembers:
    """Restart what waits for it: standbys first, then switch over, then the former primary."""

    scope: ScopeKey
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetUpDatabase:
    """Make roles, the database, and our own schema with its guard functions."""

    scope: ScopeKey
    database: DatabaseKey
    password_generation: int


@dataclass(frozen=True, slots=True)
class RunSchemaFile:
    """Run one schema file on one shard, once."""

    scope: ScopeKey
    database: DatabaseKey
    file: SchemaFile


@dataclass(frozen=True, slots=True)
class InstallGuards:
    """Make each table refuse keys that the shard does not own."""

    scope: ScopeKey
    database: DatabaseKey
    key_type: KeyType
    tables: tuple[ShardedTable, ...]
    keys: KeySet
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SetPasswords:
    """Give the owner and the application role new passwords."""

    scope: ScopeKey
    database: DatabaseKey
    generation: int


@dataclass(frozen=True, slots=True)
class WriteRouting:
    """Publish the routing map, if it is still at the version that the plan saw.

    The owners' members are left empty in a plan and filled in when it is performed: the platform
    chooses the ports of members that do not exist yet.
    """

    map: RoutingMap


@dataclass(frozen=True, slots=True)
class MoveKeyRange:
    """Move keys from one shard to another while applications write.

    ``blocks`` tell what sequences will give out, as they stood when it was planned.
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
    latency_ratio_max: float = 0.0
    copying: CopyChoice = AS_USUAL
    blocks: tuple[NumberBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseMove:
    """Abort a move, take it back, or clear away what it kept for its way back."""

    move: Move
    how: Wish


@dataclass(frozen=True, slots=True)
class StopShard:
    """Stop a shard and keep its data."""

    scope: ScopeKey


@dataclass(frozen=True, slots=True)
class DestroyShard:
    """Stop a shard and delete its data."""

    scope: ScopeKey
    bytes: int | None


@dataclass(frozen=True, slots=True)
class RemoveRouting:
    """Take a database's routing map away, before its data is destroyed: the one of ``version``."""

    database: DatabaseKey
    version: int = 0


@dataclass(frozen=True, slots=True)
class RemoveRecord:
    """Take a database's last-applied record away, of ``version``: the last step of a deletion."""

    database: DatabaseKey
    version: int = 0


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """Note what was applied, when all of it was, and which ``file`` of the source held it.

    It replaces the record of ``version``; 0: there is none yet. The holds of ``released`` go.
    """

    database: DatabaseKey
    digest: str
    deletion: Deletion
    file: str = ""
    version: int = 0
    parts: tuple[tuple[str, str], ...] = ()
    released: tuple[MoveId, ...] = ()


Action: TypeAlias = (
    StartShard
    | AddMember
    | SwitchOver
    | RemoveMember
    | Configure
    | RestartMembers
    | SetUpDatabase
    | RunSchemaFile
    | InstallGuards
    | SetPasswords
    | WriteRouting
    | MoveKeyRange
    | CloseMove
    | StopShard
    | DestroyShard
    | RemoveRouting
    | RemoveRecord
    | WriteRecord
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long, and what that rests on. ``seconds`` None: nothing to go by."""

    seconds: float | None = None
    basis: str = ""


class Wave(Enum):
    """When a step's shard has its turn in a roll-out that goes to some shards first."""

    ANY = ""
    CANARY = "canary"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Step:
    """An action in a plan.

    ``id`` is stable for the same action on the same thing (``shop-s0/configure``). ``after`` are
    ids of steps that must be done before. ``title`` names the shard as ``{shard}``, so that equal
    steps of several shards can be folded. ``visible`` is False for book-keeping that a plan need
    not show. ``drift``: the world moved, and not the spec.
    ``wave``: whether it goes before others in a roll-out, or after them.
    """

    id: str
    database: DatabaseKey
    action: Action
    after: tuple[str, ...]
    risk: Risk
    title: str
    reason: str
    shard: ShardName | None = None
    place: Place | None = None
    estimate: Estimate = field(default_factory=Estimate)
    visible: bool = True
    drift: bool = False
    wave: Wave = Wave.ANY

    @property
    def text(self) -> str:
        """The title with the shard's name in it."""
        return self.title.replace("{shard}", self.shard or "")


def by_database(steps: Iterable[Step]) -> dict[DatabaseKey, list[Step]]:
    """Return the steps of each database, in their order."""
    found: dict[DatabaseKey, list[Step]] = {}
    for step in steps:
        found.setdefault(step.database, []).append(step)
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """Steps of one database's plan that are not applied without being asked for.

    ``id`` names the approval, ``marks`` each step in it; ``titles`` say what they do. ``never`` are
    the titles of those that no approval lets the daemon do.
    """

    id: str
    marks: frozenset[str]
    titles: tuple[str, ...]
    never: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps in an order in which they may run, and what stands still, and why.

    ``digest`` is over the steps and ``saw``; ``saw`` are (what, fingerprint) of everything the plan
    was made from: a saved plan is refused when any of them differs. ``asked``: what of it the
    daemon does not do without being told, by database.
    """

    source: str
    revision: Revision
    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...] = ()
    standstills: tuple[Standstill, ...] = ()
    remarks: tuple[Remark, ...] = ()
    saw: tuple[tuple[str, str], ...] = ()
    digest: str = ""
    asked: tuple[tuple[DatabaseKey, Asked], ...] = ()

    @property
    def id(self) -> str:
        """Short name of the plan: ``plan-<12 digits of the digest>``."""
        return f"plan-{self.digest[:12]}"

    @property
    def risk(self) -> Risk:
        """The worst risk of its steps."""
        return max((step.risk for step in self.steps), default=Risk.ONLINE)
