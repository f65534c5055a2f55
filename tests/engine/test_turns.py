"""Moves of all databases together take as many turns as the settings allow, and no more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from reconciler.engine.problems import StoppedByUser
from reconciler.engine.turns import Turns
from reconciler.plan.actions import MoveKeyRange, Step
from reconciler.wiring import SystemClock
from tests.plan.render_cases import split

STEPS = split().plan.steps
(MOVE,) = (step for step in STEPS if isinstance(step.action, MoveKeyRange))
OTHER = next(step for step in STEPS if not isinstance(step.action, MoveKeyRange))


class Crowd:
    """Many that hold a turn at once, as applies of different databases do."""

    def __init__(self, most: int) -> None:
        self.turns, self.most = Turns(), most
        self.told: list[str] = []
        self.inside = self.highest = 0
        self._lock = threading.Lock()
        self.full = threading.Barrier(most)
        """Met by those inside: it is only passed when ``most`` of them are there together."""
        self.waited_for = threading.Event()

    def wait(self, reason: str) -> None:
        self.told.append(reason)
        self.waited_for.set()

    def go(self, step: Step) -> None:
        with self.turns.of(step, self.most, SystemClock(), self.wait, lambda: False):
            with self._lock:
                self.inside += 1
                self.highest = max(self.highest, self.inside)
            self.full.wait(30)
            assert self.waited_for.wait(30), "nobody waits for a turn"
            with self._lock:
                self.inside -= 1


def test_as_many_moves_run_at_once_as_there_are_turns_and_each_has_its_own() -> None:
    crowd = Crowd(2)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(crowd.go, [MOVE] * 6))

    assert crowd.highest == 2
    assert set(crowd.told) == {
        "waits for its turn: 2 moves of keys run at once (movesMax, SHARDWRIGHT_MOVES_PARALLEL)"
    }


def test_what_moves_no_keys_waits_for_no_turn() -> None:
    turns, told = Turns(), list[str]()
    clock = SystemClock()
    with (
        turns.of(MOVE, 1, clock, told.append, lambda: False),
        turns.of(OTHER, 1, clock, told.append, lambda: False),
    ):
        assert told == []


def test_one_that_waits_ends_when_it_is_stopped_and_a_turn_that_failed_is_free() -> None:
    turns, clock = Turns(), SystemClock()
    with (
        turns.of(MOVE, 1, clock, print, lambda: False),
        pytest.raises(StoppedByUser),
        turns.of(MOVE, 1, clock, print, lambda: True),
    ):
        raise AssertionError("it had no turn")
    with pytest.raises(ZeroDivisionError), turns.of(MOVE, 1, clock, print, lambda: False):
        raise ZeroDivisionError
    with turns.of(replace(MOVE, id="next"), 1, clock, print, lambda: True):
        pass
