"""Drift on a real platform: shown by a command that cannot write, reported, or corrected."""

from __future__ import annotations

import json

import pytest

from reconciler import wiring
from reconciler.cli.configured import load_settings
from reconciler.edges.etcd import StoreReadsOnly
from reconciler.edges.postgres_session import NotPrimary, session, superuser_options
from reconciler.engine.observe import login_of, primary_of
from reconciler.model.access import Lease
from reconciler.model.names import FencingToken
from tests.e2e.scene import Scene
from tests.e2e.test_daemon import World, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]
LEASE = Lease("/shardwright/v1/applier", 1, FencingToken(1 << 40))


def _drop_guard(scene: Scene, name: str) -> None:
    """Take away a trigger that only we make: nobody's spec asked for that."""
    rows = scene.sql(
        name, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.customers'::regclass"
        " AND NOT tgisinternal ORDER BY tgname"
    )  # fmt: skip
    for (trigger,) in rows:
        scene.sql(name, f'DROP TRIGGER "{trigger}" ON public.customers')


def _guards(scene: Scene, name: str) -> int:
    query = (
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.customers'::regclass"
        " AND NOT tgisinternal"
    )
    return int(scene.sql(name, query)[0][0])


def test_drift_is_told_from_what_is_pending_by_a_command_that_cannot_write(scene: Scene) -> None:
    call = scene.call
    scene.write("shop")
    scene.applied()
    specs = ("-f", str(scene.specs))
    assert call("drift", *specs, "--detailed-exitcode").code == 0

    mistyped = call("drift", "shob", *specs, "--detailed-exitcode")
    assert mistyped.code == 1
    assert "did you mean shop?" in mistyped.told()

    scene.edit("shop", "work_mem: 16MB", "work_mem: 21MB")
    ended = call("drift", *specs, "--detailed-exitcode")
    assert ended.code == 0, "what the spec asks for is no drift"
    assert "nothing to do" in ended.out

    _drop_guard(scene, "shop")
    ended = call("drift", "shop", *specs, "--detailed-exitcode")
    assert ended.code == 3, ended.told()
    assert "drift" in ended.out
    assert "configure" not in ended.out
    plan = call("plan", *specs)
    assert ", drift" in plan.out
    assert "corrects drift" in plan.out
    steps = json.loads(call("plan", *specs, "-o", "json").out)["steps"]
    assert {step["id"] for step in steps if step.get("drift")} == {"shop-s0/guards"}
    assert _guards(scene, "shop") == 0, "to look changed nothing"


def test_the_handles_of_looking_commands_are_refused_every_write(scene: Scene) -> None:
    scene.write("shop")
    scene.applied()
    settings = load_settings(str(scene.home))
    eyes = wiring.open_reading_world(settings).eyes
    assert eyes.store.read("/shardwright/")
    with pytest.raises(StoreReadsOnly):
        eyes.store.acquire("/shardwright/v1/applier", "a looker", 5)
    for write in (eyes.store.keep_alive, eyes.store.release):
        with pytest.raises(StoreReadsOnly):
            write(LEASE)

    shard = scene.shard("shop")
    login = login_of(eyes.platform, shard)
    primary = primary_of(shard, eyes.patroni.view(login))
    assert primary is not None
    with pytest.raises(NotPrimary):  # SQLSTATE 25006, from PostgreSQL itself
        eyes.postgres.fence(login, primary, "shop", LEASE.token)
    target = eyes.postgres._target(login, primary, "shop")  # type: ignore[attr-defined]
    with pytest.raises(NotPrimary), session(target, superuser_options(target.timeouts)) as own:
        own.execute("CREATE TABLE public.written (id int)")


def test_a_daemon_reports_drift_or_corrects_it_as_the_spec_says(world: World) -> None:
    scene = world.scene
    scene.write("shop")
    scene.edit("shop", "deletion:", "driftPolicy: report\n  deletion:")
    world.commit("report drift")
    world.start()
    world.await_ready("shop")
    standing = _guards(scene, "shop")
    assert standing > 0

    _drop_guard(scene, "shop")
    assert scene.call("reconcile", "shop").code == 0
    assert wait_for(lambda: world.database("shop").get("reason") == "Drifted", "it drifted", 60)
    assert "driftPolicy: report" in world.database("shop")["message"]
    assert _guards(scene, "shop") == 0
    # Nobody is asked to approve what the daemon will not do, and apply by hand says who leads.
    refused = scene.call("apply", "-f", "specs", "--yes")
    assert refused.code == 1
    told = " ".join(refused.told().split())
    assert "the daemon leaves drift alone (driftPolicy: report)" in told
    assert "AP113" in told
    assert "stop the daemon, then apply" in told

    # What is pending is applied all the same, and drift is still left.
    scene.edit("shop", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("more memory")
    wait_for(lambda: scene.sql("shop", "SHOW work_mem") == [("21MB",)], "it is applied", 120)
    assert _guards(scene, "shop") == 0

    scene.edit("shop", "driftPolicy: report", "driftPolicy: correct")
    world.commit("correct it")
    wait_for(lambda: _guards(scene, "shop") == standing, "it is corrected", 120)
