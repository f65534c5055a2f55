"""Moving key ranges between two shards: what is recorded, and what is seen of it.

Everything a move makes is named after its id (``shardwright_<id>…``), so that a new applier finds
its place by looking. The record in etcd holds only what cannot be seen: what was asked for, the
epoch it will publish, and the few decisions that must not be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from reconciler.model.desired import CopyDriver, KeyType, ShardedTable
from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, Epoch, Scope, ScopeKey, ShardName
from reconciler.model.unseen import Unseen

MoveId = NewType("MoveId", str)
"""``m`` and eight hexadecimal digits, from the database, both scopes, the keys and the epoch."""


NO_EPOCH = Epoch(0)
"""Before every map's."""


class Stage(StrEnum):
    """How far a move is for good. Written after the fact that it names, by compare-and-set."""

    BEFORE = "before"
    """Not committed: abort is free."""
    SWITCHED = "switched"
    """The target is open and the map published; the way back stays open for the window."""
    BACK = "back"
    """Rolled back after it was switched: the source owns the keys again."""
    ENDED = "ended"
    """Nothing of it is left anywhere."""


class Wish(StrEnum):
    """What its owner wants of a move."""

    FORWARD = "forward"
    PAUSE = "pause"
    ABORT = "abort"
    ROLLBACK = "rollback"
    FINISH = "finish"


class Side(StrEnum):
    """One of the two shards of a move."""

    SOURCE = "source"
    TARGET = "target"


EQUAL = "equal"
"""What a record says of a cut whose sides were the same."""
NOT_COMPARED = "not compared: "
"""Begins why a cut never can be compared; then only its owner ends the move."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move of keys from a source to a target, as recorded in etcd.

    ``epoch`` is the one that the routing map will have when the move is switched; a rollback
    publishes ``epoch + 1``. ``source_keys`` and ``target_keys`` are what the two owned when the
    move began. ``switched_at`` is UTC in ISO 8601, empty before. ``pauses_ms`` are the writers'
    waits of each cut that was tried, the last one first, None where the cut was lost with its
    applier and nobody knows; ``cut_after`` is the time (UTC, ISO 8601) before which no other cut is
    tried, empty when none backed out. ``latency_ratio_max`` is how much slower than before the
    source's commits may become during a copy (0: no limit). ``copy`` is who brings the rows.
    ``moved_bytes`` is about how much the keys held when it began, None when nobody knew.
    ``cut_compared`` is "equal" once both sides were compared as of the cut, else what differed or
    (``NOT_COMPARED``) why nobody can tell; empty before. ``version`` is etcd's mod revision of the
    record.
    """

    id: MoveId
    database: DatabaseKey
    source: ShardName
    target: ShardName
    source_scope: ScopeKey
    target_scope: ScopeKey
    keys: KeySet
    source_keys: KeySet
    target_keys: KeySet
    epoch: Epoch
    key_type: KeyType
    tables: tuple[ShardedTable, ...]
    reference: tuple[str, ...]
    pause_max_ms: int
    rollback_window_s: int
    latency_ratio_max: float = 0.0
    stage: Stage = Stage.BEFORE
    wish: Wish = Wish.FORWARD
    started_at: str = ""
    switched_at: str = ""
    pauses_ms: tuple[float | None, ...] = ()
    cut_after: str = ""
    copy: CopyDriver = CopyDriver.OWN
    cut_compared: str = ""
    moved_bytes: int | None = None
    version: int = 0

    @property
    def not_comparable(self) -> str:
        """Why its cut never can be compared, in words; empty when it was, or may be."""
        found = self.cut_compared
        return found.removeprefix(NOT_COMPARED) if found.startswith(NOT_COMPARED) else ""

    @property
    def prefix(self) -> str:
        """What the names of all its objects begin with."""
        return f"shardwright_{self.id}"


@dataclass(frozen=True, slots=True)
class MoveHold:
    """A person took a move back, or aborted it: it is not begun again though the spec asks for it.

    ``id`` is that move's. ``actor`` ordered ``wish`` (ABORT or ROLLBACK) at ``at``, UTC in ISO
    8601. It holds for the same keys between the same two shards, until the spec asks for something
    else or a person lets it go.
    """

    id: MoveId
    source: ShardName
    target: ShardName
    keys: KeySet
    wish: Wish
    actor: str
    at: str

    def __str__(self) -> str:
        what = "aborted" if self.wish is Wish.ABORT else "taken back"
        return f"{self.id} was {what} by {self.actor.partition(' ')[0]} at {self.at}"


def bytes_of(tables: tuple[tuple[str, int, int], ...] | None) -> int | None:
    """Return the bytes of what moves, given as (table, bytes, rows); None: nobody knows."""
    return None if tables is None else sum(size for _, size, _ in tables)


@dataclass(frozen=True, slots=True)
class Stream:
    """Logical replication one way: a publication and slot at one side, a subscription at the other.

    ``slot_active`` tells whether a walsender serves it. ``lag_bytes`` is how far the slot's
    confirmed position is behind the publisher's WAL; None without a slot. ``slot_lost`` is True
    when its WAL is gone (``wal_status = lost``). ``slot_name`` is empty without a slot.

    ``gap``: the subscriber failed over since the stream's first row (its timeline is not the one
    noted with the copy; for the way back, with the cut). A subscription commits asynchronously and
    confirms what it flushed *itself*: the publisher never sends again what the promoted standby
    lacks.

    ``endangered`` says why the slot should be given up: its WAL goes soon, or fills the disk.
    ``apply_errors`` counts how often the subscriber's apply worker has failed; PostgreSQL keeps the
    reasons in the server's log alone.
    """

    published: bool = False
    slot: bool = False
    slot_active: bool = False
    slot_lost: bool = False
    lag_bytes: int | None = None
    subscribed: bool = False
    slot_name: str = ""
    gap: bool = False
    endangered: str = ""
    apply_errors: int = 0


@dataclass(frozen=True, slots=True)
class MoveView:
    """What is seen of a move now. A side that did not answer is Unseen, and nothing is decided.

    ``copied`` is the name of the slot whose snapshot was copied completely, empty when the copy is
    not whole; ``copy_begun`` tells that rows of the range are at the target all the same.
    ``syncing``: tablesync brings the rows by itself, so that a subscription is there before them.
    ``prepared``: the target has the schema, and guards that refuse the keys where not opened.
    ``held``: both sides refuse what no stream can carry, key changes over the border and TRUNCATE.
    ``source_refuses_below`` / ``target_refuses_below``: that side refuses UPDATEs and DELETEs of
    clients that know an older epoch only; 0 when it asks nobody.
    ``views_stale``: materialized views of the target do not show the copied rows yet.
    ``sequences_apart``: no sequence may give out the same value at both sides.
    ``indexed``: all indexes and constraints that the copy took away are back.
    ``verified``: an exact comparison passed after the last copy, and neither has it grown old nor
    has a side restarted since; ``verified_back``: the same for the way back. ``cut_held``: this
    process holds the snapshots of the cut, so that it can be compared exactly.
    ``fenced`` / ``opened`` name the tables whose guard at the source refuses, at the target
    accepts, the keys. ``drained``: the target has applied everything up to the last fence.
    ``map_epoch`` is the published map's, ``map_owners`` the scopes that it gives any of the keys
    to, sorted (empty: not told, and the epoch alone has to say it). ``pruned``: no row of the keys
    is left at the source (after a rollback: at the target). ``obstacles`` are reasons, in words,
    why no cut may be tried now: foreign DDL, a long or a prepared transaction, a full disk.
    ``routers_behind`` names the routers that live and serve an older epoch than the map's.
    ``left`` names whatever else of the move is on a side and goes with it: beat rows, notes.
    """

    source: Unseen | None
    target: Unseen | None
    forward: Stream
    reverse: Stream
    copied: str
    copy_begun: bool
    indexed: bool
    verified: bool
    fenced: tuple[str, ...]
    opened: tuple[str, ...]
    drained: bool
    map_epoch: Epoch
    pruned: bool
    prepared: bool = False
    syncing: bool = False
    held: bool = False
    views_stale: bool = False
    sequences_apart: bool = False
    source_refuses_below: Epoch = NO_EPOCH
    target_refuses_below: Epoch = NO_EPOCH
    map_owners: tuple[Scope, ...] = ()
    obstacles: tuple[str, ...] = ()
    routers_behind: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    verified_back: bool = False
    cut_held: bool = False


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is: bytes and rows done and expected, for progress and remaining time.

    ``slowed``: the source's commits or a standby made it go slower than it could.
    """

    bytes_done: int
    bytes_total: int
    rows_done: int
    slowed: bool = False


@dataclass(frozen=True, slots=True)
class CutResult:
    """How a cut ended. ``opened`` False: it backed out by itself and the source accepts again.

    ``pause_ms`` is from the first fence to the open target (or to the removed fence), None when it
    only ended a cut that somebody else began; ``reason`` why it backed out.
    """

    opened: bool
    pause_ms: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object, note or key of a move that is somewhere: ``slot shardwright_m…_rev``."""

    move: MoveId
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a move cannot begin: the table (empty: the shard), the reason, and what to do.

    ``passing``: it may go away by itself, as a long transaction does.
    """

    table: str
    reason: str
    cure: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.table}: {self.reason}" if self.table else self.reason


@dataclass(frozen=True, slots=True)
class SchemaObject:
    """What a shard has beside its tables: ``view public.rich``, ``function public.f(bigint)``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class NumberBlock:
    """What each side of a move will give out of a sequence: its next value and its last one."""

    sequence: str
    source: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CopyChoice:
    """Who brings the rows of a move, and why in words, where there was a choice.

    ``whole_bytes`` is the size of the whole source; 0 when nobody asked.
    """

    driver: CopyDriver = CopyDriver.OWN
    why: str = ""
    whole_bytes: int = 0


AS_USUAL = CopyChoice()
"""By our own copier, without a choice."""


@dataclass(frozen=True, slots=True)
class SeedFacts:
    """What a physical copy of the source would be: its bytes, and why it cannot be had."""

    bytes: int
    hindrances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preflight:
    """What stands in the way of a move that is wanted and has not begun; Unseen: no answer.

    ``blocks`` are of the sequences that the move will divide, as they stand now. ``copying`` is
    how the rows will come.
    """

    source_scope: ScopeKey
    target_scope: ScopeKey
    keys: KeySet
    found: tuple[Obstacle, ...] | Unseen
    blocks: tuple[NumberBlock, ...] = ()
    copying: CopyChoice = AS_USUAL


@dataclass(frozen=True, slots=True)
class Comparison:
    """How an exact comparison of both sides ended.

    ``tables`` are those that differ; ``samples`` name some of their rows, each with the side that
    has it. ``held_ms`` is the longest time that writers of a table were held back. ``later``: the
    snapshots of the cut were lost, so it was compared at a later point by the way back's stream.
    """

    equal: bool
    tables: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    held_ms: float = 0.0
    later: bool = False
