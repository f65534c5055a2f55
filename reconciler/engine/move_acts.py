"""The acts of a move, one by one: each calls its edge, and looks and waits for nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from reconciler.engine.logbook import Keeper, read_move
from reconciler.engine.ports import Clock, Mover, Patroni, Platform, Store
from reconciler.engine.problems import MoveObstructed, rows_differ
from reconciler.engine.records import encode_move, encode_routing, moves_key, routing_key
from reconciler.model.access import Lease, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Comparison, CopyProgress, CutResult, Move, MoveView
from reconciler.model.names import Epoch, MemberName, ScopeKey, ShardName
from reconciler.model.platform import PlatformShard
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.plan.render_report import rate
from reconciler.workflow.reshard import BEGINNINGS
from reconciler.workflow.reshard_acts import (
    Arm,
    BuildIndexes,
    Clean,
    Copy,
    Cut,
    DivideSequences,
    EndMove,
    FinishOpening,
    GiveUpVerifyCut,
    Hold,
    PrepareTarget,
    Prune,
    Publish,
    Record,
    RefreshViews,
    RefuseStale,
    Reverse,
    RollBackCut,
    Step,
    Subscribe,
    Unfence,
    Verify,
    VerifyBack,
    VerifyCut,
    WriteMap,
)
from reconciler.workflow.reshard_facts import next_epoch
from reconciler.workflow.reshard_records import (
    record_compared,
    record_not_comparable,
    record_stage,
)

SLOWED = " (slowed: resharding.throttle)"
"""Told of a copy that goes slower than it could, with what it is that decides so."""
WISH_EVERY_S = 1.0
"""How often a long act asks whether something else is wished by now."""


def never_told(_: str) -> None:
    """Listen to nobody."""


def never_held(_: str) -> str:
    """No policy has a say."""
    return ""


@dataclass(frozen=True, slots=True)
class Crew:
    """What a move is driven with: the edges, the lease, whom to tell, and when to stop.

    ``wait`` is told what it waits for, ``does`` what it does. ``held`` tells why a phase (``cut``,
    ``prune``) may not begin now, by the policies.
    """

    platform: Platform
    store: Store
    patroni: Patroni
    mover: Mover
    clock: Clock
    lease: Lease
    wait: Callable[[str], None]
    stopping: Callable[[], bool]
    held: Callable[[str], str] = never_held
    does: Callable[[str], None] = never_told


@dataclass(frozen=True, slots=True)
class Scene:
    """One look: the record, the two seats, the map, and what is seen of the move."""

    move: Move
    source: Seat
    target: Seat
    routing: RoutingMap
    view: MoveView


@dataclass(slots=True)
class Asked:
    """Whether a long act shall end at its next batch: the apply stops, or a wish has changed."""

    crew: Crew
    move: Move
    otherwise: bool = False
    _looked_s: float = float("-inf")

    def __call__(self) -> bool:
        """Ask etcd now and then; while it is silent, the act goes on."""
        clock = self.crew.clock
        if not self.otherwise and clock.monotonic() - self._looked_s >= WISH_EVERY_S:
            self._looked_s = clock.monotonic()
            with suppress(ReconcilerError):
                now = read_move(self.crew.store, self.move)
                self.otherwise = now is None or now.wish is not self.move.wish
        return self.otherwise or self.crew.stopping()


def write_move(crew: Crew, move: Move) -> None:
    """Write a move's record by compare-and-set. Raises ConflictingWrite."""
    key = moves_key(move.database, move.id)
    crew.store.write({key: (encode_move(move), move.version)}, crew.lease)


def perform_act(  # noqa: C901  a dispatch table
    crew: Crew, keeper: Keeper, scene: Scene, act: Step, asked: Asked
) -> CutResult | None:
    """Do an act, and return how it ended when it was a cut."""
    move, source, target, token = scene.move, scene.source, scene.target, crew.lease.token
    mover = crew.mover
    match act:
        case PrepareTarget():
            _refuse_obstacles(crew, scene)
            mover.prepare_target(move, source, target, token)
        case Hold():
            mover.hold(move, source, target, token)
        case Publish():
            mover.publish(move, source, target, token)
        case Copy():
            mover.copy(move, source, target, token, _teller(crew, keeper), asked)
        case BuildIndexes():
            mover.build_indexes(move, source, target, token)
        case Subscribe():
            mover.subscribe(move, source, target, token)
        case Verify():
            _tell_equal(crew, scene, mover.verify(move, source, target, token))
        case VerifyCut():
            found = mover.verify_cut(move, source, target, token)
            write_move(crew, record_compared(move, found))
            _tell_equal(crew, scene, found)
        case GiveUpVerifyCut(why):
            write_move(crew, record_not_comparable(move, why))
        case VerifyBack():
            _tell_equal(crew, scene, mover.verify_back(move, source, target, token))
        case RefreshViews():
            mover.refresh_views(move, source, target, token)
        case DivideSequences():
            mover.divide_sequences(move, source, target, token)
        case Arm():
            mover.arm(move, source, target, token)
        case Cut():
            epoch = next_epoch(scene.view, move.epoch)
            after = _map_after(crew, scene, WriteMap(epoch, back=False))
            result = mover.cut(move, source, target, token, epoch)
            return _publish_cut(crew, scene, result, after)
        case FinishOpening():
            mover.finish_opening(move, source, target, token)
        case Unfence():
            mover.unfence(move, source, target, token)
        case RefuseStale():
            mover.refuse_stale(move, act.side, act.epoch, source, target, token)
        case WriteMap():
            _write_map(crew, scene, _map_after(crew, scene, act))
        case Reverse():
            mover.reverse(move, source, target, token)
        case RollBackCut():
            epoch = next_epoch(scene.view, Epoch(move.epoch + 1))
            after = _map_after(crew, scene, WriteMap(epoch, back=True))
            result = mover.roll_back_cut(move, source, target, token, epoch)
            return _publish_cut(crew, scene, result, after)
        case Clean():
            mover.clean(move, source, target, token)
        case Prune():
            mover.prune(move, act.side, source, target, token, asked)
        case Record():
            write_move(crew, record_stage(move, act.stage, crew.clock.now()))
        case EndMove():
            keeper.close(move)
        case _:
            assert_never(act)
    return None


def _refuse_obstacles(crew: Crew, scene: Scene) -> None:
    obstacles = crew.mover.preflight(scene.move, scene.source, scene.target)
    if obstacles:
        raise MoveObstructed(
            f"move {scene.move.id} of {scene.move.keys}",
            "; ".join(f"{o.table or 'the shard'}: {o.reason}" for o in obstacles),
            remedy="; ".join(dict.fromkeys(o.cure for o in obstacles)),
        )


def _tell_equal(crew: Crew, scene: Scene, found: Comparison) -> None:
    """Tell what a comparison found. Raises RowsDiffer."""
    if not found.equal:
        raise rows_differ(scene.move, found)
    later = ", later than the cut: its snapshots were lost" if found.later else ""
    crew.does(f"all rows are equal{later}; writers were held {found.held_ms:.1f} ms at most")


def _publish_cut(crew: Crew, scene: Scene, result: CutResult, after: RoutingMap) -> CutResult:
    """Publish the map at once when the keys have a new owner: until then clients ask the old one.

    The next look would do it too, but a look takes longer than the cut. ``after`` was made before.
    """
    if result.opened:
        _write_map(crew, scene, after)
    pause = "an unknown time" if result.pause_ms is None else f"{result.pause_ms:.0f} ms"
    crew.does(
        f"cut over in {pause}"
        if result.opened
        else f"the cut backed out after {pause}: {result.reason}"
    )
    return result


def _teller(crew: Crew, keeper: Keeper) -> Callable[[CopyProgress], None]:
    """Return a function that tells how far the copy is, at its rate so far."""

    def tell(progress: CopyProgress) -> None:
        now = keeper.rated(progress)
        left = "" if now.left_s is None else f", about {now.left_s} s left"
        share = now.bytes_done / max(now.bytes_total, 1)
        crew.does(
            f"copying {keeper.move.keys}: {share:.0%}, {now.rows_done:,} rows, "
            f"{rate(now.bytes_per_s)}{SLOWED if now.slowed else ''}{left}"
        )
        keeper.copies(progress)

    return tell


def name_of(act: Step) -> str:
    """Return an act as the logbook names it."""
    name = type(act).__name__
    match act:
        case Record(stage):
            return f"{name} {stage}"
        case Prune(side):
            return f"{name} {side}"
        case WriteMap(back=True):
            return f"{name} back"
        case _:
            return name


def words_of(act: Step, view: MoveView) -> str:
    """Return an act as a user reads it while it runs."""
    if isinstance(act, Clean) and view.forward.endangered:
        return f"the copy is given up and starts over: {view.forward.endangered}"
    return BEGINNINGS.get(type(act)) or _ENDINGS.get(type(act), type(act).__name__)


_ENDINGS: dict[type[Step], str] = {
    FinishOpening: "the target opens its last tables",
    GiveUpVerifyCut: "the cut cannot be compared any more",
    Unfence: "the source accepts the keys again",
    RefuseStale: "clients of an older map are refused",
    WriteMap: "the routing map is published",
    Record: "the stage is noted",
    Reverse: "the way back is opened",
    RollBackCut: "the cut back",
    Clean: "slots, subscriptions and publications go",
    Prune: "the copy is pruned",
    EndMove: "nothing of the move is left",
}


def _map_after(crew: Crew, scene: Scene, act: WriteMap) -> RoutingMap:
    """Return the map that the decision saw, with the keys given to the target, or back."""
    move = scene.move
    giver, taker = move.source_scope, move.target_scope
    name = move.target
    if act.back:
        giver, taker, name = taker, giver, move.source
    owners = [
        replace(o, keys=o.keys - move.keys)
        if o.scope == giver.scope
        else replace(o, keys=o.keys | move.keys)
        if o.scope == taker.scope
        else o
        for o in scene.routing.owners
    ]
    if all(owner.scope != taker.scope for owner in owners):
        owners.append(_new_owner(crew, taker, name, move.keys))
    return replace(scene.routing, epoch=act.epoch, owners=tuple(owners))


def _write_map(crew: Crew, scene: Scene, routing: RoutingMap) -> None:
    key = routing_key(scene.move.database)
    crew.store.write({key: (encode_routing(routing), scene.routing.version)}, crew.lease)


def _new_owner(crew: Crew, scope: ScopeKey, name: ShardName, keys: KeySet) -> RoutingOwner:
    shard: PlatformShard = next(s for s in crew.platform.observe() if s.key == scope)
    members = tuple(RoutingMember(MemberName(m.name), m.endpoint) for m in shard.members)
    return RoutingOwner(name, scope.scope, keys, members)
