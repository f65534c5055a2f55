"""The order of a plan's steps: what waits for what, and what goes one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from reconciler.model.desired import Database, Deletion, Resharding
from reconciler.model.names import Epoch, Scope, ScopeKey, ShardName
from reconciler.model.observed import ObservedState, Unseen
from reconciler.plan.actions import (
    Configure,
    DestroyShard,
    InstallGuards,
    Plan,
    RestartMembers,
    Risk,
    StartShard,
    Step,
    StopShard,
    SwitchOver,
    WriteRouting,
)
from reconciler.plan.graph import behind
from reconciler.plan.simulate import simulate, what_remains
from tests.policy.plans import planned
from tests.worlds import (
    NOTHING,
    database,
    desired,
    routing_of,
    schema_file,
    settled,
    shard,
    tiles,
    with_database,
    with_shard,
)

SHOP = database()
RUNNING = settled(desired(SHOP))
AT_ONCE = Resharding(rollback_window_s=0)


def plan(wanted: Database, seen: ObservedState = RUNNING) -> Plan:
    return planned(desired(wanted, revision="r2"), seen)


def ids(found: Plan) -> list[str]:
    return [step.id for step in found.steps]


def by_id(found: Plan) -> dict[str, Step]:
    return {step.id: step for step in found.steps}


def waits(found: Plan, late: str, early: str) -> bool:
    """Whether a step cannot begin before another has ended."""
    steps = by_id(found)
    assert {late, early} <= steps.keys()
    return late in behind({i: s.after for i, s in steps.items()}, [early])


def test_a_new_database_is_a_story_that_ends_with_its_record() -> None:
    found = plan(database(files=(schema_file("a.sql"), schema_file("b.sql"))), NOTHING)

    for name in ("s0", "s1"):
        story = ["start", "setup", "schema/a.sql", "schema/b.sql", "guards"]
        for early, late in pairwise(f"shop-{name}/{what}" for what in story):
            assert waits(found, late, early)
        assert waits(found, "shop/routing", f"shop-{name}/guards")
    assert waits(found, "shop/record", "shop/routing")
    assert ids(found)[-1] == "shop/record"


def test_new_shards_do_not_wait_for_one_another() -> None:
    found = plan(SHOP, NOTHING)

    for step in found.steps:
        if step.shard == "s1":
            assert not any(other.startswith("shop-s0/") for other in step.after)


def test_the_routing_map_is_written_when_the_guards_of_all_shards_stand() -> None:
    seen = with_shard(RUNNING, "shop-s0", catalog={"guards": ()})
    seen = with_shard(seen, "shop-s1", catalog={"guards": ()})
    seen = with_database(seen, routing=None)

    found = plan(SHOP, seen)

    assert set(by_id(found)["shop/routing"].after) == {"shop-s0/guards", "shop-s1/guards"}


def test_members_leave_when_the_routing_map_does_not_name_them_any_more() -> None:
    """And only after another one leads: the primary is never removed."""
    wide = database(shard("s0", "-80", 3), shard("s1", "80-"))
    found = plan(SHOP, settled(desired(wide)))

    assert waits(found, "shop-s0/switchover", "shop/routing")
    assert waits(found, "shop-s0/remove-2", "shop-s0/switchover")
    assert not by_id(found)["shop-s0/switchover"].visible


def test_a_switchover_shows_when_the_leader_is_to_leave() -> None:
    wide = settled(desired(database(shard("s0", "-80", 3), shard("s1", "80-"))))
    seen = with_shard(wide, patroni={"leader": "shop-s0-2"})

    step = by_id(plan(SHOP, seen))["shop-s0/switchover"]

    assert (step.visible, step.risk) == (True, Risk.FAILOVER)


def test_the_last_member_is_removed_first() -> None:
    wide = settled(desired(database(shard("s0", "-80", 4), shard("s1", "80-"))))

    removed = [i for i in ids(plan(SHOP, wide)) if "remove" in i]

    assert removed == ["shop-s0/remove-3", "shop-s0/remove-2"]


def test_restarts_go_one_shard_at_a_time_and_configurations_need_not() -> None:
    shards = tuple(shard(f"s{n}", keys) for n, keys in enumerate(("-40", "40-80", "80-")))
    found = plan(
        database(*shards, parameters=(("max_connections", "200"),)),
        settled(desired(database(*shards))),
    )

    for early, late in pairwise(f"shop-s{n}/restart" for n in range(3)):
        assert waits(found, late, early)
    assert all(not s.after for s in found.steps if isinstance(s.action, Configure))


def test_a_schema_file_goes_to_one_shard_in_use_after_the_other() -> None:
    files = (schema_file("schema/001.sql"), schema_file("schema/002.sql"))

    found = plan(database(files=files))

    assert waits(found, "shop-s1/schema/schema/002.sql", "shop-s0/schema/schema/002.sql")


def test_all_files_of_a_release_meet_the_first_shard_before_the_second() -> None:
    files = tuple(schema_file(f"schema/00{n}.sql") for n in (1, 2, 3))

    found = plan(database(files=files))

    assert waits(found, "shop-s1/schema/schema/002.sql", "shop-s0/schema/schema/003.sql")


def test_restarts_for_two_reasons_are_one() -> None:
    patroni = RUNNING.databases[0].shards[0].patroni
    assert not isinstance(patroni, Unseen)
    waiting = tuple(replace(m, pending_restart=("shared_buffers",)) for m in patroni.members)
    seen = with_shard(RUNNING, patroni={"members": waiting})

    found = plan(database(parameters=(("max_connections", "200"),)), seen)

    (step,) = (s for s in found.steps if s.id == "shop-s0/restart")
    assert isinstance(step.action, RestartMembers)
    assert step.action.parameters == ("max_connections", "shared_buffers")
    assert step.reason == "max_connections, shared_buffers need it"
    assert waits(found, "shop-s0/restart", "shop-s0/configure")


def test_keys_move_when_the_map_lists_the_target_and_a_source_retires_behind_them() -> None:
    wanted = replace(database(shard("s1", "80-"), shard("s2", "-80")), resharding=AT_ONCE)
    found = plan(wanted)
    move = "shop-s0/move/-80/shop-s2"

    assert waits(found, move, "shop/routing")
    assert waits(found, "shop-s0/stop", move)
    assert waits(found, "shop/record", "shop-s0/stop")
    assert isinstance(by_id(found)["shop-s0/stop"].action, StopShard)


def test_a_shard_added_later_owns_nothing_until_a_move_gives_it_keys() -> None:
    routing = replace(routing_of(RUNNING), epoch=Epoch(6))
    wanted = database(shard("s0", "-40"), shard("s1", "80-"), shard("s2", "40-80"))

    action = by_id(plan(wanted, with_database(RUNNING, routing=routing)))["shop-s2/guards"].action

    assert isinstance(action, InstallGuards)
    assert not action.keys
    assert action.epoch == 6


def test_a_shard_of_the_first_map_owns_what_the_spec_says() -> None:
    action = by_id(plan(SHOP, NOTHING))["shop-s0/guards"].action

    assert isinstance(action, InstallGuards)
    assert (action.keys, action.epoch) == (SHOP.shards[0].keys, 1)


@pytest.mark.parametrize(
    ("deletion", "steps", "risk"),
    [
        (
            Deletion.DESTROY,
            ["shop/unroute", "shop-s0/destroy", "shop-s1/destroy", "shop/forget"],
            Risk.DATA_LOSS,
        ),
        (Deletion.KEEP_DATA, ["shop-s0/stop", "shop-s1/stop", "shop/forget"], Risk.RESTART),
    ],
)
def test_a_deletion_unroutes_first_and_forgets_last(
    deletion: Deletion, steps: list[str], risk: Risk
) -> None:
    found = planned(desired(), settled(desired(database(deletion=deletion))))

    assert ids(found) == steps
    assert found.risk is risk
    for scope in ("shop-s0", "shop-s1"):
        end = f"{scope}/{'destroy' if deletion is Deletion.DESTROY else 'stop'}"
        assert waits(found, "shop/forget", end)
        if deletion is Deletion.DESTROY:
            assert waits(found, end, "shop/unroute")


def test_a_rename_is_told_by_the_step_that_writes_the_map() -> None:
    found = plan(database(shard("north", "-80", moved_from="s0"), shard("s1", "80-")))

    assert ids(found) == ["shop/routing", "shop/record"]
    step = found.steps[0]
    assert isinstance(step.action, WriteRouting)
    assert step.title == "rename shard s0 to north; data and keys stay where they are"
    assert step.visible


def test_the_first_map_shows_and_a_refreshed_one_does_not() -> None:
    assert by_id(plan(SHOP, NOTHING))["shop/routing"].visible
    wider = plan(database(shard("s0", "-80", 3), shard("s1", "80-")))
    assert not by_id(wider)["shop/routing"].visible


def test_a_shard_that_kept_its_data_is_only_started() -> None:
    stopped = Unseen("patroni", "shop-s0", "stopped on purpose")
    seen = with_shard(RUNNING, platform={"stopped": True}, patroni=stopped, catalog=stopped)

    found = plan(SHOP, seen)

    assert ids(found) == ["shop-s0/start"]
    action = found.steps[0].action
    assert isinstance(action, StartShard)
    assert action.kept


def test_databases_do_not_wait_for_one_another() -> None:
    found = planned(desired(SHOP, database(name="crm")), NOTHING)

    for step in found.steps:
        assert all(other.startswith(step.database.name) for other in step.after)


def test_the_id_of_a_step_is_the_same_in_every_plan_that_holds_it() -> None:
    small = plan(database(parameters=(("work_mem", "1MB"),)))
    large = plan(database(parameters=(("work_mem", "1MB"),), password_generation=2))

    assert set(ids(small)) < set(ids(large))
    assert len(set(ids(large))) == len(large.steps)


def test_a_refused_database_keeps_its_refusal_and_its_reason() -> None:
    found = plan(replace(SHOP, version="18"))

    assert [refusal.kind.code for refusal in found.refusals] == ["PL102", "PL102"]


def test_a_plan_of_thousands_of_shards_has_few_links() -> None:
    """A step of the database waits for what went on since the last one, not for all there is."""
    found = plan(SHOP, NOTHING)
    assert by_id(found)["shop/record"].after == ("shop/routing",)

    before, halves = tiles(16), tiles(32)
    names = [b.name for b in before]
    wanted = tuple(replace(h, name=names[i // 2]) if i % 2 == 0 else h
                   for i, h in enumerate(replace(h, name=ShardName(f"h{h.name}"))
                                         for h in halves))  # fmt: skip
    moves = plan(database(*wanted), settled(desired(database(*before))))

    assert sum(len(step.after) for step in moves.steps) < 2 * len(moves.steps)


def test_a_shard_is_destroyed_where_its_database_says_so() -> None:
    wanted = database(shard("s1", "80-"), shard("s2", "-80"), deletion=Deletion.DESTROY)

    found = plan(replace(wanted, resharding=AT_ONCE))

    step = by_id(found)["shop-s0/destroy"]
    assert step.risk is Risk.DATA_LOSS
    assert step.action == DestroyShard(ScopeKey(SHOP.key.namespace, Scope("shop-s0")), 1 << 30)


@pytest.mark.parametrize(
    ("instances", "said"), [(1, "one instance has no standby"), (2, "then a switchover")]
)
def test_a_restart_says_whether_the_shard_is_down_meanwhile(instances: int, said: str) -> None:
    shards = (shard("s0", "-80", instances), shard("s1", "80-"))
    wanted = database(*shards, parameters=(("max_connections", "90"),))

    found = plan(wanted, settled(desired(database(*shards))))

    assert said in by_id(found)["shop-s0/restart"].title


def test_what_is_destroyed_is_called_by_its_name_and_size() -> None:
    gone = settled(desired(database(deletion=Deletion.DESTROY)))

    found = planned(desired(revision="r2"), gone)

    titles = [by_id(found)[f"shop-{name}/destroy"].text for name in ("s0", "s1")]
    assert titles == [f"destroy shard {name} and its 1 GiB of data" for name in ("s0", "s1")]


class TestTheProof:
    """Simulating a step does to the model what the step does; see also ``test_proof``."""

    def test_a_restart_ends_the_waiting_for_it(self) -> None:
        patroni = RUNNING.databases[0].shards[0].patroni
        assert not isinstance(patroni, Unseen)
        waiting = tuple(replace(m, pending_restart=("wal_level",)) for m in patroni.members)
        seen = with_shard(RUNNING, patroni={"members": waiting})

        assert ids(plan(SHOP, seen)) == ["shop-s0/restart"]
        assert what_remains(desired(SHOP, revision="r2"), seen, plan(SHOP, seen)) == ()

    def test_a_leader_that_is_to_leave_has_handed_over_before(self) -> None:
        wide = settled(desired(database(shard("s0", "-80", 3), shard("s1", "80-"))))
        seen = with_shard(wide, patroni={"leader": "shop-s0-2"})

        assert what_remains(desired(SHOP, revision="r2"), seen, plan(SHOP, seen)) == ()

    def test_a_leader_is_never_removed(self) -> None:
        wide = settled(desired(database(shard("s0", "-80", 3), shard("s1", "80-"))))
        seen = with_shard(wide, patroni={"leader": "shop-s0-2"})
        found = plan(SHOP, seen)
        steps = tuple(s for s in found.steps if not isinstance(s.action, SwitchOver))

        with pytest.raises(AssertionError, match="never removed"):
            what_remains(desired(SHOP, revision="r2"), seen, replace(found, steps=steps))

    def test_a_database_that_is_being_destroyed_has_no_map_from_the_first_step_on(self) -> None:
        seen = settled(desired(database(deletion=Deletion.DESTROY)))
        found = planned(desired(), seen)

        begun = simulate(desired(), seen, replace(found, steps=found.steps[:1]))

        assert begun.databases[0].routing is None
        assert simulate(desired(), seen, found).databases == ()

    @pytest.mark.parametrize("skipped", range(12))
    def test_a_plan_without_one_of_its_steps_leaves_a_difference(self, skipped: int) -> None:
        wanted = database(shard("s0", "-80", 3, synchronous=False), shard("s1", "80-", 1),
                          parameters=(("work_mem", "2MB"),), password_generation=2,
                          files=(schema_file("schema/001.sql"), schema_file("schema/002.sql")),
                          tables=(("public.customers", "id"), ("public.orders", "id")))  # fmt: skip
        found = plan(wanted)
        states = [s for s in found.steps if not isinstance(s.action, SwitchOver)]
        assert len(states) == 12
        left = tuple(step for step in found.steps if step != states[skipped])

        assert what_remains(desired(wanted, revision="r2"), RUNNING, found) == ()
        assert what_remains(desired(wanted, revision="r2"), RUNNING, replace(found, steps=left))
