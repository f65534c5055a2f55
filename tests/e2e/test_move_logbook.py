"""What is done for a move stands in its logbook, for another terminal, and after its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from reconciler.edges.replication import LogicalMover
from reconciler.engine.ports import Mover
from reconciler.engine.wishes import known_moves, moves_under_way, record_wish
from reconciler.model.moves import Stage, Wish
from tests.e2e.cutting import CutOff
from tests.e2e.scene import TWO, Scene, spec_text

pytestmark = pytest.mark.platform
MOVED = ('{name: s0, keys: ["-40"]}', '{name: s1, keys: ["40-"]}')


@dataclass
class WatchedMover:
    """The real mover; ``before`` and ``after`` are called with each act's name."""

    real: Mover
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self.real, name)

        def watched(*values: object) -> object:
            self.before(name)
            result = act(*values)
            self.after(name)
            return result

        return watched


def _spec(*shards: str) -> str:
    return spec_text("log", *shards, reference="[]", more="  resharding: {pauseMax: 5s}\n")


def _applied(scene: Scene, **watching: Callable[[str], None]) -> None:
    world = scene.world()
    assert isinstance(world.mover, LogicalMover)
    mover = WatchedMover(world.mover, **watching)
    try:
        scene.apply(replace(world, mover=cast(Mover, mover)))
    finally:  # with a process its sessions end, those that hold a cut's snapshots too
        for witness in world.mover._witnesses.values():
            witness.close()


def _wish_at(scene: Scene, act: str, wish: Wish) -> Callable[[str], None]:
    """Return what writes a wish into the only move's record at an act."""

    def write(name: str) -> None:
        if name == act:
            (move,) = moves_under_way(scene.world().eyes.store)
            record_wish(scene.world(), move.id, wish)

    return write


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function BaseConnection.__del__"
    ":pytest.PytestUnraisableExceptionWarning"
)  # an applier that is cut off here, and not killed, leaves its sessions to the collector
def test_a_move_keeps_a_logbook_and_all_its_pauses(scene: Scene) -> None:
    scene.write("log", _spec(*TWO))
    scene.applied()
    for shard in ("s0", "s1"):
        scene.sql(
            "log", "insert into customers select k, 'x' from generate_series(1, 400) k where "
            f"hashint8extended(k, 0) {'<' if shard == 's0' else '>='} 0", shard,
        )  # fmt: skip
    store = scene.world().eyes.store

    # A pause ends a copy at its next batch, and the apply with it.
    scene.write("log", _spec(*MOVED))
    _applied(scene, before=_wish_at(scene, "copy", Wish.PAUSE))
    assert scene.failures() == ["AP207"]
    (known,) = known_moves(store)
    assert [(x.act, x.state) for x in known.book.lines][-1] == ("Copy", "failed")
    assert known.book.waiting is not None
    assert known.book.waiting.reason == "paused before the rows are copied"
    assert "paused before the rows are copied" in scene.call("get", "moves").told()
    assert scene.call("operation", "resume", known.move.id).code == 0

    # A cut whose applier ended within it has a pause that nobody knows.
    def dies(name: str) -> None:
        if name == "cut":
            raise CutOff

    with suppress(CutOff):
        _applied(scene, after=dies)
    _applied(scene)
    (known,) = known_moves(store)
    assert (known.move.stage, known.move.pauses_ms) == (Stage.SWITCHED, (None,))
    assert "cut off" in {x.state for x in known.book.lines if x.act == "Cut"}

    # A wish that is written during a cut loses neither itself nor the pause.
    scene.write("log", _spec(*TWO))
    _applied(scene, after=_wish_at(scene, "roll_back_cut", Wish.PAUSE))
    scene.settle()
    (known,) = known_moves(store)
    assert known.book.ended_at
    assert known.move.wish is Wish.PAUSE
    assert [pause is None for pause in known.move.pauses_ms] == [False, True]

    # It can be looked at after its end, and what is over is not under way.
    assert moves_under_way(store) == ()
    assert known.move.id not in scene.call("get", "moves").told()
    (told,) = scene.call("operation", "list", "--all", "-o", "json").json
    assert told["pauseHistogram"]["unknown"] == 1
    assert sum(told["pauseHistogram"].values()) == 2
    assert [a["act"] for a in told["acts"]].count("RollBackCut") == 1
    assert "Pauses" in scene.call("describe", "move", known.move.id).told()
