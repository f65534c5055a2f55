"""What waits for a person, and when it has been approved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.engine.orders import Approval, approval
from reconciler.engine.reconcile import approved_or_not
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.plan.actions import Asked

SHOP = DatabaseKey(Namespace("team"), DatabaseName("shop"))
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
WANTED = Asked(
    "ap-1", frozenset({"a", "b"}), ("configure s0 (online)", "restart s0 (restarts)"), ()
)
GIVEN = approval("ap-1", "kim@host pid 1", NOW)


def _reason(wanted: Asked, given: Approval | None, now: datetime = NOW) -> str:
    conclusion = approved_or_not(SHOP, wanted, given, now)
    return conclusion.message if conclusion else ""


def test_without_an_approval_it_waits_and_says_for_what() -> None:
    told = _reason(WANTED, None)
    assert told.startswith("ap-1 waits: configure s0 (online); restart s0 (restarts)")
    assert told.endswith("try: shardwright approve team/shop")


def test_an_approval_of_these_steps_is_enough() -> None:
    assert _reason(WANTED, GIVEN) == ""


def test_an_approval_runs_out() -> None:
    late = NOW + timedelta(hours=25)
    assert "ran out" in _reason(WANTED, GIVEN, late)


@pytest.mark.parametrize("marks", [{"a", "b", "c"}, {"a", "b"}])
def test_what_is_left_of_approved_steps_may_be_gone_on_with(marks: set[str]) -> None:
    given = Approval("ap-0", "kim", GIVEN.at, GIVEN.until, frozenset(marks))
    assert _reason(WANTED, given) == ""


def test_one_step_more_needs_another_approval() -> None:
    given = Approval("ap-0", "kim", GIVEN.at, GIVEN.until, frozenset({"a"}))
    assert "is of another plan" in _reason(WANTED, given)


def test_never_is_said_whatever_was_approved() -> None:
    wanted = Asked("ap-1", WANTED.marks, WANTED.titles, ("restart s0",))
    conclusion = approved_or_not(SHOP, wanted, GIVEN, NOW)
    assert conclusion is not None
    assert (conclusion.reason, conclusion.stalled) == ("NeverApplied", True)
