"""What a revision takes over from the one before: only what would be made the same again."""

from __future__ import annotations

import pytest

from reconciler import spec
from reconciler.model.desired import Revision
from reconciler.model.errors import ProblemsFound
from reconciler.spec.documents import Documents, SourceFile
from reconciler.spec.loaded import Loaded
from tests.cli.calls import SHOP, TABLES

ORDERS = TABLES.encode()
MORE = b"alter table customers add column note text;"


def documents(**files: bytes) -> Documents:
    """Files by name, ``__`` for ``/``; ``_yaml`` and ``_sql`` at its end for the suffix."""
    named = {name.replace("__", "/").replace("_yaml", ".yaml").replace("_sql", ".sql"): data
             for name, data in files.items()}  # fmt: skip
    found = tuple(SourceFile(name, data) for name, data in sorted(named.items()))
    return Documents("tests", Revision("x"), found)


def shop(name: str = "shop", memory: str = "16MB") -> bytes:
    return SHOP.replace("name: shop", f"name: {name}").replace("16MB", memory).encode()


def read(earlier: Loaded | None = None, **files: bytes) -> Loaded:
    """Read with what is known from before; it is what reading afresh gives, whatever changed."""
    found = spec.read(documents(**files), earlier)
    afresh = spec.read(documents(**files))
    assert (found.desired, found.policies) == (afresh.desired, afresh.policies)
    assert [str(warning) for warning in found.warnings] == [str(w) for w in afresh.warnings]
    assert found.read.keys() == afresh.read.keys()
    return found


def test_a_document_that_did_not_change_is_the_same_object_in_the_next_revision() -> None:
    before = read(a_yaml=shop("a"), b_yaml=shop("b"), schema__1_sql=ORDERS)
    after = read(before, a_yaml=shop("a"), b_yaml=shop("b", "17MB"), schema__1_sql=ORDERS)
    a, b = after.desired.databases
    assert a is before.desired.databases[0]
    assert dict(b.parameters)["work_mem"] == "17MB"


def test_a_schema_file_that_changed_makes_every_database_of_it_anew() -> None:
    before = read(a_yaml=shop(), schema__1_sql=ORDERS)
    after = read(before, a_yaml=shop(), schema__1_sql=ORDERS + b"\n-- more\n")
    assert after.desired.databases[0].digest != before.desired.databases[0].digest
    back = read(after, a_yaml=shop(), schema__1_sql=ORDERS)
    assert back.desired == before.desired


def test_a_schema_file_that_a_pattern_now_finds_as_well_makes_its_database_anew() -> None:
    before = read(a_yaml=shop(), schema__1_sql=ORDERS)
    after = read(before, a_yaml=shop(), schema__1_sql=ORDERS, schema__2_sql=MORE)
    assert [file.name for file in after.desired.databases[0].schema] == [
        "schema/1.sql", "schema/2.sql",
    ]  # fmt: skip


def test_a_schema_file_that_went_or_broke_is_a_problem_of_the_document_that_stayed() -> None:
    before = read(a_yaml=shop(), schema__1_sql=ORDERS)
    for files in ({}, {"schema__1_sql": b"begin;"}, {"schema__1_sql": b"\xff"}):
        with pytest.raises(ProblemsFound) as known:
            spec.read(documents(a_yaml=shop(), **files), before)
        with pytest.raises(ProblemsFound) as afresh:
            spec.read(documents(a_yaml=shop(), **files))
        assert [str(p) for p in known.value.problems] == [str(p) for p in afresh.value.problems]
    assert read(before, a_yaml=shop(), schema__1_sql=ORDERS).desired == before.desired


def test_a_document_is_described_twice_although_the_first_did_not_change() -> None:
    before = read(a_yaml=shop(), schema__1_sql=ORDERS)
    with pytest.raises(ProblemsFound) as found:
        spec.read(documents(a_yaml=shop(), b_yaml=shop(), schema__1_sql=ORDERS), before)
    assert "described twice" in str(found.value.problems[0])


def test_warnings_of_a_document_that_did_not_change_are_told_again() -> None:
    risky = SHOP.replace("work_mem: 16MB", "fsync: off").encode()
    before = read(a_yaml=risky, schema__1_sql=ORDERS)
    after = read(before, a_yaml=risky, b_yaml=shop("b"), schema__1_sql=ORDERS)
    assert len(before.warnings) == len(after.warnings) == 1


def test_nothing_is_kept_of_a_file_that_is_gone() -> None:
    before = read(a_yaml=shop("a"), b_yaml=shop("b"), schema__1_sql=ORDERS)
    after = read(before, a_yaml=shop("a"), schema__1_sql=ORDERS)
    assert set(after.read) == {"a.yaml"}
