"""What a shard has that no schema file makes, as far as the files' text is certain about it."""

from __future__ import annotations

import pytest

from reconciler.model.moves import SchemaObject
from reconciler.spec.objects import unmade_objects
from tests.worlds import schema_file

RICH = SchemaObject("view", "public.rich")


def unmade(text: str, *objects: SchemaObject) -> list[str]:
    return [o.reason for o in unmade_objects([schema_file("1", text)], objects, "s0", "s1")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("CREATE VIEW rich AS TABLE a", RICH),
        ("create or replace view public.RICH as table a", RICH),
        ('CREATE VIEW "Odd. (One)" AS TABLE a', SchemaObject("view", 'public."Odd. (One)"')),
        ("CREATE FUNCTION f(a text) RETURNS …", SchemaObject("function", "app.f(text,my.t)")),
        ("CREATE EXTENSION citext", SchemaObject("extension", "citext")),
        ("-- rich is by hand\nCREATE TABLE a (id int)", RICH),
    ],
)
def test_what_a_file_may_make_is_not_told(text: str, found: SchemaObject) -> None:
    assert unmade(text, found) == []


def test_what_no_file_speaks_of_is_told_with_its_cure() -> None:
    (told,) = unmade_objects([schema_file("1", "CREATE TABLE a (id int)")], [RICH], "s0", "s1")

    assert told.reason == (
        "view public.rich is at s0, and no schema file makes it, so s1 would not have it"
    )
    assert told.cure == "add a schema file that makes it where it is missing, or drop it at s0"
    assert not told.passing


@pytest.mark.parametrize("text", ["DO $$BEGIN END$$", "SELECT make_all()", "CALL make_all()"])
def test_nothing_is_told_where_a_file_may_make_anything(text: str) -> None:
    assert unmade(f"CREATE TABLE a (id int); {text}", RICH) == []
    assert unmade("CREATE FUNCTION f() RETURNS int AS 'SELECT 1'", RICH) != []


def test_a_dump_makes_only_what_it_names() -> None:
    dump = """
    SELECT pg_catalog.set_config('search_path', '', false);
    CREATE TABLE public.a (id int);
    SELECT pg_catalog.setval('public.s', 1, false);
    """
    assert len(unmade(dump, RICH)) == 1
