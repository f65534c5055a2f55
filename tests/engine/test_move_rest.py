"""What fails again and again is tried less and less often, unless writers wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from reconciler.engine.move_acts import Crew
from reconciler.engine.moves import AGAIN_S_MAX, POLL_S, _rest


@dataclass
class _Idle:
    """As much of a crew as is asked, its own clock; it is to stop after so many sleeps."""

    stops_after: int = 10_000
    slept: list[float] = field(default_factory=list)

    @property
    def clock(self) -> _Idle:
        return self

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def stopping(self) -> bool:
        return len(self.slept) >= self.stops_after


@pytest.mark.parametrize(
    ("act", "times", "at_least"),
    [
        ("", 0, POLL_S),
        ("Copy", 1, 2 * POLL_S),
        ("Copy", 3, 8 * POLL_S),
        ("Copy", 10_000, AGAIN_S_MAX),
        ("Cut", 10_000, POLL_S),
        ("RollBackCut", 10_000, POLL_S),
        ("Unfence", 10_000, POLL_S),
        ("FinishOpening", 10_000, POLL_S),
    ],
)
def test_only_acts_that_no_writer_waits_for_rest_longer(
    act: str, times: int, at_least: float
) -> None:
    crew = _Idle()
    _rest(cast("Crew", crew), act, times)
    assert at_least <= crew.monotonic() + 1e-9 <= at_least + POLL_S + 1e-9


def test_a_rest_ends_when_the_apply_is_to_stop() -> None:
    crew = _Idle(stops_after=3)
    _rest(cast("Crew", crew), "Copy", 100)
    assert len(crew.slept) == 3
