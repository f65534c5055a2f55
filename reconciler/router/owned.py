"""A read of all shards that sees each row once: every shard is asked for the keys it owns. Pure.

While keys move, and as long as the way back is open, their rows are at two shards. So each sharded
table in the text is put as a subquery that has only the owner's keys; PostgreSQL's planner takes
such a subquery apart again, and the conditions with it.
"""

from __future__ import annotations

import re

from reconciler.model.desired import KeyType
from reconciler.model.hashing import HASH_FUNCTIONS
from reconciler.model.routing import RoutingMap
from reconciler.router.keyed import Spot
from reconciler.router.wire import Refusal

_PART = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_NAME = re.compile(rf"{_PART}(?:\s*\.\s*{_PART})*")
_PARTS = re.compile(_PART)
_TABLE_COMMAND = re.compile(rb"\btable\s*\Z", re.IGNORECASE)


def owned_text(text: bytes, spots: tuple[Spot, ...], routing: RoutingMap, index: int) -> bytes:
    """Return a SELECT confined to the keys of one owner. Raises Refusal where it cannot be."""
    for spot in sorted(spots, key=lambda one: one.at, reverse=True):
        before, after = text[: spot.at], text[spot.at :]
        written = _written(before, after.decode(), spot)
        alias = "" if spot.aliased else f" AS {_quoted(spot.name[-1])}"
        mine = _owned(spot.key, routing, index)
        inside = f"(SELECT * FROM {written} WHERE {mine}){alias}"  # noqa: S608  from the map
        text = before + inside.encode() + after[len(written.encode()) :]
    return text


def _written(before: bytes, after: str, spot: Spot) -> str:
    """Return a table's name as it is written, and make sure that it is the one of the tree."""
    match = _NAME.match(after)
    parts = tuple(map(_meant, _PARTS.findall(match[0]))) if match else ()
    if match is None or parts != spot.name or not spot.whole or _TABLE_COMMAND.search(before):
        raise Refusal(
            "0A000",
            f"{spot.name[-1]} cannot be confined to each shard's own keys as it is written",
            "write it as FROM schema.table, without ONLY, or ask one shard: /* shard: NAME */",
        )
    return match[0]


def _meant(part: str) -> str:
    return part[1:-1].replace('""', '"') if part[0] == '"' else part.lower()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _owned(column: str, routing: RoutingMap, index: int) -> str:
    # int and bigint of equal value hash alike, and a column of a bigint database may be an int.
    kind = KeyType.BIGINT if routing.key_type is KeyType.INT else routing.key_type
    position = f"pg_catalog.{HASH_FUNCTIONS[kind]}({_quoted(column)}, 0)"
    ranges = (r.sql_bounds for r in routing.owners[index].keys.ranges)
    # Quoted: -9223372036854775808 without quotes is a numeric.
    return " OR ".join(
        f"{position} BETWEEN '{low}'::int8 AND '{high}'::int8" for low, high in ranges
    )
