"""What a move's record says after each thing that must not be forgotten; pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.model.moves import EQUAL, NOT_COMPARED, Comparison, CutResult, Move, Stage, Wish

LATER = "later than the cut: "
"""Begins what differed where only a later point was compared: the way back may have lost it."""
PAUSES_KEPT = 1000
"""How many of the latest pauses a record keeps."""
RETRY_S_MAX = 300
"""The longest time between two cuts that backed out."""


def record_stage(move: Move, stage: Stage, now: datetime) -> Move:
    """Return the record with a stage reached; what it needs beside the stage is set with it."""
    if stage is Stage.SWITCHED:
        return replace(move, stage=stage, switched_at=now.isoformat(), cut_after="")
    return replace(move, stage=stage, cut_after="")


def record_cut(move: Move, result: CutResult, now: datetime) -> Move:
    """Return the record with a cut's pause; after one that backed out the next has to wait."""
    if result.pause_ms is None:  # the cut that it ended was noted when it was found lost
        return replace(move, cut_after="")
    pauses = (result.pause_ms, *move.pauses_ms)[:PAUSES_KEPT]
    if result.opened:
        return replace(move, pauses_ms=pauses, cut_after="")
    delay = timedelta(seconds=min(RETRY_S_MAX, 2 ** min(len(pauses), 10)))
    return replace(move, pauses_ms=pauses, cut_after=(now + delay).isoformat())


def record_lost_cut(move: Move) -> Move:
    """Return the record with the pause of a cut whose end nobody saw."""
    return replace(move, pauses_ms=(None, *move.pauses_ms)[:PAUSES_KEPT])


def cut_was_wrong(move: Move) -> bool:
    """Whether both sides differed at the cut itself, so that the source's are right."""
    found = move.cut_compared
    return found not in ("", EQUAL) and not found.startswith((LATER, NOT_COMPARED))


def record_compared(move: Move, found: Comparison) -> Move:
    """Return the record with what a comparison of its cut found.

    A wish to finish that came before a difference was known has to be said again.
    """
    differs = (LATER if found.later else "") + "; ".join(found.samples)
    if found.equal:
        return replace(move, cut_compared=EQUAL)
    wish = Wish.FORWARD if move.wish is Wish.FINISH else move.wish
    return replace(move, cut_compared=differs, wish=wish)


def record_not_comparable(move: Move, why: str) -> Move:
    """Return the record with the reason why its cut never can be compared."""
    return replace(move, cut_compared=NOT_COMPARED + why)
