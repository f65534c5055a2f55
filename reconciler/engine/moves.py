"""Drive a move of keys: look, decide, act, until nothing is left to do now.

The decisions are ``workflow.reshard``'s; this module reads the record and the view, performs one
act, and looks again. It returns when the move soaks (its target serves, its way back is open) or
has ended. Stopped or killed anywhere, the next apply goes on from what it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.ports import Clock, Mover, Patroni, Platform, Store
from reconciler.engine.problems import MoveObstructed, StoppedByUser, WaitedTooLong, rows_differ
from reconciler.engine.records import (
    decode_move,
    decode_routing,
    encode_move,
    encode_routing,
    moves_key,
    routing_key,
)
from reconciler.model.access import Lease, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.moves import Comparison, CopyProgress, CutResult, Move, MoveView, Stage, Wish
from reconciler.model.names import Epoch, MemberName, ScopeKey, ShardName
from reconciler.model.platform import PlatformShard
from reconciler.model.records import router_epoch, routers_key
from reconciler.model.routing import RoutingMap, RoutingMember, RoutingOwner
from reconciler.model.unseen import Unseen
from reconciler.workflow.phase import Act, Done, Refuse, Wait
from reconciler.workflow.reshard import BEGINNINGS, decide
from reconciler.workflow.reshard_acts import (
    Arm,
    BuildIndexes,
    Clean,
    Copy,
    Cut,
    DivideSequences,
    EndMove,
    FinishOpening,
    Hold,
    PrepareTarget,
    Prune,
    Publish,
    Record,
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
from reconciler.workflow.reshard_records import record_compared, record_cut, record_stage

POLL_S = 0.2
"""How often a wait looks again."""
WAIT_S_MAX = 3600.0
"""How long a move may wait without being able to do anything."""


def never_held(_: str) -> str:
    """No policy has a say."""
    return ""


@dataclass(frozen=True, slots=True)
class Crew:
    """What a move is driven with: the edges, the lease, whom to tell, and when to stop.

    ``held`` tells why a phase (``cut``, ``prune``) may not begin now, by the policies.
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


@dataclass(frozen=True, slots=True)
class Scene:
    """One look: the record, the two seats, the map, and what is seen of the move."""

    move: Move
    source: Seat
    target: Seat
    routing: RoutingMap
    view: MoveView


def begin(crew: Crew, move: Move) -> None:
    """Write the record of a move, unless it is there already."""
    key = moves_key(move.database, move.id)
    if key not in crew.store.read(key):
        crew.store.write({key: (encode_move(move), 0)}, crew.lease)


def wish_for(crew: Crew, move: Move, wish: Wish) -> None:
    """Write what is wanted of a move into its record, when the record is still there."""
    now = _record(crew, move)
    if now is not None and now.wish is not wish:
        _write(crew, replace(now, wish=wish))


def drive(crew: Crew, move: Move) -> None:  # noqa: C901  one branch for each decision
    """Go on with a move until it soaks or has ended.

    Raises what the decision refuses with, RowsDiffer, MoveObstructed, WaitedTooLong, StoppedByUser,
    and what the edges raise.
    """
    waited, told = 0.0, ""
    while (scene := _look(crew, move)) is not None:
        if isinstance(scene, str):
            reason = scene
        else:
            match decide(scene.move, scene.view, crew.clock.now()):
                case Done():
                    return
                case Refuse(error):
                    raise error
                case Act(act) if reason := _held(crew, scene, act):
                    pass
                case Act(act):
                    if type(act) in BEGINNINGS and crew.stopping():
                        raise StoppedByUser(f"move {move.id}", f"stopped before {act}")
                    crew.wait(_words(act, scene.view))
                    reason = _try(crew, scene, act)
                    if not reason:
                        waited = 0.0
                        continue
                case Wait(reason):
                    if _soaks(scene):
                        return
        if reason != told:
            told = reason
            crew.wait(reason)
        if crew.stopping():
            raise StoppedByUser(f"move {move.id}", f"stopped while it waited: {reason}")
        if waited >= WAIT_S_MAX:
            raise WaitedTooLong(f"move {move.id}", f"for {waited:.0f} s: {reason}")
        crew.clock.sleep(POLL_S)
        waited += POLL_S


def _held(crew: Crew, scene: Scene, act: Step) -> str:
    """Return why a policy does not let an act begin; a fence that stands is never kept waiting."""
    match act:
        case Cut() if not scene.view.fenced:
            return crew.held("cut")
        case Prune():
            return crew.held("prune")
        case _:
            return ""


def _try(crew: Crew, scene: Scene, act: Step) -> str:
    """Perform an act; return what to wait for when it can be done later, else an empty text."""
    try:
        _perform(crew, scene, act)
    except ReconcilerError as error:
        if not error.transient or crew.stopping():
            raise
        return f"{error.code} {error.subject}: {error.problem}"
    return ""


def _soaks(scene: Scene) -> bool:
    """Whether the target serves and nothing but time is left; a wish to go back is not that."""
    move = scene.move
    return move.stage is Stage.SWITCHED and move.wish in (Wish.FORWARD, Wish.PAUSE)


def _record(crew: Crew, move: Move) -> Move | None:
    key = moves_key(move.database, move.id)
    found = crew.store.read(key).get(key)
    return decode_move(key, found.value, found.version) if found else None


def _write(crew: Crew, move: Move) -> None:
    key = moves_key(move.database, move.id)
    crew.store.write({key: (encode_move(move), move.version)}, crew.lease)


def _look(crew: Crew, move: Move) -> Scene | str | None:
    """Return what there is now; a text says what could not be seen, None that the move is gone."""
    now = _record(crew, move)
    if now is None:
        return None
    key = routing_key(move.database)
    found = crew.store.read(key).get(key)
    if found is None:
        return "the routing map is not there"
    routing = decode_routing(key, found.value, found.version)
    source, target = _seat(crew, now.source_scope, now), _seat(crew, now.target_scope, now)
    for seat in (source, target):
        if isinstance(seat, str):
            return seat
    assert isinstance(source, Seat)  # noqa: S101  the loop above returned otherwise
    assert isinstance(target, Seat)  # noqa: S101
    view = crew.mover.view(now, source, target, routing.epoch)
    owners = tuple(sorted(o.scope for o in routing.owners if o.keys & now.keys))
    behind = _routers_behind(crew, routing)
    view = replace(view, map_owners=owners, routers_behind=behind)
    return Scene(now, source, target, routing, view)


def _routers_behind(crew: Crew, routing: RoutingMap) -> tuple[str, ...]:
    """Name the living routers that send statements by an older map than the published one."""
    prefix = routers_key(routing.database)
    found = {key: router_epoch(key, r.value) for key, r in crew.store.read(prefix).items()}
    return tuple(
        f"{key.removeprefix(prefix)} (epoch {epoch})"
        for key, epoch in sorted(found.items())
        if epoch < routing.epoch
    )


def _seat(crew: Crew, scope: ScopeKey, move: Move) -> Seat | str:
    """Return how to reach a shard's primary, or why there is none to reach."""
    shard = next((s for s in crew.platform.observe() if s.key == scope), None)
    if shard is None:
        return f"the platform has nothing of {scope}"
    try:
        login = login_of(crew.platform, shard)
        primary = primary_of(shard, crew.patroni.view(login))
    except ReconcilerError as error:
        return str(Unseen("patroni", str(scope), f"{error.code} {error.problem}"))
    if primary is None:
        return f"{scope} has no primary at the moment"
    return Seat(login, primary, move.database.name)


def _perform(crew: Crew, scene: Scene, act: Step) -> None:  # noqa: C901  a dispatch table
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
            mover.copy(move, source, target, token, _teller(crew, move), crew.stopping)
        case BuildIndexes():
            mover.build_indexes(move, source, target, token)
        case Subscribe():
            mover.subscribe(move, source, target, token)
        case Verify():
            _tell_equal(crew, scene, mover.verify(move, source, target, token))
        case DivideSequences():
            mover.divide_sequences(move, source, target, token)
        case VerifyCut():
            found = mover.verify_cut(move, source, target, token)
            _write(crew, record_compared(move, found))
            _tell_equal(crew, scene, found)
        case VerifyBack():
            _tell_equal(crew, scene, mover.verify_back(move, source, target, token))
        case Arm():
            mover.arm(move, source, target, token)
        case Cut():
            epoch = next_epoch(scene.view, move.epoch)
            result = mover.cut(move, source, target, token, epoch)
            _note_cut(crew, scene, result, WriteMap(epoch, back=False))
        case FinishOpening():
            mover.finish_opening(move, source, target, token)
        case Unfence():
            mover.unfence(move, source, target, token)
        case RefuseStale():
            mover.refuse_stale(move, act.side, act.epoch, source, target, token)
        case WriteMap():
            _write_map(crew, scene, act)
        case Reverse():
            mover.reverse(move, source, target, token)
        case RollBackCut():
            epoch = next_epoch(scene.view, Epoch(move.epoch + 1))
            result = mover.roll_back_cut(move, source, target, token, epoch)
            _note_cut(crew, scene, result, WriteMap(epoch, back=True))
        case Clean():
            mover.clean(move, source, target, token)
        case Prune():
            mover.prune(move, act.side, source, target, token, crew.stopping)
        case Record():
            _write(crew, record_stage(move, act.stage, crew.clock.now()))
        case EndMove():
            key = moves_key(move.database, move.id)
            crew.store.write({key: (None, move.version)}, crew.lease)
        case _:
            assert_never(act)


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
    crew.wait(f"all rows are equal{later}; writers were held {found.held_ms:.1f} ms at most")


def _note_cut(crew: Crew, scene: Scene, result: CutResult, published: WriteMap) -> None:
    """Publish the map at once when the keys have a new owner: until then clients ask the old one.

    The next look would do it too, but a look takes longer than the cut. Then the pause is noted.
    """
    if result.opened:
        _write_map(crew, scene, published)
    crew.wait(
        f"cut over in {result.pause_ms:.0f} ms"
        if result.opened
        else f"the cut backed out after {result.pause_ms:.0f} ms: {result.reason}"
    )
    _write(crew, record_cut(scene.move, result, crew.clock.now()))


def _teller(crew: Crew, move: Move) -> Callable[[CopyProgress], None]:
    """Return a function that tells how far the copy is, at its rate so far."""
    begun = crew.clock.now()

    def tell(progress: CopyProgress) -> None:
        seconds = max((crew.clock.now() - begun).total_seconds(), 0.001)
        rate = progress.bytes_done / seconds
        share = progress.bytes_done / max(progress.bytes_total, 1)
        left = (progress.bytes_total - progress.bytes_done) / rate if rate else 0
        crew.wait(
            f"copying {move.keys}: {min(share, 1):.0%}, {progress.rows_done:,} rows, "
            f"{rate / 1e6:.0f} MB/s, about {max(left, 0):.0f} s left"
        )

    return tell


def _words(act: Step, view: MoveView) -> str:
    """Return an act as a user reads it while it runs."""
    if isinstance(act, Clean) and view.forward.endangered:
        return f"the copy is given up and starts over: {view.forward.endangered}"
    return BEGINNINGS.get(type(act)) or _ENDINGS.get(type(act), type(act).__name__)


_ENDINGS: dict[type[Step], str] = {
    FinishOpening: "the target opens its last tables",
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


def _write_map(crew: Crew, scene: Scene, act: WriteMap) -> None:
    """Give the keys to the target, or back to the source, in the map that the decision saw."""
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
    published = replace(scene.routing, epoch=act.epoch, owners=tuple(owners))
    key = routing_key(move.database)
    crew.store.write({key: (encode_routing(published), scene.routing.version)}, crew.lease)


def _new_owner(crew: Crew, scope: ScopeKey, name: ShardName, keys: KeySet) -> RoutingOwner:
    shard: PlatformShard = next(s for s in crew.platform.observe() if s.key == scope)
    members = tuple(RoutingMember(MemberName(m.name), m.endpoint) for m in shard.members)
    return RoutingOwner(name, scope.scope, keys, members)
