"""A step before it is linked: in which lane it runs, and at which place of the shard's story.

A step has a lane (a shard, or the database) and a rank: its place in the order that ``planner``
makes of all steps. The ranks read as the story of a shard, from its start to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from reconciler.model.desired import Database, Shard
from reconciler.model.names import DatabaseKey, ScopeKey, ShardName
from reconciler.model.platform import ShardBlueprint
from reconciler.model.routing import RoutingMap
from reconciler.plan.actions import Step


class Rank(IntEnum):
    """Where a step stands in its lane."""

    START = 0
    ADD = 1
    CONFIGURE = 2
    RESTART = 3
    SETUP = 4
    PASSWORDS = 5
    SCHEMA = 6
    GUARDS = 7
    ROUTING = 8
    MOVE = 9
    SHRINK = 10
    RETIRE = 11
    RECORD = 12


@dataclass(frozen=True, slots=True)
class Ranked:
    """A step before it is linked. ``lane`` None is the database's own."""

    step: Step
    rank: Rank
    lane: ScopeKey | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a change alone does not say: the specs, and the routing maps as seen."""

    databases: Mapping[DatabaseKey, Database]
    shards: Mapping[tuple[DatabaseKey, ShardName], Shard]
    routing: Mapping[DatabaseKey, RoutingMap]

    def blueprint(self, key: DatabaseKey, name: ShardName, scope: ScopeKey) -> ShardBlueprint:
        """Return what the platform needs to run a wanted shard."""
        return self.databases[key].blueprint(self.shards[key, name], scope.scope)


def context_of(databases: Iterable[Database], routing: Mapping[DatabaseKey, RoutingMap]) -> Context:
    """Return the context of specs and maps."""
    wanted = {database.key: database for database in databases}
    shards = {(d.key, shard.name): shard for d in wanted.values() for shard in d.shards}
    return Context(wanted, shards, routing)
