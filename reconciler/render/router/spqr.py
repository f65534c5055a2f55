"""The map as statements for SPQR's console. From its documents; not tried on the real program.

SPQR routes by ordered ranges of a raw value; its own hashes (murmur, city) do not exist in
PostgreSQL, so they can be no row filter of a move. The distribution is therefore declared over an
*integer* that is the hash itself (a stored generated column, as for PgDog), with the identity as
its function. A range ends where the next one begins. The statements are for a coordinator that
has nothing of the database yet; its own ``MOVE KEY RANGE`` is how ranges move later.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model.routing import RoutingMap
from reconciler.render.router.driver import RunStatements, Step
from reconciler.render.router.problems import RouterCannot

_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Spqr:
    """SPQR's driver; ``key_column`` holds the hash."""

    key_column: str = "shard_hash"

    def steps(self, routing: RoutingMap) -> tuple[Step, ...]:
        """Return the statements for its console. Raises RouterCannot."""
        return (RunStatements(tuple(spqr_statements(routing, self.key_column))),)


def spqr_statements(routing: RoutingMap, key_column: str) -> list[str]:
    """Return the statements that make SPQR route by a map, in the order to run them.

    Raises RouterCannot when the ranges leave a gap, which SPQR would give to the range before it.
    """
    ranges = sorted((r, owner.shard) for owner in routing.owners for r in owner.keys.ranges)
    end = 0
    for r, _ in ranges:
        if r.start != end:
            raise RouterCannot(f"database {routing.database}", f"nobody owns the keys before {r}")
        end = r.end
    name = routing.database.name
    statements: list[str] = []
    for owner in routing.owners:
        hosts = ",".join(f"{m.endpoint.host}:{m.endpoint.postgres_port}" for m in owner.members)
        statements.append(f'CREATE SHARD "{owner.shard}" WITH HOSTS "{hosts}"')
    statements.append(f"CREATE DISTRIBUTION {name} COLUMN TYPES integer")
    for table, _ in sorted(routing.tables):
        statements.append(
            f"ALTER DISTRIBUTION {name} ATTACH RELATION {table} DISTRIBUTION KEY {key_column}"
        )
    # SPQR's own order: the last range first, because each is cut off from what follows.
    for number, (r, shard) in reversed(list(enumerate(ranges))):
        statements.append(
            f'CREATE KEY RANGE "{name}_{number}" FROM {r.start - _SIGN} ROUTE TO "{shard}"'
            f" FOR DISTRIBUTION {name}"
        )
    statements += [f"CREATE REFERENCE TABLE {table}" for table in sorted(routing.reference)]
    return statements
