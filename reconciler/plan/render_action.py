"""Actions as fields, for the JSON form of a plan. A schema file is named and hashed, not quoted."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from msgspec import Meta, Struct

from reconciler.model.platform import ShardBlueprint
from reconciler.plan import actions as act
from reconciler.plan.actions import Action

ActionType = Literal[
    "StartShard", "AddMember", "SwitchOver", "RemoveMember", "Configure", "RestartMembers",
    "SetUpDatabase", "RunSchemaFile", "InstallGuards", "SetPasswords", "WriteRouting",
    "MoveKeyRange", "CloseMove", "StopShard", "DestroyShard", "RemoveRouting", "RemoveRecord",
    "WriteRecord",
]  # fmt: skip


class MovedTableV1(Struct, rename="camel"):
    """A table's part that moves; rows are the planner's estimate, -1 never analysed."""

    name: str
    bytes: int
    rows: int


class SequenceV1(Struct, rename="camel"):
    """What each side of a move will give out of a sequence: the next value and the last one."""

    name: str
    source: tuple[int, int]
    target: tuple[int, int]


class ActionV1(Struct, rename="camel", omit_defaults=True):
    """What a step does; which fields are there depends on ``type``."""

    type: ActionType
    scope: Annotated[str, Meta(description="The shard's lasting name on the platform.")] = ""
    members: Annotated[list[str], Meta(description="Members that it is about.")] = []
    instances: Annotated[int, Meta(description="Members the shard is to have.")] = 0
    version: Annotated[str, Meta(description="PostgreSQL's major version.")] = ""
    kept: Annotated[bool, Meta(description="It was stopped with its data kept.")] = False
    parameters: Annotated[
        dict[str, str], Meta(description="PostgreSQL's parameters, all that are set.")
    ] = {}
    restart_for: Annotated[list[str], Meta(description="Parameters that wait for it.")] = []
    synchronous: bool | None = None
    file: str = ""
    sha256: str = ""
    transactional: bool | None = None
    tables: list[str] = []
    moved_tables: list[MovedTableV1] | None = None
    keys: Annotated[str, Meta(description='Key ranges, such as "40-80".')] = ""
    epoch: int = 0
    password_generation: int = 0
    source: str = ""
    target: str = ""
    source_scope: str = ""
    target_scope: str = ""
    pause_max_ms: int = 0
    rollback_window_s: int = 0
    copy: Annotated[str, Meta(description="Who brings the rows: own, native or physical.")] = ""
    copy_why: Annotated[str, Meta(description="Why, where there was a choice.")] = ""
    sequences: Annotated[
        list[SequenceV1], Meta(description="Those that the move divides, as they stood.")
    ] = []
    bytes: Annotated[int | None, Meta(description="Data that is lost; null when unseen.")] = None
    owners: Annotated[dict[str, str], Meta(description="Key ranges by shard.")] = {}
    move: Annotated[str, Meta(description="The move's id.")] = ""
    how: Annotated[str, Meta(description="abort, rollback or finish.")] = ""
    spec_digest: str = ""
    deletion: str = ""
    released: Annotated[list[str], Meta(description="Ids of moves held back until now.")] = []


def action_fields(action: Action) -> ActionV1:
    """Return an action as the fields of its published form."""
    match action:
        case (
            act.StartShard()
            | act.AddMember()
            | act.SwitchOver()
            | act.RemoveMember()
            | act.Configure()
            | act.RestartMembers()
            | act.StopShard()
            | act.DestroyShard()
        ):
            return _of_members(action)
        case act.SetUpDatabase() | act.RunSchemaFile() | act.InstallGuards() | act.SetPasswords():
            return _inside(action)
        case (
            act.WriteRouting()
            | act.MoveKeyRange()
            | act.CloseMove()
            | act.RemoveRouting()
            | act.RemoveRecord()
            | act.WriteRecord()
        ):
            return _of_database(action)
        case _:
            assert_never(action)


_OfMembers = (
    act.StartShard
    | act.AddMember
    | act.SwitchOver
    | act.RemoveMember
    | act.Configure
    | act.RestartMembers
    | act.StopShard
    | act.DestroyShard
)


def _of_members(action: _OfMembers) -> ActionV1:
    match action:
        case act.StartShard(blueprint, _, ordinals, kept):
            members = [f"{blueprint.scope}-{ordinal}" for ordinal in ordinals]
            return _start("StartShard", blueprint, members, kept)
        case act.AddMember(blueprint, member):
            return _start("AddMember", blueprint, [member], kept=False)
        case act.SwitchOver(scope, away_from):
            return ActionV1("SwitchOver", str(scope), members=[*away_from])
        case act.RemoveMember(scope, member):
            return ActionV1("RemoveMember", str(scope), members=[member])
        case act.Configure(scope, parameters, synchronous):
            return ActionV1(
                "Configure", str(scope), parameters=dict(parameters), synchronous=synchronous
            )
        case act.RestartMembers(scope, parameters):
            return ActionV1("RestartMembers", str(scope), restart_for=[*parameters])
        case act.StopShard(scope):
            return ActionV1("StopShard", str(scope))
        case act.DestroyShard(scope, lost):
            return ActionV1("DestroyShard", str(scope), bytes=lost)
        case _:
            assert_never(action)


def _start(kind: ActionType, blueprint: ShardBlueprint, members: list[str], kept: bool) -> ActionV1:
    return ActionV1(
        kind, str(blueprint.key), members, blueprint.instances, blueprint.version, kept,
        parameters=dict(blueprint.parameters), synchronous=blueprint.synchronous,
    )  # fmt: skip


def _inside(
    action: act.SetUpDatabase | act.RunSchemaFile | act.InstallGuards | act.SetPasswords,
) -> ActionV1:
    scope = str(action.scope)
    match action:
        case act.SetUpDatabase():
            return ActionV1("SetUpDatabase", scope, password_generation=action.password_generation)
        case act.RunSchemaFile(file=file):
            return ActionV1(
                "RunSchemaFile", scope, file=file.name, sha256=file.sha256,
                transactional=file.transactional,
            )  # fmt: skip
        case act.InstallGuards():
            tables = [table.name for table in action.tables]
            return ActionV1(
                "InstallGuards", scope, tables=tables, keys=str(action.keys), epoch=action.epoch
            )
        case act.SetPasswords():
            return ActionV1("SetPasswords", scope, password_generation=action.generation)
        case _:
            assert_never(action)


def _of_database(
    action: act.WriteRouting
    | act.MoveKeyRange
    | act.CloseMove
    | act.RemoveRouting
    | act.RemoveRecord
    | act.WriteRecord,
) -> ActionV1:
    match action:
        case act.WriteRouting(routing):
            owners = {str(owner.shard): str(owner.keys) for owner in routing.owners}
            tables = [name for name, _ in routing.tables]
            return ActionV1("WriteRouting", epoch=routing.epoch, tables=tables, owners=owners)
        case act.MoveKeyRange():
            return _move(action)
        case act.CloseMove(move, how):
            return ActionV1(
                "CloseMove", keys=str(move.keys), source=move.source, target=move.target,
                source_scope=str(move.source_scope), target_scope=str(move.target_scope),
                move=move.id, how=how.value,
            )  # fmt: skip
        case act.RemoveRouting():
            return ActionV1("RemoveRouting")
        case act.RemoveRecord():
            return ActionV1("RemoveRecord")
        case act.WriteRecord():
            return ActionV1(
                "WriteRecord", file=action.file,
                spec_digest=action.digest, deletion=action.deletion.value,
                released=list(action.released),
            )  # fmt: skip
        case _:
            assert_never(action)


def _move(move: act.MoveKeyRange) -> ActionV1:
    tables = None if move.tables is None else [MovedTableV1(*table) for table in move.tables]
    return ActionV1(
        "MoveKeyRange", moved_tables=tables, keys=str(move.keys),
        source=move.source, target=move.target,
        source_scope=str(move.source_scope), target_scope=str(move.target_scope),
        pause_max_ms=move.pause_max_ms, rollback_window_s=move.rollback_window_s,
        copy=move.copying.driver.value, copy_why=move.copying.why,
        sequences=[SequenceV1(b.sequence, b.source, b.target) for b in move.blocks],
    )  # fmt: skip
