"""The rules of a move of keys, one at a time: which look leads to which decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, MoveView, Side, Stage, Stream, Wish
from reconciler.model.names import Epoch, Scope
from reconciler.model.unseen import Unseen
from reconciler.workflow.phase import Done, Refuse, first_undone
from reconciler.workflow.reshard import (
    decide,
    refuse_wish,
)
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
from reconciler.workflow.reshard_facts import (
    LAG_BYTES_MAX,
    AbortTooLate,
    GuardLost,
    OwnershipChanged,
    WayBackLost,
)
from tests.workflow.move_shard import TABLES
from tests.workflow.move_views import (
    APART,
    BACK_CLEANED,
    BACK_CLOSED,
    BACK_EQUAL,
    BACK_OPEN,
    BACK_REFUSED,
    CLEANED,
    COPIED,
    EQUAL,
    FENCED,
    FOLLOWING,
    HELD,
    INDEXED,
    MAPPED,
    NOTHING,
    NOW,
    OPEN,
    OVER,
    PREPARED,
    PUBLISHED,
    READY,
    REFUSED,
    SOAKING,
    SWITCHED,
    act_of,
    forward,
    reverse,
    wait_of,
    wishing,
)
from tests.workflow.move_world import MOVE, SCOPES


@pytest.mark.parametrize(
    ("move", "view", "act"),
    [
        (MOVE, NOTHING, PrepareTarget()),
        (MOVE, PREPARED, Hold()),
        (MOVE, HELD, Publish()),
        (MOVE, PUBLISHED, Copy()),
        (MOVE, COPIED, BuildIndexes()),
        (MOVE, INDEXED, Subscribe()),
        (MOVE, FOLLOWING, Verify()),
        (MOVE, replace(EQUAL, views_stale=True), RefreshViews()),
        (MOVE, EQUAL, DivideSequences()),
        (MOVE, APART, Arm()),
        (MOVE, READY, Cut()),
        (MOVE, replace(OPEN, opened=TABLES[:1]), FinishOpening()),
        (MOVE, OPEN, RefuseStale(Side.SOURCE, Epoch(8))),
        (MOVE, REFUSED, WriteMap(Epoch(8), back=False)),
        (MOVE, MAPPED, Record(Stage.SWITCHED)),
        (SWITCHED, MAPPED, Reverse()),
        (replace(SWITCHED, cut_compared=""), SOAKING, VerifyCut()),
        (wishing(Wish.FINISH, SWITCHED), SOAKING, Clean()),
        (wishing(Wish.FINISH, SWITCHED), CLEANED, Prune(Side.SOURCE)),
        (wishing(Wish.FINISH, SWITCHED), replace(CLEANED, pruned=True), Record(Stage.ENDED)),
        (replace(MOVE, stage=Stage.ENDED), NOTHING, EndMove()),
    ],
)
def test_a_move_goes_on_with_the_first_thing_that_is_not_done(
    move: Move, view: MoveView, act: Step
) -> None:
    assert act_of(move, view) == act


@pytest.mark.parametrize(
    ("stage", "view", "act"),
    [
        (Stage.SWITCHED, MAPPED, Reverse()),
        (Stage.SWITCHED, SOAKING, VerifyBack()),
        (Stage.SWITCHED, BACK_EQUAL, RollBackCut()),
        (Stage.SWITCHED, BACK_CLOSED, RollBackCut()),
        (Stage.SWITCHED, replace(BACK_CLOSED, fenced=TABLES[:1]), RollBackCut()),
        (Stage.SWITCHED, BACK_OPEN, RefuseStale(Side.TARGET, Epoch(9))),
        (Stage.SWITCHED, BACK_REFUSED, WriteMap(Epoch(9), back=True)),
        (Stage.SWITCHED, replace(BACK_REFUSED, map_epoch=Epoch(9)), Record(Stage.BACK)),
        (Stage.BACK, replace(BACK_REFUSED, map_epoch=Epoch(9)), Clean()),
        (Stage.BACK, BACK_CLEANED, Prune(Side.TARGET)),
        (Stage.BACK, replace(BACK_CLEANED, pruned=True), Record(Stage.ENDED)),
    ],
)
def test_a_rollback_goes_the_same_way_back(stage: Stage, view: MoveView, act: Step) -> None:
    assert act_of(replace(SWITCHED, stage=stage, wish=Wish.ROLLBACK), view) == act


@pytest.mark.parametrize("wish", [Wish.ABORT, Wish.ROLLBACK])
@pytest.mark.parametrize(
    ("view", "act"),
    [
        (FENCED, Unfence()),
        (replace(READY, fenced=TABLES[:1]), Unfence()),
        (READY, Clean()),
        (PUBLISHED, Clean()),
        (replace(PREPARED, copy_begun=True), Prune(Side.TARGET)),
        (PREPARED, Record(Stage.ENDED)),
        (NOTHING, Record(Stage.ENDED)),
    ],
)
def test_an_abort_is_free_until_a_table_is_open(wish: Wish, view: MoveView, act: Step) -> None:
    assert refuse_wish(MOVE, view, wish, NOW) is None
    assert act_of(wishing(wish), view) == act


@pytest.mark.parametrize("wish", list(Wish))
def test_from_the_first_open_table_no_wish_keeps_the_others_closed(wish: Wish) -> None:
    half = replace(OPEN, opened=TABLES[:1])

    assert act_of(wishing(wish), half) == FinishOpening()
    assert act_of(wishing(wish), REFUSED) == WriteMap(Epoch(8), back=False)
    assert act_of(wishing(wish), MAPPED) == Record(Stage.SWITCHED)


def test_an_abort_that_came_too_late_is_refused_with_what_to_do_instead() -> None:
    late = wishing(Wish.ABORT, SWITCHED)
    decision = decide(late, SOAKING, NOW)

    assert isinstance(decision, Refuse)
    assert isinstance(decision.error, AbortTooLate)
    assert "rollback m00000001" in decision.error.remedy
    assert isinstance(refuse_wish(MOVE, OPEN, Wish.ABORT, NOW), AbortTooLate)
    assert isinstance(decide(late, SOAKING, OVER), Refuse), "nor does time decide for its owner"


# Starting over -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        forward(READY, slot_lost=True),
        forward(READY, endangered="its WAL goes soon"),
        forward(READY, slot=False, slot_active=False, slot_name="", lag_bytes=None),
        forward(READY, gap=True),
        forward(READY, slot_name="fwd2"),
        forward(READY, published=False),
        replace(READY, copied=""),
    ],
)
def test_a_stream_that_may_lack_something_starts_over(broken: MoveView) -> None:
    assert act_of(MOVE, broken) == Clean()
    assert act_of(MOVE, replace(broken, fenced=TABLES)) == Unfence(), "writers go first"
    assert act_of(MOVE, replace(broken, fenced=TABLES, opened=TABLES[:1])) == FinishOpening()


def test_a_copy_without_a_marker_is_made_again() -> None:
    assert act_of(MOVE, replace(COPIED, copied="")) == Copy()


def test_a_way_back_whose_slot_was_lost_is_armed_again_before_the_cut() -> None:
    assert act_of(MOVE, reverse(READY, slot_lost=True)) == Arm()


def test_a_partition_that_came_later_is_held_while_the_way_back_is_open() -> None:
    assert act_of(SWITCHED, replace(SOAKING, held=False)) == Hold()
    assert act_of(wishing(Wish.ROLLBACK, SWITCHED), replace(SOAKING, held=False)) == Hold()
    assert act_of(SWITCHED, replace(SOAKING, held=False), OVER) == Clean()
    assert act_of(MOVE, replace(READY, held=False)) == Hold()


def test_a_lost_way_back_does_not_keep_stale_clients_from_being_refused() -> None:
    lost = replace(MAPPED, reverse=Stream(), forward=Stream(), source_refuses_below=Epoch(7))
    assert act_of(SWITCHED, lost) == RefuseStale(Side.SOURCE, Epoch(8))


def test_stale_clients_stay_refused_after_a_rollback_whose_target_forgot_the_epoch() -> None:
    """Its standby was promoted without it, or another move was published meanwhile."""
    known = replace(BACK_REFUSED, map_epoch=Epoch(9))
    move, forgot = replace(MOVE, stage=Stage.BACK), replace(known, target_refuses_below=Epoch(8))
    assert act_of(move, forgot) == RefuseStale(Side.TARGET, Epoch(9))
    assert act_of(move, known) == Clean()


def test_an_epoch_of_a_way_back_that_was_not_gone_is_taken_away() -> None:
    """No map has it, so no client can know it, and all of them were refused at their owner."""
    died = replace(SOAKING, target_refuses_below=Epoch(SOAKING.map_epoch + 1))
    assert act_of(SWITCHED, died) == RefuseStale(Side.TARGET, SOAKING.map_epoch)


# Fences --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "view"),
    [
        (MOVE, forward(FENCED, slot_active=False)),
        (MOVE, forward(FENCED, lag_bytes=LAG_BYTES_MAX + 1)),
        (MOVE, replace(FENCED, verified=False)),
        (MOVE, replace(FENCED, obstacles=("ALTER TABLE public.a",))),
        (replace(MOVE, cut_after=OVER.isoformat()), FENCED),
        (wishing(Wish.PAUSE), FENCED),
    ],
)
def test_a_fence_that_no_cut_can_follow_is_taken_away(move: Move, view: MoveView) -> None:
    assert act_of(move, view) == Unfence()


@pytest.mark.parametrize("fenced", [TABLES, TABLES[:1]])
def test_a_cut_that_was_interrupted_is_finished_when_all_is_ready(fenced: tuple[str, ...]) -> None:
    assert act_of(MOVE, replace(READY, fenced=fenced)) == Cut()


@pytest.mark.parametrize("wish", [Wish.FORWARD, Wish.FINISH, Wish.PAUSE, Wish.ABORT])
def test_a_rollback_that_is_not_wanted_any_more_opens_the_target_again(wish: Wish) -> None:
    assert act_of(wishing(wish, SWITCHED), BACK_CLOSED) == FinishOpening()


@pytest.mark.parametrize("wish", list(Wish))
def test_a_rollback_that_opened_a_table_is_finished_whatever_is_wished(wish: Wish) -> None:
    half = reverse(replace(BACK_CLOSED, fenced=TABLES[:1]), slot=False, slot_active=False)

    back = wishing(wish, replace(SWITCHED, cut_after=OVER.isoformat()))
    assert act_of(back, half) == RollBackCut()
    assert act_of(back, replace(half, obstacles=("a full disk",))) == RollBackCut()
    assert refuse_wish(back, half, Wish.ROLLBACK, NOW) is None


# Rollback ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (reverse(SOAKING, slot=False, slot_active=False), "its slot at s1 is gone"),
        (reverse(SOAKING, slot_lost=True), "its slot at s1 has lost WAL"),
        (reverse(SOAKING, gap=True), "s0 failed over while it followed"),
        (CLEANED, "its slot at s1 is gone"),
    ],
)
def test_a_rollback_without_all_writes_is_refused(view: MoveView, why: str) -> None:
    decision = decide(wishing(Wish.ROLLBACK, SWITCHED), view, NOW)

    assert isinstance(decision, Refuse)
    assert isinstance(decision.error, WayBackLost)
    assert why in decision.error.problem
    assert "finish m00000001" in decision.error.remedy
    assert isinstance(refuse_wish(SWITCHED, view, Wish.ROLLBACK, NOW), WayBackLost)
    assert why in wait_of(SWITCHED, view), "the soak says so before anybody asks"
    closed = replace(view, opened=TABLES[:1])
    assert act_of(wishing(Wish.ROLLBACK, SWITCHED), closed) == FinishOpening()


def test_a_rollback_waits_until_the_source_has_caught_up() -> None:
    back = wishing(Wish.ROLLBACK, SWITCHED)

    assert "s0 is behind by 70,000 B" in wait_of(back, reverse(SOAKING, lag_bytes=70_000))
    assert "s0 does not follow yet" in wait_of(back, reverse(SOAKING, slot_active=False))


def test_a_rollback_is_possible_until_the_way_back_is_really_closed() -> None:
    assert act_of(wishing(Wish.ROLLBACK, SWITCHED), BACK_EQUAL, OVER) == RollBackCut()
    assert refuse_wish(SWITCHED, SOAKING, Wish.ROLLBACK, OVER) is None
    assert act_of(wishing(Wish.ROLLBACK, SWITCHED), MAPPED, OVER) == Reverse()


def test_a_source_that_was_rolled_back_to_is_not_left_fenced() -> None:
    fenced = replace(BACK_OPEN, fenced=TABLES[:1], map_epoch=Epoch(9))

    assert act_of(replace(SWITCHED, stage=Stage.BACK), fenced) == Unfence()


# Unseen, and others' hands -----------------------------------------------------------------------


@pytest.mark.parametrize("wish", list(Wish))
@pytest.mark.parametrize("stage", [Stage.BEFORE, Stage.SWITCHED, Stage.BACK])
@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_is_not_seen_is_waited_for(wish: Wish, stage: Stage, side: Side) -> None:
    unseen = Unseen("PostgreSQL", "shop-s1", "connection refused")
    dark = replace(FENCED, source=unseen), replace(FENCED, target=unseen)
    view = dark[list(Side).index(side)]

    said = wait_of(replace(MOVE, wish=wish, stage=stage), view)

    assert said == "not seen: PostgreSQL shop-s1: connection refused"


def error_of(move: Move, view: MoveView, now: datetime = NOW) -> ReconcilerError:
    decision = decide(move, view, now)
    assert isinstance(decision, Refuse), decision
    return decision.error


@pytest.mark.parametrize(
    ("move", "view"),
    [
        (MOVE, replace(READY, map_epoch=Epoch(9))),
        (MOVE, replace(READY, map_epoch=Epoch(8))),
        (MOVE, replace(FENCED, map_epoch=Epoch(9))),
        (SWITCHED, replace(SOAKING, map_epoch=Epoch(10))),
        (MOVE, replace(READY, map_owners=(Scope("shop-s7"),))),
        (MOVE, replace(READY, map_owners=(SCOPES[Side.SOURCE], Scope("shop-s7")))),
        (MOVE, replace(READY, map_owners=(SCOPES[Side.TARGET],))),
    ],
)
def test_a_map_that_somebody_else_changed_stops_the_move(move: Move, view: MoveView) -> None:
    assert isinstance(error_of(move, view), OwnershipChanged)


def test_a_target_that_lost_its_opening_in_a_failover_is_opened_again() -> None:
    """Only the map tells that the cut had passed its commit point."""
    lost = forward(replace(MAPPED, opened=()), gap=True)

    assert act_of(MOVE, lost) == FinishOpening()
    assert isinstance(error_of(MOVE, replace(lost, fenced=TABLES[:1])), OwnershipChanged)


def test_a_map_that_another_move_of_other_keys_published_is_no_matter() -> None:
    source, target = (SCOPES[Side.SOURCE],), (SCOPES[Side.TARGET],)

    assert act_of(MOVE, replace(READY, map_epoch=Epoch(20), map_owners=source)) == Cut()
    opened = replace(OPEN, map_epoch=Epoch(20), map_owners=source)
    assert act_of(MOVE, opened) == RefuseStale(Side.SOURCE, Epoch(21))
    refused = replace(opened, source_refuses_below=Epoch(21))
    assert act_of(MOVE, refused) == WriteMap(Epoch(21), back=False)
    back = replace(BACK_OPEN, map_epoch=Epoch(30), map_owners=target)
    assert act_of(SWITCHED, back) == RefuseStale(Side.TARGET, Epoch(31))
    refused = replace(back, target_refuses_below=Epoch(31))
    assert act_of(SWITCHED, refused) == WriteMap(Epoch(31), back=True)


@pytest.mark.parametrize(
    ("move", "view"),
    [
        (MOVE, replace(OPEN, fenced=TABLES[:1])),
        (MOVE, replace(READY, opened=TABLES[:1])),
        (SWITCHED, replace(SOAKING, fenced=())),
        (replace(SWITCHED, stage=Stage.BACK), replace(BACK_OPEN, opened=TABLES[:1])),
        (replace(SWITCHED, stage=Stage.BACK), SOAKING),
    ],
)
def test_a_guard_that_somebody_took_away_stops_the_move(move: Move, view: MoveView) -> None:
    assert isinstance(error_of(move, replace(view, map_epoch=Epoch(7))), GuardLost)


def test_a_list_of_phases_that_are_all_done_is_done() -> None:
    assert first_undone(()) == Done()
