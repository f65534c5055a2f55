"""What rules can see of a plan: each database's part of it, and the numbers of the whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta

from reconciler.model.desired import Deletion, DesiredState
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.plan.actions import (
    AddMember,
    CloseMove,
    DestroyShard,
    MoveKeyRange,
    Plan,
    RemoveMember,
    RemoveRecord,
    RestartMembers,
    SetUpDatabase,
    StartShard,
    Step,
    StopShard,
    SwitchOver,
)
from reconciler.policy.facts import (
    ClosingFacts,
    DatabaseFacts,
    DeletionFacts,
    FleetFacts,
    MoveFacts,
    PlanFacts,
    StepFacts,
    describe_database,
    total,
)


@dataclass(frozen=True, slots=True)
class DatabaseInPlan:
    """A database that the plan changes: what is wanted, and its part of the plan."""

    database: DatabaseFacts
    plan: PlanFacts


@dataclass(frozen=True, slots=True)
class PlanView:
    """All that rules can see of a plan: its databases by key, and the numbers of all together."""

    databases: Mapping[DatabaseKey, DatabaseInPlan] = field(default_factory=dict)
    fleet: FleetFacts = field(default_factory=FleetFacts)


def view_plan(desired: DesiredState, plan: Plan) -> PlanView:
    """Read the facts of every database that has steps in the plan, in the order of their keys."""
    steps: defaultdict[DatabaseKey, list[Step]] = defaultdict(list)
    for step in plan.steps:
        steps[step.database].append(step)
    wanted = {database.key: database for database in desired.databases}
    parts: dict[DatabaseKey, DatabaseInPlan] = {}
    for key in sorted(steps):
        database = (
            describe_database(wanted[key]) if key in wanted else _describe_removed(key, steps[key])
        )
        parts[key] = DatabaseInPlan(database, describe_steps(database.shard_count, steps[key]))
    return PlanView(parts, _add_up([part.plan for part in parts.values()]))


def _describe_removed(key: DatabaseKey, steps: list[Step]) -> DatabaseFacts:
    destroyed = any(isinstance(step.action, DestroyShard) for step in steps)
    deletion = Deletion.DESTROY if destroyed else Deletion.KEEP_DATA
    return DatabaseFacts(
        key.namespace, key.name, version="", major=0, deletion=deletion.value, removed=True
    )


def describe_steps(shards_after: int, steps: list[Step]) -> PlanFacts:
    """Return one database's part of a plan; ``shards_after`` are the shards that the spec wants."""
    kinds = Counter(type(step.action) for step in steps)
    moves = tuple(_describe_move(s.action) for s in steps if isinstance(s.action, MoveKeyRange))
    deletions = tuple(d for s in steps if (d := _describe_deletion(s)) is not None)
    added = _new_shards(steps)
    facts = PlanFacts(
        databases_changed=1,
        databases_removed=min(kinds[RemoveRecord], 1),
        shards_before=shards_after - len(added) + len(deletions),
        shards_after=shards_after,
        shards_added=len(added),
        shards_changed=len({s.shard for s in steps if s.visible and s.shard} - added),
        members_added=kinds[AddMember],
        members_removed=kinds[RemoveMember],
        restarts=kinds[RestartMembers],
        switchovers=kinds[SwitchOver] + kinds[RestartMembers],
        risk=max((int(step.risk) for step in steps), default=0),
        steps=tuple(describe_step(step) for step in steps),
        moves=moves,
        deletions=deletions,
        closings=tuple(
            _describe_closing(s.action) for s in steps if isinstance(s.action, CloseMove)
        ),
    )
    return with_move_totals(facts)


def with_move_totals(facts: PlanFacts) -> PlanFacts:
    """Return the facts with the numbers that follow from their moves and deletions."""
    destroyed = [d for d in facts.deletions if not d.keeps_data]
    return replace(
        facts,
        shards_deleted=len(facts.deletions),
        destroys=len(destroyed),
        bytes_moved=total(move.bytes for move in facts.moves),
        rows_moved=total(move.rows for move in facts.moves),
        bytes_destroyed=total(deletion.bytes for deletion in destroyed),
    )


def _new_shards(steps: list[Step]) -> set[ShardName | None]:
    """Return the shards that are built; one whose members are only started again gets no roles."""
    started = {s.shard for s in steps if isinstance(s.action, StartShard) and not s.action.kept}
    return started & {s.shard for s in steps if isinstance(s.action, SetUpDatabase)}


def describe_step(step: Step, phase: str = "") -> StepFacts:
    """Return what rules see of one step, or of a phase of it."""
    return StepFacts(
        id=step.id,
        action=type(step.action).__name__,
        risk=int(step.risk),
        namespace=step.database.namespace,
        database=step.database.name,
        shard=step.shard or "",
        title=step.title.replace("{shard}", step.shard or ""),
        reason=step.reason,
        bytes=_bytes_of(step),
        phase=phase,
    )


def _bytes_of(step: Step) -> int | None:
    match step.action:
        case MoveKeyRange() as move:
            return _describe_move(move).bytes
        case DestroyShard(bytes=size):
            return size
        case _:
            return None


def _describe_move(move: MoveKeyRange) -> MoveFacts:
    return MoveFacts(
        source=move.source,
        target=move.target,
        keys=str(move.keys),
        share=move.keys.share,
        bytes=None if move.tables is None else sum(size for _, size, _ in move.tables),
        rows=None if move.tables is None else sum(rows for _, _, rows in move.tables),
        pause_max=timedelta(milliseconds=move.pause_max_ms),
        rollback_window=timedelta(seconds=move.rollback_window_s),
    )


def _describe_closing(action: CloseMove) -> ClosingFacts:
    move = action.move
    how = action.how.value
    return ClosingFacts(how, move.source, move.target, str(move.keys), move.keys.share)


def _describe_deletion(step: Step) -> DeletionFacts | None:
    match step.action:
        case StopShard(scope=scope):
            return DeletionFacts(scope.scope, keeps_data=True)
        case DestroyShard(scope=scope, bytes=size):
            return DeletionFacts(scope.scope, keeps_data=False, bytes=size)
        case _:
            return None


def _add_up(parts: list[PlanFacts]) -> FleetFacts:
    numbers = {f.name: total(getattr(part, f.name) for part in parts) for f in fields(FleetFacts)}
    return FleetFacts(**numbers | {"risk": max((part.risk for part in parts), default=0)})  # type: ignore[arg-type]
