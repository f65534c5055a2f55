"""A database whose spec file stopped being one did not leave the specs: nothing of it goes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import spec
from reconciler.diff import refusals
from reconciler.diff.changes import DeleteDatabase, RecordApplied
from reconciler.diff.diff import diff
from reconciler.edges.folder import read_folder
from reconciler.edges.git import GitCache, read_repository
from reconciler.edges.git_address import parse_address
from reconciler.edges.git_repository import GitReference
from reconciler.model.desired import DesiredState
from reconciler.model.observed import ObservedState
from reconciler.model.routing import AppliedRecord
from reconciler.spec.documents import Documents
from tests.diff.seen import names, only, refused
from tests.spec.texts import GOOD
from tests.worlds import settled, with_database

OTHER = GOOD.replace("name: shop", "name: ledger")
DESTROYED = GOOD.replace("deletion: protected", "deletion: destroy")

LOST = {
    "empty": b"",
    "only a comment": b"# moved to next week\n",
    "UTF-16": DESTROYED.encode("utf-16"),
    "garbled": bytes(range(256)),
    "broken without our marker": b"a: [1, 2\nb: }",
    "another group": DESTROYED.replace("shardwright.dev", "example.org").encode(),
    "another tool's": b"apiVersion: v1\nkind: ConfigMap\n",
}


def loaded(documents: Documents) -> DesiredState:
    return spec.read(documents).desired


def written(folder: Path, shop: bytes | None, more: bytes = OTHER.encode()) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ledger.yaml").write_bytes(more)
    (folder / "schema").mkdir(exist_ok=True)
    (folder / "schema" / "001.sql").write_text("select 1")
    if shop is None:
        (folder / "shop.yaml").unlink()
    else:
        (folder / "shop.yaml").write_bytes(shop)
    return folder


def applied(folder: Path) -> ObservedState:
    return settled(loaded(read_folder(str(written(folder, DESTROYED.encode())))))


@pytest.mark.parametrize("how", LOST)
def test_a_file_that_holds_no_spec_any_more_deletes_nothing(tmp_path: Path, how: str) -> None:
    seen = applied(tmp_path / "specs")
    written(tmp_path / "specs", LOST[how])

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert "DeleteDatabase" not in names(found)
    assert "its file shop.yaml is there" in refused(found, refusals.SpecUnreadable).problem


def test_a_deleted_file_deletes_its_database(tmp_path: Path) -> None:
    seen = applied(tmp_path / "specs")
    written(tmp_path / "specs", None)

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert only(found, DeleteDatabase).database.name == "shop"


def test_a_document_taken_out_of_a_file_of_several_deletes_its_database(tmp_path: Path) -> None:
    both = f"{DESTROYED}\n---\n{OTHER.replace('ledger', 'third')}".encode()
    seen = settled(loaded(read_folder(str(written(tmp_path / "specs", both)))))
    written(tmp_path / "specs", OTHER.replace("ledger", "third").encode())

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert only(found, DeleteDatabase).database.name == "shop"


def test_one_document_of_several_under_another_group_deletes_nothing(tmp_path: Path) -> None:
    both = f"{DESTROYED}\n---\n{OTHER.replace('ledger', 'third')}"
    seen = settled(loaded(read_folder(str(written(tmp_path / "specs", both.encode())))))
    written(tmp_path / "specs", both.replace("shardwright.dev", "example.org", 1).encode())

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert names(found) == []
    refused(found, refusals.SpecUnreadable)


def test_a_record_that_does_not_know_its_file_trusts_no_file_without_a_spec(
    tmp_path: Path,
) -> None:
    seen = applied(tmp_path / "specs")
    (record,) = (d.record for d in seen.databases if d.key.name == "shop")
    assert isinstance(record, AppliedRecord)
    seen = with_database(seen, record=replace(record, file=""))
    written(tmp_path / "specs", b"")

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert "may have come from shop.yaml" in refused(found, refusals.SpecUnreadable).problem


def test_a_file_is_known_from_wherever_the_specs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = applied(tmp_path / "specs")
    monkeypatch.chdir(tmp_path / "specs")

    assert names(diff(loaded(read_folder(".")), seen)) == []
    written(tmp_path / "specs", b"")
    refused(diff(loaded(read_folder(".")), seen), refusals.SpecUnreadable)


def test_a_file_that_was_renamed_is_noted(tmp_path: Path) -> None:
    seen = applied(tmp_path / "specs")
    (tmp_path / "specs" / "shop.yaml").rename(tmp_path / "specs" / "store.yaml")

    found = diff(loaded(read_folder(str(tmp_path / "specs"))), seen)

    assert names(found) == ["RecordApplied"]
    assert only(found, RecordApplied).file == "store.yaml"


def test_a_commit_that_empties_the_file_deletes_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path / "repository", DESTROYED.encode())
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    cache = GitCache(tmp_path / "cache")

    def committed() -> DesiredState:
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "specs"], check=True)
        address = parse_address(str(folder))
        return loaded(read_repository(address, GitReference(), ".", cache))

    subprocess.run(["git", "init", "-qb", "main", str(folder)], check=True)
    seen = settled(committed())
    written(folder, b"")

    found = diff(committed(), seen)

    assert "DeleteDatabase" not in names(found)
    refused(found, refusals.SpecUnreadable)
