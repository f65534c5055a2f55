"""Queries over all shards: the condition that keeps a row from being counted twice. Pure.

After a move its source keeps the moved rows until they are pruned, for as long as the way back is
open, and during a move the target already has them. A query over all shards that must see each row
once therefore asks each shard only for the keys that it owns.
"""

from __future__ import annotations

from typing import LiteralString, TypeAlias

from psycopg import sql

from reconciler.model.desired import KeyType
from reconciler.model.hashing import HASH_FUNCTIONS
from reconciler.model.routing import RoutingOwner

Statement: TypeAlias = LiteralString | bytes | sql.SQL | sql.Composed
"""What psycopg executes: a text of the program, never one put together from values."""


def owned_only(
    query: LiteralString, column: str, key_type: KeyType, owner: RoutingOwner
) -> sql.Composed:
    """Return the query with its ``{owned}`` as: this shard owns the row's key.

    ``column`` is the key's column, with an alias if need be (``o.customer_id``).
    """
    return sql.SQL(query).format(owned=_owned(column, key_type, owner))


def _owned(column: str, key_type: KeyType, owner: RoutingOwner) -> sql.Composable:
    # int and bigint of equal value hash alike, and a column of a bigint database may be an int.
    name = HASH_FUNCTIONS[KeyType.BIGINT if key_type is KeyType.INT else key_type]
    hashed = sql.SQL("{}({}, 0)").format(
        sql.Identifier("pg_catalog", name), sql.Identifier(*column.split("."))
    )
    ranges = [
        sql.SQL("{} BETWEEN {}::int8 AND {}::int8").format(
            # Quoted: -9223372036854775808 without quotes is a numeric.
            hashed,
            *(sql.Literal(str(bound)) for bound in r.sql_bounds),
        )
        for r in owner.keys.ranges
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(ranges))
