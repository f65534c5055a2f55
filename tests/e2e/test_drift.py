"""What was changed by hand is put back; what a schema file breaks stops at the first shard."""

from __future__ import annotations

import psycopg
import pytest

from reconciler.engine.events import StepFailed
from reconciler.model.desired import KeyType
from reconciler.model.hashing import position_of_key
from tests.e2e.scene import TABLES, TWO, Scene, spec_text

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def drift(stage: Scene) -> Scene:
    """Two shards of one member each."""
    stage.write("drift", spec_text("drift", *TWO))
    return stage.applied()


def _spec(scene: Scene) -> str:
    return (scene.specs / "drift.yaml").read_text()


def _key_of(scene: Scene, shard: str) -> int:
    """Return a key that a shard owns."""
    owner = next(o for o in scene.routing("drift").owners if o.shard == shard)
    return next(k for k in range(1000) if position_of_key(KeyType.BIGINT, str(k)) in owner.keys)


def test_a_new_file_runs_on_every_shard_and_once(drift: Scene) -> None:
    drift.write(
        "drift", _spec(drift), _002="create table notes (id int); insert into notes values (1);"
    )

    drift.applied()

    for shard in ("s0", "s1"):
        assert drift.sql("drift", "select * from notes", shard) == [(1,)]


def test_a_changed_old_file_is_refused_and_nothing_happens(drift: Scene) -> None:
    drift.write(
        "drift", _spec(drift), _001=TABLES + "-- later\n", _003="create table more (id int);"
    )

    refused = drift.call("apply", "-f", "specs", "--yes")

    assert refused.code == 1
    assert "PL104" in refused.told()
    assert drift.sql("drift", "select to_regclass('more')") == [(None,)]
    drift.write("drift", _spec(drift), _001=TABLES)
    drift.applied()


def test_a_file_with_a_mistake_stops_at_the_first_shard(drift: Scene) -> None:
    drift.write("drift", _spec(drift), _004="create table half (id int);\nselect 1 from nowhere;\n")

    ended = drift.call("apply", "-f", "specs", "--yes")

    assert ended.code == 1
    assert "PG230" in ended.told()
    assert "004.sql:2:15" in ended.err
    for shard in ("s0", "s1"):
        assert drift.sql("drift", "select to_regclass('half')", shard) == [(None,)]
    waiting = [s for s in drift.steps() if "004" in s]
    assert waiting == [
        "drift-s0/schema/drift/004.sql",
        "drift-s1/schema/drift/004.sql",
    ]
    drift.write("drift", _spec(drift), _004="create table half (id int);")
    drift.applied()


def test_an_index_is_made_concurrently_beside_an_open_transaction(drift: Scene) -> None:
    marker = "-- shardwright: no-transaction\n"
    drift.write(
        "drift",
        _spec(drift),
        _005=marker + "create index concurrently by_name on customers (name);",
    )

    drift.applied()

    query = "select indisvalid from pg_index where indexrelid = 'by_name'::regclass"
    assert [drift.sql("drift", query, s) for s in ("s0", "s1")] == [[(True,)], [(True,)]]


def test_parameters_set_by_hand_are_put_back(drift: Scene) -> None:
    patroni, login = drift.world().eyes.patroni, drift.login("drift", "s1")
    view = drift.view("drift", "s1")
    patroni.configure(login, (*view.parameters, ("statement_timeout", "5min")), view.synchronous)
    assert drift.sql("drift", "show statement_timeout", "s1") == [("5min",)]

    assert drift.steps() == ["drift-s1/configure"]
    drift.applied()

    assert drift.sql("drift", "show statement_timeout", "s1") == [("0",)]


@pytest.mark.parametrize(
    "harm",
    [
        'drop trigger "~shardwright_guard_i" on orders',
        'alter table orders disable trigger "~shardwright_guard_i"',
        'alter table orders enable replica trigger "~shardwright_guard_i"',
    ],
)
def test_a_guard_taken_away_by_hand_is_put_back(drift: Scene, harm: str) -> None:
    stranger = _key_of(drift, "s1")
    drift.sql("drift", f"insert into customers values ({_key_of(drift, 's0')}, '')")
    drift.sql("drift", harm)

    assert drift.steps() == ["drift-s0/guards"]
    drift.applied()

    with pytest.raises(psycopg.Error):
        drift.sql("drift", f"insert into orders values ({stranger}, 1)", role="app")
    drift.sql("drift", "truncate customers, orders")


def test_a_table_that_nobody_declared_is_remarked_on_and_left_alone(drift: Scene) -> None:
    drift.sql("drift", "create table by_hand (id int)", role="owner")

    outlook = drift.look()

    assert outlook.plan.steps == ()
    assert any("public.by_hand has no shard key" in r.text for r in outlook.plan.remarks)
    drift.sql("drift", "drop table by_hand", role="owner")


def test_a_sharded_table_without_its_guard_function_is_refused_with_its_name(drift: Scene) -> None:
    before = _spec(drift)
    drift.edit("drift", "orders: customer_id}", "orders: customer_id, wishes: customer_id}")

    ended = drift.apply()

    assert [r.kind.code for r in drift.look().plan.refusals] == ["PL107", "PL107"]
    assert ended.done == ()
    assert not [e for e in drift.events if isinstance(e, StepFailed)]
    drift.write("drift", before)
    drift.applied()
