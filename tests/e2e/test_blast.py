"""How many shards are under change at once, as the journal of a real apply tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.engine.events import StepDone, StepFailed, StepStarted
from reconciler.plan.actions import MoveKeyRange, Step
from tests.e2e.scene import TWO, Scene, spec_text

pytestmark = pytest.mark.platform


def _most_at_once(scene: Scene, named: Callable[[Step], str | None]) -> int:
    """Return the most names of steps that ran at one moment; a step may have none."""
    running: dict[str, str] = {}
    most = 0
    for event in scene.events:
        match event:
            case StepStarted(step=step) if name := named(step):
                running[step.id] = name
                most = max(most, len(set(running.values())))
            case StepDone(step=step) | StepFailed(step=step):
                running.pop(step.id, None)
            case _:
                pass
    return most


def _move(step: Step) -> str | None:
    return step.id if isinstance(step.action, MoveKeyRange) else None


def _shard(step: Step) -> str | None:
    return step.shard


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_moves_run_at_once_than_the_settings_allow(scene: Scene, most: int) -> None:
    names = [f"moves{most}{letter}" for letter in "abc"]
    halves, shifted = TWO, (TWO[0].replace("80", "7f"), TWO[1].replace("80", "7f"))
    for shards in (halves, shifted):
        for name in names:
            scene.write(name, spec_text(name, *shards, reference="[]"))
        if shards is halves:
            scene.applied()
    world = scene.world()
    world = replace(world, settings=replace(world.settings, moves_parallel=most))

    ended = scene.apply(world)

    assert not ended.failed, scene.failures()
    done = [event.step for event in scene.events if isinstance(event, StepDone)]
    assert len([step for step in done if _move(step)]) == len(names)
    assert _most_at_once(scene, _move) == most


def test_a_roll_out_of_one_shard_at_once_is_kept_to(scene: Scene) -> None:
    scene.write("narrow", spec_text("narrow", *TWO, more="  rollout: {shardsMax: 1}\n"))
    scene.applied()
    assert _most_at_once(scene, _shard) == 1

    scene.write("wide", spec_text("wide", *TWO))
    scene.events.clear()
    scene.applied()
    assert _most_at_once(scene, _shard) == 2
