"""What has to be refused, and by whom, before a move goes on: phases of ``reshard``'s lists."""

from __future__ import annotations

from typing import TypeAlias

from reconciler.model.moves import Side, Stage
from reconciler.model.names import Epoch
from reconciler.workflow import phase as steps
from reconciler.workflow.phase import Act, Done
from reconciler.workflow.reshard_acts import (
    Cut,
    FinishOpening,
    Hold,
    RefuseStale,
    RollBackCut,
    Step,
    Unfence,
)
from reconciler.workflow.reshard_facts import Look, Owner, map_owner, next_epoch, window_is_over

Decision: TypeAlias = steps.Decision[Step]


def hold_tables(look: Look) -> Decision:
    """What no stream can carry is refused before there is one: later it would be missing."""
    return Done() if look.view.held else Act(Hold())


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


def free_writers(look: Look, decision: Decision) -> Decision:
    """Take a fence away that no cut stands behind, and an epoch that no map has (invariant 2)."""
    stage, view = look.move.stage, look.view
    if decision in (Act(Cut()), Act(RollBackCut())):
        return decision
    if stage is Stage.BEFORE and not view.opened:
        if view.source_refuses_below > view.map_epoch:
            return Act(RefuseStale(Side.SOURCE, view.map_epoch))
        return Act(Unfence()) if view.fenced else decision
    if stage is Stage.SWITCHED and look.all_fenced:
        if view.target_refuses_below > view.map_epoch:
            return Act(RefuseStale(Side.TARGET, view.map_epoch))
        return decision if look.all_open else Act(FinishOpening())
    return decision
