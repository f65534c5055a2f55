"""The journal: every operation that can be read, in order, whatever else lies beside it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.journal import Journal
from reconciler.engine.operations import read_operations
from reconciler.engine.records import OPERATIONS
from reconciler.model.access import Lease, Versioned
from reconciler.model.names import DatabaseKey, DatabaseName, FencingToken, Namespace, ShardName
from reconciler.plan.actions import RemoveRecord, Risk, Step

_SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))


def head(started: str = "2026-01-01T00:00:00.000", **changes: Any) -> dict[str, Any]:
    return {
        "source": "specs", "revision": "r1", "databases": [["default", "shop"]], "plan": "plan-1",
        "actor": "kim", "startedAt": started, "planned": 2, "result": "running", **changes,
    }  # fmt: skip


def step(id_: str, state: str = "done", seconds: float | None = 1.5) -> dict[str, Any]:
    return {
        "id": id_, "title": id_, "kind": "Configure", "state": state, "begunAt": "2026",
        "seconds": seconds,
    }  # fmt: skip


def stored(**records: Any) -> dict[str, Versioned]:
    """Return etcd's keys; ``a__head`` is operation a's head, ``a__3`` its step number 3."""
    found: dict[str, Versioned] = {}
    for name, data in records.items():
        id_, _, rest = name.partition("__")
        key = f"{OPERATIONS}{id_}/{rest if rest == 'head' else f'step/{int(rest):06}'}"
        value = data if isinstance(data, bytes) else json.dumps(data).encode()
        found[key] = Versioned(value, len(found) + 1)
    return found


def test_operations_are_read_oldest_first_with_their_steps_in_order() -> None:
    found = stored(
        b__head=head("2026-02"), a__head=head("2026-01", result="done"),
        b__10=step("last", "begun", None), b__2=step("first"),
    )  # fmt: skip

    operations = read_operations(found)

    assert [o.id for o in operations.all] == ["a", "b"]
    assert [s.id for s in operations.all[1].steps] == ["first", "last"]
    running = operations.running
    assert running is not None
    assert (running.id, running.done, running.begun) == ("b", ("first",), ("last",))
    assert running.databases == (_SHOP,)
    assert operations.durations == (("Configure", 1.5),)


def test_without_a_running_operation_none_is_named() -> None:
    assert read_operations(stored(a__head=head(result="done"))).running is None
    assert read_operations({}).running is None


def test_steps_of_an_ended_operation_come_from_its_head() -> None:
    found = stored(a__head=head(result="done", steps=[step("one"), step("two", "failed")]))

    (operation,) = read_operations(found).all

    assert [(s.id, s.state) for s in operation.steps] == [("one", "done"), ("two", "failed")]


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"\xff", b"[]", b"3", b"null", b"{}", b"[" * 100_000, b'{"source": 1',
        json.dumps(head(databases=3)).encode(), json.dumps(head(databases=[[1]])).encode(),
        json.dumps(head(planned="many")).encode(), b'{"planned": 1e999}',
        json.dumps(head()).replace('"planned": 2', '"planned": 1e999').encode(),
        json.dumps(head(steps=[{}])).encode(), json.dumps(head(steps=3)).encode(),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_head_that_cannot_be_read_hides_no_other(broken: bytes) -> None:
    operations = read_operations(
        stored(a__head=broken, b__head=head(), b__0=broken, b__1=step("s"))
    )

    assert [o.id for o in operations.all] == ["b"]
    assert [s.id for s in operations.all[0].steps] == ["s"]


def test_a_step_without_its_head_and_foreign_keys_are_passed_over() -> None:
    found = stored(a__1=step("orphan"), b__head=head())
    found["/elsewhere"] = Versioned(b"{}", 1)
    found[OPERATIONS + "b/step/x"] = Versioned(json.dumps(step("s")).encode(), 1)

    assert [(o.id, o.steps) for o in read_operations(found).all] == [("b", ())]


@given(st.dictionaries(st.text(max_size=20).map(lambda t: OPERATIONS + t), st.binary(max_size=40)))
def test_any_bytes_at_all_are_survived(records: dict[str, bytes]) -> None:
    read_operations({key: Versioned(value, 1) for key, value in records.items()})


def test_a_title_names_its_shard() -> None:
    one = Step(
        "s", _SHOP, RemoveRecord(_SHOP), (), Risk.ONLINE, "stop {shard}", "", ShardName("s0")
    )

    assert one.text == "stop s0"


class _Kept:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def read(self, _: str) -> dict[str, Versioned]:
        return {}

    def write(self, changes: dict[str, tuple[bytes | None, int | None]], lease: Lease) -> int:
        self.written += [json.loads(value) for value, _ in changes.values() if value]
        return 1


def test_what_a_step_waits_for_is_noted_since_when_and_its_amounts_now_and_then() -> None:
    kept, now = _Kept(), datetime(2026, 1, 1, tzinfo=UTC)
    journal = Journal(kept, Lease("k", 1, FencingToken(1)), "op-1")  # type: ignore[arg-type]
    journal.head = {"actor": "kim", "revision": "r", "plan": "p"}
    one = Step("s", _SHOP, RemoveRecord(_SHOP), (), Risk.ONLINE, "go", "")
    journal.intent(one, now)
    for seconds, reason in ((1, "9 MB behind"), (2, "8 MB behind"), (4, "7 MB behind"), (5, "x")):
        journal.waits(one, reason, now + timedelta(seconds=seconds), None)
    journal.outcome(one, 6.0, now + timedelta(seconds=6))

    lines = [record for record in kept.written if "state" in record]
    told = [(record.get("waits"), record.get("waitsSince", "")[17:19]) for record in lines]
    assert told == [
        (None, ""), ("9 MB behind", "01"), ("7 MB behind", "01"), ("x", "05"), (None, ""),
    ]  # fmt: skip
