"""Two applies at once: the second is refused; one that was stopped too long can write no more."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reconciler.engine.execute import Hands, perform
from reconciler.engine.problems import PlanStale
from reconciler.engine.records import APPLIER
from reconciler.model.access import FencedOff, LeaseHeld
from reconciler.plan.actions import Configure, Plan, RunSchemaFile, WriteRecord
from tests.e2e.scene import TWO, Scene, spec_text
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
            wait_for(lambda: not store.read(APPLIER) or None, "the lease to run out")
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
