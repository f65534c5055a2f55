"""The loop that moves keys in the simulated world, what must hold in it, and walks through it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from reconciler.model.desired import CopyDriver
from reconciler.model.moves import Side, Stage, Wish
from reconciler.workflow import reshard
from reconciler.workflow.phase import Act, Refuse, Wait
from reconciler.workflow.reshard_acts import Clean, Cut, Record, RollBackCut, Step, WriteMap
from reconciler.workflow.reshard_facts import AbortTooLate, CutDiffers, WayBackLost
from tests.workflow.move_acts import perform
from tests.workflow.move_hand import FencedOff
from tests.workflow.move_shard import TABLES
from tests.workflow.move_world import Broken, World

STREAMS = ("fwd", "rev")
SETTLE_ROUNDS_MAX = 300


class Engine:
    """Look, decide, perform; killed at any time, and then begun again with nothing in mind."""

    def __init__(
        self,
        *,
        tells_owners: bool = True,
        copy: CopyDriver = CopyDriver.OWN,
        asynchronous: bool = False,
    ) -> None:
        self.world = World(tells_owners=tells_owners, copy=copy, asynchronous=asynchronous)
        self.stopped: list[Iterator[None]] = []
        self.running: Iterator[None] | None = None
        self.begun = False
        self.last: Step | None = None
        self.said: list[str] = []

    def go_on(self) -> None:
        """Let the act go on to its next commit, or decide on the next one."""
        if self.running is None:
            self.look()
            return
        self.begun = True
        try:
            next(self.running)
        except (StopIteration, FencedOff):
            self.running = None

    def look(self) -> None:
        world = self.world
        if world.move is None:
            return
        decision = reshard.decide(world.move, world.view(), world.now)
        if not isinstance(decision, Act) and not world.unseen:
            self._check_served()
        match decision:
            case Act(act):
                self.said.append(type(act).__name__)
                self.last = act
                if isinstance(act, Clean) and world.move.wish is Wish.FINISH:
                    world.mend()
                self._start(act)
            case Wait(reason):
                self.said.append(f"waits: {reason}")
            case Refuse(error):
                self.said.append(f"refuses: {error}")
                if not isinstance(error, AbortTooLate | CutDiffers | WayBackLost):
                    raise Broken(str(error))

    def again(self) -> None:
        """Do the last act once more, as after an answer that was lost."""
        if self.running is None and self.last is not None:
            self._start(self.last)

    def _start(self, act: Step) -> None:
        self.running, self.begun = perform(self.world, act), False

    def crash(self) -> None:
        """Kill it; what its act has committed stays, and the next one has a lease of its own."""
        self.running = self.world.held = None
        self.world.lease += 1

    def stop(self) -> None:
        """Stop it half-way, as a hanging machine does: it goes on when another has taken over."""
        if self.running is not None:
            self.stopped.append(self.running)
        self.crash()

    def wake(self, steps: int) -> None:
        """Let the last of those that were stopped go on for a while."""
        for _ in range(steps if self.stopped else 0):
            try:
                next(self.stopped[-1])
            except (StopIteration, FencedOff):
                self.stopped.pop()
                return
            self.check()

    def fail_over(self, side: Side, kept: float) -> None:
        """Promote a shard's standby; an act that has sessions loses them and ends."""
        self.world.fail_over(side, kept)
        self.stopped.clear()
        if self.begun:
            self.crash()

    def check(self) -> None:
        self.world.touch()
        for table in TABLES:
            if all(shard.state.accepts[table] for shard in self.world.sides.values()):
                raise Broken(f"{table}: both shards accept the keys")

    def _check_served(self) -> None:
        for table in TABLES:
            if not any(shard.state.accepts[table] for shard in self.world.sides.values()):
                raise Broken(f"{table}: writers wait, and nothing is done about it")
        refused = max(shard.state.refuses_below for shard in self.world.sides.values())
        if refused > self.world.map[0]:
            raise Broken("clients of the latest map are refused, and nothing is done about it")

    def settle(self) -> None:
        """Stop all faults, see the move end, and look at what it leaves."""
        self.world.unseen.clear()
        self.world.obstacle = False
        for _ in range(SETTLE_ROUNDS_MAX):
            self._finish_act()
            if self.world.move is None:
                self._check_end()
                return
            self.look()
            if self.running is None:
                self._end_wait()
            elif self.said[-2:] in (["VerifyCut"] * 2, ["VerifyBack"] * 2):
                self.world.mend()
        raise Broken(f"the move does not end: {self.said[-4:]}")

    def _finish_act(self) -> None:
        while self.running is not None:
            self.go_on()
            self.check()

    def _end_wait(self) -> None:
        """Do what ends a wait: time, the streams, and an owner who takes the remedy."""
        world = self.world
        world.now += timedelta(seconds=400)
        for name in STREAMS:
            world.deliver(name, world.pending(name))
            world.confirm(name)
        for shard in world.sides.values():
            shard.replicate(len(shard.wal))
        said = self.said[-1]
        asked = said.startswith(("refuses", "waits: paused")) or "cannot be (" in said
        if world.move and "the rows differed at the cut" in said:
            self._put_right()
        elif world.move and asked:
            switched = world.move.stage is Stage.SWITCHED
            world.wish(Wish.FINISH if switched else Wish.FORWARD)

    def _put_right(self) -> None:
        """Go back to the source's rows, or without a way back bring the missing ones by hand."""
        world = self.world
        stream = world.stream("rev")
        if stream.slot and not stream.slot_lost and not stream.gap:
            world.wish(Wish.ROLLBACK)
            return
        world.wish(Wish.FINISH)

    def _check_end(self) -> None:
        world = self.world
        owner = world.sides[world.map[1]]
        other = world.target if owner is world.source else world.source
        if owner.state.rows != Counter(world.acknowledged):
            lost = world.acknowledged - set(owner.state.rows)
            extra = owner.state.rows - Counter(world.acknowledged)
            raise Broken(f"lost {sorted(lost)}, extra {sorted(extra)}")
        if not all(owner.state.accepts.values()) or any(other.state.accepts.values()):
            raise Broken("the guards do not say what the map says")
        if owner.asynchronous:
            return  # a failover may bring back what was taken away; the guard refuses it
        if other.state.rows:
            raise Broken(f"rows left behind: {sorted(other.state.rows)}")
        for shard in (owner, other):
            state = shard.state
            things = (shard.slots, state.published, state.follows, shard.marks, state.held)
            if any(things) or world.clone is not None:
                raise Broken(f"left behind: {things}, {world.clone}")


def walk(seed: int, *, steps: int = 250) -> Engine:
    """Let chance choose what happens next, then settle. The same seed is the same walk."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    copy = (CopyDriver.OWN, CopyDriver.PHYSICAL, CopyDriver.OWN, CopyDriver.NATIVE)[seed % 4]
    asynchronous = dice.random() < 0.3
    engine = Engine(tells_owners=dice.random() < 0.5, copy=copy, asynchronous=asynchronous)
    engine.world.matviews = seed % 2 == 1
    faults = dice.random() ** 2
    for _ in range(4):
        engine.world.write(Side.SOURCE, dice.choice(TABLES))
    for _ in range(steps):
        _happen(engine, dice, faults)
        engine.check()
    engine.settle()
    return engine


def _happen(  # noqa: C901  a table of chances
    engine: Engine, dice: random.Random, faults: float
) -> None:
    world, side, name = engine.world, dice.choice(list(Side)), dice.choice(STREAMS)
    switched = world.move is not None and world.move.stage is Stage.SWITCHED
    kind = dice.random()
    if isinstance(engine.last, Cut | RollBackCut) and engine.running and dice.random() < faults / 4:
        _go_wrong(engine, dice, side, name)
    elif _lags_at_a_cut(engine) and dice.random() < faults / 4:
        engine.fail_over(side, 0.0)
    elif engine.stopped and dice.random() < 0.15:
        engine.wake(dice.randrange(1, 12))
    elif kind < 0.5:
        engine.go_on()
    elif kind < 0.6:
        world.write(dice.choice((world.map[1], side)), dice.choice(TABLES))
    elif kind < 0.63:
        world.delete(side, dice.choice(TABLES))
    elif kind < 0.65:
        _client(engine, dice, side)
    elif kind < 0.84:
        world.deliver(name, dice.randrange(6))
    elif kind < 0.9:
        world.confirm(name)
    elif kind < 0.91:
        world.sides[side].replicate(dice.randrange(8))
    elif kind < 0.95 and switched:
        world.wish(dice.choice([*[Wish.ROLLBACK] * 4, *Wish]))
    elif dice.random() < faults:
        _go_wrong(engine, dice, side, name)


def _client(engine: Engine, dice: random.Random, side: Side) -> None:
    """Do what the guards of rows do not see."""
    world, table = engine.world, dice.choice(TABLES)
    if dice.random() < 0.5:
        world.change_key(side, table)
    else:
        world.truncate(side, table)


def _lags_at_a_cut(engine: Engine) -> bool:
    """Whether a standby has not all of what a cut is, or was just, about."""
    return engine.world.source.asynchronous and isinstance(
        engine.last, Cut | RollBackCut | WriteMap | Record
    )


def _go_wrong(  # noqa: C901  a dispatch table
    engine: Engine, dice: random.Random, side: Side, name: str
) -> None:
    world = engine.world
    kind = dice.choice("CCCZZZZAAAFFFFSWWTTOURM")
    match kind:
        case "C":
            engine.crash()
        case "Z":
            engine.stop()
        case "R":
            world.skip_row()
        case "A":
            engine.again()
        case "F":
            engine.fail_over(side, dice.random())
        case "S":
            world.lose_slot(name)
        case "W":
            world.wish(dice.choice([*[Wish.FORWARD] * 3, *Wish]))
        case "T":
            world.now += timedelta(seconds=dice.choice((1, 100, 600)))
        case "M":
            world.publish_another()
        case "O":
            world.obstacle = not world.obstacle
        case _:
            world.unseen ^= {side}
