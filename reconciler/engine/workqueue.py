"""The daemon's work queue: what is to be reconciled, each key once, the patient ones first.

The rules are controller-runtime's (client-go ``util/workqueue``), because they have proven fair:

* A key that is added again while it waits is still there once; while it is worked on it is noted,
  and comes again when that work is done. So nobody works on one key twice at once, and no news is
  lost.
* First come, first served: a key that fails over and over waits its back-off aside and never holds
  back another. Routine looks (start-up, resync) stand behind news.
* Back-off doubles with each failure, from 5 ms to 1000 s, with jitter; a success forgets it.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BACKOFF_S_MIN = 0.005
BACKOFF_S_MAX = 1000.0
ROUTINE_CORE = 0.15
"""The part of a core that routine looks may take, however many databases there are."""
ROUTINE_STRETCH = 10.0
"""So many intervals apart they are at most."""


def backoff_s(failures: int, jitter: float) -> float:
    """Return the wait after so many failures in a row; ``jitter`` in [0, 1) adds up to a tenth."""
    doubled: float = BACKOFF_S_MIN * 2.0 ** min(failures - 1, 32)
    return min(doubled * (1 + jitter / 10), BACKOFF_S_MAX)


def routine_pause_s(interval_s: float, cpu_s: float) -> float:
    """Return the seconds until the next routine look, after one that took so much CPU time."""
    return max(interval_s, min(cpu_s / ROUTINE_CORE, interval_s * ROUTINE_STRETCH))


class WorkQueue(Generic[Key]):
    """Keys to work on; safe to use from several threads.

    ``now`` is a monotonic clock in seconds, ``jitter`` yields numbers in [0, 1).
    """

    def __init__(self, now: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._now, self._jitter = now, jitter
        self._changed = threading.Condition()
        self._news: deque[Key] = deque()
        self._routine: deque[Key] = deque()
        self._waiting: dict[Key, bool] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._count = 0
        self._closed = False
        self.adds = 0

    @property
    def depth(self) -> int:
        """How many keys wait to be taken now."""
        with self._changed:
            self._move_due()
            return len(self._waiting)

    @property
    def working(self) -> int:
        """How many keys are worked on."""
        with self._changed:
            return len(self._working)

    def add(self, key: Key, *, routine: bool = False) -> None:
        """Ask for a key now; ``routine`` when nothing is known to have changed."""
        with self._changed:
            self._due.pop(key, None)
            self._add(key, news=not routine)

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a key then; a sooner time that was asked for stands."""
        with self._changed:
            at = self._now() + seconds
            if key in self._waiting or self._due.get(key, at + 1) <= at:
                return
            self._due[key] = at
            self._count += 1
            heapq.heappush(self._later, (at, self._count, key))
            self._changed.notify()

    def add_failed(self, key: Key) -> float:
        """Ask for a key that failed, after its back-off, which is returned (seconds)."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            wait = backoff_s(self._failures[key], self._jitter())
        self.add_after(key, wait)
        return wait

    def failures(self, key: Key) -> int:
        """How often a key failed in a row."""
        with self._changed:
            return self._failures.get(key, 0)

    def forget(self, key: Key) -> None:
        """A key was worked on with success: its next failure is a first one."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self) -> Key | None:
        """Wait for the next key and take it; None when the queue was closed."""
        with self._changed:
            while not self._closed:
                self._move_due()
                if (key := self._take()) is not None:
                    return key
                next_due = self._later[0][0] - self._now() if self._later else None
                self._changed.wait(next_due)
        return None

    def done(self, key: Key) -> None:
        """The work on a key is over; what was asked for meanwhile comes now."""
        with self._changed:
            self._working.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._add(key, news=True)

    def close(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, key: Key, *, news: bool) -> None:
        if key in self._working:
            self._again.add(key)
            return
        stands = self._waiting.get(key)
        if stands or (stands is False and not news):
            return
        self.adds += key not in self._waiting
        self._waiting[key] = news
        (self._news if news else self._routine).append(key)
        self._changed.notify()

    def _take(self) -> Key | None:
        for line, news in ((self._news, True), (self._routine, False)):
            while line:
                key = line.popleft()
                if self._waiting.get(key) is news:  # otherwise it moved up since
                    del self._waiting[key]
                    self._working.add(key)
                    return key
        return None

    def _move_due(self) -> None:
        while self._later and self._later[0][0] <= self._now():
            at, _, key = heapq.heappop(self._later)
            if self._due.get(key) == at:  # otherwise it was asked for sooner since
                del self._due[key]
                self._add(key, news=False)
