"""What people order beside the specs, on a daemon that runs: approve, suspend, resume."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request

import pytest

from tests.e2e.scene import Scene
from tests.e2e.test_daemon import Running, World, world
from tests.local_home import wait_for

pytestmark = pytest.mark.platform
__all__ = ["world"]

HOOKED = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  webhook: {{secretFile: secret}}
  sources:
    - git: {{url: "{repository}", branch: main, interval: 1h, webhook: true}}
"""
ASKING = "autoApply: {online: approval}"


@pytest.fixture
def shop(world: World) -> World:
    """Return a daemon that runs ``shop`` and asks before it configures anything."""
    world.scene.write("shop")
    world.commit("shop")
    world.start()
    world.await_ready("shop")
    world.scene.edit("shop", "deletion:", f"{ASKING}\n  deletion:")
    world.commit("ask from now on")
    return world


def _work_mem(scene: Scene, name: str = "shop") -> set[str]:
    return {str(row[0]) for row in scene.sql(name, "SHOW work_mem")}


def _waits(world: World, but: str = "") -> str:
    """Return the id of what waits for an approval, once it is another than ``but``."""

    def waiting() -> bool:
        return world.database("shop").get("approval", "") not in ("", but)

    assert wait_for(waiting, "it waits for an approval", 120)
    return str(world.database("shop")["approval"])


def test_a_plan_waits_for_its_approval_and_another_plan_needs_another(shop: World) -> None:
    call = shop.scene.call
    shop.scene.edit("shop", "work_mem: 16MB", "work_mem: 21MB")
    shop.commit("more memory")
    first = _waits(shop)
    status = shop.database("shop")
    assert (status["ready"], status["reason"]) == (False, "ApprovalNeeded")
    assert first in status["message"]
    assert "shardwright approve" in status["message"]
    plan = call("plan", "--git", str(shop.scene.specs), "--ref", "main")
    assert first in plan.out, "a pull request shows the same id"

    # The spec changes: what was read is not what waits any more.
    shop.scene.edit("shop", "work_mem: 21MB", "work_mem: 22MB")
    shop.commit("still more")
    second = _waits(shop, but=first)
    stale = call("approve", "shop", "--plan", first, "--yes")
    assert stale.code == 1
    assert "DM204" in stale.told()
    assert second in stale.told()
    assert _work_mem(shop.scene) == {"16MB"}

    # Nobody can be asked here, and nothing is approved in silence.
    assert "CL002" in call("approve", "shop", "--plan", second).told()
    assert _work_mem(shop.scene) == {"16MB"}

    assert call("approve", "shop", "--plan", second, "--yes").code == 0
    shop.await_ready("shop", lambda: _work_mem(shop.scene) == {"22MB"})
    assert "DM203" in call("approve", "shop", "--yes").told()

    # A commit approves as well, by its trailer; the id is known before it is made.
    shop.scene.edit("shop", "work_mem: 22MB", "work_mem: 23MB")
    third = next(
        word.strip("`,.;")
        for word in call("plan", "-f", str(shop.scene.specs)).out.split()
        if word.startswith("ap-")
    )
    shop.commit(f"and more\n\nShardwright-Approve: {third}")
    shop.await_ready("shop", lambda: _work_mem(shop.scene) == {"23MB"})

    # never: no approval lets the daemon do it.
    shop.scene.edit("shop", ASKING, "autoApply: {online: never}")
    shop.scene.edit("shop", "work_mem: 23MB", "work_mem: 24MB")
    shop.commit("never by itself")
    assert wait_for(
        lambda: shop.database("shop").get("reason") == "NeverApplied", "it says never", 120
    )
    assert shop.database("shop")["stalled"] is True
    assert _work_mem(shop.scene) == {"23MB"}


def test_a_suspended_database_is_left_alone_until_it_is_resumed(world: World) -> None:
    scene, call = world.scene, world.scene.call
    scene.write("idle")
    world.commit("idle")
    world.start()
    world.await_ready("idle")

    assert call("suspend", "idle", "--reason", "audit week").code == 0
    assert wait_for(
        lambda: world.database("idle").get("reason") == "Suspended", "it is suspended", 60
    )
    told = world.database("idle")["message"]
    assert told.endswith("audit week; try: shardwright resume idle")
    scene.edit("idle", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("more memory")
    assert call("reconcile", "idle").code == 0
    assert _work_mem(scene, "idle") == {"16MB"}
    plan = call("plan", "-f", str(scene.specs))
    assert "suspended" in plan.out
    assert "audit week" in plan.out
    assert "audit week" in call("get", "databases", "-o", "wide").out

    assert "DM201" in call("suspend", "no-such").told()
    assert call("resume", "idle").code == 0
    world.await_ready("idle", lambda: _work_mem(scene, "idle") == {"21MB"})
    assert "was not suspended" in call("resume", "idle").out


def push(daemon: Running, world: World, secret: bytes, ref: str = "refs/heads/main") -> int:
    body = json.dumps({"ref": ref, "repository": {"clone_url": f"file://{world.scene.specs}"}})
    digest = hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()
    request = urllib.request.Request(  # noqa: S310
        daemon.address + "/webhook", body.encode(),
        {"X-Gitea-Event": "push", "X-Gitea-Signature": digest},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_a_signed_push_is_applied_at_once_and_an_unsigned_one_is_not_heard(world: World) -> None:
    scene = world.scene
    world.config.write_text(HOOKED.format(repository=scene.specs))
    unsigned = scene.folder / "unsigned.yaml"
    unsigned.write_text(world.config.read_text().replace("  webhook: {secretFile: secret}\n", ""))
    assert "DM104" in scene.call("--config", str(unsigned), "run").told()
    (scene.folder / "secret").write_bytes(b"of the forge\n")
    scene.write("hooked")
    world.commit("hooked")
    daemon = world.start()
    world.await_ready("hooked")

    scene.edit("hooked", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("more memory")
    assert push(daemon, world, b"guessed") == 403
    assert push(daemon, world, b"of the forge", "refs/heads/other") == 202
    assert (
        world.status()["daemon"]["sources"][0]["revision"]
        == world.database("hooked")["lastAppliedRevision"]
    ), "the source polls once an hour, and nobody whom it believes told it to look"
    assert push(daemon, world, b"of the forge") == 202
    world.await_ready("hooked", lambda: _work_mem(scene, "hooked") == {"21MB"})
    metrics = daemon.page("/metrics")[1]
    assert 'shardwright_webhooks_total{forge="gitea",result="heard"} 1.0' in metrics
    assert 'shardwright_webhooks_total{forge="unknown",result="refused"} 1.0' in metrics
    assert "of the forge" not in daemon.log_file.read_text()
