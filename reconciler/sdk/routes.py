"""From a key to its owner: the routing map as a table that is searched in microseconds. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from reconciler.model.desired import KeyType
from reconciler.model.hashing import hashint8extended, hashtextextended, uuid_hash_extended
from reconciler.model.keyspace import position_of_hash
from reconciler.model.names import Epoch
from reconciler.model.routing import RoutingMap, RoutingOwner
from reconciler.sdk.errors import KeyTypeMismatch, NoOwner

Key: TypeAlias = int | str | UUID
"""A value of the shard key; which of them is the database's ``sharding.type``."""

_INT_MAX = {KeyType.INT: 1 << 31, KeyType.BIGINT: 1 << 63}


@dataclass(frozen=True, slots=True)
class Routes:
    """One routing map, indexed. ``starts`` are the first positions of ranges, ``owners`` theirs."""

    routing: RoutingMap
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    owners: tuple[RoutingOwner, ...]

    @property
    def epoch(self) -> Epoch:
        """The map's epoch."""
        return self.routing.epoch

    def owner(self, key: Key) -> RoutingOwner:
        """Return the owner of a key. Raises KeyTypeMismatch, NoOwner."""
        position = position_of(self.routing.key_type, key)
        index = bisect_right(self.starts, position) - 1
        if index < 0 or position >= self.ends[index]:
            raise NoOwner(
                f"database {self.routing.database}",
                f"no shard owns position {position:016x} in its routing map (epoch {self.epoch})",
                remedy="shardwright get shards; shardwright doctor",
            )
        return self.owners[index]

    def serving(self) -> tuple[RoutingOwner, ...]:
        """Return the shards that own keys, in the map's order."""
        return tuple(owner for owner in self.routing.owners if owner.keys)

    def newest(self, owner: RoutingOwner) -> RoutingOwner:
        """Return a shard as this map has it; as it was known when the map has it no more."""
        return next((o for o in self.routing.owners if o.scope == owner.scope), owner)


def index_routes(routing: RoutingMap) -> Routes:
    """Return a routing map as a table."""
    ranges = sorted(
        ((r.start, r.end, owner) for owner in routing.owners for r in owner.keys.ranges),
        key=lambda entry: entry[0],
    )
    return Routes(
        routing,
        tuple(start for start, _, _ in ranges),
        tuple(end for _, end, _ in ranges),
        tuple(owner for _, _, owner in ranges),
    )


def position_of(key_type: KeyType, key: Key) -> int:
    """Return a key's position in the key space. Raises KeyTypeMismatch."""
    match key:
        case bool():
            raise _mismatch(key_type, key)
        case int() if key_type in _INT_MAX:
            if not -_INT_MAX[key_type] <= key < _INT_MAX[key_type]:
                raise KeyTypeMismatch("shard key", f"{key} is out of the range of {key_type}")
            return position_of_hash(hashint8extended(key))
        case str() if key_type is KeyType.TEXT:
            return position_of_hash(hashtextextended(_storable(key)))
        case UUID() if key_type is KeyType.UUID:
            return position_of_hash(uuid_hash_extended(key))
    raise _mismatch(key_type, key)


def _storable(text: str) -> str:
    """Return the text. Raises KeyTypeMismatch for one that PostgreSQL cannot hold."""
    if "\0" in text:
        raise KeyTypeMismatch("shard key", "a text with a NUL character cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise KeyTypeMismatch("shard key", "a text with a lone surrogate is not UTF-8") from None
    return text


def _mismatch(key_type: KeyType, key: object) -> KeyTypeMismatch:
    # The key's value is the application's data and stays out of the text.
    wanted = {KeyType.TEXT: "a str", KeyType.UUID: "a uuid.UUID"}.get(key_type, "an int")
    return KeyTypeMismatch(
        "shard key",
        f"is a {type(key).__name__}; the database is sharded by {key_type}, which wants {wanted}",
        remedy=f"convert it to {wanted} where it comes from",
    )
