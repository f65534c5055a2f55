"""How fast a copy may be: as fast as the source's own commits stay quick.

A probe commits an empty message at the source twice a second and takes the time; the first ones,
before a row is read, are the baseline. When it is slower than the limit allows the copy's pace is
halved, else it grows. The pace is bytes a second over all workers.
"""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import open_session
from reconciler.model.errors import ReconcilerError

PROBES = 5
PROBE_S = 0.5
START_BYTES_S = 256 * 1024 * 1024
FLOOR_BYTES_S = 1024 * 1024
GROWTH = 1.2
SLACK_MS = 2.0
"""What a commit may take longer in any case: below it is noise."""


class Throttle:
    """A pace for copying, held by feedback. ``ratio_max`` 0 means no limit."""

    def __init__(self, source: Server, ratio_max: float) -> None:
        self._source, self._ratio_max = source, ratio_max
        self.bytes_s = float(START_BYTES_S)
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Throttle:
        if self._ratio_max > 0:
            baseline = statistics.median(self._probes(PROBES))
            self._thread = threading.Thread(
                target=self._watch, args=(baseline,), name="copy throttle", daemon=True
            )
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
        if self._ratio_max <= 0:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.bytes_s
            wait = self._free_at - now
        if wait > 0.002:
            self._stop.wait(wait)

    def _watch(self, baseline_ms: float) -> None:
        while not self._stop.wait(PROBE_S):
            try:
                took = self._probes(1)[0]
            except ReconcilerError:
                continue  # the workers find out by themselves
            slow = took > baseline_ms * self._ratio_max + SLACK_MS
            with self._lock:
                wanted = self.bytes_s / 2 if slow else self.bytes_s * GROWTH
                self.bytes_s = min(max(wanted, FLOOR_BYTES_S), START_BYTES_S)

    def _probes(self, count: int) -> list[float]:
        with open_session(self._source) as connection:
            connection.execute("SELECT 1")
            return [self._commit_ms(connection) for _ in range(count)]

    @staticmethod
    def _commit_ms(connection: object) -> float:
        begun = time.monotonic()
        connection.execute("SELECT pg_logical_emit_message(true, 'shardwright', 'probe')")  # type: ignore[attr-defined]
        return (time.monotonic() - begun) * 1000
