"""When a move of keys waits, what it says for, and when it goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.model.moves import CutResult, MoveView, Stage, Wish
from reconciler.workflow.reshard_acts import (
    Clean,
    Cut,
    Prune,
    Record,
    Reverse,
)
from reconciler.workflow.reshard_records import (
    PAUSES_KEPT,
    RETRY_S_MAX,
    record_cut,
    record_stage,
)
from tests.workflow.move_views import (
    APART,
    BACK_CLEANED,
    BACK_EQUAL,
    CLEANED,
    COPIED,
    EQUAL,
    FOLLOWING,
    HELD,
    INDEXED,
    MAPPED,
    NOTHING,
    NOW,
    OVER,
    PREPARED,
    PUBLISHED,
    READY,
    SOAKING,
    SWITCHED,
    act_of,
    forward,
    wait_of,
    wishing,
)
from tests.workflow.move_world import MOVE

# Waiting -------------------------------------------------------------------------------------


def test_the_soak_ends_with_its_window_and_not_before() -> None:
    last = OVER - timedelta(seconds=1)

    assert wait_of(SWITCHED, SOAKING, last) == "can be rolled back until 2026-01-01 12:16:40 UTC"
    assert act_of(SWITCHED, SOAKING, OVER) == Clean()


def test_a_window_that_nobody_wrote_down_is_ended_by_hand_only() -> None:
    unknown = replace(SWITCHED, switched_at="")

    assert wait_of(unknown, SOAKING, OVER) == "can be rolled back until it is finished"
    assert act_of(wishing(Wish.FINISH, unknown), SOAKING, OVER) == Clean()


def test_no_row_is_pruned_while_a_router_serves_an_older_map() -> None:
    over, back = wishing(Wish.FINISH, SWITCHED), replace(SWITCHED, stage=Stage.BACK)
    late = ("r1 (epoch 7)",)

    for move, view in ((over, CLEANED), (back, BACK_CLEANED)):
        assert "r1 (epoch 7)" in wait_of(move, replace(view, routers_behind=late))
        assert isinstance(act_of(move, view), Prune)
        done = act_of(move, replace(view, routers_behind=late, pruned=True))
        assert done == Record(Stage.ENDED)


def test_a_window_of_no_length_needs_no_way_back() -> None:
    assert act_of(replace(SWITCHED, rollback_window_s=0), MAPPED) == Clean()


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (NOTHING, "the target is prepared"),
        (PREPARED, "the tables are held"),
        (HELD, "the rows are published"),
        (PUBLISHED, "the rows are copied"),
        (COPIED, "the indexes are built"),
        (INDEXED, "the target follows"),
        (FOLLOWING, "the rows are compared"),
        (EQUAL, "the sequences are divided"),
        (APART, "the way back is made"),
        (READY, "the cut"),
    ],
)
def test_a_pause_holds_what_would_begin(view: MoveView, words: str) -> None:
    assert wait_of(wishing(Wish.PAUSE), view) == f"paused before {words}"


def test_a_pause_keeps_the_way_back_open() -> None:
    paused = wishing(Wish.PAUSE, SWITCHED)

    assert act_of(paused, MAPPED) == Reverse()
    assert wait_of(paused, SOAKING, OVER).startswith("paused: the rollback window stays open")


def test_a_cut_waits_for_the_stream_and_says_how_far_it_is_behind() -> None:
    assert "s1 does not follow yet" in wait_of(MOVE, forward(READY, slot_active=False))
    assert "s1 is behind by 65,537 B" in wait_of(MOVE, forward(READY, lag_bytes=65_537))
    assert "an unknown amount" in wait_of(MOVE, forward(READY, lag_bytes=None))


def test_a_cut_waits_for_what_stands_in_its_way() -> None:
    obstacles = ("ALTER TABLE public.a", "a prepared transaction")

    said = "no cut while: ALTER TABLE public.a; a prepared transaction"
    assert wait_of(MOVE, replace(READY, obstacles=obstacles)) == said
    back = wishing(Wish.ROLLBACK, SWITCHED)
    assert wait_of(back, replace(BACK_EQUAL, obstacles=obstacles)) == said


def test_a_cut_that_backed_out_is_tried_again_later_and_less_and_less_often() -> None:
    move, delays = MOVE, []
    for _ in range(10):
        move = record_cut(move, CutResult(False, 120.0, "too long"), NOW)
        delays.append((datetime.fromisoformat(move.cut_after) - NOW).total_seconds())

    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, RETRY_S_MAX, RETRY_S_MAX]
    assert wait_of(replace(move, pause_max_ms=100), READY) == (
        "the last cut would have held writers for longer than resharding.pauseMax (100 ms); "
        "tried again at 12:05:00 UTC"
    )
    assert act_of(move, READY, NOW + timedelta(seconds=RETRY_S_MAX)) == Cut()


def test_a_record_keeps_a_bounded_number_of_pauses_the_last_one_first() -> None:
    move = MOVE
    for pause in range(PAUSES_KEPT + 5):
        move = record_cut(move, CutResult(True, float(pause)), NOW)

    assert len(move.pauses_ms) == PAUSES_KEPT
    assert move.pauses_ms[0] == PAUSES_KEPT + 4
    assert move.cut_after == ""


def test_a_switched_record_says_since_when() -> None:
    assert record_stage(MOVE, Stage.SWITCHED, NOW) == replace(SWITCHED, cut_compared="")
    assert record_stage(SWITCHED, Stage.BACK, OVER) == replace(SWITCHED, stage=Stage.BACK)
