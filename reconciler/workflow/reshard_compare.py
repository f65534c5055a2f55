"""When both sides of a move are compared beside the comparison before its cut: phases of its lists.

What was found at the cut is recorded; what was found for the way back is seen, and grows old.
"""

from __future__ import annotations

from typing import TypeAlias

from reconciler.model.moves import EQUAL, Wish
from reconciler.workflow import phase as steps
from reconciler.workflow.phase import Act, Done, Refuse, Wait
from reconciler.workflow.reshard_acts import GiveUpVerifyCut, Step, VerifyBack, VerifyCut
from reconciler.workflow.reshard_facts import Look, cut_differs, cut_not_comparable
from reconciler.workflow.reshard_records import cut_was_wrong

Decision: TypeAlias = steps.Decision[Step]


def compare_cut(look: Look) -> Decision:
    """Without it a row that never arrived would be pruned away where it still is."""
    move = look.move
    finish = move.wish is Wish.FINISH
    lost = "" if look.view.cut_held else cut_not_comparable(look)
    if move.cut_compared == EQUAL or (lost and finish):
        return Done()
    if move.not_comparable and not finish:
        why = f"the cut was not compared and cannot be ({move.not_comparable})"
        return Wait(f"{why}; until it is finished")
    if move.cut_compared and not finish:
        return Refuse(cut_differs(move))
    return Act(GiveUpVerifyCut(lost) if lost else VerifyCut())


def compare_back(look: Look) -> Decision:
    """As ``compare_rows``; a cut that differed in itself is what the way back puts right."""
    if not look.move.cut_compared and look.view.cut_held:
        return Act(VerifyCut())
    return Done() if look.view.verified_back or cut_was_wrong(look.move) else Act(VerifyBack())
