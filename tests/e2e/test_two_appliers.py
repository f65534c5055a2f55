"""Two applies at once: the second is refused; one that was stopped too long can write no more."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reconciler.engine.apply import Applier
from reconciler.engine.execute import perform
from reconciler.engine.hands import Hands
from reconciler.engine.ports import Store
from reconciler.engine.problems import PlanStale, StepBroken
from reconciler.engine.records import APPLIER
from reconciler.model.access import ConflictingWrite, FencedOff, Lease, LeaseHeld
from reconciler.model.desired import Deletion
from reconciler.plan.actions import (
    Action,
    Configure,
    Plan,
    RemoveRecord,
    RemoveRouting,
    RunSchemaFile,
    WriteRecord,
)
from tests.e2e.scene import TWO, Scene, key_of, spec_text
from tests.local_home import wait_for

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def pair(stage: Scene) -> Scene:
    """Two shards of one database."""
    stage.write("pair", spec_text("pair", *TWO))
    return stage.applied()


@contextmanager
def _old_hands(scene: Scene, plan: Plan) -> Iterator[Hands]:
    """Hands of an applier whose lease ran out while it was stopped."""
    world = scene.world()
    lease = world.eyes.store.acquire(APPLIER, "stopped", 30)
    world.eyes.platform.fence(lease.token)
    yield Hands(
        world.eyes.platform, world.eyes.store, world.eyes.patroni, world.eyes.postgres,
        world.mover, world.clock, lease, plan.source, str(plan.revision), 60, threading.Event(),
    )  # fmt: skip


def test_a_second_apply_is_refused_at_once_and_names_the_first(pair: Scene) -> None:
    world = pair.world()
    pair.edit("pair", "work_mem: 16MB", "work_mem: 17MB")
    lease = world.eyes.store.acquire(APPLIER, f"kim@host pid {os.getpid()}", 30)
    try:
        with pytest.raises(LeaseHeld, match="kim@host"):
            pair.apply()
        refused = pair.call("apply", "-f", "specs", "--yes")
        assert refused.code == 1
        assert "kim@host" in refused.told()
    finally:
        world.eyes.store.release(lease)
    assert pair.sql("pair", "show work_mem") == [("16MB",)]
    pair.applied()


def test_a_plan_that_another_apply_overtook_is_stale_before_it_does_anything(pair: Scene) -> None:
    pair.edit("pair", "work_mem: 17MB", "work_mem: 18MB")
    outlook = pair.look()
    pair.applied()

    with pytest.raises(PlanStale, match="last applied pair"):
        pair.apply(outlook=outlook)
    pair.edit("pair", "work_mem: 18MB", "work_mem: 17MB")
    pair.applied()


def test_nothing_of_an_applier_that_lost_its_lease_lands(pair: Scene) -> None:
    """The later apply touches one shard only; the former one's writes to the other fail as well."""
    text = (pair.specs / "pair.yaml").read_text()
    pair.write("pair", text, _002="create table lost (a int);")
    pair.edit("pair", "work_mem: 17MB", "work_mem: 40MB")
    plan = pair.look().plan
    pair.write("pair", text)
    (pair.specs / "pair" / "002.sql").unlink()
    actions = [step.action for step in plan.steps]
    assert {Configure, RunSchemaFile, WriteRecord} == {type(action) for action in actions}
    with _old_hands(pair, plan) as hands:
        hands.store.release(hands.lease)
        pair.sql("pair", 'drop trigger "~shardwright_guard_i" on orders')
        pair.applied()  # mends the guard of s0
        before = (pair.state("pair"), pair.world().eyes.store.read("/shardwright/v1/databases/"))
        for action in actions:
            with pytest.raises(FencedOff):
                perform(hands, action, lambda _: None)
        # What was past the question for the lease when it was stopped meets the shard's own fence.
        key, name = pair.shard("pair", "s1").key, "pair"
        login = pair.login("pair", "s1")
        primary = login.members[0].endpoint
        files = [action.file for action in actions if isinstance(action, RunSchemaFile)]
        assert files
        owner = hands.platform.credential(key, "pair_owner")
        for file in files:
            with pytest.raises(FencedOff):
                hands.postgres.apply_schema(login, primary, name, owner, file, hands.lease.token)
        with pytest.raises(FencedOff):
            hands.postgres.rotate_passwords(login, primary, name, (owner,), 9, hands.lease.token)
        with pytest.raises(FencedOff):
            hands.platform.stop_shard(key)
    after = (pair.state("pair"), pair.world().eyes.store.read("/shardwright/v1/databases/"))
    assert after == before


def test_a_record_that_changed_since_it_was_seen_is_neither_removed_nor_replaced(
    pair: Scene,
) -> None:
    plan, key = pair.look().plan, key_of("pair")
    records = pair.world().eyes.store.read("/shardwright/v1/databases/")
    versions = {k.rpartition("/")[2]: item.version for k, item in records.items()}
    stale: tuple[Action, ...] = (
        RemoveRouting(key, versions["routing"] - 1), RemoveRecord(key, versions["record"] - 1),
        WriteRecord(key, "other", Deletion.DESTROY, "x.yaml", versions["record"] - 1),
        WriteRecord(key, "other", Deletion.DESTROY, "x.yaml"),
    )  # fmt: skip
    with _old_hands(pair, plan) as hands:
        for action in stale:
            with pytest.raises(ConflictingWrite):
                perform(hands, action, lambda _: None)
        hands.store.release(hands.lease)
    assert pair.world().eyes.store.read("/shardwright/v1/databases/") == records


def test_nothing_of_a_suspended_database_is_touched_not_even_its_fence(pair: Scene) -> None:
    def fences() -> list[tuple[object, ...]]:
        return pair.sql("pair", "select xmin::text, ctid::text, * from shardwright.fencing")

    text = (pair.specs / "pair.yaml").read_text()
    before = fences()
    lease = pair.world().eyes.store.acquire(APPLIER, "test", 30)
    try:
        for suspend, touched in ((True, False), (False, True)):
            pair.write("pair", f"{text.rstrip()}\n  suspend: {str(suspend).lower()}\n")
            applier = Applier(pair.world(), pair.look(), lambda _: None, threading.Event(), False)
            applier._fence_shards(lease)
            assert (fences() != before) is touched
    finally:
        pair.world().eyes.store.release(lease)
        pair.write("pair", text)


class _NoKeeper:
    """The real store, whose leases are kept alive by the steps alone: the keeper meets a bug."""

    def __init__(self, real: Store) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def keep_alive(self, lease: Lease) -> None:
        if threading.current_thread().name == "lease":
            raise RuntimeError("a bug in the keeper")
        self._real.keep_alive(lease)


def test_an_applier_that_cannot_keep_its_lease_stops_and_says_why(scene: Scene) -> None:
    scene.write("keeper")
    with pytest.raises(StepBroken, match="a bug in the keeper"):
        scene.apply(scene.storing(_NoKeeper))
    assert scene.operations()[-1].result == "failed"
    scene.settle_members("keeper")  # Patroni goes on without us
    scene.applied()


def test_an_applier_stopped_beyond_its_lease_ends_without_a_further_write(scene: Scene) -> None:
    """It is stopped where it waits: one that is stopped in a change holds the home's own lock."""
    scene.write("paused")
    store = scene.world().eyes.store
    with scene.call.start("apply", "-f", "specs", "--yes") as process:
        assert process.stderr is not None
        try:
            while "waits" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGSTOP)
            told = scene.call("get", "paused").told()
            assert "Reconciling=True" in told
            assert ", since " in told  # what it waits for
            wait_for(lambda: not store.read(APPLIER) or None, "the lease to run out")
            scene.settle_members("paused")  # one that comes up makes a plan stale
            scene.applied()
            done = (scene.state("paused"), store.read("/shardwright/v1/"))
            process.send_signal(signal.SIGCONT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 1
    assert "AP110" in told
    assert "Traceback" not in told
    assert (scene.state("paused"), store.read("/shardwright/v1/")) == done
