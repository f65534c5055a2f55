"""The map as PgDog's ``pgdog.toml``. From its documents; not tried on the real program.

Its documents' order for a change: the file, then ``MAINTENANCE ON`` (clients wait), ``RELOAD`` and
``MAINTENANCE OFF``, each on all instances.

PgDog hashes keys with PostgreSQL's *partition* hash (another seed) and a modulus over the number
of shards, which can never agree with ranges of the seed-0 hash. Its ``.mapping`` tables compare
raw values of a column. So a map can be said only when there is nothing to choose, which is one
shard that owns everything; or by a column that holds the hash itself: ``key_column`` names a
generated column (``GENERATED ALWAYS AS (hashint8extended(customer_id, 0)) STORED``) that the
application gives in its queries. Ranges are signed bigints, the start in, the end out.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model.keyspace import SPACE_END, WHOLE
from reconciler.model.names import app_role
from reconciler.model.routing import RoutingMap
from reconciler.render.router.driver import RunStatements, Step, WriteFile
from reconciler.render.router.problems import RouterCannot

_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class PgDog:
    """PgDog's driver; ``key_column`` holds the hash."""

    key_column: str = ""

    def steps(self, routing: RoutingMap) -> tuple[Step, ...]:
        """Return the file and how it is taken up. Raises RouterCannot."""
        return (
            WriteFile("pgdog.toml", render_pgdog(routing, self.key_column)),
            RunStatements(("MAINTENANCE ON",)),
            RunStatements(("RELOAD",)),
            RunStatements(("MAINTENANCE OFF",)),
        )


def render_pgdog(routing: RoutingMap, key_column: str = "") -> str:
    """Return the [[databases]], [[sharded_tables]] and [[sharded_mappings]] of a map.

    Raises RouterCannot when several shards would need PgDog to hash as we do.
    """
    serving = [owner for owner in routing.owners if owner.keys]
    whole = len(serving) == 1 and serving[0].keys.ranges == (WHOLE,)
    if not whole and not key_column:
        raise RouterCannot(
            f"database {routing.database}",
            "PgDog's hash is PostgreSQL's partition hash with a modulus; ours are ranges of seed 0",
            remedy="add a stored column with the hash to each table and name it as key_column",
        )
    lines = [f"# Shardwright: {routing.database}, epoch {routing.epoch}. Do not edit."]
    for number, owner in enumerate(serving):
        for member in owner.members:
            lines += ["", "[[databases]]", f'name = "{routing.database.name}"',
                      f'host = "{member.endpoint.host}"', f"port = {member.endpoint.postgres_port}",
                      'role = "auto"', f"shard = {number}",
                      f'user = "{app_role(routing.database.name)}"']  # fmt: skip
    if whole:
        return "\n".join(lines) + "\n"
    lines += ["", "[[sharded_tables]]", f'database = "{routing.database.name}"',
              f'column = "{key_column}"', 'data_type = "bigint"']  # fmt: skip
    for number, owner in enumerate(serving):
        for r in owner.keys.ranges:
            lines += ["", "[[sharded_mappings]]", f'database = "{routing.database.name}"',
                      f'column = "{key_column}"', 'kind = "range"']  # fmt: skip
            if r.start:
                lines.append(f"start = {r.start - _SIGN}")
            if r.end != SPACE_END:  # left out, the range has no end: 2**63 is no bigint
                lines.append(f"end = {r.end - _SIGN}")
            lines.append(f"shard = {number}")
    return "\n".join(lines) + "\n"
