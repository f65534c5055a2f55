"""Cutting SQL files into statements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.spec.statements import line_and_column, split


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        ("  -- nothing\n/* at /* all */ */ ;;", []),
        ("select 1; select 2", ["select 1", "select 2"]),
        ("select ';' ; select 2;", ["select ';'", "select 2"]),
        ("select 'it''s; fine'; x", ["select 'it''s; fine'", "x"]),
        (r"select '\'; select 2", [r"select '\'", "select 2"]),
        (r"select e'\'; '; x", [r"select e'\'; '", "x"]),
        ('select ";" ; x', ['select ";"', "x"]),
        ("select $$;$$; x", ["select $$;$$", "x"]),
        ("do $a$ begin; $$ ; $$ $a$; x", ["do $a$ begin; $$ ; $$ $a$", "x"]),
        ("select a$1; x", ["select a$1", "x"]),
        ("select $1; x", ["select $1", "x"]),
        ("select 1 -- ; not here\n + 1; x", ["select 1 -- ; not here\n + 1", "x"]),
        ("select 1 /* ; /* ; */ ; */ + 1; x", ["select 1 /* ; /* ; */ ; */ + 1", "x"]),
        ("create rule r as on insert to t do (a; b); x", None),
        ("create function f() begin atomic a; select case when true then 1 end; end; x", None),
        ("create or replace procedure p() begin atomic select 1; end; x", None),
        ("select 'never ends; x", ["select 'never ends; x"]),
        ("select $a$ never ends; x", ["select $a$ never ends; x"]),
        ("select 1 /* never ends; x", ["select 1"]),
    ],
)  # fmt: skip
def test_a_semicolon_ends_a_statement_only_where_the_server_thinks_so(
    sql: str, expected: list[str] | None
) -> None:
    assert texts(sql) == (expected or [sql[: -len("; x")], "x"] if expected is None else expected)


@pytest.mark.parametrize(
    "sql",
    ["begin", "BEGIN; x", "commit", "End", "abort", "rollback", "start transaction",
     "/* c */ rollback work", "prepare transaction 'x'", "ROLLBACK AND CHAIN"],
)  # fmt: skip
def test_what_begins_or_ends_a_transaction_is_known(sql: str) -> None:
    assert split(sql)[0].ends_transaction


@pytest.mark.parametrize(
    "sql",
    ["savepoint a", "rollback to a", "rollback to savepoint a", "release a",
     "prepare x as select 1",
     "create function f() returns int begin atomic return 1; end", "select 'commit'", '"begin"'],
)  # fmt: skip
def test_what_leaves_the_transaction_alone_is_known(sql: str) -> None:
    assert not split(sql)[0].ends_transaction


def test_a_statement_knows_its_place() -> None:
    sql = "-- head\nselect 1;\n\n  select é, 2;\n"
    second = split(sql)[1]
    assert line_and_column(sql, second.offset) == (4, 3)


@given(st.text(alphabet=" ;'\"$a1e\\(){}-/*\nbeginENDcreate", max_size=60))
def test_any_text_is_cut_without_error_and_nothing_is_made_up(sql: str) -> None:
    end = 0
    for statement in split(sql):
        assert statement.text
        assert statement.offset >= end
        assert sql[statement.offset :].startswith(statement.text)
        end = statement.offset + len(statement.text)
