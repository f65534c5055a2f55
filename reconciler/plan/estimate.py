"""How long a step will take, from what steps of its kind took on this very system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median

from reconciler.model.desired import CopyDriver
from reconciler.plan.actions import Action, Estimate, MoveKeyRange
from reconciler.plan.copying import COPY_BYTES_PER_S, seed_seconds

ACTS_S = 2.0
"""What a move takes beside its bytes: as one of an empty shard does (README, Figures)."""


def kind_of(action: Action) -> str:
    """Return the name under which durations of such actions are kept."""
    return type(action).__name__


def measured(durations: Iterable[tuple[str, float]]) -> dict[str, Estimate]:
    """Return by kind of step the median of what such steps took here.

    ``durations`` are (kind, seconds) of earlier steps.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in durations:
        taken[kind].append(seconds)
    return {kind: _median_of(times) for kind, times in taken.items()}


def _median_of(times: list[float]) -> Estimate:
    runs = f"{len(times)} run{'' if len(times) == 1 else 's'}"
    return Estimate(round(median(times), 2), f"median of {runs} here")


def estimate(action: Action, known: Mapping[str, Estimate]) -> Estimate:
    """Return what such steps took here; for a move, its bytes over a known rate, and its acts.

    ``known`` is what ``measured`` returned. Without any such step, nothing is guessed.
    """
    found = known.get(kind_of(action))
    if found and not isinstance(action, MoveKeyRange):
        return found
    if isinstance(action, MoveKeyRange) and action.tables is not None:
        return _of_move(action, sum(number for _, number, _ in action.tables))
    return Estimate(None, "none has run here yet")


def _of_move(action: MoveKeyRange, size: int) -> Estimate:
    if action.copying.driver is CopyDriver.PHYSICAL:
        whole = max(action.copying.whole_bytes, size)
        return Estimate(round(seed_seconds(whole, size), 1), "at an assumed 200 MB/s of the shard")
    return Estimate(round(ACTS_S + size / COPY_BYTES_PER_S, 1), "at an assumed 60 MB/s")
