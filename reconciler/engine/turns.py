"""Moves of keys take turns: so many run at once in one process, whatever databases they are of.

An apply begins no more moves than may run; this bounds the applies of a daemon together, of which
each knows its own database only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reconciler.engine.ports import Clock
from reconciler.engine.problems import StoppedByUser
from reconciler.plan.actions import MoveKeyRange, Step

POLL_S = 0.2
"""How often one that waits for its turn asks again."""


class Turns:
    """How many moves run now. Safe to share between threads."""

    def __init__(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def of(
        self,
        step: Step,
        most: int,
        clock: Clock,
        wait: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> Iterator[None]:
        """Hold one of ``most`` turns while a step runs that moves keys; any other needs none.

        ``wait`` is told what it waits for. Raises StoppedByUser.
        """
        if not isinstance(step.action, MoveKeyRange):
            yield
            return
        why = f"its turn: {most} moves of keys run at once (movesMax, SHARDWRIGHT_MOVES_PARALLEL)"
        told = False
        while not self._take(most):
            if not told:
                told = True
                wait(f"waits for {why}")
            if stopping():
                raise StoppedByUser(step.id, f"stopped while it waited for {why}")
            clock.sleep(POLL_S)
        try:
            yield
        finally:
            with self._lock:
                self._taken -= 1

    def _take(self, most: int) -> bool:
        with self._lock:
            if self._taken >= most:
                return False
            self._taken += 1
            return True
