"""Many databases share a look, and nothing that a person or a commit asks is missed by it."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from reconciler.daemon.sights import Sights
from reconciler.edges.etcd import EtcdStore
from reconciler.edges.etcd_gateway import EtcdTimeouts
from reconciler.engine.observe import observe
from reconciler.engine.orders import resume, suspend
from reconciler.engine.sight import MANY, survey
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import ObservedState
from tests.e2e.scene import Scene
from tests.e2e.test_daemon import World, world  # noqa: F401  (a fixture)
from tests.local_home import wait_for

pytestmark = pytest.mark.platform

ASKING = "autoApply: {online: approval, destroy: never}"
OFTEN = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  interval: 1s
  sources:
    - git: {{url: "{repository}", branch: main, interval: 1s}}
"""


def _key(name: str) -> DatabaseKey:
    return DatabaseKey(Namespace("default"), DatabaseName(name))


def _timeless(state: ObservedState) -> ObservedState:
    """Leave out what differs between two looks at one thing."""
    databases = tuple(
        replace(d, shards=tuple(replace(s, patroni=s.key, catalog=s.key) for s in d.shards))  # type: ignore[arg-type]
        for d in state.databases
    )
    return replace(state, looked_at="", databases=databases)


def test_a_round_sees_by_a_shared_look_what_it_sees_by_itself(scene: Scene) -> None:
    scene.write("shared")
    assert scene.call("apply", "-f", str(scene.specs), "--yes").code == 0
    eyes = scene.world().eyes
    sight = survey(eyes.platform, eyes.store, eyes.clock)
    only = frozenset({_key("shared")})
    shared = observe(replace(eyes, sight=sight), only, only)
    alone = observe(eyes, only, only)
    assert len(shared.databases[0].shards) == 1
    assert shared.answered == alone.answered
    assert _timeless(shared) == _timeless(alone)
    nothing = frozenset({_key("no-such")})
    assert observe(replace(eyes, sight=sight), nothing, nothing).databases[0].shards == ()


def test_a_shared_look_is_taken_for_many_and_never_from_before_what_happened(
    scene: Scene,
) -> None:
    eyes, key = scene.world().eyes, _key("never-there")
    sights = Sights(eyes)
    assert sights.of(key, MANY - 1) is None, "a few look by themselves"
    first = sights.of(key, MANY)
    assert first is not None
    assert sights.of(key, 0) is first

    suspend(eyes.store, "kim", key, "audit", eyes.clock.now())
    sights.note(key)
    try:
        assert sights.of(key, 0) is None
        assert sights.of(_key("another"), 0) is first
        second = wait_for(lambda: sights.of(key, MANY), "another look may be paid for", 20)
        assert second is not first
        (seen,) = observe(replace(eyes, sight=second), (key,), frozenset({key})).databases
        assert "audit" in seen.suspended
    finally:
        resume(eyes.store, "kim", key, eyes.clock.now())
    sights.note(key, 60.0)
    assert sights.of(key, MANY) is None, "what is due later is not answered by a look from now"
    sights.forget()
    assert sights.of(_key("another"), 0) is None


def test_where_etcd_is_silent_a_shared_look_is_not_tried_again_by_each_round(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = EtcdStore((address,), None, EtcdTimeouts(0.2, 0.2))
        sights = Sights(replace(scene.world().eyes, store=store))
        assert sights.of(_key("shop"), MANY) is None
        silent.accept()[0].close()
        assert sights.of(_key("shop"), MANY) is None
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_many_databases_hear_of_a_commit_a_suspension_and_its_end(world: World) -> None:  # noqa: F811
    scene, names = world.scene, [f"many{n:02}" for n in range(MANY + 8)]
    world.config.write_text(OFTEN.format(repository=scene.specs))
    for name in names:
        scene.write(name)
        scene.edit(name, "deletion:", f"{ASKING}\n  deletion:")
    world.commit("many")
    world.start()

    def all_say(reason: str, but: str = "") -> bool:
        told = {d["name"]: d["reason"] for d in world.status()["databases"]}
        return all(told.get(name) == reason for name in names if name != but)

    def say(name: str, reason: str) -> bool:
        return bool(world.database(name).get("reason") == reason)

    wait_for(lambda: all_say("ApprovalNeeded"), "all wait for an approval", 120)
    chosen = names[3]
    for _ in range(3):
        assert scene.call("suspend", chosen, "--reason", "audit").code == 0
        wait_for(lambda: say(chosen, "Suspended"), "it is suspended", 60)
        assert all_say("ApprovalNeeded", but=chosen)
        assert scene.call("resume", chosen).code == 0
        wait_for(lambda: say(chosen, "ApprovalNeeded"), "it asks again", 60)
    for name in names:
        scene.edit(name, ASKING, "suspend: true")
    world.commit("leave them")
    wait_for(lambda: all_say("Suspended"), "all are suspended", 120)
    assert not [line for line in world.daemons[0].lines() if line["event"] == "round broken"]
