"""What was observed as a file: whole, readable by this version only, and without secrets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reconciler.diff.diff import diff
from reconciler.engine.snapshot import HIDDEN, StateUnreadable, decode_state, encode_state
from reconciler.model.observed import ObservedState, Unseen
from tests.worlds import after, catalog_of, database, desired, settled, shard, with_shard

AT = "2026-11-26T12:00:00.000+00:00"
WANTED = desired(database(shard("s0", "-80"), shard("s1", "80-")))


def _state() -> ObservedState:
    return replace(settled(WANTED), looked_at=AT, used_plans=frozenset({"b", "a"}))


def test_a_state_comes_back_as_it_was() -> None:
    state = _state()
    assert decode_state(encode_state(state, "kim@host pid 1"), "state.json") == state


def test_what_was_unseen_stays_unseen() -> None:
    silent = Unseen("postgres", "shop-s0", "no way")
    state = with_shard(_state(), catalog=silent)
    again = decode_state(encode_state(state, "kim"), "state.json")
    assert again == state
    assert not diff(WANTED, again).changes


def test_a_plan_is_the_same_against_the_file() -> None:
    other = desired(database(shard("s0", "-40"), shard("s1", "80-"), shard("s2", "40-80")))
    again = decode_state(encode_state(_state(), "kim"), "state.json")
    assert diff(other, again) == diff(other, _state())
    assert after(other, again) == after(other, _state())


def test_settings_that_may_hold_a_secret_are_named_only() -> None:
    overrides = (
        ("primary_conninfo", "password=hunter2"),
        ("archive_command", "s3 --key hunter2"),
        ("work_mem", "4MB"),
    )
    state = with_shard(_state(), catalog={"overrides": overrides})
    data = encode_state(state, "kim@host pid 7")
    assert b"hunter2" not in data
    assert b"pid 7" not in data
    shown = catalog_of(decode_state(data, "f")).overrides
    assert shown == (
        ("primary_conninfo", HIDDEN), ("archive_command", HIDDEN), ("work_mem", "4MB"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b'{"format": "shardwright.dev/state/v9", "state": 1}',
        b"[" * 100_000,
        b'{"format": "shardwright.dev/state/v1", "state": {"$": "Popen", "args": "true"}}',
        b'{"format": "shardwright.dev/state/v1", "state": {"$": "Unseen", "nonsense": 1}}',
        b'{"format": "shardwright.dev/state/v1", "state": []}',
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_to_do(data: bytes) -> None:
    with pytest.raises(StateUnreadable, match="no state file") as caught:
        decode_state(data, "state.json")
    assert "state export" in caught.value.remedy


def test_only_classes_of_the_model_are_made() -> None:
    found = json.loads(encode_state(_state(), "kim"))
    found["state"]["looked_at"] = "yesterday"
    with pytest.raises(StateUnreadable):
        decode_state(json.dumps(found).encode(), "state.json")
