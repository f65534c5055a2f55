"""A writer that never stops: one row after another, noting what was acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

from reconciler.demo.shards import connect, read_map
from reconciler.engine.loop import World
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import position_of_key
from reconciler.model.names import DatabaseKey
from reconciler.model.routing import RoutingMap, RoutingOwner

REFUSED = "PS001"
"""What a shard says of a key that is not its own, or not any more: nothing was written."""
_RETRY_S = 0.02
_MOVED_RETRY_S = 0.005
_NUMBERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a writer's orders: acknowledged, of these not there, there more than once."""

    acknowledged: int
    lost: int
    doubled: int


@dataclass(slots=True)
class Writer:
    """Writes orders of some customers, each to the owner of its key, and remembers those written.

    A refusal (PS001) wrote nothing: the map is read again, and the same order goes to whoever owns
    the key by then. A write whose outcome is unknown (the connection broke) is not counted and
    never repeated. ``gap_s`` is the longest pause between two acknowledged writes, in seconds.
    Orders are numbered from ``first`` on; two writers need ``first`` a million apart.
    """

    world: World
    database: DatabaseKey
    customers: tuple[int, ...]
    first: int = _NUMBERS
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    unknown: int = 0
    refused: int = 0
    gap_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _sessions: dict[str, psycopg.Connection] = field(default_factory=dict)
    _routing: RoutingMap | None = None

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
        """Write an order at its owner; False when its outcome is unknown, or when told to stop."""
        while not self._stop.is_set():
            session = self._session_of(order[0])
            if session is None:  # nothing was sent
                time.sleep(_RETRY_S)
                continue
            try:
                session.execute("INSERT INTO orders (customer_id, id) VALUES (%s, %s)", order)
                return True
            except psycopg.Error as error:
                self._routing = None
                if error.sqlstate != REFUSED:
                    self.unknown += 1
                    self._hang_up()
                    return False
                self.refused += 1
                time.sleep(_MOVED_RETRY_S)
        return False

    def _session_of(self, customer: int) -> psycopg.Connection | None:
        """Return a session at the owner of a key; None when there is none at the moment."""
        try:
            if self._routing is None:
                self._routing = read_map(self.world, self.database)
            owner = owner_of(self._routing, customer)
            session = self._sessions.get(owner.scope)
            if session is None:
                session = connect(self.world, self._routing, owner, timeout_s=2)
                session.autocommit = True
                self._sessions[owner.scope] = session
            return session
        except (psycopg.Error, ReconcilerError, OSError, KeyError):
            self._routing = None
            return None

    def _hang_up(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def outcome(self) -> Outcome:
        """Look for every acknowledged order on all shards of the map."""
        routing = read_map(self.world, self.database)
        found: Counter[tuple[int, int]] = Counter()
        for owner in routing.owners:
            with connect(self.world, routing, owner) as session:
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
