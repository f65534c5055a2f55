"""Steps of a database as a whole: who owns its keys, what leaves it, what is on record."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.diff.changes import (
    DeleteDatabase,
    EndMove,
    MoveKeys,
    PublishRouting,
    RecordApplied,
    RetireShard,
)
from reconciler.model.desired import Deletion
from reconciler.model.moves import Wish
from reconciler.model.names import (
    DatabaseKey,
    ScopeKey,
)
from reconciler.plan.actions import (
    CloseMove,
    DestroyShard,
    MoveKeyRange,
    RemoveRecord,
    RemoveRouting,
    Risk,
    Step,
    StopShard,
    WriteRecord,
    WriteRouting,
)
from reconciler.plan.ranks import Rank, Ranked
from reconciler.plan.render_report import size


def publish(change: PublishRouting) -> Ranked:
    """Write the routing map; only the first one is worth a line in a plan."""
    first = change.before is None
    step = Step(
        f"{change.database}/routing",
        change.database,
        WriteRouting(change.after),
        (),
        Risk.ONLINE,
        f"publish the routing map, epoch {change.after.epoch}"
        if first
        else "refresh the routing map",
        "clients find a key's shard by it",
        visible=first,
    )
    return Ranked(step, Rank.ROUTING)


def move_action(change: MoveKeys) -> MoveKeyRange:
    """Return the action that moves keys."""
    return MoveKeyRange(
        change.database,
        change.source,
        change.target,
        change.source_scope,
        change.target_scope,
        change.keys,
        change.tables,
        change.pause_max_ms,
        change.rollback_window_s,
        change.latency_ratio_max,
        change.copying,
        change.blocks,
    )


def move_keys(change: MoveKeys) -> Ranked:
    """Move keys from one shard to another."""
    step = Step(
        f"{change.source_scope}/move/{change.keys}/{change.target_scope}",
        change.database,
        move_action(change),
        (),
        Risk.DATA_MOVE,
        f"move {change.keys} from {change.source} to {change.target}",
        "the spec gives these keys to another shard",
        place=change.place,
    )
    return Ranked(step, Rank.MOVE)


_ENDINGS = {
    Wish.FORWARD: ("go-on", Risk.ONLINE, "go on with the move of {} from {} to {}"),
    Wish.ABORT: ("abort", Risk.ONLINE, "abort the move of {} from {} to {}"),
    Wish.ROLLBACK: ("roll-back", Risk.DATA_MOVE, "take the move of {} from {} to {} back"),
    Wish.FINISH: ("finish", Risk.DATA_MOVE, "finish the move of {} from {} to {}: prune the copy"),
}


def end_move(change: EndMove) -> Ranked:
    """Abort a move, take it back, or finish it."""
    move = change.move
    verb, risk, title = _ENDINGS[change.how]
    step = Step(
        f"{move.source_scope}/{verb}/{move.id}",
        change.database,
        CloseMove(move, change.how),
        (),
        risk,
        title.format(move.keys, move.source, move.target),
        change.reason,
        place=change.place,
    )
    return Ranked(step, Rank.MOVE)


def retire(change: RetireShard) -> Ranked:
    """Stop a shard that left the spec, or destroy it where its database says so."""
    name = change.shard or change.scope.scope
    if change.deletion is Deletion.DESTROY:
        return _destroy(change.database, change.scope, f"shard {name}", change.bytes)
    return _stop(change.database, change.scope, f"shard {name}")


def _stop(database: DatabaseKey, scope: ScopeKey, what: str) -> Ranked:
    title, why = f"stop {what} and keep its data", "not in the spec any more"
    step = Step(f"{scope}/stop", database, StopShard(scope), (), Risk.RESTART, title, why)
    return Ranked(step, Rank.RETIRE, scope)


def _destroy(database: DatabaseKey, scope: ScopeKey, what: str, lost: int | None) -> Ranked:
    amount = "data" if lost is None else f"{size(lost)} of data"
    title, why = f"destroy {what} and its {amount}", "not in the spec any more, deletion: destroy"
    action = DestroyShard(scope, lost)
    step = Step(f"{scope}/destroy", database, action, (), Risk.DATA_LOSS, title, why)
    return Ranked(step, Rank.RETIRE, scope)


def delete(change: DeleteDatabase) -> Iterator[Ranked]:
    """Unroute a database, stop or destroy its shards, then forget it."""
    key, destroy = change.database, change.deletion is Deletion.DESTROY
    if destroy:
        step = Step(
            f"{key}/unroute",
            key,
            RemoveRouting(key, change.routing_version),
            (),
            Risk.DATA_LOSS,
            "take the routing map away",
            "its spec is gone, deletion: destroy",
        )
        yield Ranked(step, Rank.ROUTING)
    for leaver in change.shards:
        what = f"shard {leaver.shard or leaver.scope.scope}"
        if destroy:
            yield _destroy(key, leaver.scope, what, leaver.bytes)
        else:
            yield _stop(key, leaver.scope, what)
    step = Step(
        f"{key}/forget",
        key,
        RemoveRecord(key, change.record_version),
        (),
        Risk.ONLINE,
        "forget what was applied",
        "the last step of a deletion",
        visible=False,
    )
    yield Ranked(step, Rank.RECORD)


def record_applied(change: RecordApplied) -> Ranked:
    """Note what was applied."""
    step = Step(
        f"{change.database}/record",
        change.database,
        WriteRecord(
            change.database,
            change.digest,
            change.deletion,
            change.file,
            change.version,
            change.parts,
            change.released,
        ),
        (),
        Risk.ONLINE,
        "note what was applied",
        "the next plan compares with it",
        visible=False,
    )
    return Ranked(step, Rank.RECORD)
