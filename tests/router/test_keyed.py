"""Which keys a statement is confined to; each case is a rule of ``keyed``."""

from __future__ import annotations

import pytest

from reconciler.router.keyed import Constant, Parameter, Tables
from reconciler.router.statements import Kind, Reader

READER = Reader(
    Tables(
        {"public.customers": "id", "public.orders": "customer_id", "public.lines": "customer_id"},
        frozenset(("public.countries",)),
    )
)
CONFINED = [
    ("SELECT * FROM orders WHERE customer_id = 42 AND id = 1", "42"),
    ("SELECT * FROM public.orders o WHERE 42 = o.customer_id", "42"),
    ("SELECT * FROM customers WHERE id = -5", "-5"),
    ("SELECT * FROM customers WHERE id = 12345678901", "12345678901"),
    ("SELECT * FROM customers WHERE id = '42'::bigint", "42"),
    ("SELECT * FROM customers WHERE id = $1::bigint", "$1"),
    ("SELECT * FROM customers WHERE id IN (1, 2)", "1 2"),
    ("SELECT * FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.id = 3", "3"),
    ("SELECT * FROM orders LEFT JOIN lines USING (customer_id) WHERE customer_id = 3", "3"),
    ("SELECT * FROM orders o, countries n WHERE o.customer_id = 3", "3"),
    ("SELECT * FROM orders o LEFT JOIN lines l ON l.customer_id = o.customer_id"
     " WHERE o.customer_id = 3", "3"),
    ("WITH x AS (SELECT * FROM customers WHERE id = 3) SELECT * FROM x", "3"),
    ("SELECT * FROM customers c WHERE id = 3 AND NOT EXISTS"
     " (SELECT FROM orders o WHERE o.customer_id = c.id)", "3"),
    ("SELECT (SELECT count(*) FROM orders WHERE customer_id = 3)", "3"),
    ("INSERT INTO orders (id, customer_id) VALUES (1, 42), (2, 42)", "42"),
    ("INSERT INTO orders (customer_id, id) SELECT customer_id, 5 FROM lines"
     " WHERE customer_id = 9", "9"),
    ("INSERT INTO customers (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id", "$1"),
    ("UPDATE orders SET status = 'x' WHERE customer_id = 0", "0"),
    ("DELETE FROM lines USING orders o WHERE lines.customer_id = o.customer_id"
     " AND o.customer_id = 7", "7"),
    ("EXPLAIN SELECT * FROM customers WHERE id = 3", "3"),
    ("SELECT * FROM customers WHERE id = 3 UNION SELECT * FROM customers WHERE id = 3", "3"),
]  # fmt: skip
LOOSE = [
    "SELECT * FROM customers",
    "SELECT * FROM customers WHERE id = 3 OR name = 'x'",
    "SELECT * FROM customers WHERE NOT id = 3",
    "SELECT * FROM customers WHERE id > 3",
    "SELECT * FROM customers WHERE id = NULL",
    "SELECT * FROM customers WHERE id = id",
    "SELECT * FROM customers WHERE id IN (1, now())",
    "SELECT * FROM customers c, orders o WHERE c.id = 3",
    "SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND c.id = 3",
    "SELECT * FROM customers c WHERE EXISTS"
    " (SELECT FROM orders o WHERE o.customer_id = c.id AND o.customer_id = 3)",
    "SELECT * FROM (SELECT customer_id FROM orders) x WHERE x.customer_id = 3",
    "SELECT * FROM customers WHERE id = 3 UNION SELECT * FROM customers",
    "WITH x AS (SELECT * FROM customers) SELECT * FROM x WHERE x.id = 3",
    "INSERT INTO orders VALUES (42, 1)",
    "INSERT INTO orders (customer_id, id) VALUES (42, 1), (now(), 2)",
    "INSERT INTO orders (customer_id) SELECT id FROM countries",
    "UPDATE orders SET customer_id = 3",
    "DELETE FROM orders WHERE id = 3",
    "SELECT * FROM some_view WHERE id = 3",
    "MERGE INTO orders o USING lines l ON o.customer_id = 3 WHEN MATCHED THEN DELETE",
]


@pytest.mark.parametrize(("text", "keys"), CONFINED)
def test_a_statement_is_confined_to_its_keys(text: str, keys: str) -> None:
    statement = READER.read(text).only
    assert statement is not None
    assert statement.confined.unconfined == ""
    shown = [
        t.text if isinstance(t, Constant) else f"${t.number}" for t in statement.confined.terms
    ]
    assert shown == keys.split()


@pytest.mark.parametrize("text", LOOSE)
def test_what_cannot_be_shown_is_not_confined(text: str) -> None:
    statement = READER.read(text).only
    assert statement is not None
    assert statement.confined.unconfined


@pytest.mark.parametrize(
    "text", ["SELECT 1", "SELECT * FROM countries", "SELECT * FROM pg_class", "SHOW work_mem"]
)
def test_what_every_shard_answers_alike_needs_no_key(text: str) -> None:
    statement = READER.read(text).only
    assert statement is not None
    assert not statement.confined.sharded


def test_a_hint_counts_at_the_ends_only() -> None:
    assert READER.read("/* shard_key: 42 */ SELECT 1").value == "42"
    assert READER.read("SELECT 1 /* shard_key: 'it''s' */;").value == "it's"
    assert READER.read("SELECT '/* shard_key: 42 */' FROM countries").hint == ""
    assert READER.read("/* shard_key: 42 */ BEGIN").statements[0].kind is Kind.BEGIN


def test_parameters_are_told_from_constants() -> None:
    statement = READER.read("SELECT FROM customers WHERE id = $2").only
    assert statement is not None
    assert statement.confined.terms == (Parameter(2),)
