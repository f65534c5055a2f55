"""The routing map as the router uses it: keys to shards, and clients that wait for a newer one."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from uuid import UUID

from reconciler.model.hashing import NotAKey, position_of_key
from reconciler.model.names import ShardName
from reconciler.model.routing import RoutingMap, RoutingOwner
from reconciler.router.keyed import Constant, Tables, Term
from reconciler.router.literals import Shapes
from reconciler.router.statements import Kind, Reader, Reading, Statement, hinted
from reconciler.router.wire import Bind, Refusal

POSITIONS_MAX = 100_000
"""Keys whose position is remembered; hashing one costs some microseconds."""
HELD_MAX = 10_000
"""Clients that may wait for a new map at once; see ``Routes.newer``."""


@dataclass(frozen=True, slots=True)
class ToShard:
    """Send it to this owner (index into the map's owners)."""

    owner: int


@dataclass(frozen=True, slots=True)
class Anywhere:
    """Every shard answers alike."""


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Ask every shard, and give all their rows."""


Destination = ToShard | Anywhere | Everywhere


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a session asked for: ``SET shardwright.key``, ``.shard`` and ``.scatter``."""

    key: str = ""
    shard: str = ""
    scatter: str = "off"


class CompiledMap:
    """One routing map, ready for look-ups."""

    def __init__(self, routing: RoutingMap) -> None:
        self.routing = routing
        self.epoch = int(routing.epoch)
        self.reader = Reader(Tables(dict(routing.tables), frozenset(routing.reference)))
        self.shapes = Shapes(self.reader.read_once)
        ranges = sorted(
            (r.start, r.end, index)
            for index, owner in enumerate(routing.owners)
            for r in owner.keys.ranges
        )
        self._starts = [start for start, _, _ in ranges]
        self._ranges = ranges
        self._known: dict[str, int] = {}
        self._by_name = {owner.shard: index for index, owner in enumerate(routing.owners)}
        self._owners: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        self.scopes = tuple(
            ((str(owner.scope), False), (str(owner.scope), True)) for owner in routing.owners
        )
        """Of each owner: its primary and its standbys."""
        self.serving = tuple(i for i, owner in enumerate(routing.owners) if owner.keys)

    def owner(self, index: int) -> RoutingOwner:
        """Return an owner by its index."""
        return self.routing.owners[index]

    def of_key(self, key: str) -> int:
        """Return the owner of a key. Raises Refusal."""
        known = self._known.get(key)
        if known is not None:
            return known
        try:
            position = position_of_key(self.routing.key_type.value, key)
        except NotAKey as problem:
            raise Refusal("22023", f"not a shard key: {problem}") from None
        at = bisect_right(self._starts, position) - 1
        if at < 0 or position >= self._ranges[at][1]:
            raise Refusal("58000", f"no shard owns key {key} in epoch {self.epoch}")
        if len(self._known) >= POSITIONS_MAX:
            self._known.clear()
        self._known[key] = self._ranges[at][2]
        return self._ranges[at][2]

    def of_another_shard(self, began: str, then: int, wanted: str) -> Refusal:
        """Return why a statement cannot be of a transaction that began at a shard by a map.

        By this very map it is the client's mistake; by an earlier one it may be run again, as after
        the guard's own refusal: nothing of it is committed.
        """
        problem = f"this transaction is of shard {began}, the statement of {wanted}"
        if self.epoch == then:
            return Refusal("0A000", problem, "a transaction is of one shard; end it first")
        moved = f"{problem}: keys have moved since it began (epoch {then}, now {self.epoch})"
        return Refusal("PS001", moved, "roll back and run the transaction again")

    def owner_of(self, value: bytes, *, binary: bool) -> int:
        """Return the owner of a key as it came in a Bind or a hint. Raises Refusal."""
        known = self._owners[binary].get(value)
        if known is not None:
            return known
        owner = self.of_key(self._binary(value) if binary else value.decode(errors="replace"))
        if len(self._owners[binary]) >= POSITIONS_MAX:
            self._owners[binary].clear()
        self._owners[binary][value] = owner
        return owner

    def named(self, shard: str) -> int:
        """Return an owner by its shard's name. Raises Refusal."""
        index = self._by_name.get(ShardName(shard))
        if index is not None:
            return index
        there = ", ".join(owner.shard for owner in self.routing.owners)
        raise Refusal("22023", f"there is no shard {shard}", f"there are: {there}")

    def destination(self, reading: Reading, wishes: Wishes, bind: Bind | None) -> Destination:
        """Return where a text goes outside any pinned transaction. Raises Refusal."""
        if reading.hint == "shard_key":
            return ToShard(self.of_key(self.value(hinted(reading.value), bind)))
        if reading.hint == "shard":
            return ToShard(self.named(reading.value))
        if len(self.serving) == 1:
            return ToShard(self.serving[0])
        if wishes.shard or wishes.key:
            return ToShard(self.named(wishes.shard) if wishes.shard else self.of_key(wishes.key))
        scatter = reading.value if reading.hint == "scatter" else wishes.scatter
        found = {self._one(s, scatter, bind, alone=reading.only is s) for s in reading.statements}
        found.discard(Anywhere())
        if len(found) > 1:
            raise _several()
        return found.pop() if found else Anywhere()

    def _one(
        self, statement: Statement, scatter: str, bind: Bind | None, *, alone: bool
    ) -> Destination:
        confined = statement.confined
        if confined.terms and not confined.unconfined:
            owners = {self.of_key(self.value(term, bind)) for term in confined.terms}
            if len(owners) == 1:
                return ToShard(owners.pop())
            if not (alone and _may_scatter(statement, scatter)):
                raise _several()
            return _everywhere(statement)
        if not confined.sharded:
            if statement.kind is Kind.WRITE and confined.shared:
                raise Refusal(
                    "0A000",
                    "a reference table is written on every shard, one by one",
                    "put /* shard: NAME */ before the statement, once for each shard",
                )
            return Anywhere()
        if alone and _may_scatter(statement, scatter):
            return _everywhere(statement)
        raise _no_key(statement, scatter)

    def value(self, term: Term, bind: Bind | None) -> str:
        """Return a key as text. Raises Refusal."""
        if isinstance(term, Constant):
            return term.text
        if bind is None or not 0 < term.number <= len(bind.values):
            raise Refusal("08P01", f"the shard key is parameter ${term.number}, which has no value")
        data = bind.values[term.number - 1]
        if data is None:
            raise Refusal("22004", "the shard key is NULL")
        if not bind.is_binary(term.number - 1):
            return data.decode(errors="replace")
        return self._binary(data)

    def _binary(self, data: bytes) -> str:
        kind = self.routing.key_type.value
        if kind in ("int", "bigint") and len(data) in (2, 4, 8):
            return str(int.from_bytes(data, "big", signed=True))
        if kind == "uuid" and len(data) == 16:
            return str(UUID(bytes=data))
        if kind == "text":
            return data.decode(errors="replace")
        raise Refusal("22P03", f"a binary parameter of {len(data)} bytes is no {kind} shard key")


def _may_scatter(statement: Statement, scatter: str) -> bool:
    reads = statement.kind is Kind.READ
    return reads and (scatter == "raw" or (scatter == "on" and not statement.apart))


def _everywhere(statement: Statement) -> Everywhere:
    """Every shard is asked for the keys that it owns, so each table must be one with a key."""
    if unknown := statement.confined.unknown:
        raise Refusal(
            "0A000",
            f"{unknown} is not in the routing map, so rows of moved keys in it could come twice",
            "ask for the sharded tables themselves, or one shard: /* shard: NAME */",
        )
    return Everywhere()


def _several() -> Refusal:
    return Refusal(
        "0A000",
        "the statement needs rows of several shards",
        "split it by key; for reads: SET shardwright.scatter = on",
    )


def _no_key(statement: Statement, scatter: str) -> Refusal:
    if statement.kind is Kind.READ and scatter == "on":
        return Refusal(
            "0A000",
            f"the rows of several shards cannot be put together: {statement.apart} possible",
            "confine it to one key, or SET shardwright.scatter = raw to get each shard's own rows",
        )
    what = statement.confined.unconfined
    reason = f"{what} is not confined to a shard key" if what else "no shard key"
    hint = "write WHERE key = value, /* shard_key: VALUE */ before it, or SET shardwright.key"
    if statement.kind is Kind.READ:
        hint += "; to ask every shard: SET shardwright.scatter = on"
    return Refusal("0A000", f"cannot tell which shard this is for: {reason}", hint)


class Routes:
    """The current map, replaced whole; and the clients that wait for a newer one, in order."""

    def __init__(self, held_max: int = HELD_MAX) -> None:
        self.current: CompiledMap | None = None
        self._held: deque[asyncio.Future[None]] = deque()
        self._held_max = held_max
        self.held_total = 0

    def replace(self, routing: RoutingMap) -> bool:
        """Take a map, and wake those who wait; False for the same.

        One of a lower epoch is taken, too, as by the SDK: what etcd says is the map, also after it
        was restored from a backup (``sdk.feed`` keeps answers that come late out). A router that
        stayed with its own would acknowledge an epoch of a history that is gone, so that a move
        pruned rows which it still reads. What the older map has wrong the shards refuse.
        """
        if self.current is not None and routing == self.current.routing:
            return False
        self.current = CompiledMap(routing)
        while self._held:
            waiter = self._held.popleft()
            if not waiter.done():
                waiter.set_result(None)
        return True

    async def newer(self, epoch: int, timeout_s: float) -> bool:
        """Wait until the map is of another epoch; False when it is not in time.

        Raises Refusal when too many wait already.
        """
        if self.current is not None and self.current.epoch != epoch:
            return True
        if len(self._held) >= self._held_max:
            raise Refusal("PS001", f"{self._held_max} clients wait for a new routing map already")
        waiter = asyncio.get_running_loop().create_future()
        self._held.append(waiter)
        self.held_total += 1
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            if waiter in self._held:
                self._held.remove(waiter)
        return self.current is not None and self.current.epoch != epoch

    def get(self) -> CompiledMap:
        """Return the current map. Raises Refusal before there is one."""
        if self.current is None:
            raise Refusal("57P03", "the router has no routing map yet", "wait for etcd")
        return self.current
