"""What a comparison of the cut, or its absence, keeps a move from."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, MoveView, Wish
from reconciler.workflow.phase import Refuse
from reconciler.workflow.reshard import decide
from reconciler.workflow.reshard_acts import (
    Clean,
    GiveUpVerifyCut,
    Reverse,
    RollBackCut,
    VerifyBack,
    VerifyCut,
)
from reconciler.workflow.reshard_facts import CutDiffers
from reconciler.workflow.reshard_records import LATER, cut_was_wrong, record_not_comparable
from tests.workflow.move_views import (
    MAPPED,
    NOW,
    OVER,
    SOAKING,
    SWITCHED,
    act_of,
    forward,
    reverse,
    wait_of,
    wishing,
)


def error_of(move: Move, view: MoveView, now: datetime = NOW) -> ReconcilerError:
    decision = decide(move, view, now)
    assert isinstance(decision, Refuse), decision
    return decision.error


UNCOMPARED = replace(SWITCHED, cut_compared="")
DIFFERS = replace(SWITCHED, cut_compared="public.a id=1: source has (1)")


@pytest.mark.parametrize("wish", [Wish.FORWARD, Wish.FINISH])
@pytest.mark.parametrize("now", [NOW, OVER])
def test_nothing_is_pruned_before_the_cut_was_compared(wish: Wish, now: datetime) -> None:
    move = wishing(wish, UNCOMPARED)
    assert act_of(move, SOAKING, now) == VerifyCut()
    assert act_of(move, MAPPED, now) == Reverse(), "it is compared by the way back's stream"
    held = replace(reverse(SOAKING, slot=False, slot_active=False), cut_held=True)
    assert act_of(move, held, now) == VerifyCut(), "or by its own snapshots"


def test_a_cut_that_cannot_be_compared_any_more_is_for_its_owner_to_finish() -> None:
    lost = reverse(SOAKING, slot=False, slot_active=False)
    why = "its slot at s1 is gone"

    assert act_of(UNCOMPARED, lost, OVER) == GiveUpVerifyCut(why)
    given_up = record_not_comparable(UNCOMPARED, why)
    assert f"cannot be ({why})" in wait_of(given_up, lost, OVER)
    assert not cut_was_wrong(given_up), "a way back compares all rows"
    for move in (UNCOMPARED, given_up):
        assert act_of(wishing(Wish.FINISH, move), lost) == Clean()
    assert act_of(wishing(Wish.FINISH, given_up), SOAKING) == VerifyCut(), "if it can be after all"


def test_a_cut_is_not_compared_later_with_a_target_that_failed_over() -> None:
    """What it lost would pass for rows that the cut had left out."""
    over = forward(SOAKING, gap=True)

    assert act_of(UNCOMPARED, over, OVER) == GiveUpVerifyCut("s1 failed over")
    assert act_of(wishing(Wish.FINISH, UNCOMPARED), over) == Clean()
    assert act_of(UNCOMPARED, replace(over, cut_held=True)) == VerifyCut(), "by its own snapshots"
    assert act_of(SWITCHED, over, OVER) == Clean(), "it was compared before"


def test_a_cut_that_differs_is_not_ended_by_time_and_may_be_rolled_back() -> None:
    for now in (NOW, OVER):
        error = error_of(DIFFERS, SOAKING, now)
        assert isinstance(error, CutDiffers)
        assert "source has (1)" in error.problem
        assert "rollback m00000001" in error.remedy
    assert act_of(wishing(Wish.FINISH, DIFFERS), SOAKING) == VerifyCut(), "once put right by hand"
    lost = reverse(SOAKING, slot=False, slot_active=False)
    assert act_of(wishing(Wish.FINISH, DIFFERS), lost) == Clean(), "its owner's word"
    assert act_of(wishing(Wish.ROLLBACK, DIFFERS), SOAKING) == RollBackCut()
    later = replace(DIFFERS, cut_compared=LATER + DIFFERS.cut_compared)
    assert act_of(wishing(Wish.ROLLBACK, later), SOAKING) == VerifyBack(), "or the way back lost it"
    held = replace(SOAKING, cut_held=True)
    assert act_of(wishing(Wish.ROLLBACK, UNCOMPARED), held) == VerifyCut(), "while that can tell"
