"""An estimate says what it rests on, or that there is nothing to rest on."""

from __future__ import annotations

from reconciler.model.names import Namespace, Scope, ScopeKey
from reconciler.plan.actions import Estimate, MoveKeyRange, RestartMembers
from reconciler.plan.estimate import estimate, measured
from tests.plan.render_cases import keys, scope, split

RESTART = RestartMembers(ScopeKey(Namespace("default"), Scope("shop-s0")), ())
(MOVE,) = (s.action for s in split().plan.steps if isinstance(s.action, MoveKeyRange))


def test_without_an_earlier_run_nothing_is_guessed() -> None:
    assert estimate(RESTART, measured(())) == Estimate(None, "none has run here yet")


def test_a_step_takes_the_median_of_what_its_kind_took_here() -> None:
    durations = (("RestartMembers", 9.0), ("StartShard", 60.0), ("RestartMembers", 4.0),
                 ("RestartMembers", 5.0))  # fmt: skip

    assert estimate(RESTART, measured(durations)) == Estimate(5.0, "median of 3 runs here")
    assert estimate(RESTART, measured(durations[:1])) == Estimate(9.0, "median of 1 run here")


def test_a_move_takes_its_bytes_over_a_rate_that_is_named() -> None:
    size = sum(number for _, number, _ in MOVE.tables or ())

    found = estimate(MOVE, measured((("MoveKeyRange", 1.0),)))

    assert found == Estimate(round(2 + size / 60e6, 1), "at an assumed 60 MB/s")


def test_a_move_of_unknown_size_has_no_time() -> None:
    unknown = MoveKeyRange(
        MOVE.database, MOVE.source, MOVE.target, scope("s0"), scope("s2"), keys("-80"), None, 1, 1
    )

    assert estimate(unknown, measured(())).seconds is None
