"""A short cut of the crash matrix: the same runs as ``make crash-matrix``, few of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from reconciler.edges.local import lifecycle
from tests.crash_matrix.plan import WAYS, Course, Fault, make_trial
from tests.crash_matrix.stage import Stage, staged
from tests.crash_matrix.trial import run_trial
from tests.local_home import fresh_home

SEEDS = (45, 31, 4, 149)
"""An applier killed right after the cut, in an abort, before the cut of a way back, and after the
holds. Each is reached whatever the machine's speed: it strikes before or after an act."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with fresh_home() as home:
        lifecycle.up(home)
        with staged(home, tmp_path_factory.mktemp("matrix")) as one:
            yield one


@pytest.mark.platform
@pytest.mark.parametrize("seed", SEEDS)
def test_a_move_converges_after_a_fault_and_nothing_is_lost(stage: Stage, seed: int) -> None:
    outcome = run_trial(stage, make_trial(seed))

    assert not outcome.problem, outcome.line()
    assert outcome.struck


def test_seeds_reach_each_way_course_and_fault_and_say_the_same_for_ever() -> None:
    trials = [make_trial(seed) for seed in range(200)]

    assert {t.way for t in trials} == set(WAYS)
    assert {t.course for t in trials} == set(Course)
    assert {t.strike.fault for t in trials} == set(Fault)
    assert trials == [make_trial(trial.seed) for trial in trials]
    assert all(
        a.way.after == b.way.before if a.course is Course.FORWARD else a.way.before == b.way.before
        for a, b in pairwise(trials)
    ), "each run begins where the one before it ended"
