"""Edits of a spec that change what runs: fewer members, other names, no more database."""

from __future__ import annotations

import re

import psycopg
import pytest

from reconciler.edges.local.platform import LocalPlatform
from reconciler.engine.events import StepFailed
from reconciler.engine.records import APPLIER
from reconciler.model.names import DatabaseName, FencingToken, app_role
from tests.e2e.scene import TWO, Scene, key_of, scope, spec_text
from tests.local_home import connect, wait_for

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def shop(stage: Scene) -> Scene:
    """One synchronous shard of two members, with a row in it."""
    parameters = "{work_mem: 16MB, max_connections: 130}"
    text = spec_text("shop", instances=2, synchronous=True, parameters=parameters)
    stage.write("shop", text)
    stage.applied()
    stage.sql("shop", "insert into customers values (1, 'Ada')")
    return stage


def _synchronous(scene: Scene, name: str) -> None:
    def standby() -> bool:
        return any(member.synchronous for member in scene.view(name).members)

    wait_for(lambda: standby() or None, "a synchronous standby")


def test_a_limit_is_lowered_on_the_primary_first(shop: Scene) -> None:
    """A standby may not have less than its primary: its own restart would not lower it."""
    _synchronous(shop, "shop")
    shop.edit("shop", "{work_mem: 16MB, max_connections: 130}", "{work_mem: 16MB}")

    shop.applied()

    platform, key = shop.world().eyes.platform, shop.shard("shop").key
    assert isinstance(platform, LocalPlatform)
    for member in shop.login("shop").members:
        with connect(platform, key, member.endpoint) as session:
            assert session.execute("show max_connections").fetchall() == [("100",)]
    assert shop.sql("shop", "select name from customers") == [("Ada",)]


def test_a_leader_is_switched_away_from_before_its_member_is_removed(shop: Scene) -> None:
    _synchronous(shop, "shop")
    world, login = shop.world(), shop.login("shop")
    leader = shop.view("shop").leader
    assert leader
    if leader.endswith("-0"):
        world.eyes.patroni.switch_over(login, leader, login.members[1].name)
        _synchronous(shop, "shop")
    assert shop.view("shop").leader == "shop-s0-1"
    shop.edit("shop", "instances: 2, synchronous: true", "instances: 1, synchronous: false")

    assert "shop-s0/switchover" in shop.steps()
    shop.applied()

    assert [m.name for m in shop.shard("shop").members] == ["shop-s0-0"]
    assert shop.view("shop").leader == "shop-s0-0"
    assert shop.sql("shop", "select name from customers") == [("Ada",)]
    assert [m.name for m in shop.routing("shop").owners[0].members] == ["shop-s0-0"]


def test_a_renamed_shard_keeps_its_scope_and_its_rows(shop: Scene) -> None:
    before = shop.shard("shop")
    shop.edit("shop", '{name: s0, keys: ["-"]}', '{name: a0, keys: ["-"]}')
    shop.edit("shop", "  deletion:", "  moved: [{from: s0, to: a0}]\n  deletion:")

    assert shop.steps() == ["shop/routing", "shop/record"]
    shop.applied()

    owner = shop.routing("shop").owners[0]
    assert (owner.shard, owner.scope) == ("a0", "shop-s0")
    assert shop.shard("shop") == before
    assert shop.sql("shop", "select name from customers") == [("Ada",)]


def test_a_suspended_database_is_left_alone(shop: Scene) -> None:
    shop.edit("shop", "  deletion:", "  suspend: true\n  deletion:")
    shop.edit("shop", "work_mem: 16MB", "work_mem: 20MB")

    planned = shop.call("plan", "-f", "specs", "--detailed-exitcode")

    assert planned.code == 0, planned.told()
    assert "suspended by its spec" in planned.out
    assert shop.steps() == []
    assert shop.apply().done == ()
    assert shop.sql("shop", "show work_mem") == [("16MB",)]
    shop.edit("shop", "  suspend: true\n", "")
    shop.applied()


def test_a_protected_database_outlives_its_spec(scene: Scene) -> None:
    scene.write("kept", spec_text("kept", deletion="protected"))
    scene.applied()
    text = (scene.specs / "kept.yaml").read_text()
    scene.remove("kept")

    refused = scene.call("apply", "-f", "specs", "--yes")

    assert refused.code == 1
    assert "PL101" in refused.told()
    assert scene.view("kept").leader == "kept-s0-0"
    # Its spec comes back and says that the data is to be kept; then its spec goes again.
    scene.write("kept", text.replace("protected", "keepData"))
    scene.applied()
    scene.sql("kept", "insert into customers values (2, 'Grace')", role="app")
    scene.remove("kept")
    ended = scene.apply()
    assert not ended.failed, [e.error for e in scene.events if isinstance(e, StepFailed)]
    assert scene.shard("kept").stopped
    assert scene.processes("kept-s0-0") == []
    assert scene.steps() == []  # and stays so
    # It comes back once more: with its rows, and with its passwords.
    scene.write("kept", text.replace("protected", "destroy"))
    scene.apply()
    scene.applied()
    assert scene.sql("kept", "select name from customers", role="app") == [("Grace",)]
    # At last it is destroyed, and nothing of it is left.
    scene.remove("kept")
    planned = scene.call("plan", "-f", "specs")
    assert re.search(r"destroy shard s0 and its [\d.]+ MiB of data", planned.told())
    assert "nothing applied yet" not in planned.told()
    assert not scene.apply().failed
    platform = scene.world().eyes.platform
    assert scope("kept") not in [shard.key for shard in platform.observe()]
    assert [k for k in scene.world().eyes.store.read("/shardwright/") if "kept" in k] == []
    assert not list(scene.home.rglob("kept-s0*"))
    assert scene.steps() == []
    assert scene.seen("kept").shards == ()


def _latest_token(scene: Scene) -> FencingToken:
    store = scene.world().eyes.store
    lease = store.acquire(APPLIER, "test", 5)
    store.release(lease)
    return lease.token


def test_passwords_rotate_with_their_generation_on_every_shard(scene: Scene) -> None:
    scene.write("turn", spec_text("turn", *TWO))
    scene.applied()
    platform, role = scene.world().eyes.platform, app_role(DatabaseName("turn"))
    old = {s: platform.credential(scope("turn", s), role).password for s in ("s0", "s1")}
    scene.edit("turn", "generation: 1", "generation: 2")
    # Earlier rotations were cut off: on s0 before PostgreSQL had the password, on s1 after it.
    staged = [platform.stage_credential(scope("turn", s), role) for s in ("s0", "s1")]
    login, token = scene.login("turn", "s1"), _latest_token(scene)
    scene.world().eyes.postgres.rotate_passwords(
        login, login.members[0].endpoint, "turn", (staged[1],), 2, token
    )
    planned = scene.call("plan", "-f", "specs", "-o", "json").told()
    assert not any(one.password in planned for one in staged)

    scene.applied()

    for shard in ("s0", "s1"):
        assert scene.sql("turn", "select 1", shard, role="app") == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            scene.sql("turn", "select 1", shard, role="app", password=old[shard])
        assert scene.shard("turn", shard).staged == ()
    assert key_of("turn") == scene.seen("turn").key
