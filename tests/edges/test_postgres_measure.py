"""The number that a gate's query answers, as the owner, who cannot write meanwhile."""

from __future__ import annotations

import pytest

from reconciler.edges.postgres import PostgresSql
from reconciler.edges.postgres_measure import NotANumber
from reconciler.edges.postgres_session import PostgresTimeouts, StatementRefused, StatementTimedOut
from tests.edges.shard import TestShard, schema_file


def _measure(shard: TestShard, text: str, look_ms: int = 5_000) -> float:
    edge = PostgresSql(PostgresTimeouts(look_ms=look_ms))
    return edge.measure(shard.login, shard.primary, shard.database, shard.owner, text)


@pytest.fixture
def filled(shard: TestShard) -> TestShard:
    shard.apply(schema_file("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)"))
    return shard


@pytest.mark.parametrize(
    ("text", "number"),
    [("SELECT count(*) FROM t", 2.0), ("SELECT 0.25", 0.25), ("SELECT current_user = 'x'", 0.0),
     ("SELECT 1.5::float8;", 1.5)],
)  # fmt: skip
def test_a_number_is_a_number_and_true_is_one(filled: TestShard, text: str, number: float) -> None:
    assert _measure(filled, text) == number


@pytest.mark.parametrize(
    "text",
    ["SELECT 1, 2", "SELECT id FROM t", "SELECT id FROM t WHERE false", "SELECT 'many'",
     "SELECT NULL"],
)  # fmt: skip
def test_anything_else_is_told(filled: TestShard, text: str) -> None:
    with pytest.raises(NotANumber):
        _measure(filled, text)


def test_it_cannot_write_whatever_it_says(filled: TestShard) -> None:
    with pytest.raises(NotANumber, match="only reads"):
        _measure(filled, "DELETE FROM t RETURNING 1")
    with pytest.raises(NotANumber, match="only reads"):
        _measure(filled, "WITH x AS (INSERT INTO t VALUES (9) RETURNING id) SELECT id FROM x")
    with pytest.raises(StatementRefused, match="multiple commands"):
        _measure(filled, "SET default_transaction_read_only = off; DELETE FROM t")
    assert _measure(filled, "SELECT count(*) FROM t") == 2.0


def test_it_is_bounded(filled: TestShard) -> None:
    with pytest.raises(StatementTimedOut):
        _measure(filled, "SELECT 1 FROM pg_sleep(60)", look_ms=200)
