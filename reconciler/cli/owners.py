"""Routing maps by the name that a user types, and the owner of a key in one."""

from __future__ import annotations

from difflib import get_close_matches

from reconciler.engine.records import DATABASES, database_of_key, decode_routing, routing_key
from reconciler.engine.world import World
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import NotAKey, position_of_key
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.routing import RoutingMap, RoutingOwner


class NoRoutingMap(ReconcilerError):
    """A database has no routing map, so nobody can say where a key is.

    The map is published when the first apply of a database has provisioned its shards.
    """

    code = "CL006"


class KeyNotUsable(ReconcilerError):
    """A key is no value of the database's shard key type."""

    code = "CL007"


class KeyWithoutOwner(ReconcilerError):
    """No shard owns a key: the routing map has a gap.

    A map is only published without gaps, so this one was damaged. Nothing should write this key.
    """

    code = "CL008"


def database_key(name: str) -> DatabaseKey:
    """Return the database that ``shop`` or ``team/shop`` names."""
    namespace, _, rest = name.rpartition("/")
    return DatabaseKey(Namespace(namespace or "default"), DatabaseName(rest))


def read_routing(world: World, name: str) -> RoutingMap:
    """Return a database's routing map. Raises NoRoutingMap and what etcd raises."""
    key = database_key(name)
    at = routing_key(key)
    found = world.eyes.store.read(DATABASES)
    if at in found:
        return decode_routing(at, found[at].value, found[at].version)
    owners = [database_of_key(one) for one in found]
    known = sorted({str(owner[0]) for owner in owners if owner and owner[1] == "routing"})
    near = get_close_matches(name, known, n=1)
    there = (
        f"there are: {', '.join(known)}" if known else "publish one: shardwright apply -f specs/"
    )
    remedy = f"did you mean {near[0]}?" if near else there
    raise NoRoutingMap(f"database {name}", "has no routing map", remedy=remedy)


def owner_of(routing: RoutingMap, key: str) -> tuple[int, RoutingOwner]:
    """Return a key's position and its owner. Raises KeyNotUsable and KeyWithoutOwner."""
    try:
        position = position_of_key(routing.key_type.value, key)
    except NotAKey as problem:
        kind = routing.key_type.value
        raise KeyNotUsable(
            f"database {routing.database}", str(problem), remedy=f"give a {kind}"
        ) from None
    owner = routing.owner_of(position)
    if owner is None:
        raise KeyWithoutOwner(f"database {routing.database}", f"no shard owns {position:016x}")
    return position, owner


def shard_named(routing: RoutingMap, name: str) -> RoutingOwner:
    """Return a shard by its name. Raises KeyWithoutOwner."""
    for owner in routing.owners:
        if owner.shard == name:
            return owner
    known = ", ".join(owner.shard for owner in routing.owners)
    raise KeyWithoutOwner(
        f"database {routing.database}", f"has no shard {name}", remedy=f"there are: {known}"
    )
