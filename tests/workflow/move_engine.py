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
from reconciler.workflow.reshard_acts import Cut, RollBackCut, Step
from reconciler.workflow.reshard_facts import AbortTooLate, WayBackLost
from tests.workflow.move_acts import perform
from tests.workflow.move_world import TABLES, Broken, World

STREAMS = ("fwd", "rev")
SETTLE_ROUNDS_MAX = 300


class Engine:
    """Look, decide, perform; killed at any time, and then begun again with nothing in mind."""

    def __init__(self, *, tells_owners: bool = True, copy: CopyDriver = CopyDriver.OWN) -> None:
        self.world = World(tells_owners=tells_owners, copy=copy)
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
        except StopIteration:
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
                self._start(act)
            case Wait(reason):
                self.said.append(f"waits: {reason}")
            case Refuse(error):
                self.said.append(f"refuses: {error}")
                if not isinstance(error, AbortTooLate | WayBackLost):
                    raise Broken(str(error))

    def again(self) -> None:
        """Do the last act once more, as after an answer that was lost."""
        if self.running is None and self.last is not None:
            self._start(self.last)

    def _start(self, act: Step) -> None:
        self.running, self.begun = perform(self.world, act), False

    def crash(self) -> None:
        """Kill it; what its act has committed stays."""
        self.running = None

    def fail_over(self, side: Side, kept: float) -> None:
        """Promote a shard's standby; an act that has sessions loses them and ends."""
        self.world.fail_over(side, kept)
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
        if world.move and self.said[-1].startswith(("refuses", "waits: paused")):
            switched = world.move.stage is Stage.SWITCHED
            world.wish(Wish.FINISH if switched else Wish.FORWARD)

    def _check_end(self) -> None:
        world = self.world
        owner = world.sides[world.map[1]]
        other = world.target if owner is world.source else world.source
        if owner.state.rows != Counter(world.acknowledged):
            lost = world.acknowledged - set(owner.state.rows)
            extra = owner.state.rows - Counter(world.acknowledged)
            raise Broken(f"lost {sorted(lost)}, extra {sorted(extra)}")
        if other.state.rows:
            raise Broken(f"rows left behind: {sorted(other.state.rows)}")
        if not all(owner.state.accepts.values()) or any(other.state.accepts.values()):
            raise Broken("the guards do not say what the map says")
        for shard in (owner, other):
            state = shard.state
            things = (shard.slots, state.published, state.follows, shard.marks, state.held)
            if any(things):
                raise Broken(f"left behind: {things}")


def walk(seed: int, *, steps: int = 250) -> Engine:
    """Let chance choose what happens next, then settle. The same seed is the same walk."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    copy = CopyDriver.NATIVE if seed % 4 == 3 else CopyDriver.OWN
    engine = Engine(tells_owners=dice.random() < 0.5, copy=copy)
    faults = dice.random() ** 2
    for _ in range(4):
        engine.world.write(Side.SOURCE, dice.choice(TABLES))
    for _ in range(steps):
        _happen(engine, dice, faults)
        engine.check()
    engine.settle()
    return engine


def _happen(engine: Engine, dice: random.Random, faults: float) -> None:
    world, side, name = engine.world, dice.choice(list(Side)), dice.choice(STREAMS)
    switched = world.move is not None and world.move.stage is Stage.SWITCHED
    kind = dice.random()
    if isinstance(engine.last, Cut | RollBackCut) and engine.running and dice.random() < faults / 4:
        _go_wrong(engine, dice, side, name)
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
    elif kind < 0.92 and switched:
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


def _go_wrong(engine: Engine, dice: random.Random, side: Side, name: str) -> None:
    world = engine.world
    kind = dice.choice("CCCCAAAFFFFSWWTTOUM")
    match kind:
        case "C":
            engine.crash()
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
