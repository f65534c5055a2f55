"""What each change asks for, as steps that do not know of one another yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    Change,
    ChangeGuards,
    ChangeParameters,
    DeleteDatabase,
    EndMove,
    MoveKeys,
    PrepareDatabase,
    PublishRouting,
    RecordApplied,
    RenameShard,
    ResizeShard,
    RestartPending,
    RetireShard,
    RotatePasswords,
    StartMembers,
)
from reconciler.plan.ranks import Context, Ranked
from reconciler.plan.steps_database import (
    delete,
    end_move,
    move_keys,
    publish,
    record_applied,
    retire,
)
from reconciler.plan.steps_shard import (
    add_shard,
    apply_schema,
    configure,
    install_guards,
    prepare,
    resize,
    restart,
    rotate_passwords,
    start_members,
)


def steps_of(change: Change, context: Context) -> Iterator[Ranked]:  # noqa: C901  a dispatch table
    """Yield the steps of one change, in their order."""
    match change:
        case AddShard():
            yield from add_shard(change, context)
        case StartMembers():
            yield start_members(change, context)
        case ResizeShard():
            yield from resize(change, context)
        case ChangeParameters():
            yield from configure(change, context)
        case RestartPending():
            yield restart(change, change.parameters, context)
        case PrepareDatabase():
            yield prepare(change, context)
        case RotatePasswords():
            yield rotate_passwords(change)
        case ApplySchema():
            yield from apply_schema(change)
        case ChangeGuards():
            yield install_guards(change, context)
        case PublishRouting():
            yield publish(change)
        case RenameShard():
            return  # the routing map carries the names: see planner
        case MoveKeys():
            yield move_keys(change)
        case EndMove():
            yield end_move(change)
        case RetireShard():
            yield retire(change)
        case DeleteDatabase():
            yield from delete(change)
        case RecordApplied():
            yield record_applied(change)
        case _:
            assert_never(change)
