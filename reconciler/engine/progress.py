"""Which steps of an apply are where: open, ready, running, done, failed, left. No I/O.

What each open step still waits for is kept, so that the end of a step costs only what stands right
behind it, and not a look at all steps: a whole apply is linear in its steps and their order.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import islice

from reconciler.model.desired import Rollout
from reconciler.model.names import DatabaseKey
from reconciler.plan.actions import MoveKeyRange, Step
from reconciler.plan.blast import bounded


class Progress:
    """The steps of one apply; touched by the coordinating thread only.

    ``running``: by whose future; ``done`` and ``failed``: ids in the order in which they ended;
    ``left``: ids that are not begun any more.
    """

    def __init__(self, steps: tuple[Step, ...], blocked: frozenset[str] = frozenset()) -> None:
        """Begin with all steps of a plan open but the ``blocked``, which nobody will do."""
        self.running: dict[Future[None], Step] = {}
        self.done: list[str] = []
        self.failed: list[str] = []
        self.left: set[str] = set(blocked)
        self._place = {step.id: place for place, step in enumerate(steps)}
        self._steps = steps
        self._open = self._place.keys() - blocked
        self._behind: dict[str, list[str]] = {}
        self._unmet = {step.id: set(step.after) & self._place.keys() for step in steps}
        for id_, before in self._unmet.items():
            for first in before:
                self._behind.setdefault(first, []).append(id_)
        self._moves: list[int] = []
        self._others: list[int] = []
        for id_ in self._place:
            self._offer(id_)

    def next(self, moves_max: int, limits: Mapping[DatabaseKey, Rollout], most: int) -> list[Step]:
        """Return at most ``most`` steps that may begin now, in plan order.

        Of moves there run no more than ``moves_max``, and of each database no more than its
        roll-out allows.
        """
        running = sum(isinstance(s.action, MoveKeyRange) for s in self.running.values())
        moves = self._moves[: max(moves_max - running, 0)]
        ready = (self._steps[place] for place in heapq.merge(self._others, moves))
        return list(islice(bounded(ready, self.running.values(), limits), most))

    def begin(self, step: Step) -> None:
        """Take a ready step; it is running, or it failed, next."""
        self._open.discard(step.id)
        line, place = self._line(step), self._place[step.id]
        del line[bisect_left(line, place)]

    def end(self, step: Step) -> None:
        """Note that a step is done: what waited only for it is ready."""
        self.done.append(step.id)
        for follower in self._behind.get(step.id, ()):
            self._unmet[follower].discard(step.id)
            self._offer(follower)

    def fail(self, step: Step) -> None:
        """Note that a step failed: what waits for it, directly or not, is left."""
        self.failed.append(step.id)
        for follower in self._all_behind(step.id):
            self._open.discard(follower)
            self.left.add(follower)

    def leave(self) -> None:
        """Begin nothing more: what is open is left."""
        self.left |= self._open
        self._open.clear()
        self._moves.clear()
        self._others.clear()

    def _offer(self, id_: str) -> None:
        if id_ in self._open and not self._unmet[id_]:
            place = self._place[id_]
            insort(self._line(self._steps[place]), place)

    def _line(self, step: Step) -> list[int]:
        return self._moves if isinstance(step.action, MoveKeyRange) else self._others

    def _all_behind(self, id_: str) -> Iterator[str]:
        look = [id_]
        while look:
            for follower in self._behind.get(look.pop(), ()):
                if follower in self._open:
                    yield follower
                    look.append(follower)
