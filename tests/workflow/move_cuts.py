"""Cuts in the simulated world, there and back, commit by commit, as the edge performs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator

from reconciler.model.moves import CutResult, Side
from reconciler.model.names import Epoch
from reconciler.workflow import reshard_records
from tests.workflow.move_hand import Hand
from tests.workflow.move_shard import TABLES, Shard
from tests.workflow.move_world import MOVE

DRAIN_STEPS = 12


def take_over(hand: Hand, *shards: Shard) -> Iterator[None]:
    """Refuse former appliers at a side before what it shows is acted upon."""
    for shard in shards:
        hand.fence(shard)
        yield


def accept(hand: Hand, side: Side) -> Iterator[None]:
    """Open the tables of a side, one commit each, unless the other side forbids it."""
    world = hand.world
    other = hand.target if side is Side.SOURCE else hand.source
    yield from take_over(hand, other)
    if any(other.state.accepts.values()):
        return
    yield
    for table in TABLES:
        hand.commit(world.sides[side], "guard", table, True)
        yield


def cut(hand: Hand) -> Iterator[None]:
    world, source, target = hand.world, hand.source, hand.target
    yield from take_over(hand, source, target)
    if any(target.state.accepts.values()):
        yield from accept(hand, Side.TARGET)
        return
    ready = yield from close(hand, source, "fwd")
    if ready:
        hand.commit(target, "note", "cut", source.timeline, sync=False)
        yield
        advance(hand, target)
        yield
        ready = yield from on_standbys(target, len(target.wal))
    known = source.state.refuses_below
    ready = ready and (yield from refuse_stale(hand, Side.SOURCE, MOVE.epoch))
    if not ready:
        hand.commit(source, "refuse", known)
        for table in TABLES:
            hand.commit(source, "guard", table, True)
            yield
        note_cut(hand, opened=False)
        return
    if hand.token == world.lease:
        world.held = (Counter(source.state.rows), Counter(target.state.rows))
    for table in TABLES:
        hand.commit(target, "guard", table, True)
        yield
    note_cut(hand, opened=True)


def close(hand: Hand, loser: Shard, name: str) -> Generator[None, None, bool]:
    """Fence, drain, and see the fences on the standby; True when all came in time."""
    for table in TABLES:
        if loser.state.accepts[table]:
            hand.commit(loser, "guard", table, False, sync=False)
            yield
    upto = fenced_until(loser)
    drained = yield from drain(hand, name)
    if not drained or hand.world.stream(name).gap:
        return False
    return (yield from on_standbys(loser, upto))


def fenced_until(loser: Shard) -> int:
    """Where the WAL is after the last fence's commit."""
    return len(loser.wal)


def on_standbys(shard: Shard, upto: int) -> Generator[None, None, bool]:
    """Wait for the standby that may be promoted; a synchronous one is waited for by a commit."""
    if not shard.asynchronous:
        shard.flushed = len(shard.wal)
    for _ in range(DRAIN_STEPS):
        if shard.flushed >= upto:
            return True
        shard.replicate(1)
        yield
    return False


def advance(hand: Hand, target: Shard) -> None:
    """Move the way back's slot past all that was applied."""
    hand.fence(target)
    if "rev" in target.slots:
        target.slots["rev"].confirmed = len(target.wal)


def drain(hand: Hand, name: str) -> Generator[None, None, bool]:
    """Write a beat after the fence and see it at the other side; True when it came."""
    world = hand.world
    publisher, subscriber = world.ends(name)
    world.ids += 1
    beat = world.ids
    hand.commit(publisher, "beat", beat)
    for _ in range(DRAIN_STEPS):
        if subscriber.state.beat == beat:
            return True
        world.deliver(name)
        yield
    return False


def roll_back_cut(hand: Hand) -> Iterator[None]:
    source, target = hand.source, hand.target
    yield from take_over(hand, source, target)
    if not any(source.state.accepts.values()):
        ready = yield from close(hand, target, "rev")
        ready = ready and (yield from on_standbys(source, len(source.wal)))
        known = target.state.refuses_below
        ready = ready and (yield from refuse_stale(hand, Side.TARGET, Epoch(MOVE.epoch + 1)))
        if not ready:
            hand.commit(target, "refuse", known)
            yield from accept(hand, Side.TARGET)
            note_cut(hand, opened=False)
            return
        yield
    elif any(target.state.accepts.values()):
        return
    for table in TABLES:
        hand.commit(source, "guard", table, True)
        yield


def refuse_stale(hand: Hand, side: Side, planned: Epoch) -> Generator[None, None, bool]:
    """Refuse older clients, on the loser's standbys too; True when that came in time."""
    world, loser = hand.world, hand.world.sides[side]
    epoch = Epoch(max(planned, world.map[0] + 1))
    hand.commit(loser, "refuse", epoch, sync=False)
    yield
    return (yield from on_standbys(loser, len(loser.wal)))


def note_cut(hand: Hand, *, opened: bool) -> None:
    move = hand.world.move
    if move is not None:
        new = reshard_records.record_cut(move, CutResult(opened, 10.0), hand.world.now)
        hand.record(new, move.version)
