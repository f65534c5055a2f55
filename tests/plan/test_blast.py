"""How much of a database may be changed at once."""

from __future__ import annotations

from reconciler.model.desired import Rollout
from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace, ScopeKey, ShardName
from reconciler.plan.actions import Action, MoveKeyRange, Risk, Step, StopShard
from reconciler.plan.blast import bounded

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
BANK = DatabaseKey(Namespace("default"), DatabaseName("bank"))
SCOPE = ScopeKey("default", "shop-s0")  # type: ignore[arg-type]


def _step(id_: str, action: Action, shard: str | None, database: DatabaseKey = SHOP) -> Step:
    name = ShardName(shard) if shard else None
    return Step(id_, database, action, (), Risk.ONLINE, id_, "", name)


def _on(shard: str, id_: str = "", database: DatabaseKey = SHOP) -> Step:
    return _step(id_ or shard, StopShard(SCOPE), shard, database)


def _move(id_: str, size: int | None) -> Step:
    tables = None if size is None else (("orders", size, 10),)
    move = MoveKeyRange(
        SHOP, ShardName("s0"), ShardName("s1"), SCOPE, SCOPE, KeySet(), tables, 100, 60
    )
    return _step(id_, move, None)


def _begun(ready: list[Step], running: list[Step], limits: Rollout) -> list[str]:
    return [step.id for step in bounded(ready, running, {SHOP: limits})]


def test_without_a_limit_everything_begins() -> None:
    ready = [_on("s0"), _on("s1"), _move("m0", None), _move("m1", None)]
    assert _begun(ready, [], Rollout()) == ["s0", "s1", "m0", "m1"]
    assert [s.id for s in bounded(ready, [], {})] == ["s0", "s1", "m0", "m1"]


def test_no_more_shards_are_touched_than_the_roll_out_allows() -> None:
    ready = [_on("s0"), _on("s1"), _on("s2")]
    assert _begun(ready, [], Rollout(shards_max=2)) == ["s0", "s1"]
    assert _begun(ready, [_on("s7")], Rollout(shards_max=2)) == ["s0"]
    assert _begun(ready, [_on("s7")], Rollout(shards_max=1)) == []


def test_a_shard_under_change_takes_its_next_step() -> None:
    ready = [_on("s1"), _on("s0", "s0/next")]
    assert _begun(ready, [_on("s0")], Rollout(shards_max=1)) == ["s0/next"]


def test_another_database_has_limits_of_its_own() -> None:
    ready = [_on("s0"), _on("s0", "bank", BANK), _on("s1", "bank1", BANK)]
    assert _begun(ready, [_on("s7")], Rollout(shards_max=1)) == ["bank", "bank1"]
    assert _begun(ready[:1], [_on("s7", "b", BANK)], Rollout(shards_max=1)) == ["s0"]
