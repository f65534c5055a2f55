"""A shard in the simulated world: its WAL, and all that is folded from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.names import Epoch

TABLES = ("public.a", "public.b")
Row = tuple[str, int]


@dataclass
class State:
    """What a shard knows; folded from its WAL."""

    accepts: dict[str, bool]
    rows: Counter[Row] = field(default_factory=Counter)
    beat: int = 0
    published: set[str] = field(default_factory=set)
    follows: dict[str, str] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    synced: int = 0
    held: set[str] = field(default_factory=set)
    refuses_below: Epoch = Epoch(0)  # noqa: RUF009
    token: int = 0


@dataclass
class Slot:
    """``rows``: what a tablesync that began with it has to bring before any change."""

    confirmed: int
    lost: bool = False
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Clone:
    """A physical copy of a shard as of ``until``, beside the data that it is to replace."""

    slot: str
    maker: int
    until: int = 0
    rows: tuple[Row, ...] = ()
    held: frozenset[str] = frozenset()
    token: int = 0


class Shard:
    origins = True

    def __init__(self, accepts: bool, *, asynchronous: bool = False) -> None:
        self.born_accepting, self.asynchronous = accepts, asynchronous
        self.wal: list[tuple[Any, ...]] = []
        self.flushed = 0
        self.timeline = 1
        self.slots: dict[str, Slot] = {}
        self.state = self._born()

    def _born(self) -> State:
        return State(dict.fromkeys(TABLES, self.born_accepting))

    @property
    def marks(self) -> tuple[str, ...]:
        """What the move has noted here."""
        notes = ("copied", "begun", "verified", "verified_back", "cut")
        return tuple(n for n in notes if self.state.notes.get(n))

    def commit(
        self, *change: Any, sync: bool = True, origin: tuple[str, int] | None = None
    ) -> None:
        self.wal.append((*change, origin))
        self._fold(self.wal[-1])
        if sync and not self.asynchronous:
            self.flushed = len(self.wal)

    def become(self, clone: Clone) -> None:
        """Begin anew as a copy that was promoted; the standbys copy it before they are any."""
        self.wal, self.slots, self.state = [], {}, self._born()
        self.timeline += 1
        self.commit("clone", clone)
        self.flushed = len(self.wal)

    def as_of(self, until: int) -> State:
        """Return what it knew at an earlier position."""
        then = Shard(self.born_accepting)
        for change in self.wal[:until]:
            then._fold(change)
        return then.state

    def replicate(self, changes: int) -> None:
        """Let the standby flush some more."""
        self.flushed = min(len(self.wal), self.flushed + changes)

    def fail_over(self, kept: int) -> None:
        self.wal = self.wal[: max(kept, self.flushed)]
        self.flushed = len(self.wal)
        self.timeline += 1
        self.slots.clear()
        self.state = self._born()
        for change in self.wal:
            self._fold(change)

    def _fold(self, change: tuple[Any, ...]) -> None:  # noqa: C901  a dispatch table
        state = self.state
        match change[:-1]:
            case "guard", str(table), bool(accepts):
                state.accepts[table] = accepts
            case ("insert" | "cross" | "sync" | "mend") as kind, row:
                state.rows[row] += 1
                state.synced += kind == "sync"
            case (("delete" | "skip"), row):
                state.rows.pop(row, None)
            case "truncate", str(table):
                state.rows = Counter({r: n for r, n in state.rows.items() if r[0] != table})
            case "hold", str(kind), bool(there):
                (state.held.add if there else state.held.discard)(kind)
            case "refuse", epoch:
                state.refuses_below = epoch
            case "beat", int(value):
                state.beat = value
            case "publish", str(name), bool(there):
                (state.published.add if there else state.published.discard)(name)
            case "follow", str(name), str(slot):
                state.follows[name] = slot
                seeded, until = state.notes.get("seeded") or ("", 0)
                if (
                    slot == seeded and self.origins
                ):  # the subscription's origin: the slot begins before the copy
                    state.applied[name] = until
            case "clone", Clone() as clone:
                state.accepts = dict.fromkeys(TABLES, False)
                state.rows, state.held, state.token = (
                    Counter(clone.rows),
                    set(clone.held),
                    clone.token,
                )
                state.notes = {"prepared": True, "seeded": (clone.slot, clone.until)}
            case "unfollow", str(name):
                state.synced = 0
                state.follows.pop(name, None)
                state.applied.pop(name, None)
            case "token", int(token):
                state.token = token
            case "note", str(name), value:
                state.notes[name] = value
        if change[-1] is not None:
            name, position = change[-1]
            state.applied[name] = position
