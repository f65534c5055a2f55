"""A spec that takes keys back, while the move that brought them is being finished."""

from __future__ import annotations

from dataclasses import replace

from reconciler.diff.changes import Difference, EndMove, MoveKeys, RecordApplied
from reconciler.diff.origin import Origin, origin_of, parts_of
from reconciler.model.desired import Shard
from reconciler.model.keyspace import parse_key_set
from reconciler.model.moves import EQUAL, NOT_COMPARED, Move, MoveHold, MoveId, Stage, Wish
from reconciler.model.observed import ObservedState
from reconciler.model.routing import AppliedRecord
from reconciler.plan.moves import begin_move
from reconciler.plan.planner import make_plan
from reconciler.plan.simulate import what_remains
from reconciler.plan.steps_database import move_action
from tests.diff.seen import difference, only, there
from tests.worlds import database, desired, shard, with_database

TWO = (shard("s0", "-80"), shard("s1", "80-"))
BORDER = (shard("s0", "-40"), shard("s1", "40-"))


def _switched(wish: Wish) -> tuple[ObservedState, Move]:
    """Return what is seen after 40-80 went from s0 to s1."""
    before, after = there(database(*TWO)), there(database(*BORDER))
    change = only(difference(database(*BORDER), before), MoveKeys)
    routing = before.databases[0].routing
    move = begin_move(move_action(change), routing, "2026-01-01T12:00:00+00:00")  # type: ignore[arg-type]
    move = replace(move, stage=Stage.SWITCHED, switched_at="2026-01-01T12:01:00+00:00", wish=wish)
    move = replace(move, cut_compared=EQUAL)
    return with_database(after, moves=(move,)), move


def test_a_reverted_spec_takes_the_move_back() -> None:
    seen, _ = _switched(Wish.FORWARD)
    assert only(difference(database(*TWO), seen), EndMove).how is Wish.ROLLBACK


def test_a_move_whose_applier_ended_between_its_cut_and_the_comparison_goes_on() -> None:
    seen, move = _switched(Wish.FORWARD)
    assert difference(database(*BORDER), seen).changes == ()

    uncompared = with_database(seen, moves=(replace(move, cut_compared=""),))
    change = only(difference(database(*BORDER), uncompared), EndMove)
    assert (change.how, change.reason) == (Wish.FORWARD, "its cut was not compared yet")
    wanted = desired(database(*BORDER))
    planned = make_plan(wanted, uncompared, difference(database(*BORDER), uncompared))
    assert "go on with the move of 40-80 from s0 to s1" in [step.title for step in planned.steps]
    assert what_remains(wanted, uncompared, planned) == ()
    # A person's pause is not undone by it, and the way back goes before it.
    paused = with_database(seen, moves=(replace(move, cut_compared="", wish=Wish.PAUSE),))
    assert difference(database(*BORDER), paused).changes == ()
    assert only(difference(database(*TWO), uncompared), EndMove).how is Wish.ROLLBACK


def test_a_move_that_waited_for_another_one_to_end_is_pending_when_its_turn_comes() -> None:
    """A spec that was edited in the middle of a move; as drift it might only be reported."""
    _, move = _switched(Wish.FORWARD)
    wanted = replace(database(shard("s0", "-50"), shard("s1", "50-")), digest="edited")
    seen = with_database(there(database(*TWO)), moves=(replace(move, stage=Stage.BEFORE),))
    note = only(difference(wanted, seen), RecordApplied)
    before = seen.databases[0].record
    assert isinstance(before, AppliedRecord)
    record = replace(before, digest=note.digest, parts=note.parts)

    waits = difference(wanted, with_database(seen, record=record))
    assert RecordApplied not in {type(change) for change in waits.changes}  # it is noted once
    after = difference(wanted, with_database(seen, record=record, moves=()))
    assert origin_of(only(after, MoveKeys), wanted, record) is Origin.PENDING
    assert only(after, RecordApplied).parts == parts_of(wanted)


def test_a_spec_that_is_reverted_by_two_commits_at_once_takes_both_moves_back() -> None:
    _, first = _switched(Wish.FORWARD)
    keys = parse_key_set("20-40")
    second = replace(first, id=MoveId("m00000002"), keys=keys)
    seen = there(database(shard("s0", "-20"), shard("s1", "20-")))

    both = difference(database(*TWO), with_database(seen, moves=(first, second)))
    ends = [change for change in both.changes if isinstance(change, EndMove)]
    assert [(change.move, change.how) for change in ends] == [
        (first, Wish.ROLLBACK), (second, Wish.ROLLBACK),
    ]  # fmt: skip
    assert both.standstills == ()
    # One that is not whole without other keys is no way back: it waits, as any other.
    part = difference(database(*TWO), with_database(seen, moves=(first,)))
    assert not [change for change in part.changes if isinstance(change, EndMove)]
    (waits,) = part.standstills
    assert (
        "waits for the move of 40-80 from s0 to s1, which can be taken back until" in waits.reason
    )
    assert f"`shardwright operation finish {first.id}` ends that now" in waits.reason


def test_a_plan_says_that_a_move_is_paused_and_how_it_goes_on() -> None:
    _, move = _switched(Wish.PAUSE)
    seen = there(database(*TWO))
    paused = with_database(seen, moves=(replace(move, stage=Stage.BEFORE),))
    runs = with_database(seen, moves=(replace(move, stage=Stage.BEFORE, wish=Wish.FORWARD),))

    assert [one.text for one in difference(database(*BORDER), paused).remarks] == [
        "the move of 40-80 from s0 to s1 is paused: "
        f"`shardwright operation resume {move.id}` lets it go on"
    ]
    assert difference(database(*BORDER), runs).remarks == ()


def test_a_plan_says_whether_the_spec_or_a_person_ends_a_move() -> None:
    seen, move = _switched(Wish.ROLLBACK)
    assert _why(BORDER, seen) == "`shardwright operation rollback` asked for it"
    assert _why(TWO, seen) == "the spec takes it back"
    assert _why(BORDER, _switched(Wish.FINISH)[0]) == "`shardwright operation finish` asked for it"
    begun = replace(move, stage=Stage.BEFORE, wish=Wish.ABORT)
    before = with_database(there(database(*TWO)), moves=(begun,))
    assert _why(BORDER, before) == "`shardwright operation abort` asked for it"
    assert _why(TWO, before) == "the spec does not ask for it"


def _why(shards: tuple[Shard, ...], seen: ObservedState) -> str:
    return only(difference(database(*shards), seen), EndMove).reason


def test_a_move_that_is_being_finished_is_finished_although_the_spec_is_reverted() -> None:
    """Its way back is closing, or is lost and somebody said `operation finish`: once it ended, the
    keys come back by a move of their own. To roll it back would fail again and again (MV102)."""
    seen, _ = _switched(Wish.FINISH)
    found = difference(database(*TWO), seen)
    assert only(found, EndMove).how is Wish.FINISH
    assert MoveKeys not in {type(change) for change in found.changes}

    ended = with_database(seen, moves=())
    assert only(difference(database(*TWO), ended), MoveKeys).target == "s0"


def _held(seen: ObservedState, move: Move) -> ObservedState:
    hold = MoveHold(
        move.id, move.source, move.target, move.keys, Wish.ROLLBACK, "ann on ops1",
        "2026-01-01T12:05:00+00:00",
    )  # fmt: skip
    return with_database(seen, holds=(hold,))


def test_a_move_that_a_person_took_back_is_not_begun_again() -> None:
    """The next apply, or the daemon, moved the keys again as the spec still asked for it."""
    switched, move = _switched(Wish.ROLLBACK)
    back = difference(database(*BORDER), _held(switched, move))
    assert only(back, EndMove).how is Wish.ROLLBACK
    assert RecordApplied not in {type(change) for change in back.changes}  # the hold stays

    home = _held(there(database(*TWO)), move)
    found = difference(database(*BORDER), home)
    assert MoveKeys not in {type(change) for change in found.changes}
    (waits,) = found.standstills
    assert waits.reason == (
        f"{move.id} was taken back by ann at 2026-01-01T12:05:00+00:00; it waits until spec.shards"
        f" changes, or for `shardwright operation retry {move.id}`"
    )
    # Nothing else waits for it, and a spec that asks for other keys is another wish.
    other = difference(database(shard("s0", "-50"), shard("s1", "50-")), home)
    assert only(other, MoveKeys).keys == parse_key_set("50-80")
    assert only(other, RecordApplied).released == (move.id,)


def test_a_hold_goes_with_the_spec_that_it_was_held_against() -> None:
    switched, move = _switched(Wish.ROLLBACK)
    for seen in (_held(switched, move), _held(there(database(*TWO)), move)):
        wanted = desired(database(*TWO))
        found = difference(database(*TWO), seen)
        assert only(found, RecordApplied).released == (move.id,)
        assert what_remains(wanted, seen, make_plan(wanted, seen, found)) == ()
    begun = replace(move, stage=Stage.BEFORE, wish=Wish.ABORT)
    before = with_database(_held(there(database(*TWO)), move), moves=(begun,))
    assert only(difference(database(*TWO), before), RecordApplied).released == (move.id,)


LATER = "2026-01-09T12:00:00+00:00"


def _at(shards: tuple[Shard, ...], move: Move, looked_at: str) -> Difference:
    seen, _ = _switched(Wish.FORWARD)
    return difference(
        database(*shards), replace(with_database(seen, moves=(move,)), looked_at=looked_at)
    )


def test_time_alone_ends_no_move_whose_rows_may_differ() -> None:
    """The window's end was a wish to finish, which a cut that cannot be compared takes for its
    owner's word; and so it was for a move that its owner had paused."""
    _, move = _switched(Wish.FORWARD)
    assert only(_at(BORDER, move, LATER), EndMove).how is Wish.FINISH
    for found in ("", "public.a id=1: source has (1)"):
        change = only(_at(BORDER, replace(move, cut_compared=found), LATER), EndMove)
        assert change.how is Wish.FORWARD
    given_up = replace(move, cut_compared=f"{NOT_COMPARED}s1 failed over")
    for looked_at in ("", LATER):
        # Each apply had a step for it, for ever, which did nothing (crash matrix, seed 179).
        left = _at(BORDER, given_up, looked_at)
        assert left.changes == ()
        assert "was not compared and cannot be (s1 failed over)" in left.remarks[0].text
        assert f"`shardwright operation finish {move.id}`" in left.remarks[0].text
    assert only(_at(TWO, given_up, LATER), EndMove).how is Wish.ROLLBACK
    paused = _at(BORDER, replace(move, wish=Wish.PAUSE), LATER)
    assert (paused.changes, "is paused" in paused.remarks[0].text) == ((), True)


def test_a_cut_that_is_compared_after_its_window_ends_with_it() -> None:
    _, move = _switched(Wish.FORWARD)
    late = replace(_switched(Wish.FORWARD)[0], looked_at=LATER)
    seen = with_database(late, moves=(replace(move, cut_compared=""),))
    wanted = desired(database(*BORDER))
    planned = make_plan(wanted, seen, difference(database(*BORDER), seen))
    assert what_remains(wanted, seen, planned) == ()
