"""PostgreSQL's extended (seeded, 64-bit) hash functions, bit for bit, in Python.

Written from the published description of Jenkins' lookup3 as PostgreSQL uses it, with the values a
little-endian server computes; verified against servers 15, 16 and 18 (resharding.md, 1.4, and
``tests/edges``). The functions promise nothing between major versions, so every shard is asked for
``SELF_TEST`` when it is observed, and a mismatch is refused.
"""

from __future__ import annotations

from uuid import UUID

from reconciler.model.keyspace import position_of_hash

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_Words = tuple[int, int, int]


def _rotate(x: int, k: int) -> int:
    return (x << k | x >> (32 - k)) & _M32


def _mix(words: _Words) -> _Words:
    a, b, c = words
    a, c = ((a - c) & _M32) ^ _rotate(c, 4), (c + b) & _M32
    b, a = ((b - a) & _M32) ^ _rotate(a, 6), (a + c) & _M32
    c, b = ((c - b) & _M32) ^ _rotate(b, 8), (b + a) & _M32
    a, c = ((a - c) & _M32) ^ _rotate(c, 16), (c + b) & _M32
    b, a = ((b - a) & _M32) ^ _rotate(a, 19), (a + c) & _M32
    c, b = ((c - b) & _M32) ^ _rotate(b, 4), (b + a) & _M32
    return a, b, c


def _final(words: _Words) -> int:
    a, b, c = words
    c = ((c ^ b) - _rotate(b, 14)) & _M32
    a = ((a ^ c) - _rotate(c, 11)) & _M32
    b = ((b ^ a) - _rotate(a, 25)) & _M32
    c = ((c ^ b) - _rotate(b, 16)) & _M32
    a = ((a ^ c) - _rotate(c, 4)) & _M32
    b = ((b ^ a) - _rotate(a, 14)) & _M32
    c = ((c ^ b) - _rotate(b, 24)) & _M32
    return b << 32 | c


def _start(length: int, seed: int) -> _Words:
    a = b = c = (0x9E3779B9 + length + 3923095) & _M32
    if not seed:
        return a, b, c
    return _mix(((a + (seed >> 32)) & _M32, (b + (seed & _M32)) & _M32, c))


def hash_bytes_extended(key: bytes, seed: int = 0) -> int:
    """Return ``hash_bytes_extended`` as an unsigned 64-bit number."""
    a, b, c = _start(len(key), seed & _M64)
    whole = len(key) // 12 * 12
    for i in range(0, whole, 12):
        a = (a + int.from_bytes(key[i : i + 4], "little")) & _M32
        b = (b + int.from_bytes(key[i + 4 : i + 8], "little")) & _M32
        c = (c + int.from_bytes(key[i + 8 : i + 12], "little")) & _M32
        a, b, c = _mix((a, b, c))
    tail = key[whole:]
    a = (a + int.from_bytes(tail[0:4], "little")) & _M32
    b = (b + int.from_bytes(tail[4:8], "little")) & _M32
    c = (
        c + (int.from_bytes(tail[8:11], "little") << 8)
    ) & _M32  # the low byte of c is the length's
    return _final((a, b, c))


def hash_uint32_extended(value: int, seed: int = 0) -> int:
    """Return ``hash_uint32_extended`` as an unsigned 64-bit number."""
    a, b, c = _start(4, seed & _M64)
    return _final(((a + (value & _M32)) & _M32, b, c))


def hashint8extended(value: int, seed: int = 0) -> int:
    """Return ``hashint8extended``; int and bigint of equal value hash alike."""
    low, high = value & _M32, (value >> 32) & _M32
    return hash_uint32_extended(low ^ (high if value >= 0 else ~high & _M32), seed)


def hashtextextended(value: str, seed: int = 0) -> int:
    """Return ``hashtextextended`` in a UTF-8 database under a deterministic collation."""
    return hash_bytes_extended(value.encode(), seed)


def uuid_hash_extended(value: UUID, seed: int = 0) -> int:
    """Return ``uuid_hash_extended``."""
    return hash_bytes_extended(value.bytes, seed)


class NotAKey(ValueError):
    """The text is not a value of the shard key's type."""


_BITS = {"int": 32, "bigint": 64}


def position_of_key(key_type: str, text: str) -> int:
    """Return the position of a key given as text.

    ``key_type`` is bigint, int, text or uuid. Raises NotAKey with the reason.
    """
    try:
        if key_type == "text":
            return position_of_hash(hashtextextended(text))
        if key_type == "uuid":
            return position_of_hash(uuid_hash_extended(UUID(text)))
        number = int(text)
    except ValueError:  # of a text too: a byte that is no UTF-8 comes as a lone surrogate
        raise NotAKey(f"{text!r} is no {key_type}") from None
    if not -(1 << (_BITS[key_type] - 1)) <= number < 1 << (_BITS[key_type] - 1):
        raise NotAKey(f"{text} is out of the range of {key_type}")
    return position_of_hash(hashint8extended(number))


HASH_FUNCTIONS = {
    "bigint": "hashint8extended",
    "int": "hashint4extended",
    "text": "hashtextextended",
    "uuid": "uuid_hash_extended",
}
"""The built-in SQL function for each type of shard key; each may stand in a row filter."""
_WHOLE = {"int4": HASH_FUNCTIONS["int"], "int8": HASH_FUNCTIONS["bigint"]}
COLUMN_HASHES = {
    "int": _WHOLE,
    "bigint": _WHOLE,
    "text": {"text": HASH_FUNCTIONS["text"], "varchar": HASH_FUNCTIONS["text"]},
    "uuid": {"uuid": HASH_FUNCTIONS["uuid"]},
}
"""For each type of shard key the column types that hash alike, and the function for each."""
