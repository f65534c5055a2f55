"""The routing map as it is now, kept by one thread: read, watch, read again after any gap.

Level, not edge: each turn begins with a read of the whole record, and what the watch adds is only
speed. A map is replaced by one of a higher revision of the same history, or by whatever another
history says; never by an answer that came late. Another cluster id is another history, and so is a
revision that went back: an etcd restored from a backup keeps its id where its members keep their
addresses. What etcd says is the map, also when its epoch is lower then: nobody could tell how much
of a history that is gone still holds, and what the older map has wrong the shards refuse.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from reconciler.model.errors import ReconcilerError
from reconciler.model.names import Epoch
from reconciler.model.records import RecordUnreadable, decode_routing, routing_key
from reconciler.sdk.config import Config
from reconciler.sdk.errors import NoMap, NotOpen
from reconciler.sdk.etcd import EtcdAway, EtcdReader, Stored
from reconciler.sdk.routes import Routes, index_routes

RETRY_FIRST_S = 0.1


class MapFeed:
    """Keeps the newest routing map; safe to share between threads.

    ``moved`` is called with each new map, in the thread that read it.
    """

    def __init__(self, config: Config, moved: Callable[[Routes], None]) -> None:
        self._config, self._moved = config, moved
        self._key = routing_key(config.key)
        etcd = (config.etcd_endpoints, config.tls, config.limits, config.etcd_login)
        self._watcher, self._asker = EtcdReader(*etcd), EtcdReader(*etcd)
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._routes: Routes | None = None
        self._cluster = ""
        self._histories = 0
        self._trouble: ReconcilerError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="shardwright-map", daemon=True)

    @property
    def routes(self) -> Routes:
        """The newest map. Raises NotOpen."""
        if self._routes is None or self._closed.is_set():
            raise NotOpen("client", "is not open", remedy="with Shards(config) as shards: …")
        return self._routes

    def start(self) -> None:
        """Begin, and wait for the first map. Raises NoMap, RecordUnreadable."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._routes or isinstance(self._trouble, RecordUnreadable),
                self._config.limits.start_s,
            )
        if self._routes is None:
            trouble = self._trouble
            self.close()
            raise trouble or NoMap(
                f"database {self._config.key}",
                f"etcd did not answer within {self._config.limits.start_s:g} s",
                remedy="check etcd_endpoints, tls, etcd_login; shardwright platform status",
            )

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            self._watcher.interrupt()
            self._thread.join(0.05)

    def wait_newer(self, epoch: Epoch, timeout_s: float) -> bool:
        """Wait for a map of another epoch; tell whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self.routes.epoch != epoch, timeout_s)

    def refresh(self, epoch: Epoch) -> None:
        """Read the map now, unless it has another epoch already; for when the watch is late.

        One caller reads; others do not wait for it. etcd away is no error: the last map stays.
        """
        if self.routes.epoch != epoch or not self._asking.acquire(blocking=False):
            return
        history = self._histories
        try:
            seen = self._asker.read(self._key)
            if history == self._histories:
                self._take(seen)
        except EtcdAway:
            return
        finally:
            self._asking.release()

    def _keep(self) -> None:
        pause_s, revision = RETRY_FIRST_S, 0
        while not self._closed.is_set():
            try:
                seen = self._watcher.read(self._key)
                if seen.revision < revision:  # linearizable reads go back in no history
                    self._histories, self._cluster = self._histories + 1, ""
                revision = seen.revision
                self._take(seen)
                pause_s = RETRY_FIRST_S
                for later in self._watcher.watch(self._key, seen):
                    revision = later.revision
                    self._take(later)
            except EtcdAway as problem:
                self._note_away(problem)
                # Jitter, so that a thousand clients do not come back in step.
                self._closed.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s = min(pause_s * 2, self._config.limits.etcd_retry_max_s)

    def _take(self, seen: Stored) -> None:
        """Publish what was read when it is newer; what cannot be read changes nothing."""
        if seen.value is None:
            # A record that is gone proves nothing about the shards, which guard themselves.
            self._trouble = self._missing()
            return
        try:
            routes = index_routes(decode_routing(self._key, seen.value, seen.version))
        except RecordUnreadable as problem:
            self._trouble = problem
            with self._changed:
                self._changed.notify_all()
            return
        with self._changed:
            known = self._routes
            if known and self._cluster == seen.cluster and seen.version <= known.routing.version:
                return
            self._routes, self._cluster = routes, seen.cluster
            self._changed.notify_all()
        self._moved(routes)

    def _missing(self) -> NoMap:
        return NoMap(
            f"database {self._config.key}",
            "has no routing map in this etcd",
            remedy="check the name and namespace; apply its spec first: shardwright get databases",
        )

    def _note_away(self, problem: EtcdAway) -> None:
        if self._routes is None:
            self._trouble = NoMap(
                f"database {self._config.key}",
                str(problem),
                remedy="check etcd_endpoints, tls, etcd_login; shardwright platform status",
            )


class Patience:
    """How long to go on after refusals: short pauses at first, and an end. Takes the time as given.

    A cut takes tens of milliseconds, so the first pauses are short; a move that stands still must
    not be hammered, so they grow.
    """

    FIRST_S = 0.01
    MAX_S = 0.25
    REFRESH_AFTER = 3
    """Refusals after which the watch is no longer trusted to be up to date."""

    def __init__(self, limit_s: float, now_s: float) -> None:
        self._end_s = now_s + limit_s
        self.refusals = 0

    def next_pause_s(self, now_s: float) -> float | None:
        """Return how long to wait for a newer map before trying again; None when it is over."""
        if now_s >= self._end_s:
            return None
        pause_s = min(self.FIRST_S * 2 ** min(self.refusals, 10), self.MAX_S)
        self.refusals += 1
        jittered: float = pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        return min(jittered, self._end_s - now_s)

    @property
    def distrusts_watch(self) -> bool:
        """Tell whether the map should be read, not only waited for."""
        return self.refusals >= self.REFRESH_AFTER


def monotonic_s() -> float:
    """Return the clock that all deadlines of a client are measured with."""
    return time.monotonic()
