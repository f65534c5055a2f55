"""A saved plan is what was reviewed, once, or it is refused and says what moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.engine import journal
from reconciler.engine.problems import PlanUsed
from reconciler.engine.records import APPLIER, PLANS
from tests.e2e.scene import Scene, spec_text
from tests.local_home import wait_for

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def saved(stage: Scene) -> Scene:
    """A database of one shard with two members."""
    stage.write("saved", spec_text("saved", instances=2))
    return stage.applied()


@pytest.fixture
def plan(saved: Scene) -> Path:
    """A plan that changes one parameter, made now."""
    path = saved.specs / "saved.yaml"
    text = path.read_text()
    number = int(text.partition("work_mem: ")[2].partition("MB")[0])
    saved.settle()
    saved.edit("saved", f"work_mem: {number}MB", f"work_mem: {number + 1}MB")
    made = saved.call("plan", "-f", "specs", "--out", "plan.json")
    assert made.code == 0, made.told()
    return saved.folder / "plan.json"


def _refused(saved: Scene, code: str, *named: str) -> None:
    before = saved.sql("saved", "show work_mem")
    ended = saved.call("apply", "plan.json", "--yes", "--detailed-exitcode")
    assert code in ended.told()
    assert ended.code == (1 if code == "AP106" else 6)
    for name in named:
        assert name in ended.err
    assert saved.sql("saved", "show work_mem") == before


def test_a_saved_plan_is_applied_once(saved: Scene, plan: Path) -> None:
    first = saved.call("apply", "plan.json", "--yes")
    assert first.code == 0, first.told()

    _refused(saved, "AP105")
    assert saved.steps() == []


def test_an_edited_plan_is_refused(saved: Scene, plan: Path) -> None:
    whole = plan.read_text()
    body = json.loads(whole)
    body["steps"][0]["title"] = "nothing much"
    for broken in (json.dumps(body), whole[:-40], "[]", "", '{"seal": 3}', "\0\1"):
        plan.write_text(broken)
        _refused(saved, "AP106")
    saved.applied()


def test_a_plan_is_stale_after_another_apply(saved: Scene, plan: Path) -> None:
    saved.applied()

    _refused(saved, "AP104", "last applied saved", "members of saved-s0")


def test_a_plan_is_stale_when_its_spec_moved(saved: Scene, plan: Path) -> None:
    saved.edit("saved", "generation: 1", "generation: 2")

    _refused(saved, "AP104", "revision", "spec saved")
    saved.edit("saved", "generation: 2", "generation: 1")
    saved.applied()


def test_a_plan_is_stale_after_drift_in_the_catalog(saved: Scene, plan: Path) -> None:
    saved.sql("saved", "alter table customers add column by_hand int")

    _refused(saved, "AP104", "catalog of saved-s0")
    saved.sql("saved", "alter table customers drop column by_hand")
    assert saved.call("apply", "plan.json", "--yes").code == 0  # what moved has moved back


def test_a_plan_is_stale_after_a_member_died(saved: Scene, plan: Path) -> None:
    standby = next(
        m.name for m in saved.view("saved").members if m.name != saved.view("saved").leader
    )
    leader = saved.view("saved").leader
    assert leader is not None
    peer = saved.processes(leader)[0]
    peer.suspend()  # it would start the dead one again, sooner or later than the plan looks
    try:
        saved.kill(standby)
        _refused(saved, "AP104", "members of saved-s0")
        assert "saved-s0/start" in saved.steps()
    finally:
        peer.resume()
    saved.applied()
    assert saved.view("saved").member(standby)


def test_a_plan_does_not_rest_on_databases_of_other_sources(
    saved: Scene, plan: Path, scene: Scene
) -> None:
    scene.write("other")
    scene.applied()
    scene.kill("other-s0-0")

    applied = saved.call("apply", "plan.json", "--yes")

    assert applied.code == 0, applied.told()
    wait_for(lambda: saved.steps() == [] or None, "nothing to do")


def test_of_two_applies_of_one_saved_plan_the_second_is_told_so(
    saved: Scene, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either began: the one finds the plan in use, the other the lease too."""
    outlook = saved.look()
    key = PLANS + outlook.plan.digest
    saved.etcd_put(key, b"{}")
    with pytest.raises(PlanUsed, match="another call"):
        saved.apply(outlook=outlook, single_use=True)
    store = saved.world().eyes.store
    lease = store.acquire(APPLIER, "another", 30)
    with pytest.raises(PlanUsed, match="another call"):
        saved.apply(outlook=outlook, single_use=True)
    store.release(lease)
    saved.etcd_put(key, None)

    # Used plans are not kept for ever.
    monkeypatch.setattr(journal, "KEPT_PLANS", 2)
    for name in ("a", "b", "c"):
        saved.etcd_put(PLANS + name, b"{}")
    saved.apply(outlook=outlook, single_use=True)
    assert store.read(PLANS).keys() == {PLANS + "c", key}
