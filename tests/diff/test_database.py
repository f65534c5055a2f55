"""A database as a whole: its records, its keys, and what leaves it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff import refusals
from reconciler.diff.changes import (
    ApplySchema,
    DeleteDatabase,
    EndMove,
    MoveKeys,
    PublishRouting,
    RecordApplied,
    RenameShard,
    RetireShard,
)
from reconciler.diff.diff import diff
from reconciler.model.desired import Deletion, KeyType, Resharding, Shard, Sharding
from reconciler.model.keyspace import parse_key_set
from reconciler.model.moves import Stage, Wish
from reconciler.model.names import Epoch
from reconciler.model.observed import ObservedState, ObservedTable, Unseen
from reconciler.model.platform import Endpoint
from reconciler.plan.actions import MoveKeyRange
from reconciler.plan.moves import begin_move
from reconciler.plan.planner import make_plan
from tests.diff.seen import difference, left_alone, names, only, refused, there
from tests.worlds import (
    SILENT,
    catalog_of,
    database,
    desired,
    routing_of,
    schema_file,
    settled,
    shard,
    with_database,
    with_shard,
)

SHOP = database()
RUNNING = there(SHOP)
NO_MAP = with_database(RUNNING, routing=None)
AT_ONCE = Resharding(rollback_window_s=0)


def gone(deletion: Deletion, state: ObservedState | None = None) -> ObservedState:
    """The shop under a deletion policy; nobody wants it any more."""
    wanted = database(deletion=deletion)
    return state or settled(desired(wanted))


def test_a_suspended_database_is_left_alone() -> None:
    found = difference(replace(SHOP, suspend=True, version="18"), RUNNING)

    assert (names(found), found.refusals) == ([], ())
    assert left_alone(found) == [("the whole database", False)]


@pytest.mark.parametrize("record", ["routing", "record"])
def test_a_record_that_etcd_did_not_show_keeps_its_database_as_it_is(record: str) -> None:
    silent = Unseen("etcd", "records", "no answer")

    found = difference(replace(SHOP, version="18"), with_database(RUNNING, **{record: silent}))  # type: ignore[arg-type]

    assert (names(found), found.refusals) == ([], ())
    assert left_alone(found) == [("the whole database", True)]


def test_another_key_type_is_refused_and_nothing_else_is_looked_at() -> None:
    wanted = replace(SHOP, sharding=Sharding(KeyType.UUID, SHOP.sharding.tables), digest="new")

    found = difference(wanted, RUNNING)

    assert "bigint" in refused(found, refusals.KeyTypeChanged).problem
    assert names(found) == []


def test_an_owner_of_keys_that_its_platform_does_not_have_is_refused_and_not_made_anew() -> None:
    shards = RUNNING.databases[0].shards[1:]

    found = difference(SHOP, with_database(RUNNING, shards=shards))

    assert "owns -80" in refused(found, refusals.OwnerGone).problem
    assert "AddShard" not in names(found)


def test_a_shard_that_owns_nothing_yet_and_is_not_there_is_made_again() -> None:
    """A provisioning for a move that was cut off: nothing can be lost."""
    routing = routing_of(RUNNING)
    empty = replace(routing.owners[0], keys=parse_key_set("none"))
    whole = replace(routing.owners[1], keys=parse_key_set("-"))
    seen = with_database(
        RUNNING,
        routing=replace(routing, owners=(empty, whole)),
        shards=RUNNING.databases[0].shards[1:],
    )

    found = difference(SHOP, seen)

    assert found.refusals == ()
    assert "AddShard" in names(found)


class TestTheRecord:
    def test_is_written_when_the_spec_says_something_else(self) -> None:
        change = only(difference(replace(SHOP, digest="new"), RUNNING), RecordApplied)

        assert change.digest == "new"

    def test_is_written_when_the_deletion_changes_so_that_it_holds_without_the_file(self) -> None:
        change = only(difference(replace(SHOP, deletion=Deletion.DESTROY), RUNNING), RecordApplied)

        assert change.deletion is Deletion.DESTROY

    def test_of_another_source_is_taken_over_and_said_so(self) -> None:
        found = diff(desired(SHOP, source="other"), RUNNING)

        assert names(found) == ["RecordApplied"]
        assert "was last applied from specs" in found.remarks[0].text

    def test_is_not_written_while_a_shard_is_silent(self) -> None:
        wanted = replace(SHOP, digest="new")

        assert names(difference(wanted, with_shard(RUNNING, catalog=SILENT))) == []


class TestADatabaseThatLeftTheSpecs:
    def test_is_protected_unless_an_apply_said_otherwise(self) -> None:
        found = diff(desired(), gone(Deletion.PROTECTED))

        refused(found, refusals.DeletionProtected)
        assert names(found) == []

    @pytest.mark.parametrize("deletion", [Deletion.KEEP_DATA, Deletion.DESTROY])
    def test_goes_as_the_record_says(self, deletion: Deletion) -> None:
        change = only(diff(desired(), gone(deletion)), DeleteDatabase)

        assert change.deletion is deletion
        told = [(one.scope.scope, one.shard, one.bytes) for one in change.shards]
        assert told == [("shop-s0", "s0", 1 << 30), ("shop-s1", "s1", 1 << 30)]

    def test_is_left_alone_when_another_source_applied_it(self) -> None:
        found = diff(desired(source="other"), gone(Deletion.DESTROY))

        assert names(found) == []
        assert found.standstills[0].reason == "applied from specs"

    def test_is_left_alone_when_it_was_never_applied_in_full(self) -> None:
        found = diff(desired(), with_database(gone(Deletion.DESTROY), record=None))

        assert names(found) == []
        assert "never applied in full" in found.standstills[0].reason

    def test_is_left_alone_when_its_record_was_not_seen(self) -> None:
        silent = Unseen("etcd", "records", "no answer")

        found = diff(desired(), with_database(gone(Deletion.DESTROY), record=silent))

        assert names(found) == []
        assert left_alone(found) == [("the whole database", True)]

    @pytest.mark.parametrize("deletion", [Deletion.KEEP_DATA, Deletion.DESTROY])
    def test_waits_for_a_shard_that_does_not_answer(self, deletion: Deletion) -> None:
        found = diff(desired(), with_shard(gone(deletion), catalog=SILENT))

        assert names(found) == []
        assert left_alone(found) == [("the whole database", True)]
        assert "no answer from s0: not seen" in found.standstills[0].reason

    def test_does_not_wait_for_a_shard_that_was_stopped_on_purpose(self) -> None:
        stopped = Unseen("patroni", "shop-s0", "stopped on purpose")
        seen = with_shard(
            gone(Deletion.DESTROY), platform={"stopped": True}, patroni=stopped, catalog=stopped
        )

        sizes = [one.bytes for one in only(diff(desired(), seen), DeleteDatabase).shards]
        assert sizes == [None, 1 << 30]

    def test_is_remembered_when_its_data_was_kept(self) -> None:
        seen = with_database(gone(Deletion.KEEP_DATA), record=None)
        for scope in ("shop-s0", "shop-s1"):
            seen = with_shard(seen, scope, platform={"stopped": True})

        found = diff(desired(), seen)

        assert names(found) == []
        reason = found.standstills[0].reason
        assert reason.startswith("deleted, its data kept: its spec brings it back")


class TestARoutingMapThatIsLost:
    def test_is_made_again_from_the_spec_when_every_guard_agrees(self) -> None:
        change = only(difference(SHOP, NO_MAP), PublishRouting)

        assert change.before is None
        assert [owner.keys for owner in change.after.owners] == [s.keys for s in SHOP.shards]

    def test_keeps_the_latest_epoch_that_a_guard_names(self) -> None:
        later = tuple(replace(g, epoch=Epoch(7)) for g in catalog_of(RUNNING, "shop-s1").guards)

        found = difference(SHOP, with_shard(NO_MAP, "shop-s1", catalog={"guards": later}))

        assert only(found, PublishRouting).after.epoch == 7
        assert "ChangeGuards" not in names(found)

    def test_is_refused_when_a_guard_says_something_else(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))

        found = difference(wanted, NO_MAP)

        assert {r.kind for r in found.refusals} == {refusals.RoutingDisagrees}
        assert not {"ChangeGuards", "MoveKeys"} & {*names(found)}

    def test_leaves_shards_alone_of_which_nobody_knows_what_they_hold(self) -> None:
        found = difference(database(shard("s0", "-80")), NO_MAP)

        assert "RetireShard" not in names(found)
        assert ("shard shop-s1", False) in left_alone(found)

    def test_is_not_made_while_a_shard_is_silent(self) -> None:
        assert "PublishRouting" not in names(difference(SHOP, with_shard(NO_MAP, catalog=SILENT)))


class TestTheRoutingMap:
    def test_follows_a_member_to_its_new_address(self) -> None:
        members = RUNNING.databases[0].shards[0].platform.members
        moved = (replace(members[0], endpoint=Endpoint("elsewhere", 1, 2)), *members[1:])

        found = difference(SHOP, with_shard(RUNNING, platform={"members": moved}))

        assert names(found) == ["PublishRouting"]

    def test_lists_every_wanted_member_with_no_address_until_it_is_written(self) -> None:
        wanted = database(shard("s0", "-80", 3), shard("s1", "80-"))

        change = only(difference(wanted, RUNNING), PublishRouting)

        assert [m.name for m in change.after.owners[0].members] == [
            f"shop-s0-{n}" for n in range(3)
        ]
        assert change.after.owners[0].members[0].endpoint == Endpoint("", 0, 0)

    def test_never_changes_who_owns_what(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))
        tables = (*SHOP.sharding.tables, *SHOP.sharding.tables)
        wanted = replace(wanted, sharding=replace(SHOP.sharding, tables=tables))

        change = only(difference(wanted, RUNNING), PublishRouting)

        owned = {owner.scope: owner.keys for owner in change.after.owners}
        assert owned == {owner.scope: owner.keys for owner in routing_of(RUNNING).owners}
        assert change.after.epoch == routing_of(RUNNING).epoch

    def test_keeps_a_shard_that_left_the_spec_while_it_owns_keys(self) -> None:
        change = only(difference(database(shard("s1", "-")), RUNNING), MoveKeys)
        assert change.keys == parse_key_set("-80")

        found = difference(database(shard("s1", "-", 3)), RUNNING)
        assert [o.shard for o in only(found, PublishRouting).after.owners] == ["s1", "s0"]


class TestMovesOfKeys:
    def test_follow_from_the_two_tilings(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "80-"), shard("s2", "40-80"))

        move = only(difference(wanted, RUNNING), MoveKeys)

        assert (move.source, move.target, move.keys) == ("s0", "s2", parse_key_set("40-80"))
        assert (move.source_scope.scope, move.target_scope.scope) == ("shop-s0", "shop-s2")

    def test_carry_the_share_of_the_tables_that_moves(self) -> None:
        tables = (
            *catalog_of(RUNNING).tables,
            ObservedTable("public.notes", 1 << 30, 5),
        )
        seen = with_shard(RUNNING, catalog={"tables": tables})
        wanted = database(shard("s0", "-60"), shard("s1", "60-"))

        assert only(difference(wanted, seen), MoveKeys).tables == (
            ("public.customers", 1 << 28, 250_000),
        )

    def test_of_a_table_never_analysed_count_no_rows(self) -> None:
        (table,) = catalog_of(RUNNING).tables
        seen = with_shard(RUNNING, catalog={"tables": (replace(table, rows=-1),)})

        move = only(difference(database(shard("s1", "-")), seen), MoveKeys)

        assert move.tables == (("public.customers", 1 << 30, 0),)

    @pytest.mark.parametrize("silent", ["shop-s0", "shop-s1"])
    def test_wait_for_both_sides_to_answer(self, silent: str) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))

        found = difference(wanted, with_shard(RUNNING, silent, catalog=SILENT))

        assert "MoveKeys" not in names(found)
        assert ("move 40-80 from s0 to s1", True) in left_alone(found)

    def test_of_one_shard_go_one_after_the_other_in_one_plan(self) -> None:
        wanted = database(shard("a", "-40"), shard("b", "40-80"), shard("s1", "80-"))
        found = difference(wanted, RUNNING)

        steps = make_plan(desired(wanted), RUNNING, found).steps
        first, second = (s for s in steps if isinstance(s.action, MoveKeyRange))

        assert left_alone(found) == []
        assert first.id in second.after

    @pytest.mark.parametrize(
        ("stage", "wish", "keys", "begins"),
        [
            ("before", "forward", "-40", False),
            ("switched", "forward", "-40", True),
            ("switched", "rollback", "-40", False),
            ("back", "rollback", "-40", False),
            ("switched", "forward", "40-60", False),
        ],
    )
    def test_wait_for_another_of_their_shard_until_that_is_switched(
        self, stage: str, wish: str, keys: str, begins: bool
    ) -> None:
        """A soaking shard is free for other keys; its way back must not cross another move."""
        wanted = database(shard("a", "-40"), shard("b", "40-80"), shard("s1", "80-"))
        found = difference(wanted, RUNNING)
        planned = make_plan(desired(wanted), RUNNING, found).steps
        first = next(s.action for s in planned if isinstance(s.action, MoveKeyRange))
        move = begin_move(first, routing_of(RUNNING), "2026-01-01T00:00:00+00:00")
        move = replace(
            move, stage=Stage(stage), wish=Wish(wish), keys=parse_key_set(keys),
            switched_at="2026-01-01T00:00:01+00:00",
        )  # fmt: skip

        found = difference(wanted, with_database(RUNNING, moves=(move,)))

        assert (("move 40-80 from s0 to b", False) not in left_alone(found)) is begins

    def test_under_way_keep_to_the_tables_that_were_sharded_when_they_began(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))
        planned = make_plan(desired(wanted), RUNNING, difference(wanted, RUNNING))
        (action,) = (s.action for s in planned.steps if isinstance(s.action, MoveKeyRange))
        move = begin_move(action, routing_of(RUNNING), "2026-01-01T00:00:00+00:00")
        more = (("public.customers", "id"), ("public.orders", "customer_id"))
        files = (*wanted.schema, schema_file("schema/002.sql", "create table orders"))
        later = database(*wanted.shards, tables=more, files=files)

        found = difference(later, with_database(RUNNING, moves=(move,)))

        assert set(names(found)) == {"MoveKeys", "RecordApplied"}
        assert left_alone(found) == [
            ("sharding.tables", False),
            ("shard s0: schema/002.sql", False),
            ("shard s1: schema/002.sql", False),
        ]

    def test_hold_schema_files_back_on_their_own_shards_until_the_cut(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "80-"), shard("s2", "40-80"))
        planned = make_plan(desired(wanted), RUNNING, difference(wanted, RUNNING))
        (action,) = (s.action for s in planned.steps if isinstance(s.action, MoveKeyRange))
        move = begin_move(action, routing_of(RUNNING), "2026-01-01T00:00:00+00:00")
        files = (*wanted.schema, schema_file("schema/002.sql", "alter table"))
        later = database(*wanted.shards, files=files)

        found = difference(later, with_database(RUNNING, moves=(move,)))
        switched = replace(move, stage=Stage.SWITCHED, switched_at="2026-01-01T00:00:01+00:00")
        after = difference(later, with_database(RUNNING, moves=(switched,)))

        assert [c.shard for c in found.changes if isinstance(c, ApplySchema)] == ["s1"]
        assert [s for s, _ in left_alone(found)] == ["shard s0: schema/002.sql"]
        assert [c.shard for c in after.changes if isinstance(c, ApplySchema)] == ["s0", "s1"]

    @pytest.mark.parametrize(("stage", "changed"), [("before", False), ("switched", True)])
    def test_own_the_guards_of_their_shards_until_they_are_switched(
        self, stage: str, changed: bool
    ) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))
        planned = make_plan(desired(wanted), RUNNING, difference(wanted, RUNNING))
        (action,) = (s.action for s in planned.steps if isinstance(s.action, MoveKeyRange))
        move = begin_move(action, routing_of(RUNNING), "2026-01-01T00:00:00+00:00")
        move = replace(move, stage=Stage(stage), switched_at="2026-01-01T00:00:01+00:00")
        seen = with_database(RUNNING, moves=(move,))

        found = difference(wanted, with_shard(seen, catalog={"guards": ()}))

        assert ("ChangeGuards" in names(found)) is changed

    def test_go_on_when_only_their_stage_was_not_written(self) -> None:
        wanted = database(shard("s0", "-40"), shard("s1", "40-"))
        planned = make_plan(desired(wanted), RUNNING, difference(wanted, RUNNING))
        (action,) = (s.action for s in planned.steps if isinstance(s.action, MoveKeyRange))
        routing = routing_of(RUNNING)
        move = begin_move(action, routing, "2026-01-01T00:00:00+00:00")
        owners = tuple(
            replace(owner, keys=parse_key_set(keys))
            for owner, keys in zip(routing.owners, ("-40", "40-"), strict=True)
        )
        published = with_database(RUNNING, routing=replace(routing, owners=owners), moves=(move,))
        ended = with_database(RUNNING, moves=(replace(move, stage=Stage.ENDED),))

        assert only(difference(wanted, published), EndMove).how is Wish.FORWARD
        assert only(difference(SHOP, published), EndMove).how is Wish.ROLLBACK
        assert only(difference(SHOP, ended), EndMove).how is Wish.FORWARD


class TestAShardThatLeftTheSpec:
    def left(self, **more: object) -> list[str]:
        """A shard that owns nothing and that the spec no longer has."""
        routing = routing_of(RUNNING)
        whole = replace(routing, owners=(replace(routing.owners[1], keys=parse_key_set("-")),))
        guards = tuple(
            replace(g, keys=parse_key_set("-")) for g in catalog_of(RUNNING, "shop-s1").guards
        )
        seen = with_database(RUNNING, routing=whole)
        seen = with_shard(seen, "shop-s1", catalog={"guards": guards})
        return names(difference(database(shard("s1", "-")), with_shard(seen, **more)))  # type: ignore[arg-type]

    def test_retires_when_it_owns_nothing(self) -> None:
        assert "RetireShard" in self.left()

    def test_stays_while_it_does_not_answer(self) -> None:
        assert "RetireShard" not in self.left(catalog=SILENT)

    def test_is_not_stopped_twice(self) -> None:
        assert "RetireShard" not in self.left(platform={"stopped": True})

    def test_stays_as_long_as_its_keys_may_come_back(self) -> None:
        found = difference(database(shard("s1", "-")), RUNNING)

        assert "RetireShard" not in names(found)
        assert found.remarks[0].text == "shard s0 retires when its keys cannot come back any more"

    def test_retires_behind_its_move_when_there_is_no_way_back(self) -> None:
        wanted = replace(database(shard("s1", "-")), resharding=AT_ONCE)

        retirement = only(difference(wanted, RUNNING), RetireShard)

        assert (retirement.shard, retirement.bytes) == ("s0", 1 << 30)

    def test_stays_while_a_part_of_its_keys_waits(self) -> None:
        shards = (shard("a", "-40"), shard("s1", "40-"))
        wanted = database(*shards, deletion=Deletion.DESTROY)

        found = difference(
            replace(wanted, resharding=AT_ONCE), with_shard(RUNNING, "shop-s1", catalog=SILENT)
        )

        assert only(found, MoveKeys).keys == parse_key_set("-40")
        assert "RetireShard" not in names(found)
        assert "retires when all its keys have moved away" in found.remarks[0].text


def test_a_rename_moves_neither_data_nor_keys() -> None:
    wanted = database(shard("north", "-80", moved_from="s0"), shard("s1", "80-"))

    found = difference(wanted, RUNNING)

    change = only(found, RenameShard)
    assert (change.before, change.after, change.scope.scope) == ("s0", "north", "shop-s0")
    assert names(found) == ["RenameShard", "PublishRouting", "RecordApplied"]


def test_a_shard_that_came_with_the_keys_of_one_that_left_is_asked_about() -> None:
    found = difference(database(shard("north", "-80"), shard("s1", "80-")), RUNNING)

    assert only(found, MoveKeys).target == "north"
    texts = [remark.text for remark in found.remarks]
    assert any("write moved: [{from: s0, to: north}]" in text for text in texts)


@pytest.mark.parametrize(
    "shards",
    [
        (shard("north", "-80", moved_from="s0"), shard("s1", "80-")),
        (shard("north", "-40"), shard("south", "40-80"), shard("s1", "80-")),
        (shard("s0", "80-"), shard("s1", "-80")),
    ],
    ids=["said to be renamed", "split", "swapped"],
)
def test_shards_that_are_no_unsaid_rename_are_not_asked_about(shards: tuple[Shard, ...]) -> None:
    found = difference(database(*shards), RUNNING)

    assert not any("if it is a rename" in remark.text for remark in found.remarks)
