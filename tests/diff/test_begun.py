"""A provisioning that was cut off before its shard could be looked into."""

from __future__ import annotations

from dataclasses import replace

from reconciler.diff.changes import AddShard, PublishRouting, RecordApplied, StartMembers
from reconciler.diff.diff import diff
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import ObservedState, RunningOperation, Unseen
from reconciler.plan.planner import make_plan
from reconciler.plan.simulate import what_remains
from tests.worlds import after, database, desired

_STATE = desired(database())
_SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))


def _unseen(state: ObservedState, *, applied: bool, begun: bool) -> ObservedState:
    """s0 is silent; ``applied``: map and record are there; ``begun``: an apply was cut off."""
    (there,) = state.databases
    silent = Unseen("postgres", "shop-s0", "silent")
    shards = (replace(there.shards[0], patroni=silent, catalog=silent), *there.shards[1:])
    there = replace(there, shards=shards)
    if not applied:
        there = replace(there, routing=None, record=None)
    operation = RunningOperation("o", (_SHOP,), "r", (), (), "") if begun else None
    return replace(state, databases=(there,), operation=operation)


def test_a_shard_that_an_apply_had_begun_is_provisioned_to_its_end() -> None:
    observed = _unseen(after(_STATE), applied=False, begun=True)

    difference = diff(_STATE, observed)
    kinds = {type(change) for change in difference.changes}

    assert {AddShard, PublishRouting, RecordApplied} <= kinds
    assert difference.standstills == ()
    assert what_remains(_STATE, observed, make_plan(_STATE, observed, difference)) == ()


def test_a_silent_shard_that_nobody_had_begun_is_left_alone_and_nothing_is_called_applied() -> None:
    observed = _unseen(after(_STATE), applied=False, begun=False)

    difference = diff(_STATE, observed)

    assert not {type(c) for c in difference.changes} & {AddShard, PublishRouting, RecordApplied}
    assert [s.unseen for s in difference.standstills] == [True]


def test_a_silent_shard_that_is_in_use_is_left_alone_whatever_was_cut_off() -> None:
    observed = _unseen(after(_STATE), applied=True, begun=True)
    wanted = desired(database(parameters=(("work_mem", "1GB"),)), revision="r2")

    difference = diff(wanted, observed)

    assert not {type(c) for c in difference.changes} & {AddShard, RecordApplied, StartMembers}
    assert [s.subject for s in difference.standstills] == ["shard s0"]
