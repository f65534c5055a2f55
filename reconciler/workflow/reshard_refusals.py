"""What has to be refused, or waited for, before a move goes on: phases of ``reshard``'s lists."""

from __future__ import annotations

from typing import TypeAlias

from reconciler.model.moves import Side, Stage, Stream
from reconciler.model.names import Epoch
from reconciler.workflow import phase as steps
from reconciler.workflow.phase import Act, Done, Wait
from reconciler.workflow.reshard_acts import (
    Cut,
    DivideSequences,
    FinishOpening,
    Hold,
    RefuseStale,
    RollBackCut,
    Step,
    Unfence,
)
from reconciler.workflow.reshard_facts import (
    Look,
    Owner,
    behind,
    map_owner,
    next_epoch,
    window_is_over,
)

Decision: TypeAlias = steps.Decision[Step]


def hold_tables(look: Look) -> Decision:
    """What no stream can carry is refused before there is one: later it would be missing."""
    return Done() if look.view.held else Act(Hold())


def divide_sequences(look: Look) -> Decision:
    """Both sides go on giving out values, and rows may come back to where they came from."""
    return Done() if look.view.sequences_apart else Act(DivideSequences())


def keep_holding(look: Look) -> Decision:
    """As ``hold_tables``, for the way back: a partition may be new."""
    return hold_tables(look) if look.view.reverse.slot and not window_is_over(look) else Done()


def refuse_stale(look: Look) -> Decision:
    """The cut does it before it opens a table: what is born there, stale clients would miss.

    Again where another epoch was published meanwhile, or a failover has lost it.
    """
    epoch = look.view.map_epoch
    if map_owner(look) is Owner.SOURCE:
        epoch = next_epoch(look.view, look.move.epoch)
    done = look.view.source_refuses_below >= epoch
    return Done() if done else Act(RefuseStale(Side.SOURCE, epoch))


def refuse_stale_back(look: Look) -> Decision:
    """As ``refuse_stale``, at the target."""
    epoch = look.view.map_epoch
    if map_owner(look) is Owner.TARGET:
        epoch = next_epoch(look.view, Epoch(look.move.epoch + 1))
    done = look.view.target_refuses_below >= epoch
    return Done() if done else Act(RefuseStale(Side.TARGET, epoch))


def await_routers(look: Look) -> Decision:
    """A router that still reads by an older map would find no rows where they were deleted."""
    late = look.view.routers_behind
    if look.view.pruned or not late:
        return Done()
    return Wait(f"rows are pruned once these routers serve the latest map: {', '.join(late)}")


def catch_up(look: Look) -> Decision:
    """A cut before the target is close behind would make writers wait for the rest."""
    return _wait_for(look, look.view.forward, str(look.move.target))


def catch_up_back(look: Look) -> Decision:
    """As ``catch_up``, with the roles exchanged."""
    return _wait_for(look, look.view.reverse, str(look.move.source))


def _wait_for(look: Look, stream: Stream, subscriber: str) -> Decision:
    reason = behind(look, stream, subscriber)
    return Wait(reason) if reason else Done()


def free_writers(look: Look, decision: Decision) -> Decision:
    """Take a fence away that no cut stands behind, and an epoch that no map has (invariant 2)."""
    stage, view = look.move.stage, look.view
    if decision in (Act(Cut()), Act(RollBackCut())):
        return decision
    if stage is Stage.BEFORE and not view.opened and map_owner(look) is not Owner.TARGET:
        if view.source_refuses_below > view.map_epoch:
            return Act(RefuseStale(Side.SOURCE, view.map_epoch))
        return Act(Unfence()) if view.fenced else decision
    if stage is Stage.SWITCHED and look.all_fenced:
        if view.target_refuses_below > view.map_epoch:
            return Act(RefuseStale(Side.TARGET, view.map_epoch))
        return decision if look.all_open else Act(FinishOpening())
    return decision
