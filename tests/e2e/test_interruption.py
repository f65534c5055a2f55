"""Cut off anywhere, an apply is finished by the next one; done twice, a step changes nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from reconciler.edges.local import lifecycle
from reconciler.engine.events import ApplyEvent, StepStarted
from reconciler.engine.execute import perform
from reconciler.engine.hands import Hands
from reconciler.engine.loop import act
from reconciler.engine.problems import PlanStale
from reconciler.engine.records import APPLIER, DATABASES, OPERATIONS, record_key, routing_key
from reconciler.engine.world import World
from reconciler.model.errors import ReconcilerError
from reconciler.plan.actions import Plan
from tests.e2e.cutting import CutOff, CuttingStore
from tests.e2e.scene import Scene, key_of, spec_text
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
_APPLIES_MAX = 80
_INDEX = (
    "-- shardwright: no-transaction\ncreate index concurrently if not exists n on customers (name);"
)
_EDIT: tuple[tuple[str, str], ...] = (
    ("{work_mem: 16MB}", '{work_mem: 8MB, max_connections: "110"}'),
    ("instances: 1", "instances: 2"),
    ("generation: 1", "generation: 2"),
)


def _apply_with_cuts(scene: Scene, when: str) -> set[str]:
    """Apply, each time cut off at another write, until an apply reaches its end."""
    met: set[str] = set()
    for _ in range(_APPLIES_MAX):
        try:
            scene.apply(scene.storing(lambda real: CuttingStore(real, when, met)))
        except CutOff:
            continue
        except PlanStale:  # a member that the cut left half-way came up in between
            time.sleep(0.5)
            continue
        assert not scene.failures()
        if not scene.steps():
            return met
    raise AssertionError(f"no end after {_APPLIES_MAX} applies")


def _lines(*steps: str) -> set[str]:
    return {f"{state} cut-s0/{step}" for step in steps for state in ("begun", "done")}


def _edit(scene: Scene, name: str) -> None:
    for before, after in _EDIT:
        scene.edit(name, before, after)
    scene.write(name, (scene.specs / f"{name}.yaml").read_text(), _002=_INDEX)


_shapes: list[str] = []


def _reference(stage: Scene) -> list[str]:
    """Return the end states of the same spec and the same edit, applied without interruption."""
    if not _shapes:
        stage.write("whole")
        _shapes.append(stage.applied().shape("whole"))
        _edit(stage, "whole")
        _shapes.append(stage.applied().shape("whole"))
    return _shapes


def _nothing_is_left_behind(scene: Scene, name: str) -> None:
    found = scene.world().eyes.store.read(OPERATIONS)
    assert [key for key in found if not key.endswith("/head")] == []
    assert "running" not in {operation.result for operation in scene.operations()}
    assert scene.world().eyes.store.read(APPLIER) == {}
    assert scene.shard(name).staged == ()
    assert scene.steps() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_first_apply_cut_off_at_any_write_is_finished_by_the_next(
    stage: Scene, scene: Scene, when: str
) -> None:
    """Before the write of a step's outcome, its effect has happened and nobody knows."""
    reference = _reference(stage)
    scene.write("cut")
    # Of an operation with too many steps to be removed in one write, cut off between two.
    scene.etcd_put(f"{OPERATIONS}earlier/step/000101", b"{}")

    met = _apply_with_cuts(scene, when)
    assert _lines("start", "setup", "schema/cut/001.sql", "guards") <= met
    assert {"head running", "head superseded"} <= met
    scene.settle()
    _nothing_is_left_behind(scene, "cut")
    assert scene.shape("cut") == reference[0].replace("whole", "cut")


@pytest.mark.parametrize("when", ["before", "after"])
def test_edits_and_a_removal_cut_off_at_any_write_are_finished_by_the_next(
    stage: Scene, scene: Scene, when: str
) -> None:
    reference = _reference(stage)
    scene.write("cut")
    scene.applied()
    _edit(scene, "cut")

    met = _apply_with_cuts(scene, when)

    assert _lines("add-1", "configure", "restart", "passwords", "schema/cut/002.sql") <= met
    scene.settle()
    _nothing_is_left_behind(scene, "cut")
    assert scene.shape("cut") == reference[1].replace("whole", "cut")
    assert scene.sql("cut", "select 1", role="app") == [(1,)]

    # Fewer members, another name: whoever leads by then, one member is left and serves the keys.
    scene.edit("cut", "instances: 2", "instances: 1")
    scene.edit("cut", "{name: s0,", "{name: a0,")
    text = (scene.specs / "cut.yaml").read_text()
    scene.write("cut", f"{text.rstrip()}\n  moved: [{{from: s0, to: a0}}]\n")

    met = _apply_with_cuts(scene, when)

    assert _lines("remove-1") <= met
    assert routing_key(key_of("cut")) in met
    scene.settle()
    _nothing_is_left_behind(scene, "cut")
    (owner,) = scene.routing("cut").owners
    assert (owner.shard, [member.name for member in owner.members]) == ("a0", ["cut-s0-0"])
    assert scene.sql("cut", "select 1", role="app") == [(1,)]

    scene.remove("cut")

    met = _apply_with_cuts(scene, when)

    assert _lines("destroy") <= met
    for key in (routing_key(key_of("cut")), record_key(key_of("cut"))):
        assert f"removing {key.replace('v1', 'vN')}" in met
    assert not [s for s in scene.world().eyes.platform.observe() if s.database == "cut"]
    assert not [key for key in scene.world().eyes.store.read(DATABASES) if "/cut/" in key]
    assert scene.world().eyes.store.read(APPLIER) == {}


def _kill_etcd(scene: Scene) -> None:
    (etcd,) = (part for part in lifecycle.status(scene.home).parts if part.name == "etcd")
    assert etcd.pid
    tree = [psutil.Process(etcd.pid), *psutil.Process(etcd.pid).children(recursive=True)]
    for process in tree:
        process.kill()
    psutil.wait_procs(tree)


def test_an_apply_whose_etcd_is_killed_is_finished_by_the_next(stage: Scene, scene: Scene) -> None:
    """Once in the middle of setting the database up, and once in the middle of its guards."""
    reference = _reference(stage)
    scene.write("cut")
    left = ["cut-s0/setup", "cut-s0/guards"]

    def kill(event: ApplyEvent) -> None:
        if isinstance(event, StepStarted) and event.step.id in left:
            left.remove(event.step.id)
            _kill_etcd(scene)

    def applied() -> bool:
        lifecycle.up(scene.home)
        with suppress(ReconcilerError):  # etcd is gone, its lease not yet, or the look is stale
            world = scene.world()
            ended = act(world, scene.look(world), kill, threading.Event())
            return not left and not ended.failed and not ended.left and not scene.steps()
        return False

    wait_for(lambda: applied() or None, "an apply that reaches its end", 300)
    scene.settle()
    _nothing_is_left_behind(scene, "cut")
    assert scene.shape("cut") == reference[0].replace("whole", "cut")


@pytest.mark.parametrize("steps", [1, 3])
def test_an_apply_killed_while_it_works_is_finished_by_the_next(scene: Scene, steps: int) -> None:
    name = f"killed{steps}"
    scene.write(name)
    store = scene.world().eyes.store
    earlier = store.read(OPERATIONS).keys()
    process = scene.call.start("apply", "-f", "specs", "--yes")

    def begun() -> bool:
        new = store.read(OPERATIONS).keys() - earlier
        return sum("/step/" in key for key in new) >= steps

    wait_for(lambda: begun() or None, f"{steps} steps begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert scene.operations()[-1].result == "running"

    again = scene.call("apply", "-f", "specs", "--yes", SHARDWRIGHT_LEASE_S="5")

    assert again.code == 0, again.told()
    _nothing_is_left_behind(scene, name)
    assert [o.result.partition(" ")[0] for o in scene.operations()[-2:]] == ["superseded", "done"]


def _twice(scene: Scene, world: World, plan: Plan, look: Callable[[], object]) -> list[str]:
    """Perform each step twice; return those that did something the second time."""
    store = world.eyes.store
    lease = store.acquire(APPLIER, "test", 60)
    unequal = []
    try:
        world.eyes.platform.fence(lease.token)
        hands = Hands(
            world.eyes.platform, store, world.eyes.patroni, world.eyes.postgres,
            world.mover, world.clock,
            lease, plan.source, str(plan.revision), 120, threading.Event(),
        )  # fmt: skip
        for step in plan.steps:
            perform(hands, step.action, lambda _: None)
            once, key = look(), store.read("/shardwright/v1/databases/")
            perform(hands, step.action, lambda _: None)
            if (look(), store.read("/shardwright/v1/databases/")) != (once, key):
                unequal.append(step.id)
    finally:
        store.release(lease)
    return unequal


def test_every_action_done_twice_changes_nothing_the_second_time(scene: Scene) -> None:
    scene.write("twice", spec_text("twice", deletion="keepData"))
    kinds: set[str] = set()

    def settled() -> object:
        scene.settle_members("twice")  # a busy machine takes a moment until Patroni says so
        return scene.state("twice")

    def play() -> list[str]:
        plan = scene.look().plan
        kinds.update(type(step.action).__name__ for step in plan.steps)
        unequal = _twice(scene, scene.world(), plan, settled)
        scene.settle()
        return unequal

    assert play() == []
    _edit(scene, "twice")
    assert play() == []
    scene.edit("twice", "instances: 2", "instances: 1")
    assert play() == []
    scene.remove("twice")
    plan = scene.look().plan
    kinds.update(type(step.action).__name__ for step in plan.steps)
    assert _twice(scene, scene.world(), plan, lambda: scene.state("twice")) == []
    # It comes back with its data, under another name of its shard, and goes for ever.
    text = spec_text("twice", '{name: a0, keys: ["-"]}', more="  moved: [{from: s0, to: a0}]\n")
    scene.write("twice", text.replace("generation: 1", "generation: 2"))
    assert _twice(scene, scene.world(), scene.look().plan, settled) == []
    assert play() == []  # what is seen only once it runs
    scene.remove("twice")
    plan = scene.look().plan
    kinds.update(type(step.action).__name__ for step in plan.steps)
    assert _twice(scene, scene.world(), plan, lambda: scene.state("twice")) == []
    assert kinds == {
        "AddMember", "Configure", "DestroyShard", "InstallGuards", "RemoveMember", "RemoveRecord",
        "RemoveRouting", "RestartMembers", "RunSchemaFile", "SetPasswords", "SetUpDatabase",
        "StartShard", "StopShard", "SwitchOver", "WriteRecord", "WriteRouting",
    }  # fmt: skip
