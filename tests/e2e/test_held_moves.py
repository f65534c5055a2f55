"""A move that a person took back, or aborted, stays so while its spec still asks for it."""

from __future__ import annotations

import pytest

from reconciler import spec
from reconciler.engine.loop import look
from reconciler.engine.reconcile import judge
from reconciler.engine.records import hold_key
from reconciler.engine.saved import SourceRequest
from reconciler.engine.wishes import moves_under_way
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.wiring import fetch
from tests.e2e.scene import TWO, Scene, spec_text

pytestmark = pytest.mark.platform
MOVED = ('{name: s0, keys: ["-40"]}', '{name: s1, keys: ["40-"]}')
DATABASE = DatabaseKey(Namespace("default"), DatabaseName("held"))


def _spec(*shards: str) -> str:
    return spec_text("held", *shards, reference="[]", more="  resharding: {pauseMax: 5s}\n")


def _owned(scene: Scene) -> str:
    (first, _) = scene.routing("held").owners
    return str(first.keys)


def _move(scene: Scene) -> str:
    (move,) = moves_under_way(scene.world().eyes.store)
    return str(move.id)


def _held(scene: Scene) -> list[str]:
    return sorted(scene.world().eyes.store.read(hold_key(DATABASE)))


def test_a_move_that_was_taken_back_waits_for_the_spec_or_for_a_person(scene: Scene) -> None:
    scene.write("held", _spec(*TWO))
    scene.applied()
    scene.write("held", _spec(*MOVED))
    assert not scene.apply().failed
    assert _owned(scene) == "-40"
    move = _move(scene)
    said = scene.call("operation", "rollback", move).told()
    assert "it is not begun again until spec.shards changes" in said
    early = scene.call("operation", "retry", move)
    assert (early.code, "AP208" in early.told()) == (1, True)

    for _ in range(2):  # the second one began it anew
        assert not scene.apply().failed
        assert _owned(scene) == "-80"
    loaded = spec.read(fetch(SourceRequest(str(scene.specs))))
    outlook = look(scene.world(), loaded, only=frozenset({DATABASE}))
    (waits,) = outlook.plan.standstills
    told = judge(outlook)
    assert told is not None
    assert (told.ready, told.stalled, told.reason) == (False, True, "MoveHeld")
    assert f"`shardwright operation retry {move}`" in waits.reason
    assert waits.reason.startswith(f"{move} was taken back by ")

    # A person lets it go; aborted in its first step it is held back once more.
    assert scene.call("operation", "retry", move).code == 0
    assert _held(scene) == []
    again = scene.call("operation", "retry", move)
    assert (again.code, "none is held back" in again.told()) == (1, True)
    assert not scene.apply().failed
    assert _owned(scene) == "-40"
    again_move = _move(scene)
    assert scene.call("operation", "rollback", again_move).code == 0
    # Another wish takes the hold back with the rollback.
    assert scene.call("operation", "resume", again_move).code == 0
    assert _held(scene) == []
    assert scene.call("operation", "rollback", again_move).code == 0

    # With the spec that it was held against it goes, and a spec that asks anew is obeyed.
    scene.write("held", _spec(*TWO))
    scene.applied()
    assert _held(scene) == []
    scene.write("held", _spec(*MOVED))
    assert not scene.apply().failed
    assert _owned(scene) == "-40"
