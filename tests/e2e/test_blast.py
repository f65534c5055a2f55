"""How many shards are under change at once, as the journal of a real apply tells it."""

from __future__ import annotations

import pytest

from reconciler.engine.events import StepDone, StepFailed, StepStarted
from tests.e2e.scene import TWO, Scene, spec_text

pytestmark = pytest.mark.platform


def _most_at_once(scene: Scene) -> int:
    """Return the most shards that had a step running at one moment."""
    running: dict[str, str] = {}
    most = 0
    for event in scene.events:
        match event:
            case StepStarted(step=step) if step.shard:
                running[step.id] = step.shard
                most = max(most, len(set(running.values())))
            case StepDone(step=step) | StepFailed(step=step):
                running.pop(step.id, None)
            case _:
                pass
    return most


def test_a_roll_out_of_one_shard_at_once_is_kept_to(scene: Scene) -> None:
    scene.write("narrow", spec_text("narrow", *TWO, more="  rollout: {shardsMax: 1}\n"))
    scene.applied()
    assert _most_at_once(scene) == 1

    scene.write("wide", spec_text("wide", *TWO))
    scene.events.clear()
    scene.applied()
    assert _most_at_once(scene) == 2
