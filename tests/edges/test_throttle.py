"""The pace of a copy: quick to grow, quick to yield, slow to grow again."""

from __future__ import annotations

from reconciler.edges.replication_throttle import (
    FLOOR_BYTES_S,
    OF_FILES,
    START_BYTES_S,
    TOP_BYTES_S,
    Pace,
)


def _after(pace: Pace, *probes: bool) -> Pace:
    for slow in probes:
        pace = pace.after(slow=slow)
    return pace


def test_a_copy_that_nobody_feels_is_at_full_pace_within_two_seconds() -> None:
    assert _after(Pace(START_BYTES_S), *[False] * 20).bytes_s == TOP_BYTES_S
    assert _after(OF_FILES, *[False] * 20).bytes_s == OF_FILES.top_bytes_s > TOP_BYTES_S


def test_a_slow_commit_halves_the_pace() -> None:
    assert _after(Pace(TOP_BYTES_S), True).bytes_s == TOP_BYTES_S / 2


def test_once_commits_were_slow_the_pace_grows_slowly() -> None:
    pace = _after(Pace(TOP_BYTES_S), True, *[False] * 10)
    assert TOP_BYTES_S / 2 < pace.bytes_s < TOP_BYTES_S * 0.65


def test_a_copy_never_stops_for_slow_commits() -> None:
    assert _after(Pace(START_BYTES_S), *[True] * 50).bytes_s == FLOOR_BYTES_S
