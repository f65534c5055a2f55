"""Which scope on the platform a wanted shard has, or will get."""

from __future__ import annotations

from string import ascii_lowercase

from reconciler.model.desired import Database
from reconciler.model.names import Scope, ScopeKey, ShardName
from reconciler.model.routing import RoutingMap


def assign_scopes(database: Database, routing: RoutingMap | None) -> dict[ShardName, ScopeKey]:
    """Return each wanted shard's scope.

    A shard that the routing map knows, by its name or by its former one, keeps its scope. Another
    one gets ``<database>-<shard>``, or with a letter behind it when a renamed shard still has that
    scope. The answer depends on names only: an interrupted provisioning finds its own again.
    """
    known = {owner.shard: owner.scope for owner in routing.owners} if routing else {}
    scopes: dict[ShardName, Scope] = {}
    for shard in database.shards:
        former = shard.moved_from
        scope = known.get(shard.name) or (known.get(former) if former else None)
        if scope:
            scopes[shard.name] = scope
    taken = set(known.values())
    for shard in database.shards:
        plain = Scope(f"{database.key.name}-{shard.name}")
        if shard.name not in scopes and plain not in taken:
            scopes[shard.name] = plain
            taken.add(plain)
    for shard in database.shards:
        if shard.name not in scopes:
            scopes[shard.name] = _free_scope(f"{database.key.name}-{shard.name}", taken)
            taken.add(scopes[shard.name])
    return {name: ScopeKey(database.key.namespace, scope) for name, scope in scopes.items()}


def _free_scope(plain: str, taken: set[Scope]) -> Scope:
    """Return the first scope with one or two letters behind it that nobody has."""
    letters = (a + b for a in ("", *ascii_lowercase) for b in ascii_lowercase)
    return next(Scope(plain + end) for end in letters if plain + end not in taken)
