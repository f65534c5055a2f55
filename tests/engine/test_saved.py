"""A saved plan's file: sealed, and good for the plan that it was made from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.diff.diff import diff
from reconciler.engine.problems import PlanFileBroken, PlanStale, PlanUsed
from reconciler.engine.saved import (
    SourceRequest,
    check_saved,
    decode_saved,
    encode_saved,
    what_moved,
)
from reconciler.model.observed import ObservedState
from reconciler.plan.actions import Plan
from reconciler.plan.planner import make_plan
from tests.worlds import NOTHING, after, database, desired

_STATE = desired(database())


def _plan(observed: ObservedState = NOTHING, revision: str = "r1") -> Plan:
    state = desired(database(), revision=revision)
    return make_plan(state, observed, diff(state, observed))


_FILE = encode_saved(SourceRequest("specs", "repo", "main"), _plan())


def test_a_saved_plan_says_where_its_specs_are_and_what_it_saw() -> None:
    saved = decode_saved(_FILE, "plan.json")

    assert saved.request == SourceRequest("specs", "repo", "main")
    assert (saved.digest, saved.saw) == (_plan().digest, _plan().saw)
    check_saved(saved, _plan(), NOTHING)


@given(st.integers(0, len(_FILE) - 1), st.integers(0, 255))
def test_no_byte_of_it_can_be_changed(at: int, byte: int) -> None:
    edited = _FILE[:at] + bytes([byte]) + _FILE[at + 1 :]
    with suppress(PlanFileBroken):  # read is only what differs in the spaces of its JSON
        assert decode_saved(edited, "plan.json") == decode_saved(_FILE, "plan.json")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe", b"[]", b"{}", b"3", b"null", b'"seal"', b"[" * 100_000,
        b'{"a":' * 100_000, _FILE[:-20], _FILE * 2, b'{"seal": "x", "format": "y"}',
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_is_no_saved_plan_is_refused(data: bytes) -> None:
    with pytest.raises(PlanFileBroken, match="AP106"):
        decode_saved(data, "plan.json")


def test_a_used_plan_is_refused_even_when_nothing_moved() -> None:
    saved = decode_saved(_FILE, "plan.json")
    used = replace(NOTHING, used_plans=frozenset({saved.digest}))

    with pytest.raises(PlanUsed):
        check_saved(saved, _plan(), used)


def test_a_stale_plan_names_what_moved() -> None:
    saved = decode_saved(_FILE, "plan.json")

    with pytest.raises(PlanStale, match="changed since: revision"):
        check_saved(saved, _plan(revision="r2"), NOTHING)
    with pytest.raises(PlanStale, match=r"routing map shop.*members of shop-s0"):
        check_saved(saved, _plan(after(_STATE)), NOTHING)


def test_what_moved_names_what_came_and_what_went() -> None:
    assert what_moved((("a", "1"), ("b", "1")), (("b", "2"), ("c", "1"))) == "a, b, c"
    assert what_moved((("a", "1"),), (("a", "1"),)) == "what Shardwright makes of it"


def test_databases_of_other_sources_are_no_part_of_what_a_plan_saw() -> None:
    other = after(desired(database(name="other"), source="elsewhere"))

    assert _plan(other).saw == _plan().saw
    ours = after(desired(database(name="other")))
    assert len(_plan(ours).saw) > len(_plan().saw)
