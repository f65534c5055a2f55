"""Moving keys from a source to a target while applications write: what comes next, and why.

**State.** For every table there are two guards, one at each shard, and each accepts or refuses the
keys::

    source    target     name         who serves the keys
    accepts   refuses    closed       the source
    refuses   refuses    fenced       nobody; writers wait
    refuses   accepts    open         the target
    accepts   accepts    forbidden

The guards decide ownership; the routing map only says where to go first. A move is a walk of each
table from closed over fenced to open, and a rollback is the walk back. The map follows the guards,
and the record's stage follows the map: ``BEFORE`` → ``SWITCHED`` → ``ENDED``, or over ``BACK``.
Everything else (copy, streams, markers) is seen, never remembered.

**Invariants.**

1. No table is ever forbidden. All are fenced before the first one opens, and they are unfenced only
   when none is open. So "any open" means that a cut passed its commit point: from there the only
   way is forward, or later the rollback's own cut, with the same rule and the roles exchanged
   ("any table of the source open" in ``SWITCHED`` is *its* commit point).
2. A fence stands only while a cut runs, and so does an epoch at the loser that no map has yet.
   Whoever finds one and cannot go on with the cut at once
   takes it away: nobody could write, so nothing is lost (``free_writers``).
3. What is cut over holds every acknowledged write. A stream that may have left something out is
   thrown away with its copy: a slot that is lost or gone (the source failed over), a marker of
   another slot, a target that failed over (see ``Stream.gap``).
4. What its streams cannot carry is refused while one lives (``hold_tables``), and a client that
   does not know of the new owner is refused before the map leads others there (``refuse_stale``).
5. The map gives the keys to the target only after all tables are open there, to the source only
   after all are open there. If it gives any of them to a third shard, nothing is touched.
6. Rows are deleted only on the side that refuses the keys, and only after every stream of the move
   is gone: a stream would carry the deletions to the owner. The source's only once both sides were
   equal as of the cut, or the owner finishes a move whose cut cannot be compared any more.
7. What was not seen is not decided upon.

**Wishes.** Abort and rollback both mean "the source keeps the keys": free until the first table is
open, a rollback while the way back lives, else refused with what to do instead. A pause holds what
would begin something, never what must end: an opened cut is finished, a fence is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import EQUAL, Move, MoveView, Side, Stage, Wish
from reconciler.model.names import Epoch
from reconciler.workflow import phase as steps
from reconciler.workflow.phase import Act, Done, Refuse, Wait
from reconciler.workflow.reshard_acts import (
    Arm,
    BuildIndexes,
    Clean,
    Copy,
    Cut,
    DivideSequences,
    EndMove,
    FinishOpening,
    Hold,
    PrepareTarget,
    Prune,
    Publish,
    Record,
    RefreshViews,
    Reverse,
    RollBackCut,
    Step,
    Subscribe,
    Unfence,
    Verify,
    VerifyBack,
    VerifyCut,
    WriteMap,
)
from reconciler.workflow.reshard_compare import compare_back, compare_cut
from reconciler.workflow.reshard_facts import (
    Look,
    Owner,
    abort_too_late,
    foreign_hand,
    is_broken,
    map_owner,
    next_epoch,
    way_back_error,
    way_back_lost,
    way_back_words,
    window_is_over,
)
from reconciler.workflow.reshard_refusals import (
    await_routers,
    catch_up,
    catch_up_back,
    divide_sequences,
    free_writers,
    hold_tables,
    keep_holding,
    refuse_stale,
    refuse_stale_back,
)

Decision: TypeAlias = steps.Decision[Step]
Phase: TypeAlias = Callable[[Look], Decision]


# Before the cut ----------------------------------------------------------------------------------


def prepare_target(look: Look) -> Decision:
    """The target refuses the keys by itself before a row of them is there."""
    return Done() if look.view.prepared else Act(PrepareTarget())


def publish(look: Look) -> Decision:
    """A slot decodes with the publications of its time, so the publication is there first."""
    return Done() if look.view.forward.published else Act(Publish())


def copy_rows(look: Look) -> Decision:
    """A slot without a marker is a copy that was cut short: its snapshot is gone with its maker."""
    return Done() if look.view.copied else Act(Copy())


def build_indexes(look: Look) -> Decision:
    """After the copy, which is faster without; before the stream, which needs the keys."""
    return Done() if look.view.indexed else Act(BuildIndexes())


def follow_source(look: Look) -> Decision:
    """From here on the target follows by itself, whoever else dies."""
    return Done() if look.view.forward.subscribed else Act(Subscribe())


def compare_rows(look: Look) -> Decision:
    """An apply worker skips updates of missing rows in silence; only a comparison finds that."""
    return Done() if look.view.verified else Act(Verify())


def refresh_views(look: Look) -> Decision:
    """Late, so that they show much; before a slot is made, which would keep WAL meanwhile."""
    return Act(RefreshViews()) if look.view.views_stale else Done()


def arm_way_back(look: Look) -> Decision:
    """Before the fence, because making a slot waits for every writer of the shard."""
    reverse = look.view.reverse
    ready = reverse.published and reverse.slot and not reverse.slot_lost
    return Done() if ready else Act(Arm())


def cut_over(look: Look) -> Decision:
    """Fence to open is one act; this only says whether now is the time."""
    return _hindrance(look) or Act(Cut())


# From the first open table on ------------------------------------------------------------------


def finish_opening(look: Look) -> Decision:
    """A key of a table that is fenced and not open is served by nobody."""
    return Done() if look.all_open else Act(FinishOpening())


def publish_map(look: Look) -> Decision:
    """Only now: a router sent to a target that still refuses would be sent in circles."""
    if map_owner(look) is Owner.TARGET:
        return Done()
    return Act(WriteMap(next_epoch(look.view, look.move.epoch), back=False))


def record_switched(_: Look) -> Decision:
    """After the map, so that nobody takes a switched move for one that clients know of."""
    return Act(Record(Stage.SWITCHED))


def follow_target(look: Look) -> Decision:
    """The forward stream goes first: both at once would send rows round (resharding.md, 5.1)."""
    reverse, move = look.view.reverse, look.move
    comparable = move.cut_compared == EQUAL or look.view.cut_held
    if comparable and window_is_over(look) and move.wish is not Wish.ROLLBACK:
        return Done()
    late = reverse.slot and not reverse.slot_lost and not reverse.subscribed
    return Act(Reverse()) if look.view.forward.subscribed or late else Done()


def soak(look: Look) -> Decision:
    """The way back stays open for the window; what ends it cannot be undone."""
    move = look.move
    if move.wish is Wish.ABORT:
        return Refuse(abort_too_late(move))
    if move.wish is Wish.PAUSE:
        return Wait("paused: the rollback window stays open until it is resumed or finished")
    if window_is_over(look):
        return Done()
    return Wait(way_back_words(look))


def clean(look: Look) -> Decision:
    """Streams go before rows do: they would carry the deletions to the owner."""
    return Act(Clean()) if look.leftovers else Done()


def prune_source(look: Look) -> Decision:
    """The source refuses the keys, and the map has not led there for the whole window."""
    return Done() if look.view.pruned else Act(Prune(Side.SOURCE))


def record_ended(_: Look) -> Decision:
    """The record goes last: as long as it is there, what is left of the move can be found."""
    return Act(Record(Stage.ENDED))


# The ways back ---------------------------------------------------------------------------------


def unfence(look: Look) -> Decision:
    """Nothing is open at the target, so the source is the only owner there can be."""
    return Act(Unfence()) if look.view.fenced else Done()


def prune_copy(look: Look) -> Decision:
    """The target never took a write of the keys: all of their rows there are copies."""
    return Act(Prune(Side.TARGET)) if look.view.copy_begun else Done()


def way_back_is_whole(look: Look) -> Decision:
    """A rollback without all of the target's writes would lose them."""
    lost = way_back_lost(look)
    return Refuse(way_back_error(look.move, lost)) if lost else Done()


def cut_back(look: Look) -> Decision:
    """Until no table is fenced; once one is not, nothing may keep the rest closed."""
    if not look.view.fenced:
        return Done()
    return (_hindrance(look) if look.all_fenced else None) or Act(RollBackCut())


def publish_map_back(look: Look) -> Decision:
    """A rollback is a change of ownership like any other: it has an epoch of its own."""
    if map_owner(look) is Owner.SOURCE:
        return Done()
    return Act(WriteMap(next_epoch(look.view, Epoch(look.move.epoch + 1)), back=True))


def record_back(_: Look) -> Decision:
    """From here on the target's rows are the copies."""
    return Act(Record(Stage.BACK))


def prune_target(look: Look) -> Decision:
    """After a rollback, with all streams gone."""
    return Done() if look.view.pruned else Act(Prune(Side.TARGET))


# The lists -------------------------------------------------------------------------------------

FORWARD: tuple[Phase, ...] = (
    prepare_target,
    hold_tables,
    publish,
    copy_rows,
    build_indexes,
    follow_source,
    catch_up,
    compare_rows,
    refresh_views,
    divide_sequences,
    arm_way_back,
    cut_over,
)
COMMITTED: tuple[Phase, ...] = (finish_opening, refuse_stale, publish_map, record_switched)
START_OVER: tuple[Phase, ...] = (unfence, clean)
ABORT: tuple[Phase, ...] = (unfence, clean, prune_copy, record_ended)
SOAK: tuple[Phase, ...] = (
    finish_opening,
    refuse_stale,
    publish_map,
    follow_target,
    keep_holding,
    compare_cut,
    soak,
    clean,
    await_routers,
    prune_source,
    record_ended,
)
ROLL_BACK: tuple[Phase, ...] = (
    way_back_is_whole,
    follow_target,
    hold_tables,
    catch_up_back,
    compare_back,
    cut_back,
)
COMMITTED_BACK: tuple[Phase, ...] = (cut_back, refuse_stale_back, publish_map_back, record_back)
BACK: tuple[Phase, ...] = (
    unfence,
    refuse_stale_back,
    clean,
    await_routers,
    prune_target,
    record_ended,
)

BEGINNINGS: Mapping[type[Step], str] = {
    PrepareTarget: "the target is prepared",
    Hold: "the tables are held",
    Publish: "the rows are published",
    Copy: "the rows are copied",
    BuildIndexes: "the indexes are built",
    Subscribe: "the target follows",
    Verify: "the rows are compared",
    RefreshViews: "the materialized views are refreshed",
    DivideSequences: "the sequences are divided",
    VerifyCut: "the cut is compared",
    VerifyBack: "the rows are compared for the way back",
    Arm: "the way back is made",
    Cut: "the cut",
}
"""The acts that a pause holds, and the words for "paused before …"."""


def decide(move: Move, view: MoveView, now: datetime) -> Decision:
    """Say what a move needs next, from its record and from what is seen now (``now``: aware)."""
    if move.stage is Stage.ENDED:
        return Act(EndMove())
    unseen = view.source or view.target
    if unseen:
        return Wait(f"not seen: {unseen}")
    look = Look(move, view, now)
    error = foreign_hand(look)
    if error:
        return Refuse(error)
    return free_writers(look, _hold(move, steps.first_undone(_phases(look), look)))


def refuse_wish(move: Move, view: MoveView, wish: Wish, now: datetime) -> ReconcilerError | None:
    """Return why a wish cannot be had now, with what to do instead; None when it can."""
    look = Look(replace(move, wish=wish), view, now)
    switched = move.stage is Stage.SWITCHED
    if wish is Wish.ABORT and (switched or view.opened):
        return abort_too_late(move)
    if wish is Wish.ROLLBACK and switched and look.all_fenced:
        lost = way_back_lost(look)
        return way_back_error(move, lost) if lost else None
    return None


def _phases(look: Look) -> tuple[Phase, ...]:
    """Choose the list: by the stage, then by which commit point has been passed."""
    stage, wish = look.move.stage, look.move.wish
    if stage is Stage.BACK:
        return BACK
    if stage is Stage.SWITCHED:
        if not look.all_fenced:
            return COMMITTED_BACK
        return ROLL_BACK if wish is Wish.ROLLBACK else SOAK
    if look.view.opened or map_owner(look) is Owner.TARGET:
        return COMMITTED
    if wish in (Wish.ABORT, Wish.ROLLBACK):
        return ABORT
    return START_OVER if is_broken(look.view) else FORWARD


def _hold(move: Move, decision: Decision) -> Decision:
    """Turn what would begin something into a wait while the move is paused."""
    if move.wish is Wish.PAUSE and isinstance(decision, Act):
        what = BEGINNINGS.get(type(decision.act))
        return Wait(f"paused before {what}") if what else decision
    return decision


def _hindrance(look: Look) -> Wait | None:
    """Return why no cut, there or back, may be tried now."""
    if look.view.obstacles:
        return Wait(f"no cut while: {'; '.join(look.view.obstacles)}")
    after = look.move.cut_after and datetime.fromisoformat(look.move.cut_after)
    if after and look.now < after:
        most = f"resharding.pauseMax ({look.move.pause_max_ms} ms)"
        again = f"tried again at {after.astimezone(UTC):%H:%M:%S} UTC"
        return Wait(f"the last cut would have held writers for longer than {most}; {again}")
    return None
