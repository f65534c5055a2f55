"""Hashes whose values are known; ``tests/edges/test_hashing.py`` asks real servers for 100,000."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.hashing import (
    NotAKey,
    hash_bytes_extended,
    hashint8extended,
    hashtextextended,
    position_of_key,
    uuid_hash_extended,
)
from reconciler.model.keyspace import position_of_hash

VECTORS: list[tuple[str, str, int]] = [
    ("bigint", "0", 4154612158245552303),
    ("bigint", "1", -3670598878359251130),
    ("bigint", "-1", -1888257769727981238),
    ("bigint", "9223372036854775807", 1977219185673256887),
    ("text", "", -6939563903564495251),
    ("text", "shop", -5618448647713663621),
    ("text", "exactly12byt", -1607044592329689743),
    ("uuid", "00000000-0000-0000-0000-000000000000", -6859010066814654381),
]
"""What PostgreSQL 15 answers to ``select hashint8extended(1, 0)`` and its like, signed."""


@pytest.mark.parametrize(("key_type", "text", "signed"), VECTORS)
def test_a_known_key_has_its_known_hash(key_type: str, text: str, signed: int) -> None:
    assert position_of_key(key_type, text) == signed + (1 << 63)


@given(st.integers(-(1 << 31), (1 << 31) - 1))
def test_an_int_and_a_bigint_of_equal_value_live_on_one_shard(number: int) -> None:
    assert position_of_key("int", str(number)) == position_of_key("bigint", str(number))


@given(st.binary(max_size=40), st.integers(0, (1 << 64) - 1))
def test_a_hash_is_a_number_of_64_bits(key: bytes, seed: int) -> None:
    assert 0 <= hash_bytes_extended(key, seed) < 1 << 64


@given(st.uuids())
def test_a_uuid_is_hashed_by_its_bytes_however_it_is_written(key: UUID) -> None:
    expected = position_of_hash(uuid_hash_extended(key))

    assert uuid_hash_extended(key) == hash_bytes_extended(key.bytes)
    for text in (str(key), key.hex, str(key).upper(), f"{{{key}}}"):
        assert position_of_key("uuid", text) == expected


@given(st.text())
def test_a_text_is_hashed_by_its_utf8(text: str) -> None:
    assert hashtextextended(text) == hash_bytes_extended(text.encode())


def test_a_seed_gives_another_hash() -> None:
    assert hashint8extended(1, 0) != hashint8extended(1, 7)
    assert hashtextextended("a", 1 << 32) != hashtextextended("a", 0)


@pytest.mark.parametrize(
    ("key_type", "text", "why"),
    [
        ("bigint", "twelve", "'twelve' is no bigint"),
        ("bigint", "1.5", "is no bigint"),
        ("int", str(1 << 31), "out of the range of int"),
        ("int", str(-(1 << 31) - 1), "out of the range of int"),
        ("bigint", str(1 << 63), "out of the range of bigint"),
        ("uuid", "1234", "'1234' is no uuid"),
        ("text", "\udcff", "is no text"),  # what a shell's byte that is no UTF-8 becomes in argv
    ],
)
def test_a_text_that_is_no_key_says_why(key_type: str, text: str, why: str) -> None:
    with pytest.raises(NotAKey, match=why):
        position_of_key(key_type, text)
