"""The daemon's records: conditions keep their time, and what is stored is read back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.engine.reconcile import Again, Conclusion, failed
from reconciler.engine.sources import SourceState
from reconciler.engine.status import (
    DAEMON,
    STATUS,
    concluded,
    encode_daemon,
    encode_status,
    read_accepted,
    read_statuses,
    status_key,
)
from reconciler.model.access import ConflictingWrite, FencedOff, Versioned
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.records import RecordUnreadable
from reconciler.model.status import Status

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
NEW = Status(SHOP, None, True, False, "", "")
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
UP = Conclusion(True, False, False, "UpToDate", "nothing to do", Again.ROUTINE)


def after(before: Status, conclusion: Conclusion, revision: str, minutes: int) -> Status:
    return concluded(
        before, conclusion, source="specs", revision=revision, handled="", failures=1,
        now=NOW + timedelta(minutes=minutes),
    )  # fmt: skip


def test_since_moves_only_when_a_condition_does() -> None:
    first = after(NEW, UP, "one", 0)
    second = after(first, replace(UP, message="nothing at all to do"), "two", 5)
    third = after(second, failed(FencedOff("lease", "it ran out")), "three", 10)
    assert first.since == second.since == NOW.isoformat(timespec="seconds")
    assert third.since > second.since


def test_the_applied_revision_stays_while_a_later_one_fails() -> None:
    good = after(NEW, UP, "one", 0)
    bad = after(good, failed(ConflictingWrite("record", "changed")), "two", 1)
    assert (bad.attempted, bad.applied, bad.failures) == ("two", "one", 1)
    assert (bad.ready, bad.reconciling, bad.stalled) == (False, True, False)
    assert after(bad, UP, "two", 2).applied == "two"


def test_an_error_that_time_does_not_cure_is_a_stall() -> None:
    assert failed(FencedOff("lease", "it ran out")).stalled
    assert not failed(ConflictingWrite("record", "changed")).stalled


def test_a_status_is_read_back_and_a_broken_one_is_left_out() -> None:
    one = after(NEW, UP, "one", 0)
    found = {
        status_key(SHOP): Versioned(encode_status(one), 7),
        f"{STATUS}default/torn": Versioned(b"{", 8),
        f"{STATUS}odd": Versioned(b"{}", 9),
    }
    assert read_statuses(found) == {SHOP: one}


def test_what_was_in_force_is_read_back_and_a_broken_record_is_not_taken_for_nothing() -> None:
    states = (SourceState("a"), SourceState("b"))
    record = encode_daemon("me", "now", states, {"a": "main@sha1:1"}, "then")
    assert read_accepted({DAEMON: Versioned(record, 1)}) == {"a": "main@sha1:1"}
    assert read_accepted({}) == {}
    before = b'{"sources": [{"name": "a", "revision": "main@sha1:2"}]}'
    assert read_accepted({DAEMON: Versioned(before, 1)}) == {"a": "main@sha1:2"}
    for broken in (b"{", b"{}", b'{"sources": [{}]}'):
        with pytest.raises(RecordUnreadable):
            read_accepted({DAEMON: Versioned(broken, 1)})
