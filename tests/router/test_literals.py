"""The key among a text's constants is the same whether or not the text was parsed."""

from __future__ import annotations

from functools import cache

import pytest

from reconciler.router import literals
from reconciler.router.keyed import Constant
from reconciler.router.literals import Shapes
from reconciler.router.statements import Reading
from tests.router.test_keyed import CONFINED, LOOSE, READER

CONSTANTS = [
    "0", "7", "42", "007", "-5", "- 5", "+5", "999999999", "2147483647", "2147483648",
    "00000000001", "12345678901", "9223372036854775807",
    "12345678901234567890", "123456789012345678901", "1.5", ".5", "5.", "1e5", "1e", "0x1F",
    "1_000", "$1",
    "'", "''", "'42'", "'a''b'", "'a 7 b'", "'--'", "'/*'", "'\"'", "E'4\\'2'", "e'42'", "B'1'",
    "U&'42'", "'4\\2'", "'42", "4'2'", "'1' '2'", "'1'\n'2'", "'42'::bigint", "bigint '42'",
    "NULL", "true",
    "(42)", "/* 3 */ 4", "4 -- 5\n", "$$7$$", "$a$7$a$", '"7"', "x7", "7x", "é7", "\x01", "~0~",
    "5 -- ''", "5 -- '\n OR true --'", "5 /* '' */", "5 /* '*/ OR true /*' */",
    "5 AND $$'$$ || $$'$$", "5 AND $$'$$ OR $$'$$", "5 AND 'a\\' || 'b'", "5 AND 'a\\' OR 'b'",
    "5 AND \"x''\" = 1", "5 AND \"x'\" = 1 OR \"'\" = 1",
    "'~0~'", "100000000", "100000001", "100000000000000000",
]  # fmt: skip
SKELETONS = [
    "SELECT name FROM customers WHERE id = {};",
    "SELECT * FROM orders WHERE customer_id = {} AND id = {} AND note = {}",
    "SELECT * FROM orders WHERE note = {} AND customer_id = {} LIMIT {}",
    "SELECT * FROM orders WHERE customer_id IN ({}, {})",
    "SELECT * FROM orders WHERE customer_id = {} OR id = {}",
    "INSERT INTO orders (id, customer_id, note) VALUES ({}, {}, {})",
    "INSERT INTO orders (customer_id) VALUES ({}), ({})",
    "UPDATE orders SET note = {} WHERE customer_id = {} RETURNING {}",
    "SELECT {} FROM customers WHERE id = {} UNION SELECT {} FROM customers WHERE id = {}",
    "SELECT * FROM orders{} WHERE customer_id = {}",
    "SELECT * FROM customers WHERE id = 4{}2",
    "SET statement_timeout = {}",
    "SELECT {}; SELECT * FROM customers WHERE id = {}",
]


@cache
def parsed(text: str) -> str | None:
    reading: Reading = READER.read_once(text)
    return reading.term.text if isinstance(reading.term, Constant) else None


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("order", [1, -1])
def test_a_key_found_by_its_shape_is_the_parsers(skeleton: str, place: int, order: int) -> None:
    """Each constant teaches the shapes of those that come after it."""
    shapes, found = Shapes(READER.read_once), 0
    for constant in CONSTANTS[::order]:
        constants = ["1"] * 4
        constants[place] = constant
        text = skeleton.format(*constants)
        key = shapes.key_of(text.encode())
        assert key is None or key.decode() == parsed(text), text
        found += key is not None
    assert found or parsed(skeleton.format(*"1234")) is None


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("first", CONSTANTS)
def test_a_key_found_by_what_surrounds_it_is_the_parsers(skeleton: str, first: str) -> None:
    shapes = Shapes(READER.read_once)
    for place in range(skeleton.count("{}")):
        for constant in CONSTANTS:
            constants = ["1"] * 4
            constants[place] = first
            shapes.key_of(skeleton.format(*constants).encode())
            constants[place] = constant
            key = shapes.key_of(skeleton.format(*constants).encode())
            assert key is None or key.decode() == parsed(skeleton.format(*constants)), constants


@pytest.mark.parametrize("text", [text for text, _ in CONFINED] + LOOSE)
def test_the_parsers_cases_hold(text: str) -> None:
    for key in ("42", "3", "7"):
        found = Shapes(READER.read_once).key_of(text.replace("42", key).encode())
        assert found is None or found.decode() == parsed(text.replace("42", key))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("SELECT name FROM customers WHERE id = 42", b"42"),
        ("SELECT name FROM customers WHERE id = 12345678901;", b"12345678901"),
        ("SELECT c1.name FROM customers c1 WHERE c1.id = 42", b"42"),
        ("SELECT name FROM customers WHERE id = '42'::bigint AND note = 'a 7 b'", b"42"),
        ("INSERT INTO orders (id, customer_id, note) VALUES (1, 5, 'x')", b"5"),
        ("UPDATE orders SET note = 'it''s' WHERE customer_id = 9", b"9"),
    ],
)
def test_common_statements_have_a_shape(text: str, key: bytes) -> None:
    assert Shapes(READER.read_once).key_of(text.encode()) == key


def test_a_number_of_too_many_digits_is_no_key_by_what_surrounds_it_either() -> None:
    shapes, text = Shapes(READER.read_once), "SELECT name FROM customers WHERE id = {}"
    alone = Shapes(READER.read_once).key_of(text.format("1" * 20).encode())

    assert shapes.key_of(text.format(42).encode()) == b"42"
    assert shapes.key_of(text.format("1" * 19).encode()) == b"1" * 19
    assert shapes.key_of(text.format("1" * 20).encode()) == alone


def test_a_shape_is_parsed_once() -> None:
    read: list[str] = []

    def note(text: str) -> Reading:
        read.append(text)
        return READER.read_once(text)

    shapes = Shapes(note)
    for key in range(100):
        text = f"SELECT name FROM customers WHERE id = {key}".encode()
        assert shapes.key_of(text) == b"%d" % key
    assert len(read) == 1


def test_a_text_that_differs_in_its_key_alone_is_not_cut_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, shapes = (
        "SELECT name FROM customers WHERE id = {} AND note = 'x'",
        Shapes(READER.read_once),
    )
    for first, second in (("42", "7"), ("'42'", "'a 7'")):
        shapes.key_of(text.format(first).encode())
        with monkeypatch.context() as patch:
            patch.setattr(literals, "_TOKEN", None)
            assert shapes.key_of(text.format(second).encode()) == second.strip("'").encode()
    assert shapes.key_of(text.format("'4\\2'").encode()) is None
