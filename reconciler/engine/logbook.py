"""The logbook of a move: a line for each act, intent before and outcome after, in etcd.

One key a move, beside its record; it stays when the record goes, with the record's last state in
it, so that pauses and times of moves that ended can be looked up. It also says how far the copy is
and what the move waits for, since when. Nothing is decided from it: what to do next comes from what
is seen. It is written by compare-and-set under the applier's lease, and never within a cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.engine.ports import Clock, Store
from reconciler.engine.records import (
    decode_move,
    encode_move,
    logbook_key,
    moves_key,
)
from reconciler.model.access import ConflictingWrite, Lease, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress, Move
from reconciler.model.records import BROKEN, dump_record, unreadable
from reconciler.workflow.reshard_acts import Cut, RollBackCut
from reconciler.workflow.reshard_records import record_lost_cut

LINES_KEPT = 100
"""The latest lines of a move; a whole one has about forty."""
ENDED_KEPT = 50
"""Logbooks of a database's moves that ended; older ones go when a later one ends."""
WRITE_EVERY_S = 2.0
"""How often progress and the reason of a wait are written at most."""
CUTS = frozenset((Cut.__name__, RollBackCut.__name__))
"""The acts in which writers wait, as lines name them."""
_TRIES = 3
_BATCH = 100
"""Changes in one write; etcd allows 128 operations each."""
Change = Callable[[Move], Move]


@dataclass(frozen=True, slots=True)
class Line:
    """An act. ``state`` is begun, done, failed, or cut off: its applier ended within it.

    Times are UTC in ISO 8601; ``ended_at`` is empty while it runs, ``error`` unless it failed.
    """

    act: str
    state: str
    begun_at: str
    ended_at: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a move waits for, since when, and how far the stream is behind (None: not known)."""

    reason: str
    since: str
    lag_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Copying:
    """How far a copy is, at a time; ``left_s`` at its rate so far, None before there is one.

    ``slowed``: by ``resharding.throttle``.
    """

    bytes_done: int
    bytes_total: int
    rows_done: int
    bytes_per_s: int
    left_s: int | None
    at: str
    slowed: bool = False


@dataclass(frozen=True, slots=True)
class Logbook:
    """All of it. ``ended`` is the record at its end, None while the move is under way."""

    lines: tuple[Line, ...] = ()
    waiting: Waiting | None = None
    copying: Copying | None = None
    ended: Move | None = None
    ended_at: str = ""
    version: int = 0

    @property
    def open_line(self) -> Line | None:
        """The act whose outcome was never written: it runs now, or was cut off."""
        last = self.lines[-1] if self.lines else None
        return last if last and last.state == "begun" else None

    @property
    def failure(self) -> Line | None:
        """The line of an act that failed, and is tried again now, or will be next."""
        now = self.open_line
        closed = self.lines[:-1] if now else self.lines
        last = closed[-1] if closed else None
        if last is None or last.state != "failed":
            return None
        return last if now is None or now.act == last.act else None

    @property
    def going_on(self) -> Logbook:
        """Return it; of one that ended an empty one, as the same move may begin once more.

        An aborted move left the epoch as it was, and its id follows from that.
        """
        return self if self.ended is None else Logbook(version=self.version)

    def with_outcome(self, state: str, at: str, error: str = "") -> Logbook:
        """Return it with its open line ended."""
        if self.open_line is None:
            return self
        last = replace(self.lines[-1], state=state, ended_at=at, error=error)
        return replace(self, lines=(*self.lines[:-1], last), copying=None)

    def with_intent(self, act: str, at: str) -> Logbook:
        """Return it with an act begun.

        Of one that fails again and again the first and the last failures stay: else they would
        drive all else out.
        """
        before = self.lines
        if [(x.act, x.state) for x in before[-3:]] == [(act, "failed")] * 3:
            before = (*before[:-2], before[-1])
        lines = (*before, Line(act, "begun", at))[-LINES_KEPT:]
        return replace(self, lines=lines, waiting=None, copying=None)


def encode_logbook(book: Logbook) -> bytes:
    """Return a logbook as its record."""
    waiting, copying = book.waiting, book.copying
    return dump_record(
        {
            "lines": [[x.act, x.state, x.begun_at, x.ended_at, x.error] for x in book.lines],
            "waiting": waiting and [waiting.reason, waiting.since, waiting.lag_bytes],
            "copying": copying
            and [
                copying.bytes_done, copying.bytes_total, copying.rows_done, copying.bytes_per_s,
                copying.left_s, copying.at, copying.slowed,
            ],
            "ended": json.loads(encode_move(book.ended)) if book.ended else None,
            "endedAt": book.ended_at,
        }
    )  # fmt: skip


def decode_logbook(key: str, value: bytes, version: int) -> Logbook:
    """Read a logbook. Raises RecordUnreadable."""
    try:
        data: dict[str, Any] = json.loads(value)
        ended = data["ended"]
        return Logbook(
            lines=tuple(Line(*map(str, line)) for line in data["lines"]),
            waiting=Waiting(*data["waiting"]) if data["waiting"] else None,
            copying=Copying(*data["copying"]) if data["copying"] else None,
            ended=decode_move(key, json.dumps(ended).encode(), 0) if ended else None,
            ended_at=str(data["endedAt"]),
            version=version,
        )
    except BROKEN as problem:
        raise unreadable(key, problem) from problem


def read_logbook(store: Store, move: Move) -> Logbook:
    """Return a move's logbook, an empty one when nothing was written. Raises RecordUnreadable."""
    key = logbook_key(move.database, move.id)
    found = store.read(key).get(key)
    return decode_logbook(key, found.value, found.version) if found else Logbook()


def read_move(store: Store, move: Move) -> Move | None:
    """Return a move's record as it is now, None when it is gone. Raises RecordUnreadable."""
    key = moves_key(move.database, move.id)
    found = store.read(key).get(key)
    return decode_move(key, found.value, found.version) if found else None


@dataclass(slots=True)
class Keeper:
    """Writes a move's logbook. Each write may raise what the store raises."""

    store: Store
    lease: Lease
    clock: Clock
    move: Move
    _written_s: float = -WRITE_EVERY_S
    _told: str = ""
    _since: str = ""
    _rate: tuple[float, int] = field(default=(0.0, 0))
    _act: str = ""
    failed: tuple[str, int] = ("", 0)
    """The act that failed last and was not done since, and how many times in a row."""
    half_cut: ReconcilerError | None = None
    """What a cut failed with half-way, and below whether it was gone on with."""
    went_on: bool = False

    def failures(self, act: str) -> int:
        """Return how many times in a row an act has failed."""
        return self.failed[1] if self.failed[0] == act else 0

    def intent(self, act: str) -> None:
        """Note that an act begins."""
        self._act, self._told, self._since = act, "", ""
        self._change(lambda book: book.with_intent(act, self._now()))
        self._rate = (self.clock.monotonic(), 0)

    def outcome(self, error: ReconcilerError | None = None, record: Change | None = None) -> None:
        """Note how the act ended, and change the move's record in the same write."""
        if error:
            self.failed = (self._act, self.failures(self._act) + 1)
        elif self.failures(self._act):
            self.failed = ("", 0)
        state = "failed" if error else "done"
        text = f"{error.code} {error.subject}: {error.problem}" if error else ""
        self._change(lambda book: book.with_outcome(state, self._now(), text), record)

    def settle(self) -> bool:
        """Close a line that was left open, by another applier too; tell whether there was one.

        Of a cut that was lost so, the record keeps that its pause is not known.
        """
        book = read_logbook(self.store, self.move)
        if book.open_line is None:
            return False
        lost = record_lost_cut if book.open_line.act in CUTS else None
        self._change(lambda found: found.with_outcome("cut off", self._now()), lost)
        return True

    def waits(self, reason: str, lag_bytes: int | None) -> None:
        """Note what is waited for: the first reason at once, others when they are news and due."""
        self._since = self._since or self._now()
        if reason == self._told or (self._told and not self._is_due()):
            return
        self._told = reason
        waiting = Waiting(reason, self._since, lag_bytes)
        self._change(lambda book: replace(book, waiting=waiting))

    def copies(self, progress: CopyProgress) -> None:
        """Note how far a copy is, not too often; one that cannot be written now is left out."""
        if not self._is_due():
            return
        copying = self.rated(progress)
        try:
            self._change(lambda book: replace(book, copying=copying))
        except ReconcilerError as error:
            if not error.transient:
                raise

    def rated(self, progress: CopyProgress) -> Copying:
        """Return the progress with its rate since the act began."""
        seconds = max(self.clock.monotonic() - self._rate[0], 0.001)
        rate = int(progress.bytes_done / seconds)
        left = max(progress.bytes_total - progress.bytes_done, 0) // rate if rate else None
        total = max(progress.bytes_total, progress.bytes_done)
        return Copying(
            progress.bytes_done, total, progress.rows_done, rate, left, self._now(), progress.slowed
        )  # fmt: skip

    def close(self, last: Move) -> None:
        """Remove the move's record, with its last state kept here; and the oldest logbooks."""
        mine = logbook_key(last.database, last.id)
        found = self.store.read(logbook_key(last.database))
        book = self._book(found)
        ended = replace(book, waiting=None, copying=None, ended=last, ended_at=self._now())
        others = {key: one for key, one in read_ended(found).items() if key != mine}
        old = sorted(others, key=lambda key: others[key].ended_at)[: -(ENDED_KEPT - 1) or None]
        changes: dict[str, tuple[bytes | None, int | None]] = {
            moves_key(last.database, last.id): (None, last.version),
            mine: (encode_logbook(ended), book.version),
        }
        self.store.write(changes | dict.fromkeys(old[:_BATCH], (None, None)), self.lease)

    def _change(self, change: Callable[[Logbook], Logbook], record: Change | None = None) -> None:
        """Write by compare-and-set; a wish written meanwhile is read, and kept."""
        for tries in range(1, _TRIES + 1):
            book = read_logbook(self.store, self.move).going_on
            changes: dict[str, tuple[bytes | None, int | None]] = {
                logbook_key(self.move.database, self.move.id): (
                    encode_logbook(change(book)),
                    book.version,
                )
            }
            if record and (now := read_move(self.store, self.move)):
                key = moves_key(now.database, now.id)
                changes[key] = (encode_move(record(now)), now.version)
            try:
                self.store.write(changes, self.lease)
            except ConflictingWrite:
                if tries == _TRIES:
                    raise
            else:
                self._written_s = self.clock.monotonic()
                return

    def _book(self, found: dict[str, Versioned]) -> Logbook:
        key = logbook_key(self.move.database, self.move.id)
        return (
            decode_logbook(key, found[key].value, found[key].version) if key in found else Logbook()
        )

    def _is_due(self) -> bool:
        return self.clock.monotonic() - self._written_s >= WRITE_EVERY_S

    def _now(self) -> str:
        return self.clock.now().isoformat(timespec="milliseconds")


def read_ended(found: dict[str, Versioned]) -> dict[str, Logbook]:
    """Return by key the logbooks of moves that ended, of what was read; unreadable ones are not."""
    books: dict[str, Logbook] = {}
    for key, item in found.items():
        if "/logbooks/" not in key:
            continue
        try:
            book = decode_logbook(key, item.value, item.version)
        except ReconcilerError:
            continue  # history must not stop work
        if book.ended is not None:
            books[key] = book
    return books
