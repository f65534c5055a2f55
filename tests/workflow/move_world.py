"""Two shards and an etcd in memory: the world in which the rules of a move are tried.

A shard is its WAL: all that it knows is folded from it, and a failover cuts it short at what the
standby has flushed. Clients' commits wait for the standby, unless it is an asynchronous one, and an
apply worker's never do. Slots live beside the WAL, as in PostgreSQL before 17, and die in a
failover. What a client was told and an asynchronous failover took is not counted as lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from reconciler.model.desired import CopyDriver, KeyType, ShardedTable
from reconciler.model.keyspace import parse_key_set
from reconciler.model.moves import Move, MoveId, MoveView, Side, Stage, Stream, Wish
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
)
from reconciler.model.unseen import Unseen
from tests.workflow.move_shard import TABLES, Clone, Row, Shard, Slot

NAMESPACE = Namespace("default")
SCOPES = {Side.SOURCE: Scope("shop-s0"), Side.TARGET: Scope("shop-s1")}
START = datetime(2026, 1, 1, tzinfo=UTC)
MOVE = Move(
    id=MoveId("m00000001"),
    database=DatabaseKey(NAMESPACE, DatabaseName("shop")),
    source=ShardName("s0"),
    target=ShardName("s1"),
    source_scope=ScopeKey(NAMESPACE, SCOPES[Side.SOURCE]),
    target_scope=ScopeKey(NAMESPACE, SCOPES[Side.TARGET]),
    keys=parse_key_set("80-"),
    source_keys=parse_key_set("-"),
    target_keys=parse_key_set("none"),
    epoch=Epoch(8),
    key_type=KeyType.BIGINT,
    tables=tuple(ShardedTable(name, "id") for name in TABLES),
    reference=(),
    pause_max_ms=100,
    rollback_window_s=1000,
    started_at=START.isoformat(),
)
CARRIED = ("insert", "cross", "delete", "beat")


class Broken(AssertionError):
    """An invariant does not hold."""


class World:
    """One move with everything around it, but for the engine (``move_engine``)."""

    holds: tuple[str, ...] = ("key", "truncate")
    matviews: bool = False

    def __init__(
        self,
        *,
        tells_owners: bool = True,
        copy: CopyDriver = CopyDriver.OWN,
        asynchronous: bool = False,
    ) -> None:
        self.source = Shard(True, asynchronous=asynchronous)
        self.target = Shard(False, asynchronous=asynchronous)
        self.sides = {Side.SOURCE: self.source, Side.TARGET: self.target}
        self.move: Move | None = replace(MOVE, copy=copy)
        self.map = (Epoch(7), Side.SOURCE)
        self.maps = [self.map]
        self.tells_owners = tells_owners
        self.now = START
        self.acknowledged: set[Row] = set()
        self.unseen: set[Side] = set()
        self.obstacle = False
        self.held: tuple[Counter[Row], Counter[Row]] | None = None
        self.ids = 0
        self.lease = 1
        self.clone: Clone | None = None
        self.skipped: set[Row] = set()
        self.told: dict[Side, list[tuple[int, str, Row]]] = {side: [] for side in Side}

    # Clients ---------------------------------------------------------------------------------

    def publish(self, epoch: Epoch, owner: Side) -> None:
        self.map = (epoch, owner)
        self.maps.append(self.map)

    def publish_another(self) -> None:
        """Publish another move of the same database, where the map tells owners.

        One applier publishes at a time, and what it has opened it publishes first.
        """
        if self.tells_owners and all(self.sides[self.map[1]].state.accepts.values()):
            self.publish(Epoch(self.map[0] + 1), self.map[1])

    def led_to(self, side: Side) -> bool:
        """Whether a map ever sent clients there: nobody else writes there."""
        return any(owner is side for _, owner in self.maps)

    def write(self, side: Side, table: str) -> None:
        """Insert through any router, however stale; the guard alone decides."""
        if self.sides[side].state.accepts[table] and self.led_to(side):
            self.ids += 1
            self._tell(side, "insert", (table, self.ids))
            self.acknowledged.add((table, self.ids))

    def delete(self, side: Side, table: str) -> None:
        state = self.sides[side].state
        row = min((row for row in state.rows if row[0] == table), default=None)
        if state.accepts[table] and row is not None:
            self._tell(side, "delete", row)
            self.acknowledged.discard(row)

    def change_key(self, side: Side, table: str) -> None:
        """Give a row of a key that stays a key that moves; it holds a value out of line."""
        state = self.sides[side].state
        if state.accepts[table] and self.led_to(side) and "key" not in state.held:
            self.ids += 1
            self._tell(side, "cross", (table, self.ids))
            self.acknowledged.add((table, self.ids))

    def truncate(self, side: Side, table: str) -> None:
        """Empty a table as its owner does, whom no guard of rows asks."""
        state = self.sides[side].state
        if "truncate" not in state.held:
            if state.accepts[table] or self.map[1] is side:
                gone = {row for row in state.rows if row[0] == table}
                self.acknowledged -= gone
                at = len(self.sides[side].wal)
                self.told[side].extend((at, "delete", row) for row in sorted(gone))
            self.sides[side].commit("truncate", table)

    def touch(self) -> None:
        """Update every row, as clients do that know the latest map that led them to a side."""
        for epoch, side in {side: (epoch, side) for epoch, side in self.maps}.values():
            state = self.sides[side].state
            gone = self.acknowledged - set(state.rows) - self.skipped
            if epoch >= state.refuses_below and gone:
                raise Broken(f"UPDATE 0 at the {side} by a client of epoch {epoch}: {sorted(gone)}")

    def _tell(self, side: Side, kind: str, row: Row) -> None:
        self.told[side].append((len(self.sides[side].wal), kind, row))
        self.sides[side].commit(kind, row)

    # Streams ---------------------------------------------------------------------------------

    def ends(self, name: str) -> tuple[Shard, Shard]:
        """Return publisher and subscriber."""
        return (self.source, self.target) if name == "fwd" else (self.target, self.source)

    def slot_of(self, name: str) -> tuple[str, Slot] | None:
        publisher, _ = self.ends(name)
        return next(((n, s) for n, s in publisher.slots.items() if n.startswith(name)), None)

    def _position(self, name: str) -> int | None:
        """Where the stream goes on, or None when it does not run."""
        publisher, subscriber = self.ends(name)
        slot = publisher.slots.get(subscriber.state.follows.get(name, ""))
        if slot is None or slot.lost or name not in publisher.state.published:
            return None
        return max(slot.confirmed, subscriber.state.applied.get(name, 0))

    def pending(self, name: str) -> int:
        publisher, _ = self.ends(name)
        slot = self.slot_of(name)
        start = self._position(name)
        start = start if start is not None else slot[1].confirmed if slot else len(publisher.wal)
        return sum(1 for c in publisher.wal[start:] if c[0] in CARRIED)

    def deliver(self, name: str, changes: int = 1) -> None:
        """Apply changes at the subscriber, which does not wait for its standby."""
        for _ in range(changes):
            self._deliver(name)

    def _deliver(self, name: str) -> None:
        publisher, subscriber = self.ends(name)
        position = self._position(name)
        if position is None:
            return
        missing = publisher.slots[subscriber.state.follows[name]].rows[subscriber.state.synced :]
        if missing:
            subscriber.commit("sync", missing[0], sync=False)
            return
        for at in range(position, len(publisher.wal)):
            change = publisher.wal[at][:-1]
            if change[0] not in CARRIED:
                continue
            if change[0] == "cross":  # the value out of line is not in the WAL
                change = ("insert", (change[1][0], -change[1][1]))
            if change[0] == "insert" and subscriber.state.rows[change[1]]:
                raise Broken(f"{name}: duplicate key {change[1]}: the apply worker is stuck")
            subscriber.commit(*change, sync=False, origin=(name, at + 1))
            return

    def confirm(self, name: str) -> None:
        """Let the subscriber confirm what it flushed itself."""
        publisher, subscriber = self.ends(name)
        position = self._position(name)
        if position is not None:
            publisher.slots[subscriber.state.follows[name]].confirmed = position

    # Faults ----------------------------------------------------------------------------------

    def fail_over(self, side: Side, kept: float) -> None:
        """Promote the standby, which has a part of what was not waited for."""
        shard = self.sides[side]
        shard.fail_over(shard.flushed + round(kept * (len(shard.wal) - shard.flushed)))
        told = self.told[side]
        while told and told[-1][0] >= len(shard.wal):
            _, kind, row = told.pop()
            (self.acknowledged.add if kind == "delete" else self.acknowledged.discard)(row)

    def lose_slot(self, name: str) -> None:
        slot = self.slot_of(name)
        if slot:
            slot[1].lost = True

    def skip_row(self) -> None:
        """Let the target leave a row out in silence, as an apply worker does with an update."""
        before = self.move is not None and self.move.stage is Stage.BEFORE
        if before and self.view().verified and not any(self.target.state.accepts.values()):
            for row in sorted(self.target.state.rows)[:1]:
                self.target.commit("skip", row)
                self.skipped.add(row)

    def mend(self) -> None:
        """Put the target's rows right by hand: who finishes a move in spite of all has done so."""
        lacking = self.acknowledged - set(self.target.state.rows)
        for row in sorted(lacking) if any(self.target.state.accepts.values()) else ():
            self.target.commit("mend", row)

    def wish(self, wish: Wish) -> None:
        if self.move is not None:
            if wish is Wish.FINISH and self.move.stage is Stage.SWITCHED:
                self.mend()
            self.move = replace(self.move, wish=wish, version=self.move.version + 1)

    # What is seen ----------------------------------------------------------------------------

    def view(self) -> MoveView:
        """What an edge sees; of a side that is not seen it tells what an empty answer would."""
        if self.unseen:
            return self._dim_view()
        source, target = self.source.state, self.target.state
        copied, _ = target.notes.get("copied") or ("", 0)
        timelines = (self.source.timeline, self.target.timeline)
        back = self.move is not None and self.move.stage is Stage.BACK
        return MoveView(
            source=None,
            target=None,
            forward=self.stream("fwd"),
            reverse=self.stream("rev"),
            copied=copied,
            copy_begun=bool(target.rows),
            indexed=bool(target.notes.get("indexed")),
            verified=target.notes.get("verified") == timelines,
            verified_back=target.notes.get("verified_back") == timelines,
            cut_held=self.held is not None,
            fenced=tuple(t for t in TABLES if not source.accepts[t]),
            opened=tuple(t for t in TABLES if target.accepts[t]),
            drained=False,
            map_epoch=self.map[0],
            pruned=not (target.rows if back else source.rows),
            prepared=bool(target.notes.get("prepared")),
            views_stale=self.matviews and target.notes.get("shown") != target.notes.get("copied"),
            sequences_apart=bool(target.notes.get("apart")),
            held=source.held == target.held == set(self.holds),
            syncing=self.move is not None and self.move.copy is CopyDriver.NATIVE,
            source_refuses_below=source.refuses_below,
            target_refuses_below=target.refuses_below,
            map_owners=(SCOPES[self.map[1]],) if self.tells_owners else (),
            obstacles=("a long transaction",) if self.obstacle else (),
            left=(
                *(mark for mark in self.target.marks if mark not in ("copied", "begun", "seeded")),
                *(("triggers",) if source.held or target.held else ()),
            ),
        )

    def _gap(self, name: str) -> bool:
        """Whether the subscriber's timeline is another than at the stream's first row."""
        _, subscriber = self.ends(name)
        notes = self.target.state.notes
        begun = notes.get("begun") or (notes.get("copied") or ("", 0))[1]
        noted = begun if name == "fwd" else notes.get("cut") or 0
        return bool(noted) and noted != subscriber.timeline

    def _dim_view(self) -> MoveView:
        there, self.unseen = self.unseen, set()
        view, self.unseen = self.view(), there
        if Side.SOURCE in there:
            view = replace(
                view,
                source=Unseen("PostgreSQL", "s0", "down"),
                held=False,
                source_refuses_below=Epoch(0),
                fenced=(),
                pruned=True,
                forward=Stream(subscribed=view.forward.subscribed),
                reverse=replace(view.reverse, subscribed=False),
            )
        if Side.TARGET in there:
            view = replace(
                view,
                target=Unseen("PostgreSQL", "s1", "down"),
                held=False,
                target_refuses_below=Epoch(0),
                opened=(),
                copied="",
                copy_begun=False,
                indexed=False,
                verified=False,
                prepared=False,
                views_stale=False,
                sequences_apart=False,
                left=("triggers",) if self.source.state.held else (),
                forward=replace(view.forward, subscribed=False),
                reverse=Stream(subscribed=view.reverse.subscribed),
            )
        return view

    def stream(self, name: str) -> Stream:
        """What is true of a stream, whoever may see it; acts hold their conditions against it."""
        publisher, subscriber = self.ends(name)
        slot = self.slot_of(name)
        return Stream(
            published=name in publisher.state.published,
            slot=slot is not None,
            slot_active=self._position(name) is not None,
            slot_lost=slot is not None and slot[1].lost,
            lag_bytes=self.pending(name) * 20_000 if slot else None,
            subscribed=name in subscriber.state.follows,
            slot_name=slot[0] if slot else "",
            gap=self._gap(name),
        )
