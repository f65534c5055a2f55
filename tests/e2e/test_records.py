"""The routing map and its guards; moves of keys; a map, or a shard, that is lost."""

from __future__ import annotations

import pytest

from reconciler.engine.records import routing_key
from tests.e2e.scene import TWO, Scene, key_of, scope, spec_text

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def maps(stage: Scene) -> Scene:
    """Two shards of one member each."""
    stage.write("maps", spec_text("maps", *TWO))
    return stage.applied()


def test_a_lost_map_is_published_again_when_the_guards_agree(maps: Scene) -> None:
    before = maps.routing("maps")
    maps.etcd_put(routing_key(key_of("maps")), None)

    assert maps.steps() == ["maps/routing"]
    maps.applied()

    after = maps.routing("maps")
    assert (after.epoch, after.owners) == (before.epoch, before.owners)


def test_a_lost_map_is_not_guessed_when_the_guards_disagree(maps: Scene) -> None:
    whole, text = (
        maps.world().eyes.store.read(routing_key(key_of("maps"))),
        (maps.specs / "maps.yaml").read_text(),
    )
    maps.etcd_put(routing_key(key_of("maps")), None)
    maps.edit("maps", '{name: s0, keys: ["-80"]}', '{name: s0, keys: ["-70"]}')
    maps.edit("maps", '{name: s1, keys: ["80-"]}', '{name: s1, keys: ["70-"]}')

    refused = maps.call("apply", "-f", "specs", "--yes")

    assert refused.code == 1
    assert "PL109" in refused.told()
    assert maps.world().eyes.store.read(routing_key(key_of("maps"))) == {}
    maps.write("maps", text)
    maps.applied()
    assert list(maps.world().eyes.store.read(routing_key(key_of("maps")))) == list(whole)


def test_a_map_that_cannot_be_read_stops_its_database(maps: Scene) -> None:
    key = routing_key(key_of("maps"))
    whole = maps.world().eyes.store.read(key)[key].value
    maps.etcd_put(key, whole[:-20])
    maps.edit("maps", "work_mem: 16MB", "work_mem: 19MB")

    planned = maps.call("plan", "-f", "specs")

    assert "cannot be read" in planned.told()
    assert maps.steps() == []
    maps.etcd_put(key, whole)
    maps.applied()


def test_an_owner_that_is_gone_is_not_replaced_by_an_empty_shard(scene: Scene) -> None:
    scene.write("gone")
    scene.applied()
    platform = scene.world().eyes.platform
    platform.destroy_shard(scope("gone"))

    refused = scene.call("apply", "-f", "specs", "--yes")

    assert refused.code == 1
    assert "PL114" in refused.told()
    assert scope("gone") not in [shard.key for shard in platform.observe()]
