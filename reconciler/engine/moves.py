"""Drive a move of keys: look, decide, act, until nothing is left to do now.

The decisions are ``workflow.reshard``'s; this module reads the record and the view, performs one
act, and looks again. It returns when the move soaks (its target serves, its way back is open) or
has ended. Stopped or killed anywhere, the next apply goes on from what it sees.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from reconciler.engine.logbook import CUTS, Keeper, read_move
from reconciler.engine.move_acts import (
    Asked,
    Crew,
    Scene,
    name_of,
    perform_act,
    words_of,
    write_move,
)
from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.problems import MovePaused, StoppedByUser, WaitedTooLong
from reconciler.engine.records import decode_routing, encode_move, moves_key, routing_key
from reconciler.model.access import FencedOff, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, Stage, Wish
from reconciler.model.names import ScopeKey
from reconciler.model.records import router_epoch, routers_key
from reconciler.model.routing import RoutingMap
from reconciler.model.unseen import Unseen
from reconciler.workflow.phase import Act, Done, Refuse, Wait
from reconciler.workflow.reshard import BEGINNINGS, Decision, decide
from reconciler.workflow.reshard_acts import Cut, EndMove, Prune, RollBackCut, Step
from reconciler.workflow.reshard_facts import Look, Owner, map_owner
from reconciler.workflow.reshard_records import record_cut, record_lost_cut
from reconciler.workflow.reshard_refusals import free_writers

POLL_S = 0.2
"""How often a wait looks again."""
AGAIN_S_MAX = 5.0
"""How long what fails again and again is left alone before it is tried once more, at most."""
PATIENT = frozenset(act.__name__ for act in BEGINNINGS if act is not Cut)
"""The acts, by name, that may rest after a failure: no writer waits for them."""
WAIT_S_MAX = 3600.0
"""How long a move may wait without being able to do anything."""


def begin(crew: Crew, move: Move) -> None:
    """Write the record of a move, unless it is there already."""
    key = moves_key(move.database, move.id)
    if key not in crew.store.read(key):
        crew.store.write({key: (encode_move(move), 0)}, crew.lease)


def wish_for(crew: Crew, move: Move, wish: Wish) -> None:
    """Write what is wanted of a move into its record, when the record is still there."""
    now = read_move(crew.store, move)
    if now is not None and now.wish is not wish:
        write_move(crew, replace(now, wish=wish))


def drive(crew: Crew, move: Move) -> None:
    """Go on with a move until it soaks or has ended.

    Raises what the decision refuses with, RowsDiffer, MoveObstructed, WaitedTooLong, MovePaused,
    StoppedByUser, and what the edges raise.
    """
    keeper = Keeper(crew.store, crew.lease, crew.clock, move)
    began, told = crew.clock.monotonic(), ("", keeper.failed)
    while (reason := _turn(crew, keeper, move)) is not None:
        if not reason:
            began, told = crew.clock.monotonic(), ("", keeper.failed)
            continue
        tried = keeper.failed if keeper.failed != told[1] else ("", 0)
        if (reason, keeper.failed) != told:  # each attempt that failed tells why
            told = reason, keeper.failed
            crew.wait(reason)
        if crew.stopping():
            raise StoppedByUser(f"move {move.id}", f"stopped while it waited: {reason}")
        waited = crew.clock.monotonic() - began
        if waited >= WAIT_S_MAX:
            raise WaitedTooLong(f"move {move.id}", f"for {waited:.0f} s: {reason}")
        _rest(crew, *tried)


def _rest(crew: Crew, act: str, times: int) -> None:
    """Sleep before the next look: longer and longer after an act that failed so many times."""
    rest_s = min(AGAIN_S_MAX, POLL_S * 2 ** min(times, 10)) if act in PATIENT else POLL_S
    until = crew.clock.monotonic() + rest_s
    crew.clock.sleep(POLL_S)
    while crew.clock.monotonic() < until and not crew.stopping():
        crew.clock.sleep(POLL_S)


def _turn(crew: Crew, keeper: Keeper, move: Move) -> str | None:
    """Look, decide, act once. Returns what it waits for, "" to look again, None at the end.

    What fails for now, a look as well as an act, is one more reason to wait.
    """
    try:
        scene = _look(crew, move)
        if scene is None:
            return None
        if isinstance(scene, str):
            keeper.waits(scene, None)
            return scene
        return _decided(crew, keeper, scene)
    except (StoppedByUser, MovePaused):
        raise
    except ReconcilerError as error:
        if _goes_on(keeper, error):
            crew.does(f"the cut failed ({error.code}: {error.problem}); what it left is looked at")
            return ""
        if not error.transient:
            raise
        if crew.stopping():
            raise StoppedByUser(f"move {move.id}", error.problem) from error
        return f"{error.code} {error.subject}: {error.problem}"


def _goes_on(keeper: Keeper, error: ReconcilerError) -> bool:
    """Whether a cut failed half-way, once: then a look tells whether it was past going back.

    Its keys may be served by nobody, so that must not be left to the next apply.
    """
    passes = error.transient or error.nothing_changed or isinstance(error, FencedOff)
    if passes or keeper.half_cut or keeper.failed[0] not in CUTS:
        return False
    keeper.half_cut = error
    return True


def _after_half_cut(keeper: Keeper, look: Look, decision: Decision) -> Decision:
    """Return what comes next: on from the commit point, else writers are let go, and it is raised.

    A cut is not tried again by itself: what failed was nothing that passes.
    """
    error, view = keeper.half_cut, look.view
    if error is None or keeper.went_on or view.source or view.target:
        return decision
    if look.move.stage is Stage.BEFORE:
        keeper.went_on = bool(view.opened) or map_owner(look) is Owner.TARGET
    else:
        keeper.went_on = look.move.stage is Stage.BACK or not look.all_fenced
    if keeper.went_on:
        return decision
    tidies = free_writers(look, Wait(error.problem))
    if isinstance(tidies, Act):
        return tidies
    raise error


def _decided(crew: Crew, keeper: Keeper, scene: Scene) -> str | None:
    move, now = scene.move, crew.clock.now()
    decision = decide(move, scene.view, now)
    match _after_half_cut(keeper, Look(move, scene.view, now), decision):
        case Done():
            return None
        case Refuse(error):
            raise error
        case Act(act) if reason := _held(crew, scene, act):
            keeper.waits(reason, None)
            return reason
        case Act(act):
            if type(act) in BEGINNINGS and crew.stopping():
                raise StoppedByUser(f"move {move.id}", f"stopped before {BEGINNINGS[type(act)]}")
            if not keeper.failures(name_of(act)):  # else what is told stays why it failed
                crew.does(words_of(act, scene.view))
            _do(crew, keeper, scene, act)
            return ""
        case Wait(reason):
            if _soaks(scene):
                return None
            stream = scene.view.forward if move.stage is Stage.BEFORE else scene.view.reverse
            keeper.waits(reason, stream.lag_bytes)
            if _rests(scene):
                remedy = f"`shardwright operation resume {move.id}`, then apply again"
                raise MovePaused(f"move {move.id}", reason, remedy=remedy)
            return reason


def _held(crew: Crew, scene: Scene, act: Step) -> str:
    """Return why a policy does not let an act begin; a fence that stands is never kept waiting."""
    match act:
        case Cut() if not scene.view.fenced:
            return crew.held("cut")
        case Prune():
            return crew.held("prune")
        case _:
            return ""


def _do(crew: Crew, keeper: Keeper, scene: Scene, act: Step) -> None:
    """Perform an act between its two lines; one that a new wish interrupts is decided anew."""
    if keeper.settle():
        return
    asked = Asked(crew, scene.move)
    if not isinstance(act, EndMove):  # that one's line would be written after the last
        keeper.intent(name_of(act))
    try:
        cut = perform_act(crew, keeper, scene, act, asked)
    except ReconcilerError as error:
        lost = isinstance(act, Cut | RollBackCut) and not error.nothing_changed
        with suppress(ReconcilerError):  # then the line stays open, and is found cut off
            keeper.outcome(error, record_lost_cut if lost else None)
        if asked.otherwise:
            return
        raise
    if isinstance(act, EndMove):
        return
    now = crew.clock.now()
    keeper.outcome(record=None if cut is None else lambda found: record_cut(found, cut, now))


def _rests(scene: Scene) -> bool:
    """Whether a pause holds it, with both sides seen, so that no fence stands."""
    move, view = scene.move, scene.view
    seen = view.source is None and view.target is None
    return seen and move.stage is Stage.BEFORE and move.wish is Wish.PAUSE


def _soaks(scene: Scene) -> bool:
    """Whether the target serves and nothing but time is left; a wish to go back is not that."""
    move = scene.move
    return move.stage is Stage.SWITCHED and move.wish in (Wish.FORWARD, Wish.PAUSE)


def _look(crew: Crew, move: Move) -> Scene | str | None:
    """Return what there is now; a text says what could not be seen, None that the move is gone."""
    now = read_move(crew.store, move)
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
