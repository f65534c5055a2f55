"""What may begin is found from what ended; it is what a look at every step would find."""

from __future__ import annotations

from concurrent.futures import Future
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.progress import Progress
from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace, ScopeKey, ShardName
from reconciler.plan.actions import MoveKeyRange, Risk, Step, StopShard
from reconciler.plan.blast import bounded

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
SCOPE = ScopeKey("default", "shop-s0")  # type: ignore[arg-type]
MOVE = MoveKeyRange(SHOP, ShardName("s0"), ShardName("s1"), SCOPE, SCOPE, KeySet(), None, 1, 1)


def _step(id_: str, *after: str, move: bool = False) -> Step:
    action = MOVE if move else StopShard(SCOPE)
    return Step(id_, SHOP, action, after, Risk.ONLINE, id_, "", ShardName(id_))


def _next(progress: Progress, moves_max: int = 9, most: int = 99) -> list[str]:
    return [step.id for step in progress.next(moves_max, {}, most)]


def _run(progress: Progress, step: Step) -> Future[None]:
    progress.begin(step)
    future: Future[None] = Future()
    progress.running[future] = step
    return future


def test_a_step_is_ready_when_all_before_it_are_done_and_not_while_they_run() -> None:
    a, b, c = steps = (_step("a"), _step("b"), _step("c", "a", "b"))
    progress = Progress(steps)
    assert _next(progress) == ["a", "b"]
    assert _next(progress, most=1) == ["a"]
    for step in (a, b):
        future = _run(progress, step)
        assert "c" not in _next(progress)
        del progress.running[future]
        progress.end(step)
    assert _next(progress) == [c.id]
    assert progress.done == ["a", "b"]


def test_a_failure_leaves_all_that_stands_behind_it_and_nothing_else() -> None:
    steps = (_step("a"), _step("b", "a"), _step("c", "b"), _step("d"), _step("e", "d"))
    progress = Progress(steps)
    progress.begin(steps[0])
    progress.fail(steps[0])
    assert progress.left == {"b", "c"}
    assert _next(progress) == ["d"]
    progress.leave()
    assert progress.left == {"b", "c", "d", "e"}
    assert progress.failed == ["a"]
    assert _next(progress) == []


def test_what_is_behind_many_forks_is_left_in_one_walk() -> None:
    """Walking each way through fifty forks would take for ever."""
    steps = [_step("0")]
    for i in range(1, 51):
        before = str(i - 1)
        steps += [_step(f"{i}a", before), _step(f"{i}b", before), _step(f"{i}", f"{i}a", f"{i}b")]
    progress = Progress(tuple(steps))
    progress.begin(steps[0])
    progress.fail(steps[0])
    assert len(progress.left) == 150


def test_what_waits_for_a_step_of_a_blocked_database_never_begins() -> None:
    progress = Progress((_step("a"), _step("b", "a"), _step("c")), frozenset({"a"}))
    assert _next(progress) == ["c"]
    assert progress.left == {"a"}


def test_what_stands_before_a_step_and_is_not_in_the_plan_is_done_already() -> None:
    assert _next(Progress((_step("a", "earlier"),))) == ["a"]


def test_moves_begin_as_others_of_them_end_and_hold_back_nothing_else() -> None:
    moves = tuple(_step(f"m{n}", move=True) for n in range(4))
    progress = Progress((*moves, _step("z")))
    assert _next(progress, moves_max=2) == ["m0", "m1", "z"]
    future = _run(progress, moves[0])
    assert _next(progress, moves_max=2) == ["m1", "z"]
    del progress.running[future]
    progress.end(moves[0])
    assert _next(progress, moves_max=2) == ["m1", "m2", "z"]
    assert _next(progress, moves_max=0) == ["z"]


def _looked_through(progress: Progress, steps: tuple[Step, ...], moves_max: int) -> list[str]:
    """Find what may begin from every step, as an apply once did."""
    begun = {s.id for s in progress.running.values()}
    unmet = {s.id for s in steps} - set(progress.done)
    open_ = [s for s in steps if s.id in unmet - begun - progress.left - set(progress.failed)]
    ready = [s for s in open_ if unmet.isdisjoint(s.after)]
    moving = sum(isinstance(s.action, MoveKeyRange) for s in progress.running.values())
    moves = [s.id for s in ready if isinstance(s.action, MoveKeyRange)][
        max(moves_max - moving, 0) :
    ]
    return [s.id for s in bounded((s for s in ready if s.id not in moves), (), {})]


@given(st.integers(1, 14), st.integers(0, 3), st.integers(0, 10**6))
def test_it_is_what_a_look_at_every_step_finds(count: int, moves_max: int, seed: int) -> None:
    chance = Random(seed)  # noqa: S311  (a walk, not a secret)
    steps = tuple(
        _step(
            f"s{n}",
            *(f"s{chance.randrange(n)}" for _ in range(chance.randrange(3)) if n),
            move=chance.random() < 0.4,
        )
        for n in range(count)
    )
    progress = Progress(steps)
    while True:
        expected = _looked_through(progress, steps, moves_max)
        assert _next(progress, moves_max) == expected
        for step in progress.next(moves_max, {}, chance.randrange(1, 4)):
            _run(progress, step)
        if not progress.running:
            break
        future = chance.choice(list(progress.running))
        step = progress.running.pop(future)
        progress.fail(step) if chance.random() < 0.2 else progress.end(step)
    progress.leave()
    told = [*progress.done, *progress.failed, *progress.left]
    assert sorted(told) == sorted(step.id for step in steps)
