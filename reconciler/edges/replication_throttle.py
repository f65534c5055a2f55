"""How fast a copy may be: as fast as the source's commits stay quick and standbys keep up.

A probe commits an empty message at the source ten times a second and takes the time; the first
ones, before a row is read, are the baseline. The pace, in bytes a second over all workers, begins
low and grows quickly until a commit takes longer than the limit allows or a standby of either side
falls behind; then, as a sender in TCP does, it is halved and grows slowly.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType

import psycopg

from reconciler.edges.replication_ends import Ends, one_text, open_session
from reconciler.model.errors import ReconcilerError

PROBES = 20
PROBE_S = 0.1
AGAIN_S = 0.5
"""After a probe found it slow, the lower pace gets this long to show in the next one."""
TOP_BYTES_S = 256 * 1024 * 1024
START_BYTES_S = 8 * 1024 * 1024
FLOOR_BYTES_S = 1024 * 1024
GROWTH, GROWTH_ONCE_SLOW = 1.25, 1.02
"""A probe's: 32 times as fast within 1.6 s; twice as fast in 3.5 s."""
SLACK_MS = 1.0
"""What a commit may take longer in any case: below it is noise."""
STANDBY_LAG_BYTES_MAX = 64 * 1024 * 1024
_STANDBY_LAG = """
SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)), 0)::bigint
  FROM pg_stat_replication r
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """Bytes a second, at most how many, and whether they were too many before."""

    bytes_s: float
    was_slow: bool = False
    top_bytes_s: float = TOP_BYTES_S

    def after(self, *, slow: bool) -> Pace:
        """Return the pace after a probe."""
        if slow:
            return replace(self, bytes_s=max(self.bytes_s / 2, FLOOR_BYTES_S), was_slow=True)
        growth = GROWTH_ONCE_SLOW if self.was_slow else GROWTH
        return replace(self, bytes_s=min(self.bytes_s * growth, self.top_bytes_s))


OF_ROWS = Pace(START_BYTES_S)
OF_FILES = Pace(8 * START_BYTES_S, top_bytes_s=4 * TOP_BYTES_S)
"""Files are read and written in sequence by one stream: they cost a fraction of what rows do."""


class Throttle:
    """A pace for copying, held by feedback. ``latency_ratio_max`` 0 means any latency will do."""

    def __init__(self, ends: Ends, begin: Pace = OF_ROWS) -> None:
        self._ends, self._ratio_max = ends, ends.move.latency_ratio_max
        free = replace(begin, bytes_s=begin.top_bytes_s)
        self._pace = begin if self._ratio_max > 0 else free
        self._limit_ms = 0.0
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Throttle:
        if self._ratio_max > 0:
            with open_session(self._ends.source) as connection:
                probes = [_commit_ms(connection) for _ in range(PROBES)]
            self._limit_ms = statistics.median(probes) * self._ratio_max + SLACK_MS
        self._thread = threading.Thread(target=self._watch, name="copy throttle", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def slowed(self) -> bool:
        """Whether a pace was too high before."""
        return self._pace.was_slow

    def pace(self, size: int) -> None:
        """Wait until ``size`` more bytes may be copied."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self._pace.bytes_s
            wait = self._free_at - now
        if wait > 0.002:
            self._stop.wait(wait)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    open_session(self._ends.source) as here,
                    open_session(self._ends.target) as there,
                ):
                    self._probe(here, there)
            except (ReconcilerError, psycopg.Error):
                self._stop.wait(AGAIN_S)  # the workers find out by themselves

    def _probe(self, here: psycopg.Connection, there: psycopg.Connection) -> None:
        """Probe until the copy is over, or a side's session breaks."""
        lag_at = 0.0
        while not self._stop.wait(PROBE_S):
            slow = self._ratio_max > 0 and _commit_ms(here) > self._limit_ms
            if time.monotonic() > lag_at:
                lag_at = time.monotonic() + AGAIN_S
                lag = max(_standby_lag_bytes(here), _standby_lag_bytes(there))
                slow = slow or lag > STANDBY_LAG_BYTES_MAX
            with self._lock:
                self._pace = self._pace.after(slow=slow)
            if slow:
                self._stop.wait(AGAIN_S)


def _standby_lag_bytes(connection: psycopg.Connection) -> int:
    return int(one_text(connection, _STANDBY_LAG) or 0)


def _commit_ms(connection: psycopg.Connection) -> float:
    begun = time.monotonic()
    connection.execute("SELECT pg_logical_emit_message(true, 'shardwright', 'probe')")
    return (time.monotonic() - begun) * 1000
