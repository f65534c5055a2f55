"""The acts of a move in the simulated world, commit by commit, as the edge has to perform them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import assert_never

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import CutResult, Side, Stage
from reconciler.model.names import Epoch
from reconciler.workflow import reshard
from reconciler.workflow import reshard_acts as acts
from tests.workflow.move_world import MOVE, TABLES, Broken, Slot, World

DRAIN_STEPS = 12


def perform(world: World, act: acts.Step) -> Iterator[None]:
    """Return the act as a generator that stops before and after each commit.

    A record is written only if it is the one that the decision was made from.
    """
    return performed(world, act, world.move.version if world.move else 0)


def performed(  # noqa: C901 - a dispatch table
    world: World, act: acts.Step, version: int
) -> Iterator[None]:
    yield
    match act:
        case acts.PrepareTarget():
            world.target.commit("note", "prepared", True)
        case acts.Hold():
            yield from hold(world)
        case acts.RefuseStale(side, epoch):
            world.sides[side].commit("refuse", epoch)
        case acts.Publish():
            world.source.commit("publish", "fwd", True)
        case acts.Copy():
            native = world.move is not None and world.move.copy is CopyDriver.NATIVE
            yield from sync(world) if native else copy(world)
        case acts.BuildIndexes():
            world.target.commit("note", "indexed", True)
        case acts.Subscribe():
            subscribe(world)
        case acts.DivideSequences():
            world.target.commit("note", "apart", True)
        case acts.Verify():
            yield from verify(world)
        case acts.Arm():
            yield from arm(world)
        case acts.Reverse():
            yield from reverse(world)
        case acts.Clean():
            yield from clean(world)
        case acts.Prune(side):
            yield from prune(world, side)
        case acts.Cut():
            yield from cut(world)
        case acts.RollBackCut():
            yield from roll_back_cut(world)
        case acts.FinishOpening() | acts.Unfence():
            side = Side.TARGET if isinstance(act, acts.FinishOpening) else Side.SOURCE
            yield from accept(world, side)
        case acts.WriteMap() | acts.Record() | acts.EndMove():
            write(world, act, version)
        case _:
            assert_never(act)
    yield


def write(world: World, act: acts.WriteMap | acts.Record | acts.EndMove, version: int) -> None:
    """Write to etcd, by compare-and-set."""
    move = world.move
    match act:
        case acts.WriteMap(epoch, back):
            owner = Side.SOURCE if back else Side.TARGET
            if not all(world.sides[owner].state.accepts.values()):
                raise Broken(f"the map leads to the {owner}, which refuses the keys")
            if epoch > world.map[0]:
                world.publish(epoch, owner)
        case acts.Record(stage) if move is not None and move.version == version:
            new = reshard.record_stage(move, stage, world.now)
            world.move = replace(new, version=move.version + 1)
        case acts.EndMove() if move is not None and move.stage is Stage.ENDED:
            world.move = None


def accept(world: World, side: Side) -> Iterator[None]:
    """Open the tables of a side, one commit each."""
    if side is Side.SOURCE and world.committed:
        raise Broken("the source is opened after the target was")
    for table in TABLES:
        world.sides[side].commit("guard", table, True)
        yield


def hold(world: World) -> Iterator[None]:
    """Refuse what no stream carries, at both sides; a comparison without that is forgotten."""
    for shard in (world.source, world.target):
        for kind in [kind for kind in world.holds if kind not in shard.state.held]:
            world.target.commit("note", "verified", None)
            yield
            shard.commit("hold", kind, True)
            yield


def copy(world: World) -> Iterator[None]:
    source, target = world.source, world.target
    if is_whole(world):
        return
    yield from start_over(world)
    world.ids += 1
    slot = f"fwd{world.ids}"
    source.slots[slot] = Slot(len(source.wal))
    snapshot = list(source.state.rows)
    yield
    for row in snapshot:
        target.commit("insert", row, sync=False)
        yield
    target.commit("note", "copied", (slot, target.timeline))


def is_whole(world: World) -> bool:
    slot, _ = world.target.state.notes.get("copied") or ("", 0)
    return slot in world.source.slots


def start_over(world: World) -> Iterator[None]:
    source, target = world.source, world.target
    target.commit("note", "copied", None)
    target.commit("note", "begun", None)
    yield
    for name in [n for n in source.slots if n.startswith("fwd")]:
        del source.slots[name]
        yield
    if "fwd" in target.state.follows:
        target.commit("unfollow", "fwd")
        yield
    for row in list(target.state.rows):
        target.commit("delete", row)
    target.commit("note", "indexed", False)
    target.commit("note", "verified", None)
    yield


def sync(world: World) -> Iterator[None]:
    """Let tablesync copy, which a crash of ours does not stop: ``deliver`` is what brings rows."""
    source, target = world.source, world.target
    if is_whole(world):
        return
    slot = target.state.follows.get("fwd", "")
    if slot not in source.slots or target.state.notes.get("begun") != target.timeline:
        yield from start_over(world)
        world.ids += 1
        slot = f"fwd{world.ids}"
        source.slots[slot] = Slot(len(source.wal), rows=tuple(source.state.rows))
        yield
        target.commit("note", "begun", target.timeline)
        yield
        target.commit("follow", "fwd", slot)
        yield
    while world.stream("fwd").slot_active and target.state.follows["fwd"] == slot:
        if target.state.synced >= len(source.slots[slot].rows):
            break
        world.deliver("fwd")
        yield
    else:
        return
    if target.state.notes.get("begun") == target.timeline:
        target.commit("note", "copied", (slot, target.timeline))


def subscribe(world: World) -> None:
    marker = world.target.state.notes.get("copied")
    if marker and marker[0] in world.source.slots and "fwd" not in world.target.state.follows:
        world.target.commit("follow", "fwd", marker[0])


def verify(world: World) -> Iterator[None]:
    """Compare at an exact point: writers are held while the target catches up."""
    yield
    for _ in range(world.pending("fwd")):
        world.deliver("fwd")
    streams = world.stream("fwd").slot_active
    if streams and world.source.state.rows == world.target.state.rows:
        at = (world.source.timeline, world.target.timeline)
        world.target.commit("note", "verified", at)


def arm(world: World) -> Iterator[None]:
    world.target.commit("publish", "rev", True)
    yield
    slot = world.target.slots.get("rev")
    if slot is None or slot.lost:
        world.target.slots["rev"] = Slot(len(world.target.wal))


def reverse(world: World) -> Iterator[None]:
    if "fwd" in world.target.state.follows:
        world.target.commit("unfollow", "fwd")
        yield
    for name in [n for n in world.source.slots if n.startswith("fwd")]:
        del world.source.slots[name]
        yield
    slot = world.target.slots.get("rev")
    if slot and not slot.lost and "rev" not in world.source.state.follows:
        world.source.commit("follow", "rev", "rev")


def clean(world: World) -> Iterator[None]:
    for shard in (world.source, world.target):
        for name in list(shard.slots):
            del shard.slots[name]
            yield
    for shard in (world.source, world.target):
        for name in list(shard.state.follows):
            shard.commit("unfollow", name)
            yield
        for name in sorted(shard.state.published):
            shard.commit("publish", name, False)
            yield
    for note in ("copied", "begun", "verified", "cut"):
        world.target.commit("note", note, None)
        yield
    for shard in (world.source, world.target):
        for kind in sorted(shard.state.held):
            shard.commit("hold", kind, False)
            yield


def prune(world: World, side: Side) -> Iterator[None]:
    shard = world.sides[side]
    if any(shard.state.accepts.values()):
        raise Broken(f"rows of the {side} are deleted while it accepts the keys")
    for row in list(shard.state.rows):
        shard.commit("delete", row)
        yield


def cut(world: World) -> Iterator[None]:
    source, target = world.source, world.target
    if any(target.state.accepts.values()):
        yield from accept(world, Side.TARGET)
        return
    for table in TABLES:
        if source.state.accepts[table]:
            source.commit("guard", table, False, sync=False)
            yield
    source.flush()
    yield
    drained = yield from drain(world, "fwd")
    if not drained or world.stream("fwd").gap:
        for table in TABLES:
            source.commit("guard", table, True)
            yield
        note_cut(world, opened=False)
        return
    target.commit("note", "cut", source.timeline)
    if "rev" in target.slots:
        target.slots["rev"].confirmed = len(target.wal)
    yield
    yield from refuse_stale(world, Side.SOURCE, MOVE.epoch)
    for table in TABLES:
        target.commit("guard", table, True)
        world.committed = True
        yield
    note_cut(world, opened=True)


def drain(world: World, name: str) -> Generator[None, None, bool]:
    """Write a beat after the fence and see it at the other side; True when it came."""
    publisher, subscriber = world.ends(name)
    world.ids += 1
    beat = world.ids
    publisher.commit("beat", beat)
    for _ in range(DRAIN_STEPS):
        if subscriber.state.beat == beat:
            return True
        world.deliver(name)
        yield
    return False


def roll_back_cut(world: World) -> Iterator[None]:
    source, target = world.source, world.target
    if not any(source.state.accepts.values()):
        for table in TABLES:
            if target.state.accepts[table]:
                target.commit("guard", table, False, sync=False)
                yield
        target.flush()
        yield
        drained = yield from drain(world, "rev")
        if not drained or world.stream("rev").gap:
            yield from accept(world, Side.TARGET)
            note_cut(world, opened=False)
            return
        source.flush()
        yield
    yield from refuse_stale(world, Side.TARGET, Epoch(MOVE.epoch + 1))
    for table in TABLES:
        source.commit("guard", table, True)
        world.committed = False
        yield


def refuse_stale(world: World, side: Side, planned: Epoch) -> Iterator[None]:
    world.sides[side].commit("refuse", Epoch(max(planned, world.map[0] + 1)))
    yield


def note_cut(world: World, *, opened: bool) -> None:
    if world.move is not None:
        new = reshard.record_cut(world.move, CutResult(opened, 10.0), world.now)
        world.move = replace(new, version=world.move.version + 1)
