"""The work queue: each key once, nobody twice at once, back-off aside, news before routine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.workqueue import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    WorkQueue,
    backoff_s,
    routine_pause_s,
)


class Hand:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def queue() -> tuple[WorkQueue[str], Hand]:
    clock = Hand()
    return WorkQueue(clock, lambda: 0.0), clock


def drained(work: WorkQueue[str]) -> list[str]:
    """Take all that is ready now, without doing any of it."""
    taken = []
    while work.depth:
        key = work.get()
        assert key is not None
        taken.append(key)
    return taken


def test_a_key_that_waits_is_there_once() -> None:
    work, _ = queue()
    work.add("a")
    work.add("b")
    work.add("a")
    assert drained(work) == ["a", "b"]
    assert work.adds == 2


def test_a_key_asked_for_while_it_is_worked_on_comes_again_afterwards() -> None:
    work, _ = queue()
    work.add("a")
    assert work.get() == "a"
    work.add("a")
    assert work.depth == 0
    work.done("a")
    assert drained(work) == ["a"]


def test_news_stand_before_routine_and_a_routine_look_moves_up_when_there_is_news() -> None:
    work, _ = queue()
    for key in ("a", "b", "c"):
        work.add(key, routine=True)
    work.add("d")
    work.add("c")
    work.add("d", routine=True)
    assert drained(work) == ["d", "c", "a", "b"]


def test_a_failed_key_waits_its_back_off_and_others_do_not() -> None:
    work, clock = queue()
    assert work.add_failed("a") == BACKOFF_S_MIN
    assert work.add_failed("a") == 2 * BACKOFF_S_MIN
    work.add("b")
    assert drained(work) == ["b"]
    clock.now = 1.0
    work.add("c")
    assert set(drained(work)) == {"a", "c"}
    work.forget("a")
    assert work.failures("a") == 0


def test_the_sooner_of_two_times_stands_and_a_key_is_given_out_once() -> None:
    work, clock = queue()
    work.add_after("a", 10)
    work.add_after("a", 1)
    work.add_after("a", 5)
    clock.now = 2.0
    assert drained(work) == ["a"]
    work.done("a")
    clock.now = 20.0
    assert drained(work) == []


def test_a_closed_queue_gives_out_nothing() -> None:
    work, _ = queue()
    work.add("a")
    work.close()
    assert work.get() is None


@given(st.integers(1, 500), st.floats(0, 0.999))
def test_back_off_grows_and_stays_within_its_bounds(failures: int, jitter: float) -> None:
    now, later = backoff_s(failures, jitter), backoff_s(failures + 1, jitter)
    assert BACKOFF_S_MIN <= now <= later <= BACKOFF_S_MAX


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("anrgdf")), max_size=60))
def test_nobody_works_on_a_key_twice_at_once_and_no_news_is_lost(
    moves: list[tuple[str, str]],
) -> None:
    work, clock = queue()
    working: list[str] = []
    owed: set[str] = set()
    for key, move in moves:
        clock.now += 0.1
        if move in "an":
            work.add(key)
            owed.add(key)
        elif move == "r":
            work.add(key, routine=True)
        elif move == "f":
            work.add_failed(key)
        elif move == "g" and work.depth:
            taken = work.get()
            assert taken is not None
            assert taken not in working
            working.append(taken)
            owed.discard(taken)
        elif move == "d" and working:
            work.done(working.pop(0))
    for key in working:
        work.done(key)
    assert owed <= set(drained(work))


@pytest.mark.parametrize(
    ("cpu_s", "pause_s"), [(0.0, 30), (4.5, 30), (15.0, 100), (45.0, 300), (400.0, 300)]
)
def test_routine_looks_that_are_dear_are_rarer(cpu_s: float, pause_s: float) -> None:
    assert routine_pause_s(30, cpu_s) == pytest.approx(pause_s)
