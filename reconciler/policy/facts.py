"""What rules can see: frozen values, made from the desired state and the plan.

Each class here becomes a CEL message type (``messages.py``), its fields in camelCase, so that a
rule with a misspelt field or a wrong type fails when it is loaded. Sizes are in bytes. What was not
seen is None here and null in CEL: comparing it fails at run time, so that the rule counts as not
fulfilled instead of passing on a zero nobody measured; ``m.bytes == null`` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from reconciler.model.desired import Database, Shard
from reconciler.plan.actions import Risk
from reconciler.spec.quantities import cpu_cores, size_bytes

CONSTANTS: Mapping[str, int] = {
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{risk.name: int(risk) for risk in Risk},
}
"""KiB, MiB, GiB, TiB; and the risks, which can be compared: ``plan.risk >= DATA_MOVE``."""


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard as the spec wants it. ``share`` is its part of the key space, 0 to 1."""

    name: str = ""
    keys: str = "-"
    share: float = 1.0
    instances: int = 2
    synchronous: bool = True
    storage: int = 10 * 1024**3
    storage_class: str = ""
    cpu: float | None = None
    memory: int | None = None
    moved_from: str = ""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A sharded table and the column that holds its shard key."""

    name: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database as the spec wants it.

    ``removed`` is True when the specs no longer hold it: then only its names, and whether its data
    is kept, are known. ``instances_min`` and ``instances_max`` are those of any shard, and
    ``shard_count`` their number: they spare a rule the walk over all shards.
    """

    namespace: str = "default"
    name: str = "shop"
    labels: tuple[tuple[str, str], ...] = ()
    version: str = "16"
    major: int = 16
    deletion: str = "protected"
    suspend: bool = False
    removed: bool = False
    shards: tuple[ShardFacts, ...] = ()
    shard_count: int = 0
    instances_min: int = 0
    instances_max: int = 0
    key_type: str = "bigint"
    tables: tuple[TableFacts, ...] = ()
    reference: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    schema_files: tuple[str, ...] = ()
    pause_max: timedelta = timedelta(milliseconds=100)
    rollback_window: timedelta = timedelta(hours=24)
    latency_ratio_max: float = 2.0
    file: str = ""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step of a plan. ``action`` is the action's type, such as ``RestartMembers``.

    ``bytes`` are those moved or destroyed; null for other steps, and where they were not seen.
    ``phase`` is empty when the step begins; a move is asked about once more before its ``cut`` and
    before each ``prune``.
    """

    id: str = ""
    action: str = ""
    risk: int = 0
    namespace: str = "default"
    database: str = "shop"
    shard: str = ""
    title: str = ""
    reason: str = ""
    bytes: int | None = None
    phase: str = ""


@dataclass(frozen=True, slots=True)
class MoveFacts:
    """A key range that moves. ``share`` is its part of the key space, 0 to 1."""

    source: str = ""
    target: str = ""
    keys: str = "-"
    share: float = 0.0
    bytes: int | None = None
    rows: int | None = None
    pause_max: timedelta = timedelta(milliseconds=100)
    rollback_window: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class ClosingFacts:
    """A move under way that ends: ``how`` is abort, rollback or finish; the last prunes rows."""

    how: str = "finish"
    source: str = ""
    target: str = ""
    keys: str = "-"
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class DeletionFacts:
    """A shard that is stopped (``keeps_data``) or destroyed; ``shard`` is its scope."""

    shard: str = ""
    keeps_data: bool = True
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """The whole plan's numbers, over all its databases.

    ``shards_changed`` counts shards that stand already and get a visible step, ``shards_deleted``
    those stopped or destroyed, ``destroys`` only the latter. ``switchovers`` holds one for each
    rolling restart.
    """

    databases_changed: int = 0
    databases_removed: int = 0
    shards_before: int = 0
    shards_after: int = 0
    shards_added: int = 0
    shards_changed: int = 0
    shards_deleted: int = 0
    members_added: int = 0
    members_removed: int = 0
    restarts: int = 0
    switchovers: int = 0
    destroys: int = 0
    bytes_moved: int | None = 0
    rows_moved: int | None = 0
    bytes_destroyed: int | None = 0
    risk: int = 0


@dataclass(frozen=True, slots=True)
class PlanFacts(FleetFacts):
    """One database's part of the plan: the same numbers, and what they count."""

    steps: tuple[StepFacts, ...] = ()
    moves: tuple[MoveFacts, ...] = ()
    deletions: tuple[DeletionFacts, ...] = ()
    closings: tuple[ClosingFacts, ...] = ()


def describe_database(database: Database) -> DatabaseFacts:
    """Return what rules see of a database."""
    major = database.version.partition(".")[0]
    facts = DatabaseFacts(
        namespace=database.key.namespace,
        name=database.key.name,
        labels=database.labels,
        version=database.version,
        major=int(major) if major.isdigit() else 0,
        deletion=database.deletion.value,
        suspend=database.suspend,
        shards=tuple(_describe_shard(shard) for shard in database.shards),
        key_type=database.sharding.key_type.value,
        tables=tuple(TableFacts(t.name, t.key) for t in database.sharding.tables),
        reference=database.sharding.reference,
        parameters=database.parameters,
        schema_files=tuple(file.name for file in database.schema),
        pause_max=timedelta(milliseconds=database.resharding.pause_max_ms),
        rollback_window=timedelta(seconds=database.resharding.rollback_window_s),
        latency_ratio_max=database.resharding.latency_ratio_max,
        file=database.place.file,
    )
    return with_shard_counts(facts)


def _describe_shard(shard: Shard) -> ShardFacts:
    wanted = shard.resources
    return ShardFacts(
        name=shard.name,
        keys=str(shard.keys),
        share=shard.keys.share,
        instances=shard.instances,
        synchronous=shard.synchronous,
        storage=size_bytes(wanted.storage_size),
        storage_class=wanted.storage_class,
        cpu=cpu_cores(wanted.cpu) if wanted.cpu else None,
        memory=size_bytes(wanted.memory) if wanted.memory else None,
        moved_from=shard.moved_from or "",
    )


def with_shard_counts(facts: DatabaseFacts) -> DatabaseFacts:
    """Return the facts with the numbers that follow from their shards."""
    instances = [shard.instances for shard in facts.shards]
    return replace(
        facts,
        shard_count=len(instances),
        instances_min=min(instances, default=0),
        instances_max=max(instances, default=0),
    )


def total(numbers: Iterable[int | None]) -> int | None:
    """Add numbers; None when one of them is not known."""
    known = 0
    for number in numbers:
        if number is None:
            return None
        known += number
    return known
