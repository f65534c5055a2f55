"""A saved plan goes stale when something that it rests on moved, and not by waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from reconciler.model.desired import DesiredState, Revision
from reconciler.model.keyspace import parse_key_set
from reconciler.model.moves import Stage, Wish
from reconciler.model.names import Epoch, Lsn, MemberName
from reconciler.model.observed import (
    AppliedFile,
    ObservedGuard,
    ObservedState,
    ObservedTable,
    Role,
    Unseen,
)
from reconciler.plan.actions import MoveKeyRange
from reconciler.plan.fingerprint import fingerprints
from reconciler.plan.moves import begin_move
from tests.policy.plans import planned
from tests.worlds import (
    SILENT,
    catalog_of,
    database,
    desired,
    routing_of,
    settled,
    shard,
    with_database,
    with_shard,
)

STATE = desired(database())
SEEN = settled(STATE)


def moved(observed: ObservedState, state: DesiredState = STATE) -> set[str]:
    """What a plan says has moved since it was made."""
    before, after = dict(fingerprints(STATE, SEEN)), dict(fingerprints(state, observed))
    return {what for what in before.keys() | after.keys() if before.get(what) != after.get(what)}


def members(**changes: Any) -> dict[str, Any]:
    """Patroni's view with its standby otherwise."""
    patroni = SEEN.databases[0].shards[0].patroni
    assert not isinstance(patroni, Unseen)
    return {"members": (patroni.members[0], replace(patroni.members[1], **changes))}


@pytest.mark.parametrize(
    "noise",
    [
        with_shard(SEEN, patroni=members(lag_bytes=1 << 20)),
        with_shard(SEEN, patroni=members(timeline=9)),
        with_shard(SEEN, patroni=members(state="starting")),
        with_shard(SEEN, catalog={"bytes": 5}),
        with_shard(SEEN, catalog={"standbys": ((MemberName("shop-s0-1"), Lsn(7)),)}),
        with_shard(
            SEEN,
            catalog={
                "tables": tuple(replace(t, bytes=1, rows=-1) for t in catalog_of(SEEN).tables)
            },
        ),
        replace(SEEN, looked_at="2026-01-01T00:00:00+00:00", durations=(("StartShard", 1.0),)),
    ],
    ids=["lag", "timeline", "state", "size", "flushed", "tables' sizes", "the time"],
)
def test_what_changes_all_the_time_is_not_noticed(noise: ObservedState) -> None:
    assert moved(noise) == set()


def platform(**changes: Any) -> dict[str, Any]:
    """The platform's members with the second one otherwise."""
    first, second = SEEN.databases[0].shards[0].platform.members
    return {"members": (first, replace(second, **changes))}


@pytest.mark.parametrize(
    "news",
    [
        with_shard(SEEN, platform=platform(running=False)),
        with_shard(SEEN, platform=platform(name=MemberName("shop-s0-7"))),
        with_shard(SEEN, platform={"stopped": True}),
        with_shard(SEEN, platform={"staged": ("shop_app",)}),
        with_shard(SEEN, patroni={"leader": MemberName("shop-s0-1")}),
        with_shard(SEEN, patroni={"parameters": (("work_mem", "1MB"),)}),
        with_shard(SEEN, patroni={"synchronous": False}),
        with_shard(SEEN, patroni=members(role=Role.PRIMARY)),
        with_shard(SEEN, patroni=members(pending_restart=("max_connections",))),
        with_shard(SEEN, patroni={"members": ()}),
        with_shard(SEEN, patroni=Unseen("patroni", "shop-s0", "no answer")),
    ],
    ids=["a process gone", "another member", "stopped", "staged", "leader", "parameters", "mode",
         "role", "pending restart", "members", "silence"],
)  # fmt: skip
def test_each_fact_about_members_is_noticed(news: ObservedState) -> None:
    assert moved(news) == {"members of shop-s0"}


GUARD = ObservedGuard("public.customers", "id", parse_key_set("-"), Epoch(1))


@pytest.mark.parametrize(
    "catalog",
    [
        {"server_version": 17},
        {"database_present": False},
        {"roles": ()},
        {"installed": 0},
        {"password_generation": 2},
        {"history": (AppliedFile("schema/001.sql", "0"),)},
        {"guards": (GUARD,)},
        {"tables": (ObservedTable("public.orders", 1, 1),)},
        {"tables": (ObservedTable("public.customers", 1, 1, (("id", "uuid"),)),)},
        {"hash_ok": False},
        SILENT,
    ],
    ids=lambda c: "silence" if isinstance(c, Unseen) else next(iter(c)),
)
def test_each_fact_about_a_catalog_is_noticed(catalog: dict[str, Any] | Unseen) -> None:
    assert moved(with_shard(SEEN, catalog=catalog)) == {"catalog of shop-s0"}


def test_a_silent_shard_that_is_stopped_is_noticed() -> None:
    silent = with_shard(SEEN, patroni=SILENT, catalog=SILENT)
    stopped = with_shard(silent, platform={"stopped": True})

    assert fingerprints(STATE, silent) != fingerprints(STATE, stopped)


def test_a_move_that_goes_on_is_noticed_when_it_is_switched_and_not_before() -> None:
    wanted = desired(database(shard("s0", "-40"), shard("s1", "40-")))
    steps = planned(wanted, SEEN).steps
    (action,) = (s.action for s in steps if isinstance(s.action, MoveKeyRange))
    begun = begin_move(action, routing_of(SEEN), "2026-01-01T00:00:00+00:00")
    under_way = with_database(SEEN, moves=(begun,))
    tried = with_database(SEEN, moves=(replace(begun, pauses_ms=(80.0,), version=9),))
    switched = with_database(SEEN, moves=(replace(begun, stage=Stage.SWITCHED),))
    aborted = with_database(SEEN, moves=(replace(begun, wish=Wish.ABORT),))

    assert moved(under_way) == {"moves of keys in shop"}
    assert fingerprints(STATE, tried) == fingerprints(STATE, under_way)
    for news in (switched, aborted):
        assert fingerprints(STATE, news) != fingerprints(STATE, under_way)


@pytest.mark.parametrize("routing", [replace(routing_of(SEEN), version=9), None, SILENT])
def test_another_version_of_the_routing_map_is_noticed(routing: Any) -> None:
    assert moved(with_database(SEEN, routing=routing)) == {"routing map shop"}


@pytest.mark.parametrize("version", [None, 9])
def test_another_version_of_the_record_is_noticed(version: int | None) -> None:
    record = SEEN.databases[0].record
    assert record is not None
    assert not isinstance(record, Unseen)
    other = replace(record, version=version) if version else None

    assert moved(with_database(SEEN, record=other)) == {"last applied shop"}


def test_another_spec_and_another_commit_are_noticed_and_a_branchs_new_name_is_not() -> None:
    other = replace(STATE, revision=Revision("main@sha1:r2"))
    renamed = replace(STATE, revision=Revision("release@sha1:r1"))

    assert moved(SEEN, other) == {"revision"}
    assert moved(SEEN, renamed) == set()
    assert moved(SEEN, desired(replace(database(), digest="new"))) == {"spec shop"}


def test_a_database_of_another_source_is_none_of_a_plans_business() -> None:
    others = settled(desired(database(name="crm"), source="elsewhere"))
    both = replace(SEEN, databases=(*others.databases, *SEEN.databases))

    assert moved(both) == set()


def test_a_shard_that_appears_or_goes_is_noticed() -> None:
    fewer = with_database(SEEN, shards=SEEN.databases[0].shards[:1])

    assert moved(fewer) == {"members of shop-s1", "catalog of shop-s1"}


def test_the_digest_is_of_the_steps_and_of_what_was_seen() -> None:
    wanted = desired(database(parameters=(("work_mem", "1MB"),)), revision="r1")
    plan = planned(wanted, SEEN)

    assert planned(wanted, SEEN).digest == plan.digest
    assert planned(wanted, with_shard(SEEN, catalog={"bytes": 1})).digest == plan.digest
    assert planned(wanted, with_shard(SEEN, catalog={"roles": ()})).digest != plan.digest
    other = desired(database(parameters=(("work_mem", "2MB"),)), revision="r1")
    assert planned(other, SEEN).digest != plan.digest
    assert plan.id == f"plan-{plan.digest[:12]}"


_PROGRAM = """
from tests.bench.bench_plan import CASES
from tests.policy.plans import planned
for case in CASES.values():
    plan = planned(*case(7))
    print(plan.digest, [step.id for step in plan.steps], [step.after for step in plan.steps])
"""


def test_another_process_makes_the_same_plan() -> None:
    """Sets of texts come in another order in every process: none of them may reach a plan."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in (0, 1, 2, 3)
    }  # fmt: skip

    assert len(outputs) == 1
