"""The acts of a move in the simulated world, commit by commit, as the edge has to perform them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import Comparison, Side, Stage
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow import reshard_records
from tests.workflow.move_cuts import accept, cut, roll_back_cut, take_over
from tests.workflow.move_hand import FencedOff, Hand
from tests.workflow.move_shard import Clone, Slot
from tests.workflow.move_world import Broken, World


def perform(world: World, act: acts.Step) -> Iterator[None]:
    """Return the act as a generator that stops before and after each commit.

    A record is written only if it is the one that the decision was made from.
    """
    return performed(Hand(world, world.lease), act, world.move.version if world.move else 0)


def performed(  # noqa: C901 - a dispatch table
    hand: Hand, act: acts.Step, version: int
) -> Iterator[None]:
    yield
    match act:
        case acts.PrepareTarget():
            hand.commit(hand.target, "note", "prepared", True)
        case acts.Hold():
            yield from hold(hand)
        case acts.RefuseStale(side, epoch):
            hand.commit(hand.world.sides[side], "refuse", epoch)
        case acts.Publish():
            hand.commit(hand.source, "publish", "fwd", True)
        case acts.Copy():
            move = hand.world.move
            driver = move.copy if move is not None else CopyDriver.OWN
            yield from DRIVERS[driver](hand)
        case acts.BuildIndexes():
            hand.commit(hand.target, "note", "indexed", True)
        case acts.Subscribe():
            subscribe(hand)
        case acts.RefreshViews():
            hand.commit(hand.target, "note", "shown", hand.target.state.notes.get("copied"))
        case acts.DivideSequences():
            hand.commit(hand.target, "note", "apart", True)
        case acts.Verify():
            yield from verify(hand)
        case acts.VerifyCut():
            yield from verify_cut(hand, version)
        case acts.GiveUpVerifyCut(why) if hand.world.move is not None:
            hand.record(reshard_records.record_not_comparable(hand.world.move, why), version)
        case acts.GiveUpVerifyCut():
            pass
        case acts.VerifyBack():
            yield from verify_back(hand)
        case acts.Arm():
            yield from arm(hand)
        case acts.Reverse():
            yield from reverse(hand)
        case acts.Clean():
            yield from clean(hand)
        case acts.Prune(side):
            yield from prune(hand, side)
        case acts.Cut():
            yield from cut(hand)
        case acts.RollBackCut():
            yield from roll_back_cut(hand)
        case acts.FinishOpening() | acts.Unfence():
            side = Side.TARGET if isinstance(act, acts.FinishOpening) else Side.SOURCE
            yield from accept(hand, side)
        case acts.WriteMap() | acts.Record() | acts.EndMove():
            write(hand, act, version)
        case _:
            assert_never(act)
    yield


def write(hand: Hand, act: acts.WriteMap | acts.Record | acts.EndMove, version: int) -> None:
    """Write to etcd, by compare-and-set, under the lease."""
    world, move = hand.world, hand.world.move
    if hand.token != world.lease:
        raise FencedOff
    match act:
        case acts.WriteMap(epoch, back):
            owner = Side.SOURCE if back else Side.TARGET
            if not all(world.sides[owner].state.accepts.values()):
                raise Broken(f"the map leads to the {owner}, which refuses the keys")
            if epoch > world.map[0]:
                world.publish(epoch, owner)
        case acts.Record(stage) if move is not None:
            hand.record(reshard_records.record_stage(move, stage, world.now), version)
        case acts.EndMove() if move is not None and move.stage is Stage.ENDED:
            world.move = None


def hold(hand: Hand) -> Iterator[None]:
    """Refuse what no stream carries, at both sides; a comparison without that is forgotten."""
    for shard in (hand.source, hand.target):
        for kind in [kind for kind in hand.world.holds if kind not in shard.state.held]:
            hand.commit(hand.target, "note", "verified", None)
            yield
            hand.commit(shard, "hold", kind, True)
            yield


def copy(hand: Hand) -> Iterator[None]:
    world, source, target = hand.world, hand.source, hand.target
    if is_whole(world):
        return
    yield from start_over(hand)
    world.ids += 1
    slot = f"fwd{world.ids}"
    hand.fence(source)
    source.slots[slot] = Slot(len(source.wal))
    snapshot = list(source.state.rows)
    yield
    for row in snapshot:
        hand.commit(target, "insert", row, sync=False)
        yield
    hand.commit(target, "note", "copied", (slot, target.timeline))


def is_whole(world: World) -> bool:
    slot, _ = world.target.state.notes.get("copied") or ("", 0)
    return slot in world.source.slots


def drop_forward(hand: Hand) -> Iterator[None]:
    source, target = hand.source, hand.target
    for name in [n for n in source.slots if n.startswith("fwd")]:
        hand.drop_slot(source, name)
        yield
    if "fwd" in target.state.follows:
        hand.commit(target, "unfollow", "fwd")
        yield


def start_over(hand: Hand) -> Iterator[None]:
    target = hand.target
    hand.commit(target, "note", "copied", None)
    hand.commit(target, "note", "begun", None)
    yield
    yield from drop_forward(hand)
    for row in list(target.state.rows):
        hand.commit(target, "delete", row)
    hand.commit(target, "note", "indexed", False)
    hand.commit(target, "note", "verified", None)
    yield


def sync(hand: Hand) -> Iterator[None]:
    """Let tablesync copy, which a crash of ours does not stop: ``deliver`` is what brings rows."""
    world, source, target = hand.world, hand.source, hand.target
    if is_whole(world):
        return
    slot = target.state.follows.get("fwd", "")
    if slot not in source.slots or target.state.notes.get("begun") != target.timeline:
        yield from start_over(hand)
        world.ids += 1
        slot = f"fwd{world.ids}"
        hand.fence(source)
        source.slots[slot] = Slot(len(source.wal), rows=tuple(source.state.rows))
        yield
        hand.commit(target, "note", "begun", target.timeline)
        yield
        hand.commit(target, "follow", "fwd", slot)
        yield
    while world.stream("fwd").slot_active and target.state.follows["fwd"] == slot:
        if target.state.synced >= len(source.slots[slot].rows):
            break
        world.deliver("fwd")
        yield
    else:
        return
    if target.state.notes.get("begun") == target.timeline:
        hand.commit(target, "note", "copied", (slot, target.timeline))


def seed(hand: Hand) -> Iterator[None]:
    """Make the target a copy of the source by bytes: a slot, a copy from later on, the swap."""
    world, source, target = hand.world, hand.source, hand.target
    if is_whole(world):
        return
    slot, until = target.state.notes.get("seeded") or ("", 0)
    if slot not in source.slots or not is_unread(source.slots[slot], until):
        yield from clone(hand)
        return
    hand.commit(target, "note", "copied", (slot, target.timeline))


def is_unread(slot: Slot, until: int) -> bool:
    """Whether nobody took what came after the copy: a target that failed over may have lost it."""
    return slot.confirmed <= until


def clone(hand: Hand) -> Iterator[None]:
    world, source, target = hand.world, hand.source, hand.target
    for note in ("copied", "seeded"):
        hand.commit(target, "note", note, None)
    yield
    yield from drop_forward(hand)
    world.ids += 1
    slot = f"fwd{world.ids}"
    hand.fence(source)
    source.slots[slot] = Slot(len(source.wal))
    yield
    hand.hold_home()
    world.clone = Clone(slot, hand.token)  # and any other is discarded
    yield
    until = len(source.wal)
    then = source.as_of(until)
    yield
    if then.token > hand.token:
        raise FencedOff  # the copy has its source's fence
    yield
    put_in_place(
        hand, Clone(slot, hand.token, until, tuple(then.rows), frozenset(then.held), hand.token)
    )


def put_in_place(hand: Hand, copy: Clone) -> None:
    """Under the home's lock, which asks for the token; only the copy that is still there."""
    world = hand.world
    hand.hold_home()
    if world.clone is None or (world.clone.slot, world.clone.maker) != (copy.slot, copy.maker):
        raise FencedOff
    if any(hand.target.state.accepts.values()):
        raise Broken("a target that accepts keys is made anew")
    hand.target.become(copy)
    world.told[Side.TARGET].clear()
    world.clone = None


DRIVERS = {CopyDriver.OWN: copy, CopyDriver.NATIVE: sync, CopyDriver.PHYSICAL: seed}


def subscribe(hand: Hand) -> None:
    marker = hand.target.state.notes.get("copied")
    if marker and marker[0] in hand.source.slots and "fwd" not in hand.target.state.follows:
        hand.commit(hand.target, "follow", "fwd", marker[0])


def verify(hand: Hand) -> Iterator[None]:
    """Compare at an exact point: writers are held while the target catches up."""
    world = hand.world
    yield
    for _ in range(world.pending("fwd")):
        world.deliver("fwd")
    streams = world.stream("fwd").slot_active
    if streams and world.source.state.rows == world.target.state.rows:
        at = (world.source.timeline, world.target.timeline)
        hand.commit(hand.target, "note", "verified", at)


def verify_back(hand: Hand) -> Iterator[None]:
    yield
    if equal_back(hand.world):
        at = (hand.source.timeline, hand.target.timeline)
        hand.commit(hand.target, "note", "verified_back", at)


def verify_cut(hand: Hand, version: int) -> Iterator[None]:
    """By what the cut saw; what its process lost with its life is made up for by the way back."""
    world = hand.world
    seen, world.held = world.held, None
    yield
    equal = equal_back(world) if seen is None else seen[0] == seen[1]
    if equal is not None and world.move is not None:
        samples = () if equal else ("public.a: source has (1)",)
        found = Comparison(equal, samples=samples, later=seen is None)
        hand.record(reshard_records.record_compared(world.move, found), version)


def equal_back(world: World) -> bool | None:
    """Compare at an exact point of the way back; None while there is none."""
    stream = world.stream("rev")
    if not stream.slot_active or stream.gap:
        return None
    world.deliver("rev", world.pending("rev"))
    return world.source.state.rows == world.target.state.rows


def arm(hand: Hand) -> Iterator[None]:
    target = hand.target
    hand.commit(target, "publish", "rev", True)
    yield
    hand.fence(target)
    slot = target.slots.get("rev")
    if slot is None or slot.lost:
        target.slots["rev"] = Slot(len(target.wal))


def reverse(hand: Hand) -> Iterator[None]:
    source, target = hand.source, hand.target
    if "fwd" in target.state.follows:
        hand.commit(target, "unfollow", "fwd")
        yield
    for name in [n for n in source.slots if n.startswith("fwd")]:
        hand.drop_slot(source, name)
        yield
    slot = target.slots.get("rev")
    if slot and not slot.lost and "rev" not in source.state.follows:
        hand.commit(source, "follow", "rev", "rev")


def clean(hand: Hand) -> Iterator[None]:
    hand.hold_home()
    hand.world.clone = None
    for shard in (hand.source, hand.target):
        for name in list(shard.slots):
            hand.drop_slot(shard, name)
            yield
    for shard in (hand.source, hand.target):
        for name in list(shard.state.follows):
            hand.commit(shard, "unfollow", name)
            yield
        for name in sorted(shard.state.published):
            hand.commit(shard, "publish", name, False)
            yield
    for note in ("copied", "seeded", "begun", "verified", "verified_back", "cut"):
        hand.commit(hand.target, "note", note, None)
        yield
    for shard in (hand.source, hand.target):
        for kind in sorted(shard.state.held):
            hand.commit(shard, "hold", kind, False)
            yield


def prune(hand: Hand, side: Side) -> Iterator[None]:
    shard = hand.world.sides[side]
    yield from take_over(hand, shard)
    if any(shard.state.accepts.values()):
        raise Broken(f"rows of the {side} are deleted while it accepts the keys")
    for row in list(shard.state.rows):
        hand.commit(shard, "delete", row)
        yield
