"""Pending or drift: the spec moved since it was applied, or the world did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff.changes import ApplySchema, ChangeParameters, Difference
from reconciler.diff.diff import diff
from reconciler.diff.origin import Origin, only_drift, origins, without_reported
from reconciler.model.desired import Database, DriftPolicy
from reconciler.model.observed import ObservedState
from tests.worlds import database, desired, schema_file, settled, shard, with_database, with_shard

SHARDS = (shard("s0", "-80"), shard("s1", "80-"))
APPLIED = database(*SHARDS, parameters=(("work_mem", "16MB"),))


def _found(wanted: Database, seen: ObservedState) -> dict[str, Origin]:
    state = desired(wanted)
    return {
        type(change).__name__: origin
        for change, origin in origins(diff(state, seen).changes, state, seen)
    }


def _by_hand(state: ObservedState) -> ObservedState:
    """Return the world after somebody patched Patroni's configuration of a shard."""
    parameters = dict(state.databases[0].shards[0].patroni.parameters)  # type: ignore[union-attr]
    parameters["work_mem"] = "99MB"
    return with_shard(state, patroni={"parameters": tuple(sorted(parameters.items()))})


def test_what_somebody_changed_by_hand_is_drift() -> None:
    found = _found(APPLIED, _by_hand(settled(desired(APPLIED))))
    assert found == {"ChangeParameters": Origin.DRIFT}


def test_what_the_spec_changed_is_pending() -> None:
    wanted = database(*SHARDS, parameters=(("work_mem", "32MB"),))
    found = _found(wanted, settled(desired(APPLIED)))
    assert found["ChangeParameters"] is Origin.PENDING


def test_drift_of_one_part_stays_drift_while_another_part_is_pending() -> None:
    files = (schema_file("schema/001.sql"), schema_file("schema/002.sql", "select 2"))
    wanted = database(*SHARDS, parameters=(("work_mem", "16MB"),), files=files)
    found = _found(wanted, _by_hand(settled(desired(APPLIED))))
    assert found["ChangeParameters"] is Origin.DRIFT
    assert found["ApplySchema"] is Origin.PENDING


def test_what_another_source_applied_is_never_called_drift() -> None:
    seen = _by_hand(settled(desired(APPLIED)))
    record = replace(seen.databases[0].record, source="another")  # type: ignore[type-var]
    found = _found(APPLIED, with_database(seen, record=record))
    assert set(found.values()) == {Origin.PENDING}


@pytest.mark.parametrize(("digest", "origin"), [("same", "drift"), ("other", "pending")])
def test_a_record_of_an_earlier_version_counts_the_spec_as_one_part(
    digest: str, origin: str
) -> None:
    seen = _by_hand(settled(desired(APPLIED)))
    changes = {"parts": ()} | ({"digest": "other"} if digest == "other" else {})
    record = replace(seen.databases[0].record, **changes)  # type: ignore[type-var]
    found = _found(APPLIED, with_database(seen, record=record))
    assert found["ChangeParameters"] == origin


def _both() -> tuple[ObservedState, Database, Difference]:
    files = (schema_file("schema/001.sql"), schema_file("schema/002.sql", "select 2"))
    wanted = database(*SHARDS, parameters=(("work_mem", "16MB"),), files=files)
    seen = _by_hand(settled(desired(APPLIED)))
    return seen, wanted, diff(desired(wanted), seen)


def test_drift_alone_is_what_the_drift_command_shows() -> None:
    seen, wanted, difference = _both()
    changes = only_drift(difference, desired(wanted), seen).changes
    assert [type(change) for change in changes] == [ChangeParameters]


def test_reported_drift_is_left_and_what_is_pending_is_not() -> None:
    seen, wanted, difference = _both()
    kept, left = without_reported(difference, desired(wanted), seen)
    assert (kept, left) == (difference, ()), "it is corrected when the spec says nothing"

    reporting = replace(wanted, drift_policy=DriftPolicy.REPORT)
    kept, left = without_reported(difference, desired(reporting), seen)
    assert [type(change) for change in left] == [ChangeParameters]
    assert ApplySchema in {type(change) for change in kept.changes}
    assert ChangeParameters not in {type(change) for change in kept.changes}
