"""A policy keeps a cut or a prune waiting, and never a fence that stands."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from reconciler.engine.move_acts import Crew, Scene
from reconciler.engine.moves import _held
from reconciler.model.moves import MoveView, Side
from reconciler.workflow.reshard_acts import Copy, Cut, Prune, RollBackCut, Step
from tests.workflow.move_views import FENCED, READY


class _Strict:
    """As much of a crew as is asked: every phase is held."""

    @staticmethod
    def held(phase: str) -> str:
        return f"held: {phase}"


class _Seen:
    """As much of a scene as is looked at."""

    def __init__(self, view: MoveView) -> None:
        self.view = view


@pytest.mark.parametrize(
    ("act", "view", "reason"),
    [
        (Cut(), READY, "held: cut"),
        (Cut(), FENCED, ""),
        (Prune(Side.SOURCE), replace(READY, fenced=()), "held: prune"),
        (RollBackCut(), READY, ""),
        (Copy(), READY, ""),
    ],
)
def test_only_a_cut_that_has_not_begun_and_a_prune_are_held(
    act: Step, view: MoveView, reason: str
) -> None:
    assert _held(cast("Crew", _Strict()), cast("Scene", _Seen(view)), act) == reason
