"""What the rules of a move are about: the look, the map's owner, the window, the ways to be lost.

Pure readings of the record and the view; what follows from them is decided in ``reshard``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, MoveView, Stage, Stream, Wish
from reconciler.model.names import Epoch

LAG_BYTES_MAX = 64 * 1024
"""A cut begins only below this: what is left to drain is the pause (resharding.md, section 3.1)."""


class AbortTooLate(ReconcilerError):
    """A move cannot be aborted any more: the target owns the keys and has taken writes.

    Going back now means to bring those writes back as well, which is what a rollback does.
    """

    code = "MV101"


class WayBackLost(ReconcilerError):
    """A move cannot be rolled back: the source does not have all that the target took since.

    The way back is a stream of the target's changes. It is gone when its slot is (the target failed
    over, or kept more WAL than it may), when the source failed over while it followed (it may lack
    changes that it had confirmed), or once the move was being finished. A new slot would begin
    behind what was missed: only a copy of all rows closes that, which is what a move back does.
    """

    code = "MV102"


class OwnershipChanged(ReconcilerError):
    """Somebody else gave the keys of a move to another shard, so the move touches nothing more."""

    code = "MV103"


class GuardLost(ReconcilerError):
    """A guard that must refuse the keys accepts them: two shards may have taken writes.

    Only a change by hand, or a restore of one shard, does this. Rows must be compared before the
    move goes on.
    """

    code = "MV104"


class CutDiffers(ReconcilerError):
    """Source and target did not hold the same rows when the keys were handed over.

    Something wrote at the target before it was opened, or replication left something out between
    the last comparison and the cut. The rows of the source are as they were: nothing is pruned, and
    the way back stays open beyond its window. A rollback brings the source's rows back.
    """

    code = "MV105"


@dataclass(frozen=True, slots=True)
class Look:
    """All that a decision rests on: the record, what is seen, and the time (aware)."""

    move: Move
    view: MoveView
    now: datetime

    @property
    def all_fenced(self) -> bool:
        """Whether the source refuses the keys in every table."""
        return {t.name for t in self.move.tables} <= set(self.view.fenced)

    @property
    def all_open(self) -> bool:
        """Whether the target accepts the keys in every table."""
        return {t.name for t in self.move.tables} <= set(self.view.opened)

    @property
    def leftovers(self) -> bool:
        """Whether an object of the move is seen on a side."""
        view = self.view
        streams = view.forward != Stream() or view.reverse != Stream()
        return streams or bool(view.copied or view.left)


class Owner(Enum):
    """Whom the routing map gives the keys of a move to."""

    SOURCE = "source"
    TARGET = "target"
    OTHER = "other"


def map_owner(look: Look) -> Owner:
    """Read the map: by its owners, or where the view does not tell them, by its epoch alone."""
    move, view = look.move, look.view
    if view.map_owners:
        owners = set(view.map_owners)
        if owners == {move.source_scope.scope}:
            return Owner.SOURCE
        return Owner.TARGET if owners == {move.target_scope.scope} else Owner.OTHER
    if view.map_epoch < move.epoch:
        return Owner.SOURCE
    if view.map_epoch == move.epoch:
        return Owner.TARGET
    rolled_back = view.map_epoch == move.epoch + 1 and move.stage in (Stage.SWITCHED, Stage.BACK)
    return Owner.SOURCE if rolled_back else Owner.OTHER


def foreign_hand(look: Look) -> ReconcilerError | None:
    """Return what somebody else changed about the keys' ownership, or None."""
    move, view = look.move, look.view
    if map_owner(look) is Owner.OTHER:
        return OwnershipChanged(
            f"move {move.id}",
            f"the routing map (epoch {view.map_epoch}) gives keys of {move.keys} to neither "
            f"{move.source} nor {move.target}",
            remedy="see `shardwright history` for who published it",
        )
    early = move.stage is Stage.BEFORE and not view.opened and map_owner(look) is Owner.TARGET
    # A target that failed over may lack its opening and what was written since, and nothing older.
    if early and not (look.all_fenced and view.forward.gap):
        return OwnershipChanged(
            f"move {move.id}",
            f"the routing map (epoch {view.map_epoch}) gives the keys to {move.target} before "
            "it was opened",
            remedy="see `shardwright history` for who published it",
        )
    if view.opened and not (look.all_fenced and move.stage is not Stage.BACK):
        both = sorted({t.name for t in move.tables} - set(view.fenced)) or view.opened
        return GuardLost(
            f"move {move.id}",
            f"{move.source} accepts its keys in {', '.join(both)}, {move.target} does so too",
            remedy="compare the rows of both, then put the guard back with `shardwright apply`",
        )
    return None


def next_epoch(view: MoveView, planned: Epoch) -> Epoch:
    """The planned epoch, or a later one when a move of other keys was published in between."""
    return Epoch(max(planned, view.map_epoch + 1))


def is_broken(view: MoveView) -> bool:
    """Whether the stream may have left something out, so that copy and stream start over."""
    stream = view.forward
    begun = bool(view.copied) or stream.subscribed
    other_slot = bool(view.copied and stream.slot_name and view.copied != stream.slot_name)
    return (
        stream.slot_lost
        or bool(stream.endangered)
        or stream.gap
        or other_slot
        or (begun and not stream.slot)
        or (stream.slot and not stream.published)
        or (stream.subscribed and not (view.copied or view.syncing))
    )


def behind(look: Look, stream: Stream, subscriber: str) -> str:
    """Return why a stream is not close enough for a cut; empty when it is."""
    near = stream.lag_bytes is not None and stream.lag_bytes <= LAG_BYTES_MAX
    if stream.apply_errors and not (stream.slot_active and near):
        return _fails(look, stream, subscriber)
    if not stream.slot_active:
        return f"{subscriber} does not follow yet: its slot is not in use"
    if stream.lag_bytes is None or stream.lag_bytes > LAG_BYTES_MAX:
        lag = "by an unknown amount" if stream.lag_bytes is None else f"by {stream.lag_bytes:,} B"
        return f"{subscriber} is behind {lag}; a cut waits for {LAG_BYTES_MAX:,} B or less"
    return ""


def _fails(look: Look, stream: Stream, subscriber: str) -> str:
    """Say that what follows fails, with what is seen of the cause; its server tells no more."""
    move, seen = look.move, look.view.obstacles
    times = f"{stream.apply_errors} time{'' if stream.apply_errors == 1 else 's'} so far"
    why = "; ".join([*seen, f"its server's log says {'more' if seen else 'why'}"])
    remedy = (
        f"`shardwright operation finish {move.id}` gives the way back up"
        if move.stage is Stage.SWITCHED
        else f"`shardwright operation abort {move.id}`, then `retry {move.id}`, let it copy anew"
    )
    return f"the apply worker of {subscriber} fails, {times}: {why}; if it stays so, {remedy}"


def window_end(move: Move) -> datetime | None:
    """When the way back closes; None when the record does not say since when it is open."""
    if not move.switched_at:
        return None
    return datetime.fromisoformat(move.switched_at) + timedelta(seconds=move.rollback_window_s)


def window_is_over(look: Look) -> bool:
    """Whether the way back may be closed: its time is up, or the owner of the move says so."""
    end = window_end(look.move)
    return look.move.wish is Wish.FINISH or (end is not None and look.now >= end)


def way_back_lost(look: Look) -> str:
    """Return why the source lacks, or may lack, writes of the target; empty when it has all."""
    move, reverse = look.move, look.view.reverse
    if not reverse.slot:
        return f"its slot at {move.target} is gone"
    if reverse.slot_lost:
        return f"its slot at {move.target} has lost WAL"
    return f"{move.source} failed over while it followed" if reverse.gap else ""


def cut_not_comparable(look: Look) -> str:
    """Return why the cut cannot be compared at a later point; empty when it can.

    What a target lost by a failover would pass for rows that the cut had left out.
    """
    failed_over = f"{look.move.target} failed over" if look.view.forward.gap else ""
    return way_back_lost(look) or failed_over


def way_back_words(look: Look) -> str:
    """Tell whether there is a way back, and until when."""
    lost, end = way_back_lost(look), window_end(look.move)
    way = f"no way back ({lost})" if lost else "can be rolled back"
    until = f"until {end:%Y-%m-%d %H:%M:%S} {end.tzname()}" if end else "until it is finished"
    return f"{way} {until}"


def cut_differs(move: Move) -> CutDiffers:
    """Return the error that shows what differed at the cut, and what to do."""
    return CutDiffers(
        f"move {move.id}",
        f"the rows differed at the cut: {move.cut_compared}",
        remedy=f"shardwright operation rollback {move.id}; or put the rows right (the source has "
        f"its own until then), and `shardwright operation finish {move.id}` compares them once "
        "more if the way back is still there",
    )


def abort_too_late(move: Move) -> AbortTooLate:
    """Return the error that tells what to do instead of an abort."""
    return AbortTooLate(
        f"move {move.id}",
        f"{move.target} has taken writes of the keys",
        remedy=f"shardwright operation rollback {move.id}, or finish",
    )


def way_back_error(move: Move, lost: str) -> WayBackLost:
    """Return the error that tells why there is no way back, and what to do instead."""
    return WayBackLost(
        f"move {move.id}",
        f"there is no way back: {lost}",
        remedy=f"shardwright operation finish {move.id}; "
        f"a move from {move.target} to {move.source} then brings the keys back",
    )
