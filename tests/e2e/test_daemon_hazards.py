"""What people do to a daemon that works: take its source away, deny it all, set its clock back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.scene import Scene, key_of
from tests.e2e.test_daemon import Running, World, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]
DENY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: freeze}
spec:
  rules: [{name: nothing, at: [spec, plan], require: "false", message: "nobody changes anything"}]
"""


def _work_mem(scene: Scene, name: str) -> set[str]:
    return {str(row[0]) for row in scene.sql(name, "SHOW work_mem")}


def _has(scene: Scene, name: str, memory: str) -> bool:
    return _work_mem(scene, name) == {memory}


def _times(daemon: Running, event: str) -> int:
    return sum(line["event"] == event for line in daemon.lines())


def _await_times(daemon: Running, event: str, count: int) -> None:
    wait_for(lambda: _times(daemon, event) >= count or None, f"{event}, {count} times", 30)


def test_a_configuration_that_drops_its_source_leaves_its_databases_alone_until_it_is_back(
    world: World,
) -> None:
    scene = world.scene
    scene.write("kept")
    world.commit("kept")
    daemon = world.start()
    world.await_ready("kept")
    good = world.config.read_text()
    other = scene.folder / "others"
    other.mkdir()
    (other / "none.yaml").write_text("# nothing of ours\n")

    # It names another source instead: what the first one asked for runs on, and is nobody's here.
    elsewhere, _, _ = good.partition("    - git:")
    world.config.write_text(f"{elsewhere}    - folder: {{path: {json.dumps(str(other))}}}\n")
    wait_for(lambda: world.database("kept") == {} or None, "no source holds it", 60)
    assert daemon.said("source left")
    scene.edit("kept", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("which nobody follows")
    asked = scene.call("reconcile", "kept")
    assert asked.code == 1
    assert "DM201" in asked.told()
    assert _work_mem(scene, "kept") == {"16MB"}
    assert len(scene.shard("kept").members) == 1

    # With no source at all, or no file, the last good one stays.
    world.config.write_text(f"{elsewhere.rstrip().removesuffix('sources:')}sources: []\n")
    _await_times(daemon, "configuration kept", 1)
    world.config.unlink()
    _await_times(daemon, "configuration kept", 2)
    assert daemon.page("/readyz") == (200, "ready\n")

    world.config.write_text(good)
    world.await_ready("kept", lambda: _work_mem(scene, "kept") == {"21MB"})


def test_a_policy_that_denies_everything_stops_all_changes_and_nothing_that_runs(
    world: World,
) -> None:
    scene = world.scene
    scene.write("froze")
    world.commit("froze")
    daemon = world.start()
    world.await_ready("froze")

    (scene.specs / "freeze.yaml").write_text(DENY)
    scene.edit("froze", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("a freeze, and an edit")
    wait_for(
        lambda: world.database("froze").get("reason") == "PolicyDenied" or None, "it is denied", 60
    )
    status = world.database("froze")
    assert (status["ready"], status["stalled"]) == (False, True)
    assert "freeze/nothing: nobody changes anything" in status["message"]
    assert scene.call("reconcile", "froze").code == 1
    assert "PolicyDenied" in scene.call("reconcile", "froze").told()
    assert _work_mem(scene, "froze") == {"16MB"}
    assert _times(daemon, "PolicyDenied") == 1, "it is said once"

    # Another database cannot even begin; the deletion of this one neither.
    scene.write("never")
    (scene.specs / "froze.yaml").rename(scene.folder / "froze.yaml")
    world.commit("another, and a deletion")
    wait_for(
        lambda: world.database("never").get("reason") == "PolicyDenied" or None, "denied too", 60
    )
    assert len(scene.shard("froze").members) == 1
    assert scene.seen("never").shards == ()

    (scene.specs / "freeze.yaml").unlink()
    (scene.folder / "froze.yaml").rename(scene.specs / "froze.yaml")
    world.commit("thawed")
    world.await_ready("froze", lambda: _work_mem(scene, "froze") == {"21MB"})
    world.await_ready("never")


def test_a_clock_set_back_by_an_hour_holds_back_no_edit_and_costs_no_lease(world: World) -> None:
    scene = world.scene
    offset = scene.folder / "offset"
    offset.write_text("0")
    scene.write("hour")
    world.commit("hour")
    daemon = world.start(
        PYTHONPATH=str(Path(__file__).parents[1] / "clock"), SHARDWRIGHT_TEST_CLOCK=str(offset)
    )
    world.await_ready("hour")

    since = world.database("hour")["since"]
    for shift, before, after in (("-3600", "16MB", "21MB"), ("3600", "21MB", "22MB")):
        offset.write_text(shift)
        scene.edit("hour", f"work_mem: {before}", f"work_mem: {after}")
        world.commit(f"{after} at another hour")
        wait_for(partial(_has, scene, "hour", after), "the edit")
        world.await_ready("hour")
        assert scene.call("reconcile", "hour").code == 0
        assert (world.database("hour")["since"] < since) is (shift == "-3600"), "its clock is off"
    assert not daemon.said("lost the lease")
    assert _times(daemon, "leading") == 1
    started = [one for one in scene.operations() if key_of("hour") in one.databases]
    assert len(started) == 3
    told = scene.call("history", "hour")
    assert told.code == 0, told.told()
    audit = scene.call("audit", "verify")
    assert audit.code == 0, audit.told()
