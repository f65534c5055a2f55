"""A move of keys as it is seen after each of its steps, all going well; and what is decided."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.model import moves
from reconciler.model.moves import Move, MoveView, Stage, Stream, Wish
from reconciler.model.names import Epoch
from reconciler.workflow.phase import Act, Wait
from reconciler.workflow.reshard import decide
from reconciler.workflow.reshard_acts import Step
from tests.workflow.move_shard import TABLES
from tests.workflow.move_world import MOVE

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

NOTHING = MoveView(
    source=None,
    target=None,
    forward=Stream(),
    reverse=Stream(),
    copied="",
    copy_begun=False,
    indexed=False,
    verified=False,
    fenced=(),
    opened=(),
    drained=False,
    map_epoch=Epoch(7),
    pruned=False,
)
STREAMING = Stream(
    published=True, slot=True, slot_active=True, lag_bytes=0, subscribed=True, slot_name="fwd1"
)
ARMED = Stream(published=True, slot=True, lag_bytes=0, slot_name="rev")
PREPARED = replace(NOTHING, prepared=True)
HELD = replace(PREPARED, held=True)
PUBLISHED = replace(HELD, forward=Stream(published=True))
COPIED = replace(
    PUBLISHED,
    forward=Stream(published=True, slot=True, lag_bytes=10**9, slot_name="fwd1"),
    copied="fwd1",
    copy_begun=True,
)
INDEXED = replace(COPIED, indexed=True)
FOLLOWING = replace(INDEXED, forward=STREAMING)
EQUAL = replace(FOLLOWING, verified=True)
APART = replace(EQUAL, sequences_apart=True)
READY = replace(APART, reverse=ARMED)
FENCED = replace(READY, fenced=TABLES)
OPEN = replace(FENCED, opened=TABLES)
REFUSED = replace(OPEN, source_refuses_below=Epoch(8))
MAPPED = replace(REFUSED, map_epoch=Epoch(8))
SOAKING = replace(MAPPED, forward=Stream(published=True), reverse=replace(STREAMING))
CLEANED = replace(SOAKING, forward=Stream(), reverse=Stream(), copied="", held=False)
BACK_EQUAL = replace(SOAKING, verified_back=True)
BACK_CLOSED = replace(BACK_EQUAL, opened=())
BACK_OPEN = replace(BACK_CLOSED, fenced=())
BACK_REFUSED = replace(BACK_OPEN, target_refuses_below=Epoch(9))
BACK_CLEANED = replace(CLEANED, fenced=(), opened=(), target_refuses_below=Epoch(9))

SWITCHED = replace(
    MOVE, stage=Stage.SWITCHED, switched_at=NOW.isoformat(), cut_compared=moves.EQUAL
)
OVER = NOW + timedelta(seconds=MOVE.rollback_window_s)


def act_of(move: Move, view: MoveView, now: datetime = NOW) -> Step:
    decision = decide(move, view, now)
    assert isinstance(decision, Act), decision
    return decision.act


def wait_of(move: Move, view: MoveView, now: datetime = NOW) -> str:
    decision = decide(move, view, now)
    assert isinstance(decision, Wait), decision
    return decision.reason


def wishing(wish: Wish, move: Move = MOVE) -> Move:
    return replace(move, wish=wish)


def forward(view: MoveView, **facts: Any) -> MoveView:
    return replace(view, forward=replace(view.forward, **facts))


def reverse(view: MoveView, **facts: Any) -> MoveView:
    return replace(view, reverse=replace(view.reverse, **facts))
