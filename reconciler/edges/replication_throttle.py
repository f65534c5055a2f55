"""How fast a copy may be: as fast as the source's commits stay quick and standbys keep up.

A probe commits an empty message at the source twice a second and takes the time; the first ones,
before a row is read, are the baseline. When a commit takes longer than the limit allows, or a
standby of either side falls behind, the copy's pace is halved, else it grows. The pace is bytes a
second over all workers.
"""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType

import psycopg

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import Ends, one_text, open_session
from reconciler.model.errors import ReconcilerError

PROBES = 5
PROBE_S = 0.5
START_BYTES_S = 256 * 1024 * 1024
FLOOR_BYTES_S = 1024 * 1024
GROWTH = 1.2
SLACK_MS = 2.0
"""What a commit may take longer in any case: below it is noise."""
STANDBY_LAG_BYTES_MAX = 64 * 1024 * 1024
_STANDBY_LAG = """
SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)), 0)::bigint
  FROM pg_stat_replication r
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
"""


class Throttle:
    """A pace for copying, held by feedback. ``latency_ratio_max`` 0 means any latency will do."""

    def __init__(self, ends: Ends) -> None:
        self._ends, self._ratio_max = ends, ends.move.latency_ratio_max
        self.bytes_s = float(START_BYTES_S)
        self._baseline_ms = 0.0
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Throttle:
        if self._ratio_max > 0:
            with open_session(self._ends.source) as connection:
                probes = [_commit_ms(connection) for _ in range(PROBES)]
            self._baseline_ms = statistics.median(probes)
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

    def pace(self, size: int) -> None:
        """Wait until ``size`` more bytes may be copied."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.bytes_s
            wait = self._free_at - now
        if wait > 0.002:
            self._stop.wait(wait)

    def _watch(self) -> None:
        while not self._stop.wait(PROBE_S):
            try:
                slow = self._is_slow()
            except ReconcilerError:
                continue  # the workers find out by themselves
            with self._lock:
                wanted = self.bytes_s / 2 if slow else self.bytes_s * GROWTH
                self.bytes_s = min(max(wanted, FLOOR_BYTES_S), START_BYTES_S)

    def _is_slow(self) -> bool:
        with open_session(self._ends.source) as connection:
            lag = _standby_lag_bytes(connection)
            if self._ratio_max > 0:
                took = _commit_ms(connection)
                if took > self._baseline_ms * self._ratio_max + SLACK_MS:
                    return True
        return max(lag, _lag_at(self._ends.target)) > STANDBY_LAG_BYTES_MAX


def _lag_at(server: Server) -> int:
    with open_session(server) as connection:
        return _standby_lag_bytes(connection)


def _standby_lag_bytes(connection: psycopg.Connection) -> int:
    return int(one_text(connection, _STANDBY_LAG) or 0)


def _commit_ms(connection: psycopg.Connection) -> float:
    begun = time.monotonic()
    connection.execute("SELECT pg_logical_emit_message(true, 'shardwright', 'probe')")
    return (time.monotonic() - begun) * 1000
