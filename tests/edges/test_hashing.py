"""Our hash against real servers: 100,000 values, random ones and those at the edges."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from reconciler.edges import postgres_hash
from reconciler.edges.postgres_catalog import HashTests
from reconciler.model.desired import KeyType
from reconciler.model.hashing import (
    HASH_FUNCTIONS,
    hashint8extended,
    hashtextextended,
    position_of_key,
    uuid_hash_extended,
)
from reconciler.model.keyspace import position_of_hash
from tests.edges.shard import TestShard

COUNT = 25_000
RANDOM = random.Random(3)  # noqa: S311 (the same values in every run)


def _ints(bits: int) -> list[int]:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    edges = [low, low + 1, -1, 0, 1, high - 1, high, *(1 << i for i in range(bits - 1))]
    return edges + [RANDOM.randint(low, high) for _ in range(COUNT - len(edges))]


def _texts() -> list[str]:
    alphabet = "aZ09 _-'\"\\\n\té漢🙂\u0001\uffff"
    edges = ["", " ", "\\", "'", "é" * 100, "x" * 10_000, *("y" * i for i in range(40))]
    return edges + [
        "".join(RANDOM.choices(alphabet, k=RANDOM.randint(0, 60)))
        for _ in range(COUNT - len(edges))
    ]


def _uuids() -> list[UUID]:
    return [UUID(int=0), UUID(int=(1 << 128) - 1)] + [
        UUID(int=RANDOM.getrandbits(128)) for _ in range(COUNT - 2)
    ]


CASES: list[tuple[str, list[Any], Callable[[Any], int]]] = [
    ("int", _ints(32), hashint8extended),
    ("bigint", _ints(64), hashint8extended),
    ("text", _texts(), hashtextextended),
    ("uuid", _uuids(), uuid_hash_extended),
]


@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
def test_every_value_hashes_as_the_server_hashes_it(
    shard: TestShard, case: tuple[str, list[Any], Callable[[Any], int]]
) -> None:
    name, values, ours = case
    query = (
        f"SELECT ARRAY(SELECT {HASH_FUNCTIONS[name]}(v, 0)"
        f" FROM unnest(%s::{name}[]) WITH ORDINALITY u(v, o) ORDER BY o)"
    )
    with shard.connect() as connection:
        row = connection.execute(query, [values]).fetchone()
    assert row is not None

    wrong = [
        (value, theirs)
        for value, theirs in zip(values, row[0], strict=True)
        if ours(value) != theirs % (1 << 64)
    ]

    assert wrong == []


def test_the_position_of_a_key_is_the_servers_hash_with_the_sign_bit_flipped(
    shard: TestShard,
) -> None:
    keys = {"int": "42", "bigint": "-7", "text": "naïve", "uuid": str(UUID(int=5))}
    with shard.connect() as connection:
        for kind, text in keys.items():
            row = connection.execute(f"SELECT {HASH_FUNCTIONS[kind]}(%s::{kind}, 0)", [text])
            (theirs,) = row.fetchone() or (None,)
            assert theirs is not None
            assert position_of_key(KeyType(kind), text) == position_of_hash(theirs % (1 << 64))


def test_a_server_that_hashes_otherwise_fails_the_self_test(
    shard: TestShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shard.connect() as connection:
        assert HashTests().run(connection, "this", 1)
        broken = postgres_hash.SQL.replace("hashtextextended(v, 0)", "hashtextextended(v, 1)")
        monkeypatch.setattr(postgres_hash, "SQL", broken)
        tests = HashTests()
        assert not tests.run(connection, "other", 1)
        monkeypatch.undo()
        assert not tests.run(connection, "other", 1), "the answer is remembered"
        assert tests.run(connection, "other", 2), "another version is asked again"


def test_the_self_test_holds_64_values_a_type() -> None:
    assert [len(values) for values in postgres_hash.PARAMETERS] == [64, 64, 64, 64]
    assert all(len(set(values)) == 64 for values in _each(postgres_hash.PARAMETERS))


def _each(values: tuple[list[Any], ...]) -> Iterator[list[Any]]:
    yield from values
