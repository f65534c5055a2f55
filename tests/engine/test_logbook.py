"""A move's logbook tells of the move that is under way, not of an earlier one of the same id."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from reconciler.cli.objects import move_object
from reconciler.engine.logbook import Keeper, read_logbook
from reconciler.engine.problems import PlanStale
from reconciler.engine.records import encode_move, moves_key
from reconciler.engine.wishes import KnownMove, known_moves
from reconciler.model.access import Lease, Versioned
from reconciler.model.moves import Stage
from reconciler.model.names import FencingToken
from tests.workflow.move_world import MOVE

LEASE = Lease("k", 1, FencingToken(1))


@dataclass
class _Kept:
    """Keeps records as etcd does, in memory."""

    records: dict[str, Versioned] = field(default_factory=dict)
    version: int = 0

    def read(self, prefix: str) -> dict[str, Versioned]:
        return {key: one for key, one in self.records.items() if key.startswith(prefix)}

    def write(self, changes: dict[str, tuple[bytes | None, int | None]], _: Lease) -> int:
        self.version += 1
        for key, (value, _expected) in changes.items():
            self.records.pop(key, None)
            if value is not None:
                self.records[key] = Versioned(value, self.version)
        return self.version


class _Noon:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return 1.0


def test_a_move_that_begins_again_after_an_abort_is_under_way_and_has_a_logbook_of_its_own() -> (
    None
):
    """An abort leaves the epoch as it was, so the same move has the same id again."""
    store = _Kept()
    key, written = moves_key(MOVE.database, MOVE.id), encode_move(MOVE)
    store.write({key: (written, 0)}, LEASE)
    keeper = Keeper(store, LEASE, _Noon(), MOVE)  # type: ignore[arg-type]
    keeper.intent("Prune target")
    keeper.outcome()
    keeper.close(replace(MOVE, stage=Stage.ENDED, version=store.version))
    assert [one.book.ended is None for one in known_moves(store)] == [False]  # type: ignore[arg-type]

    store.write({key: (written, 0)}, LEASE)
    assert known_moves(store)[0].book.ended is None  # type: ignore[arg-type]
    keeper.intent("Copy")

    (known,) = known_moves(store)  # type: ignore[arg-type]
    assert known.book.ended is None
    assert [line.act for line in read_logbook(store, MOVE).lines] == ["Copy"]  # type: ignore[arg-type]


def test_an_act_that_fails_again_and_again_drives_no_other_line_out_and_says_why() -> None:
    store = _Kept()
    keeper = Keeper(store, LEASE, _Noon(), MOVE)  # type: ignore[arg-type]
    keeper.intent("Publish")
    keeper.outcome()
    for number in range(300):
        keeper.intent("Copy")
        keeper.outcome(PlanStale("move", f"the disk is full, {number}"))
    failed = read_logbook(store, MOVE)  # type: ignore[arg-type]
    assert keeper.failures("Copy") == 300
    assert [(x.act, x.error.rpartition(" ")[2]) for x in failed.lines] == [
        ("Publish", ""), ("Copy", "0"), ("Copy", "298"), ("Copy", "299"),
    ]  # fmt: skip
    assert _now_of(store).startswith("Copy failed: AP")

    keeper.intent("Copy")
    assert _now_of(store).endswith("the disk is full, 299")
    assert _now_of(store).startswith("Copy again: AP")
    keeper.outcome()
    assert (keeper.failures("Copy"), _now_of(store)) == (0, "")


def _now_of(store: _Kept) -> str:
    book = read_logbook(store, MOVE)  # type: ignore[arg-type]
    return str(move_object(KnownMove(MOVE, book))["now"])
