"""A spec from a found database: keys are guessed from keys, and what is open is marked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from reconciler import spec
from reconciler.cli.import_yaml import database_name, spec_yaml
from reconciler.cli.shard_keys import guess_keys
from reconciler.edges.postgres_import import ForeignKey, FoundDatabase, FoundTable
from reconciler.model.desired import Revision
from reconciler.spec.documents import Documents, SourceFile


def table(
    name: str, columns: str, key: str = "id", to: dict[str, str] | None = None, rows: int = 50_000
) -> FoundTable:
    """``id:bigint name:text`` and references ``{column: "public.other"}``."""
    pairs = [word.split(":") for word in columns.split()]
    references = [ForeignKey((c,), f"public.{t}", ("id",)) for c, t in (to or {}).items()]
    return FoundTable(
        f"public.{name}", rows, rows * 100, tuple((n, k) for n, k in pairs), (key,),
        tuple(references),
    )  # fmt: skip


SHOP = (
    table("audit", "at:timestamptz what:text", key="at"),
    table("countries", "id:text name:text", rows=250),
    table("customers", "id:bigint country:text", to={"country": "countries"}),
    table("invoices", "id:bigint customer_id:bigint"),
    table("orders", "id:bigint customer:bigint", to={"customer": "customers"}),
    table("order_lines", "id:bigint customer_id:bigint", to={"customer_id": "customers"}),
)


def found(
    tables: tuple[FoundTable, ...] = SHOP,
    major: str = "16",
    name: str = "shop",
    parameters: tuple[tuple[str, str], ...] = (),
    size: int = 10 << 30,
) -> FoundDatabase:
    return FoundDatabase(name, major, f"{major}.3", size, 1, True, parameters, tables)


def test_the_table_that_most_refer_to_is_the_root_and_others_follow_their_reference() -> None:
    guess = guess_keys(SHOP)
    assert guess.key_type == "bigint"
    assert {name: key for name, key, _ in guess.tables} == {
        "public.customers": "id",
        "public.orders": "customer",
        "public.order_lines": "customer_id",
        "public.invoices": "customer_id",
    }
    assert guess.reference == ("public.countries",)
    assert [name for name, _ in guess.undecided] == ["public.audit"]


def test_tables_without_references_are_guessed_by_their_primary_key() -> None:
    guess = guess_keys((table("a", "id:uuid"), table("b", "id:uuid"), table("c", "id:bigint")))
    assert guess.key_type == "uuid"
    assert [name for name, *_ in guess.tables] == ["public.a", "public.b"]
    assert [name for name, _ in guess.undecided] == ["public.c"]


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 256, 300, 4096])
@pytest.mark.parametrize("tables", [SHOP, (), SHOP[:1]])
def test_what_is_written_is_a_valid_spec(shards: int, tables: tuple[FoundTable, ...]) -> None:
    strange = (("work_mem", "16MB"), ("port", "5433"), ("nonsense", "1"), ("lc_messages", "C"))
    text = spec_yaml(found(tables, parameters=strange, name='My "Shop"\n#1'), shards)
    documents = Documents("t", Revision("t"), (SourceFile("t.yaml", text.encode()),))
    (database,) = spec.read(documents).desired.databases
    assert (len(database.shards), database.key.name) == (shards, "my-shop-1")
    assert database.parameters == (("work_mem", "16MB"),)
    assert "# left out: port: Patroni owns it" in text
    assert "lc_messages" not in text


def test_names_that_need_quotes_are_quoted() -> None:
    odd = (
        table("Odd: Table", "id:bigint"),
        table("x", "o:bigint", key="o", to={"o": "Odd: Table"}),
    )
    assert '"Odd: Table": id' in spec_yaml(found(odd), 2)


def test_a_version_that_is_not_run_is_for_a_person_to_decide() -> None:
    text = spec_yaml(found(major="13"), 2)
    assert 'version: "18"  # DECIDE: 13 is not run here' in text


def test_each_shard_gets_room_for_twice_its_share() -> None:
    assert "size: 10Gi" in spec_yaml(found(size=10 << 30), 2)
    assert "size: 1Gi" in spec_yaml(found(size=1), 2)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("shop", "shop"),
        ("Shop_DB", "shop-db"),
        ("1st", "db-1st"),
        ("é", "db"),
        ("a" * 63, "a" * 40),
    ],
)
def test_a_name_is_made_to_fit(name: str, plain: str) -> None:
    assert database_name(name) == plain


def test_standbys_that_the_role_may_not_see_are_for_a_person_to_decide() -> None:
    text = spec_yaml(dataclasses.replace(found(), standbys=None), 2)
    assert "instances: 2  # DECIDE: could not look at standbys" in text
    assert "no standby seen" not in text
    assert "no standby seen" in spec_yaml(dataclasses.replace(found(), standbys=0), 2)


def test_a_spec_names_the_published_schema() -> None:
    schema = Path(__file__).parents[2] / "schemas" / "shardeddatabase.v1alpha1.json"
    address = json.loads(schema.read_bytes())["$id"]
    assert spec_yaml(found(), 2).splitlines()[0].endswith(f"$schema={address}")
