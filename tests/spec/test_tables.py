"""A table that a schema file makes is declared, or told with the place where it is made."""

from __future__ import annotations

import pytest

from reconciler.model.desired import KeyType, Place, SchemaFile, ShardedTable, Sharding
from reconciler.spec.tables import table_problems, unmade_tables
from tests.spec.texts import GOOD, load, problems

SHARDING = Sharding(
    KeyType.BIGINT,
    (ShardedTable("public.orders", "customer_id"), ShardedTable("sales.lines", "customer_id")),
    ("public.countries",),
)


PLACES = {name: Place("a.yaml") for name in ("public.orders", "sales.lines", "public.countries")}


def files_of(*texts: str) -> list[SchemaFile]:
    return [SchemaFile(f"{i}.sql", "", text) for i, text in enumerate(texts, 1)]


def found(*texts: str) -> list[str]:
    """Return code, place and table of each problem of some files, 1.sql, 2.sql…"""
    return [
        f"{error.code} {where.file if isinstance(where, Place) else where} {error.subject}"
        for where, error in table_problems(files_of(*texts), SHARDING, "a.yaml", PLACES)
    ]


def test_the_user_is_told_where_and_what_to_write() -> None:
    spec = GOOD.replace("  sharding:", "  schema: {files: [s/*.sql]}\n  sharding:")
    made = b"create table orders (customer_id bigint);\n\n  create table audit (\n at timestamptz);"
    assert problems(spec, s__1=made) == [
        "SP119 s/1.sql:3:16  table audit: it has no shard key and is not declared a reference table"
        "\n      try: in sharding add to tables: {audit: its_key_column}, or to reference: [audit]"
    ]
    (told,) = problems(spec, s__1=b"create table audit (id int, customer_id bigint)")
    assert "tables: {audit: customer_id}" in told
    assert problems(spec, s__1=b"create table orders (customer bigint, id int)") == [
        "SP120 a.yaml:13:14  table orders: it is sharded by customer_id, and s/1.sql:1:14 makes it "
        'without that column\n      try: did you mean "customer"?'
    ]
    (told,) = problems(spec, s__1=b"create table orders (b int, a int)")
    assert "name the column that its shard follows from; it has a, b" in told


@pytest.mark.parametrize(
    "text",
    [
        "create table audit (id int)",
        "create unlogged table if not exists public.audit (like orders)",
        "create table audit as select 1 as id",
        "select 1 as id into audit",
        "with one as (select 1) select * into audit from one",
        "create table audit (more int) inherits (orders)",
        "create temp table audit (id int); create table public.audit (id int)",
        "create table old (id int); alter table old rename to audit",
        "create schema s; create table s.audit (); alter table s.audit set schema public",
        "create table audit partition of orders for values in (1);"
        "alter table orders detach partition audit",
        "set search_path to s; create table audit (); alter table s.audit set schema public",
        "set search_path to s; reset search_path; create table audit ()",
        "drop table audit; create table audit ()",
        "create table é (); drop table é; create table audit ()",
        "this is no sql; create table audit ()",
        "comment on table audit is 'create table lie ()'; create table audit ()",
    ],
)
def test_a_table_that_is_not_declared_is_found(text: str) -> None:
    assert [line.rpartition(" ")[2] for line in found(text)] == ["audit"]


@pytest.mark.parametrize(
    "text",
    [
        "create table orders (customer_id bigint); create table countries ()",
        "create table orders (customer_id bigint) partition by hash (customer_id);"
        "create table orders_0 partition of orders for values with (modulus 2, remainder 0)",
        "create table orders_1 (customer_id bigint); alter table orders attach partition orders_1 "
        "for values with (modulus 2, remainder 1)",
        "create temp table scratch (id int); create temporary table s2 as select 1",
        "create table pg_temp.scratch ()",
        "create foreign table f (id int) server elsewhere",
        "create view v as select 1; create materialized view m as select 1",
        "create table old (id int); drop table if exists old, older",
        "create schema s create table t (id int); drop schema s cascade",
        "create schema s; create table s.t (); alter schema s rename to z",
        "set search_path = sales, public; create table lines (customer_id bigint)",
        "create schema sales create table lines (customer_id bigint)",
        "create table wrong (id int); alter table wrong rename to countries",
        # Not decided: the look at the catalogs tells of these.
        "do $$ begin execute 'create table made (id int)'; end $$",
        "create function f() returns void language sql as 'create table made (id int)'; select f()",
        "select set_config('search_path', 'x', false); create table made (id int)",
        "create extension postgis",
        "create table broken (",
        f"create table deep (id int default {'(' * 20_000}1{')' * 20_000})",
    ],
)
def test_what_is_declared_or_no_table_of_its_own_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "is_there"),
    [
        ("create table orders (id int, customer_id bigint)", True),
        ("create table orders (id int)", False),
        ("create table orders ()", False),
        ("create table orders (id int); alter table orders add column customer_id bigint", True),
        ("create table orders (c int); alter table orders rename column c to customer_id", True),
        ("create table orders (customer_id int); alter table orders drop customer_id", False),
        ("create table orders (like other)", True),
        ("create table orders (id int) inherits (other)", True),
        ("create table orders of kind", True),
        ("create table orders as table other", True),
    ],
)
def test_a_shard_key_that_is_no_column_is_found_where_columns_are_told(
    text: str, is_there: bool
) -> None:
    assert found(text) == ([] if is_there else ["SP120 a.yaml table orders"])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("customer_id text", "text"),
        ("customer_id varchar(9)", "varchar"),
        ("customer_id uuid", "uuid"),
        ("customer_id pg_catalog.numeric", "numeric"),
        ("customer_id smallserial", "int2"),
        ("customer_id bigint", ""),
        ("customer_id int", ""),
        ("customer_id serial8", ""),
        ("customer_id own_domain", ""),
        ("customer_id own.text", ""),
        ("customer_id int); alter table orders alter customer_id type text using ''", "text"),
        ("customer_id text); alter table orders alter customer_id type int using 1", ""),
        ("id uuid); alter table orders rename id to customer_id", "uuid"),
        ("id int); alter table orders add customer_id date", "date"),
        ("customer_id text); do $$ begin end $$", ""),
    ],
)
def test_a_shard_key_of_another_type_is_found_before_a_shard_refuses_it(
    column: str, kind: str
) -> None:
    text = f"create table orders ({column}" + ("" if ");" in column else ")")
    problems = [str(error) for _, error in table_problems(files_of(text), SHARDING, "a", PLACES)]
    expected = (
        f"SP124  table orders: its shard key customer_id is {kind} (1.sql:1:14), and sharding.type "
        "bigint takes int4 or int8"
    )
    assert [problem.partition("\n")[0] for problem in problems] == [expected] * bool(kind)


def test_the_type_that_a_key_asks_for_is_named_unless_the_types_word_was_unreadable() -> None:
    spec = GOOD.replace("  sharding:", "  schema: {files: [s/*.sql]}\n  sharding:")
    made = b"create table orders (customer_id uuid); create table countries (code text)"
    (told,) = problems(spec, s__1=made)
    assert told.startswith("SP124 a.yaml:13:14  table orders: ")
    assert told.endswith("try: set sharding.type to uuid, or make the column int4 or int8")
    (told,) = problems(spec.replace("type: bigint", "type: guid"), s__1=made)
    assert told.startswith("SP023 ")


def test_files_are_read_in_order_and_a_search_path_ends_with_its_file() -> None:
    assert found("create table a ()", "drop table a; create table b ()") == [
        "SP119 2.sql:1:28 table b"
    ]
    assert found("set search_path to s; create table a ()", "create table b ()") == [
        "SP119 1.sql:1:36 table s.a", "SP119 2.sql:1:14 table b",
    ]  # fmt: skip


def test_a_name_that_cannot_be_declared_is_told_so() -> None:
    (told,) = problems(
        GOOD.replace("  sharding:", "  schema: {files: [a.sql]}\n  sharding:"),
        a=b'create table "Audit" ()',
    )
    assert "try: name it in lower-case letters" in told


REST_MADE = "create table orders (); create table sales.lines ()"
ALL_MADE = f"{REST_MADE}; create table countries (code text)"


@pytest.mark.parametrize(
    ("text", "unmade"),
    [
        (ALL_MADE, ""),
        ("", "public.orders sales.lines public.countries"),
        (f"{ALL_MADE}; drop table countries", "public.countries"),
        (f"{ALL_MADE}; alter table countries rename to lands", "public.countries"),
        (f"{ALL_MADE}; drop schema sales cascade", "sales.lines"),
        (f"{REST_MADE}; create view countries as select 1", "public.countries"),
        (f"{REST_MADE}; create table old (); alter table old rename to countries", ""),
        # A partition is there, too, whoever declares it.
        (f"{REST_MADE}; create table countries partition of orders default", ""),
        (f"{ALL_MADE}; alter table orders attach partition countries default", ""),
        (
            f"{REST_MADE}; create table old partition of orders default;"
            "alter table old rename to countries",
            "",
        ),
        (
            f"{REST_MADE}; create table countries partition of orders default;drop table countries",
            "public.countries",
        ),
    ],
)
def test_a_declared_table_that_no_file_makes_is_known(text: str, unmade: str) -> None:
    assert " ".join(unmade_tables(files_of(text), SHARDING)) == unmade


@pytest.mark.parametrize(
    "unclear",
    [
        "do $$ begin execute 'create table countries ()'; end $$",
        "select make_tables()",
        "call make_tables()",
        "create extension postgis",
        'set search_path to "$user"; create table countries ()',
        "create table of a kind that the parser does not know",
        "create schema s; alter schema s rename to public",
    ],
)
def test_where_a_table_may_come_from_elsewhere_nothing_is_said(unclear: str) -> None:
    assert unmade_tables(files_of("create table orders ()", unclear), SHARDING) == ()


def test_the_spec_is_warned_where_it_declares_what_no_file_makes() -> None:
    spec = GOOD.replace("  sharding:", "  schema: {files: [s/*.sql]}\n  sharding:")
    made = b"create table orders (customer_id bigint)"

    assert [str(warning) for warning in load(spec, s__1=made).warnings] == [
        "SP203 a.yaml:14:17  table countries: no schema file makes it, so a new shard would be "
        "without it\n      try: add a schema file with CREATE TABLE IF NOT EXISTS countries, or "
        "take it out of sharding"
    ]
    assert load(GOOD).warnings == ()
