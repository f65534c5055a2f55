"""A writer that never stops: one row after another through the router, noting what was done."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from reconciler.demo.shards import connect, read_map
from reconciler.engine.world import World
from reconciler.model.hashing import position_of_key
from reconciler.model.names import DatabaseKey
from reconciler.model.routing import RoutingMap, RoutingOwner

_RETRY_S = 0.02
_NUMBERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a writer's orders: acknowledged, of these not there, there more than once."""

    acknowledged: int
    lost: int
    doubled: int


@dataclass(slots=True)
class Writer:
    """Writes orders of some customers at one address, the router's, and remembers those written.

    It knows nothing of shards. A write that fails is counted and never repeated: its outcome may
    be unknown. ``gap_s`` is the longest pause between two acknowledged writes, in seconds.
    Orders are numbered from ``first`` on; two writers need ``first`` a million apart.
    """

    router: dict[str, Any]
    customers: tuple[int, ...]
    first: int = _NUMBERS
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    gap_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _session: psycopg.Connection | None = None

    def start(self) -> None:
        """Begin to write in a thread of its own."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the write in hand."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._hang_up()

    def _run(self) -> None:
        number, last = self.first, time.monotonic()
        while not self._stop.is_set():
            number += 1
            order = (self.customers[number % len(self.customers)], number)
            if self._written(order):
                self.acknowledged.append(order)
                now = time.monotonic()
                self.gap_s, last = max(self.gap_s, now - last), now

    def _written(self, order: tuple[int, int]) -> bool:
        """Write an order; False when it failed, or nobody knows."""
        try:
            if self._session is None:
                self._session = psycopg.connect(**self.router, autocommit=True)
        except psycopg.OperationalError:  # nothing was sent
            time.sleep(_RETRY_S)
            return False
        try:
            self._session.execute("INSERT INTO orders (customer_id, id) VALUES (%s, %s)", order)
        except psycopg.Error as error:
            self.failed.append(f"{error.sqlstate} {error.diag.message_primary or error}")
            if self._session.closed:
                self._session = None
            return False
        return True

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def outcome(self, world: World, database: DatabaseKey) -> Outcome:
        """Look for every acknowledged order on all shards of the map, past the router."""
        routing = read_map(world, database)
        found: Counter[tuple[int, int]] = Counter()
        for owner in routing.owners:
            with connect(world, routing, owner) as session:
                rows = session.execute(
                    "SELECT customer_id, id FROM orders "
                    "WHERE customer_id = ANY(%s) AND id > %s AND id <= %s",
                    [list(self.customers), self.first, self.first + _NUMBERS],
                )
                found.update((int(customer), int(number)) for customer, number in rows)
        return Outcome(
            len(self.acknowledged),
            sum(order not in found for order in self.acknowledged),
            sum(count > 1 for count in found.values()),
        )


def owner_of(routing: RoutingMap, customer: int) -> RoutingOwner:
    """Return the shard that owns a customer's key."""
    owner = routing.owner_of(position_of_key(routing.key_type, str(customer)))
    assert owner is not None, "the ranges tile the whole key space"  # noqa: S101
    return owner
