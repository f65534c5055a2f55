"""One shard as wanted against the same shard as seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff import refusals
from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    ChangeParameters,
    PrepareDatabase,
    ResizeShard,
    RestartPending,
    RotatePasswords,
    StartMembers,
)
from reconciler.model.access import OWN_SCHEMA_VERSION
from reconciler.model.names import MemberName
from reconciler.model.observed import Unseen
from reconciler.model.platform import Resources
from tests.diff.seen import difference, left_alone, names, only, refused, there
from tests.worlds import (
    SILENT,
    database,
    schema_file,
    shard,
    with_shard,
)

ONE = database(shard("s0", "-"))
FILES = tuple(schema_file(f"schema/{n:03}.sql") for n in range(3))
RUNNING = there(ONE)


def test_what_is_as_wanted_gives_nothing_to_say() -> None:
    found = difference(ONE, RUNNING)

    assert (found.changes, found.refusals, found.standstills, found.remarks) == ((), (), (), ())


def test_a_shard_that_is_not_there_is_added() -> None:
    found = difference(database(shard("s0", "-80"), shard("s1", "80-")), RUNNING)

    assert only(found, AddShard).scope.scope == "shop-s1"
    assert not only(found, AddShard).kept


def test_a_shard_that_was_stopped_with_its_data_is_started_and_nothing_else_of_it_is_planned() -> (
    None
):
    stopped = Unseen("patroni", "shop-s0", "stopped on purpose")
    seen = with_shard(RUNNING, platform={"stopped": True}, patroni=stopped, catalog=stopped)

    found = difference(replace(ONE, parameters=(("work_mem", "1MB"),)), seen)

    assert only(found, AddShard).kept
    assert names(found) == ["AddShard"]
    assert "more may be planned once it runs" in found.remarks[0].text


def test_members_whose_processes_are_gone_are_started() -> None:
    seen = with_shard(RUNNING)
    members = seen.databases[0].shards[0].platform.members
    gone = (members[0], replace(members[1], running=False))

    found = difference(ONE, with_shard(seen, platform={"members": gone}))

    assert only(found, StartMembers).members == ("shop-s0-1",)
    assert names(found) == ["StartMembers"]


def test_a_shard_whose_platforms_record_is_damaged_is_left_alone() -> None:
    why = {"unreadable": "its record is damaged", "version": "", "members": ()}
    found = difference(ONE, with_shard(RUNNING, platform=why, patroni=SILENT, catalog=SILENT))

    assert (found.changes, found.refusals) == ((), ())
    assert ("shard s0", True) in left_alone(found)


def test_members_are_started_even_while_patroni_is_silent() -> None:
    members = tuple(
        replace(m, running=False) for m in RUNNING.databases[0].shards[0].platform.members
    )
    silent = Unseen("patroni", "shop-s0", "no answer")
    seen = with_shard(RUNNING, platform={"members": members}, patroni=silent, catalog=SILENT)

    found = difference(ONE, seen)

    assert names(found) == ["StartMembers"]
    assert left_alone(found) == [("shard s0", True)]


def test_more_instances_add_members_with_the_next_ordinals() -> None:
    change = only(difference(database(shard("s0", "-", 4)), RUNNING), ResizeShard)

    assert (change.before, change.after) == (2, 4)
    assert change.add == ("shop-s0-2", "shop-s0-3")
    assert change.remove == ()


def test_fewer_instances_remove_the_members_with_the_last_ordinals() -> None:
    change = only(
        difference(database(shard("s0", "-", 1)), there(database(shard("s0", "-", 3)))), ResizeShard
    )

    assert change.remove == ("shop-s0-1", "shop-s0-2")
    assert change.leader == "shop-s0-0"


def test_a_silent_member_is_not_removed() -> None:
    seen = there(database(shard("s0", "-", 3)))
    patroni = seen.databases[0].shards[0].patroni
    assert not isinstance(patroni, Unseen)
    talking = tuple(m for m in patroni.members if m.name != "shop-s0-2")

    found = difference(
        database(shard("s0", "-", 1)), with_shard(seen, patroni={"members": talking})
    )

    assert only(found, ResizeShard).remove == ("shop-s0-1",)
    assert left_alone(found) == [("shard s0", True)]
    assert "shop-s0-2 should be removed but does not answer" in found.standstills[0].reason


def test_without_a_leader_nothing_of_a_shard_changes() -> None:
    wanted = database(shard("s0", "-", 3), parameters=(("work_mem", "1MB"),), files=FILES)

    found = difference(wanted, with_shard(RUNNING, patroni={"leader": None}, catalog=SILENT))

    assert names(found) == ["PublishRouting"]
    assert left_alone(found) == [("shard s0", True)]
    assert "no primary" in found.standstills[0].reason


def test_parameters_change_by_name_with_what_they_were() -> None:
    seen = there(replace(ONE, parameters=(("work_mem", "1MB"), ("log_min_messages", "error"))))

    change = only(
        difference(replace(ONE, parameters=(("work_mem", "2MB"),)), seen), ChangeParameters
    )

    assert change.parameters == (("log_min_messages", "error", None), ("work_mem", "1MB", "2MB"))
    assert change.restart == ()
    assert change.synchronous is None


def test_a_parameter_that_needs_a_restart_says_so() -> None:
    wanted = replace(ONE, parameters=(("max_connections", "200"), ("work_mem", "2MB")))

    change = only(difference(wanted, RUNNING), ChangeParameters)

    assert change.restart == ("max_connections",)
    assert ("max_connections", "100", "200") in change.parameters


def test_a_managed_parameter_that_alter_system_overrides_is_remarked_with_the_cure() -> None:
    wanted = replace(ONE, parameters=(("work_mem", "16MB"), ("max_wal_size", "2GB")))
    overrides = (("max_wal_size", "2GB"), ("work_mem", "3MB"), ("zero_damaged_pages", "on"))

    found = difference(wanted, with_shard(there(wanted), catalog={"overrides": overrides}))

    (remark,) = found.remarks
    assert "work_mem 3MB by ALTER SYSTEM, which wins over 16MB" in remark.text
    assert "ALTER SYSTEM RESET work_mem" in remark.text
    assert found.changes == ()


def test_the_replication_mode_changes_without_a_parameter() -> None:
    change = only(
        difference(database(shard("s0", "-", synchronous=False)), RUNNING), ChangeParameters
    )

    assert change.synchronous == (True, False)
    assert change.parameters == ()


def test_members_that_wait_for_a_restart_are_restarted() -> None:
    patroni = RUNNING.databases[0].shards[0].patroni
    assert not isinstance(patroni, Unseen)
    waiting = (
        replace(patroni.members[0], pending_restart=("shared_buffers", "max_connections")),
        replace(patroni.members[1], pending_restart=("max_connections",)),
    )

    change = only(
        difference(ONE, with_shard(RUNNING, patroni={"members": waiting})), RestartPending
    )

    assert change.members == ("shop-s0-0", "shop-s0-1")
    assert change.parameters == ("max_connections", "shared_buffers")
    assert change.leader == MemberName("shop-s0-0")


@pytest.mark.parametrize(
    ("catalog", "missing"),
    [
        ({"roles": ("shop_app",)}, ("role shop_owner",)),
        ({"roles": ("shop_owner",)}, ("role shop_app",)),
        ({"installed": 0}, ("the guard functions",)),
        (
            {"roles": (), "installed": 0, "database_present": False},
            ("role shop_owner", "role shop_app", "database shop", "the guard functions"),
        ),
    ],
)
def test_what_a_database_needs_is_made(catalog: dict[str, object], missing: tuple[str]) -> None:
    change = only(difference(ONE, with_shard(RUNNING, catalog=catalog)), PrepareDatabase)

    assert change.missing == missing


def test_passwords_of_an_earlier_generation_are_rotated() -> None:
    change = only(difference(replace(ONE, password_generation=3), RUNNING), RotatePasswords)

    assert (change.before, change.after) == (1, 3)


def test_passwords_of_a_later_generation_stay() -> None:
    seen = with_shard(RUNNING, catalog={"password_generation": 5})

    assert names(difference(replace(ONE, password_generation=3), seen)) == []


def test_a_rotation_that_was_cut_off_is_finished_without_a_new_generation() -> None:
    change = only(
        difference(ONE, with_shard(RUNNING, platform={"staged": ("shop_app",)})), RotatePasswords
    )

    assert (change.before, change.after) == (1, 1)


def test_passwords_staged_before_the_roles_are_made_are_no_rotation() -> None:
    catalog = {"installed": 0, "password_generation": 0}
    seen = with_shard(RUNNING, platform={"staged": ("shop_app",)}, catalog=catalog)

    assert "RotatePasswords" not in names(difference(ONE, seen))


def test_new_schema_files_are_applied_in_order() -> None:
    seen = there(replace(ONE, schema=FILES[:1]))

    assert only(difference(replace(ONE, schema=FILES), seen), ApplySchema).files == FILES[1:]


def test_an_applied_file_that_changed_is_refused() -> None:
    changed = schema_file(FILES[0].name, "select 2")

    refusal = refused(
        difference(replace(ONE, schema=(changed,)), there(replace(ONE, schema=FILES[:1]))),
        refusals.SchemaFileChanged,
    )

    assert FILES[0].name in refusal.problem


def test_an_applied_file_that_is_gone_is_refused() -> None:
    refusal = refused(
        difference(replace(ONE, schema=FILES[:1]), there(replace(ONE, schema=FILES[:2]))),
        refusals.SchemaFileMissing,
    )

    assert FILES[1].name in refusal.problem


def test_a_new_file_that_sorts_before_an_applied_one_is_refused() -> None:
    seen = there(replace(ONE, schema=(FILES[0], FILES[2])))

    found = difference(replace(ONE, schema=FILES), seen)

    assert FILES[1].name in refused(found, refusals.SchemaFileOutOfOrder).problem
    assert "ApplySchema" not in names(found)


def test_another_major_version_is_refused() -> None:
    refusal = refused(difference(replace(ONE, version="18"), RUNNING), refusals.MajorVersionChanged)

    assert "runs PostgreSQL 16" in refusal.problem


@pytest.mark.parametrize(
    "resources", [Resources(storage_size="9Gi"), Resources(storage_class="fast")]
)
def test_smaller_storage_or_another_class_is_refused(resources: Resources) -> None:
    wanted = replace(ONE, shards=(replace(ONE.shards[0], resources=resources),))

    refused(difference(wanted, RUNNING), refusals.StorageShrunk)


def test_the_same_storage_in_another_unit_is_the_same() -> None:
    wanted = replace(
        ONE, shards=(replace(ONE.shards[0], resources=Resources(storage_size="10240Mi")),)
    )

    assert difference(wanted, RUNNING).refusals == ()


def test_a_server_that_hashes_otherwise_is_not_changed() -> None:
    seen = with_shard(RUNNING, catalog={"hash_ok": False, "roles": (), "guards": ()})

    found = difference(replace(ONE, schema=FILES), seen)

    refused(found, refusals.HashDisagrees)
    assert not {"PrepareDatabase", "ApplySchema", "ChangeGuards"} & {*names(found)}


def test_a_later_version_of_our_schema_is_not_touched() -> None:
    seen = with_shard(RUNNING, catalog={"installed": OWN_SCHEMA_VERSION + 1, "guards": ()})

    found = difference(ONE, seen)

    refused(found, refusals.OwnSchemaNewer)
    assert names(found) == []


def test_an_unseen_catalog_keeps_its_database_as_it_is() -> None:
    found = difference(
        replace(ONE, schema=FILES, password_generation=2), with_shard(RUNNING, catalog=SILENT)
    )

    assert names(found) == []
    assert left_alone(found) == [("shard s0", True)]
