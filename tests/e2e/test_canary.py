"""A change that goes to a canary first, on real shards, gated by SQL and by a real Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.prometheus import Prometheus
from reconciler.engine.events import ApplyEvent, StepDone
from reconciler.engine.loop import act
from reconciler.engine.records import rollout_key
from tests.e2e.scene import TWO, Scene, key_of, spec_text
from tests.e2e.test_daemon import CONFIG, World, world
from tests.local_home import wait_for
from tests.prometheus import PrometheusServer, running_prometheus

pytestmark = pytest.mark.platform
__all__ = ["world"]

ROLLOUT = """\
  rollout:
    shardsMax: 1
    canary:
      shards: [s1]
      bake: 1h
      gates:
        - {name: errors, promql: shop_errors, max: 5}
        - {name: rows, sql: SELECT count(*) FROM customers, max: 0}
"""
THREE = (
    '{name: s0, keys: ["-40"]}', '{name: s1, keys: ["40-80"]}', '{name: s2, keys: ["80-"]}'
)  # fmt: skip


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[PrometheusServer]:
    with running_prometheus(tmp_path / "prometheus") as server:
        server.tell("shop_errors", 1)
        yield server


def _have(scene: Scene, name: str, *shards: str) -> list[str]:
    return [str(scene.sql(name, "SHOW work_mem", shard)[0][0]) for shard in shards]


def _noted(scene: Scene, name: str) -> bool:
    key = rollout_key(key_of(name))
    return key in scene.world().eyes.store.read(key)


def test_the_daemon_bakes_stops_at_a_gate_and_goes_on_when_a_person_says_so(
    world: World, prometheus: PrometheusServer
) -> None:
    scene, call = world.scene, world.scene.call
    config = CONFIG.format(repository=scene.specs)
    world.config.write_text(f'{config}  prometheus: {{url: "{prometheus.url}"}}\n')
    scene.write("shop", spec_text("shop", *TWO, more=ROLLOUT))
    world.commit("shop")
    world.start()
    world.await_ready("shop")

    def says(reason: str, *words: str) -> bool:
        told = world.database("shop")
        return told.get("reason") == reason and all(word in told["message"] for word in words)

    scene.edit("shop", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("more memory")
    wait_for(lambda: says("Baking", "canary s1 has it since", "not before"), "it bakes", 120)
    assert _have(scene, "shop", "s0", "s1") == ["16MB", "21MB"]
    plan = call("plan", "--git", str(scene.specs), "--ref", "main")
    assert "canary s1 has it since" in plan.told()

    # What cannot be asked did not hold, and is no failure either.
    prometheus.stop()
    wait_for(lambda: says("Baking", "gate errors says nothing at Prometheus"), "it says so", 120)
    prometheus.start()
    prometheus.tell("shop_errors", 9)
    wait_for(
        lambda: says("RolloutStopped", "gate errors at Prometheus: 9 is above 5",
                     "1 of 2 shards have it", "shardwright rollout retry"), "it stops", 120
    )  # fmt: skip
    assert world.database("shop")["stalled"] is True
    prometheus.tell("shop_errors", 1)
    assert call("reconcile", "shop").code in (0, 1)
    assert says("RolloutStopped"), "a gate that holds again is too late"
    assert _have(scene, "shop", "s0", "s1") == ["16MB", "21MB"]

    assert call("rollout", "retry", "shop").code == 0
    wait_for(lambda: says("Baking"), "it bakes again", 60)
    assert "RO103" in call("rollout", "retry", "shop").told()

    # A gate in SQL, asked at the canary alone.
    scene.sql("shop", "INSERT INTO customers VALUES (2, 'of s1')", "s1", role="owner")
    wait_for(lambda: says("RolloutStopped", "gate rows at s1: 1 is above 0"), "stopped", 120)

    assert call("rollout", "promote", "shop", "--yes").code == 0
    world.await_ready("shop", lambda: _have(scene, "shop", "s0", "s1") == ["21MB", "21MB"])
    assert not _noted(scene, "shop")
    assert "RO103" in call("rollout", "promote", "shop", "--yes").told()
    told = call("audit", "list").told()
    for deed in ("rollout bakes", "rollout stops", "rollout promote"):
        assert deed in told

    # Time alone, and a schema file.
    scene.sql("shop", "DELETE FROM customers", "s1", role="owner")
    scene.edit("shop", "bake: 1h", "bake: 1s")
    scene.write("shop", (scene.specs / "shop.yaml").read_text(), _002="create table notes ();")
    world.commit("a table more")
    has = "SELECT to_regclass('public.notes') IS NOT NULL"
    world.await_ready(
        "shop", lambda: all(scene.sql("shop", has, s) == [(True,)] for s in ("s0", "s1"))
    )


def test_apply_by_hand_does_the_canaries_and_says_what_the_others_wait_for(scene: Scene) -> None:
    call, specs = scene.call, ("-f", str(scene.specs))
    rollout = ROLLOUT.replace("        - {name: errors, promql: shop_errors, max: 5}\n", "")
    scene.write("hand", spec_text("hand", *TWO, more=rollout))
    scene.applied()
    scene.edit("hand", "work_mem: 16MB", "work_mem: 21MB")
    shown = " ".join(call("plan", *specs).told().split())
    assert "canary s1 first; then 60 min and gate rows" in shown

    first = call("apply", *specs, "--yes")
    assert first.code == 1
    assert "hand: the canaries have it; the others follow after 60 min" in first.told()
    assert _have(scene, "hand", "s0", "s1") == ["16MB", "21MB"]
    assert "RollingOut" in call("describe", "database", "hand").told()
    second = call("apply", *specs, "--yes", "--detailed-exitcode")
    assert second.code == 5
    assert "it bakes: hand: canary s1 has it since" in second.told()

    # A revert is not held: the others never had it.
    scene.edit("hand", "work_mem: 21MB", "work_mem: 16MB")
    assert call("apply", *specs, "--yes").code == 0
    assert _have(scene, "hand", "s0", "s1") == ["16MB", "16MB"]


def test_a_gate_that_fails_on_the_way_stops_it_and_says_how_far_it_got(
    scene: Scene, prometheus: PrometheusServer
) -> None:
    rollout = ROLLOUT.replace("bake: 1h", "bake: 0s")
    scene.write("way", spec_text("way", *THREE, more=rollout))
    scene.applied()
    scene.edit("way", "work_mem: 16MB", "work_mem: 21MB")
    world = scene.world(gauge=Prometheus(prometheus.url))
    assert scene.apply(world).left, "the canary alone"
    assert _have(scene, "way", "s0", "s1", "s2") == ["16MB", "21MB", "16MB"]

    def worsen(event: ApplyEvent) -> None:
        scene.events.append(event)
        if isinstance(event, StepDone) and event.step.id == "way-s0/configure":
            prometheus.tell("shop_errors", 6)

    scene.events.clear()
    ended = act(world, scene.look(world), worsen, threading.Event())
    assert scene.failures() == ["RO101"]
    assert ended.failed == ("way-s2/configure",)
    assert _have(scene, "way", "s0", "s1", "s2") == ["21MB", "21MB", "16MB"]
    (stands,) = scene.look(world).standings
    assert "6 is above 5; 2 of 3 shards have it" in stands.text
    assert "RolloutStopped" in scene.call("describe", "database", "way").told()
    prometheus.tell("shop_errors", 0)
    assert scene.apply(world).done == (), "it stays stopped"
    assert _noted(scene, "way")
