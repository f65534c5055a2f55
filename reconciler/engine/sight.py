"""One look at what the rounds of many databases share: etcd's records and the platform's shards.

A round by itself asks etcd for its database's records and the platform for its shards. For a
thousand databases to which nothing happened that is a thousand times nearly the same; one look at
all of it serves them together. What is live in a shard (Patroni, catalogs) is asked by each round
as ever. A round may only rest on a shared look that began after whatever asked for the round, and
what it finds to do is looked at once more, by itself, before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.engine.operations import Operation, Operations, read_operations
from reconciler.engine.ports import Clock, Platform, Store
from reconciler.engine.records import DATABASES, OPERATIONS
from reconciler.model.access import Versioned
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.platform import PlatformShard

MANY = 16
"""So many databases that wait are worth a look at all of them."""
AGE_S = 5.0
"""A shared look is used for this long, and longer when it was dear."""
DEAR = 20
"""At most one part in so many of the time is spent on shared looks."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A shared look; ``began_s`` and ``ended_s`` by the monotonic clock.

    By database: its records by their keys, its shards, and the operations that touched it.
    """

    began_s: float
    ended_s: float
    records: Mapping[DatabaseKey, dict[str, Versioned]]
    shards: Mapping[DatabaseKey, tuple[PlatformShard, ...]]
    operations: Mapping[DatabaseKey, tuple[Operation, ...]]

    def records_of(self, database: DatabaseKey) -> dict[str, Versioned]:
        """Return the records of a database."""
        return self.records.get(database, {})

    def operations_of(self, databases: frozenset[DatabaseKey]) -> Operations:
        """Return the operations that touched one of some databases."""
        found = {o.id: o for key in databases for o in self.operations.get(key, ())}
        return Operations(tuple(sorted(found.values(), key=lambda o: (o.started_at, o.id))))

    def serves(self, since_s: float, now_s: float) -> bool:
        """Tell whether a round that was asked for at ``since_s`` may rest on this look now."""
        kept_s = max(AGE_S, DEAR * (self.ended_s - self.began_s))
        return since_s < self.began_s and now_s - self.began_s <= kept_s

    def may_be_renewed(self, now_s: float) -> bool:
        """Tell whether another look like this one may be paid for again."""
        return now_s - self.ended_s >= DEAR * (self.ended_s - self.began_s)


def survey(platform: Platform, store: Store, clock: Clock) -> Sight:
    """Look at what all databases share. Raises what the platform and the store raise."""
    began_s = clock.monotonic()
    shards: dict[DatabaseKey, list[PlatformShard]] = {}
    for shard in platform.observe():
        shards.setdefault(DatabaseKey(shard.key.namespace, shard.database), []).append(shard)
    operations: dict[DatabaseKey, list[Operation]] = {}
    for operation in read_operations(store.read(OPERATIONS)).all:
        for database in operation.databases:
            operations.setdefault(database, []).append(operation)
    records: dict[DatabaseKey, dict[str, Versioned]] = {}
    for key, item in store.read(DATABASES).items():
        namespace, _, rest = key.removeprefix(DATABASES).partition("/")
        database = DatabaseKey(Namespace(namespace), DatabaseName(rest.partition("/")[0]))
        records.setdefault(database, {})[key] = item
    return Sight(
        began_s,
        clock.monotonic(),
        records,
        {key: tuple(found) for key, found in shards.items()},
        {key: tuple(ran) for key, ran in operations.items()},
    )
