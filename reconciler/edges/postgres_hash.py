"""The self-test of the hash: 64 values a type, the server's answers against model.hashing's.

PostgreSQL promises nothing about these functions between major versions, and big-endian servers
differ. A shard whose hash is another one must never be written to.
"""

from __future__ import annotations

from uuid import UUID

from reconciler.model.hashing import hashint8extended, hashtextextended, uuid_hash_extended

_SIGN = 1 << 63


def _spread(i: int, bits: int) -> int:
    """A fixed, irregular number: multiples of 2**64 / the golden ratio, cut to signed ``bits``."""
    return ((i * 0x9E3779B97F4A7C15) & ((1 << bits) - 1)) - (1 << (bits - 1))


INTS = (0, 1, -1, 2**31 - 1, -(2**31), *(_spread(i, 32) for i in range(1, 60)))
BIGINTS = (0, -1, 2**32, 2**63 - 1, -(2**63), *(_spread(i, 64) for i in range(1, 60)))
TEXTS = tuple("aé漢🙂"[i % 4] * (i % 5) + "x" * i for i in range(64))
UUIDS = tuple(UUID(int=(i * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)) for i in range(64))

SQL = """
SELECT ARRAY(SELECT hashint4extended(v, 0) FROM unnest(%s::int4[]) WITH ORDINALITY u(v, o) ORDER BY o),
       ARRAY(SELECT hashint8extended(v, 0) FROM unnest(%s::int8[]) WITH ORDINALITY u(v, o) ORDER BY o),
       ARRAY(SELECT hashtextextended(v, 0) FROM unnest(%s::text[]) WITH ORDINALITY u(v, o) ORDER BY o),
       ARRAY(SELECT uuid_hash_extended(v, 0) FROM unnest(%s::uuid[]) WITH ORDINALITY u(v, o) ORDER BY o)
"""  # noqa: E501
PARAMETERS = (list(INTS), list(BIGINTS), list(TEXTS), list(UUIDS))


def expected() -> tuple[list[int], ...]:
    """Return what a server must answer, as signed numbers."""
    return (
        [_signed(hashint8extended(v)) for v in INTS],
        [_signed(hashint8extended(v)) for v in BIGINTS],
        [_signed(hashtextextended(v)) for v in TEXTS],
        [_signed(uuid_hash_extended(v)) for v in UUIDS],
    )


def _signed(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= _SIGN else unsigned
