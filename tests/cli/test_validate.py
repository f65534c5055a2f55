"""`validate` says everything at once, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from tests.cli.calls import SHOP, Caller

POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: p}
spec:
  rules:
    - {name: r, at: [spec], require: "database.nonsense > 1", message: m}
"""


def test_a_good_folder_is_summed_up_in_a_line(call: Caller) -> None:
    call.write_specs()
    (call.folder / "specs" / "other.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n")
    ended = call("validate", "-f", "specs")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("valid: 1 database, 2 shards, 1 file of other tools left alone at ")
    assert call("validate", "-f", "specs", "-q").told() == ""


def test_all_problems_of_all_files_come_with_place_and_remedy(call: Caller) -> None:
    call.write_specs(SHOP.replace("work_mem", "work_memm").replace('"80-"', '"7f-"'))
    (call.folder / "specs" / "b.yaml").write_text(SHOP.replace("name: shop", "nam: b"))
    ended = call("validate", "-f", "specs")
    assert ended.code == 1
    lines = [line for line in ended.told().splitlines() if not line.startswith(" ")]
    assert len([line for line in lines if "specs/" in line]) >= 3
    assert any("specs/b.yaml:3:" in line for line in lines)
    assert any("specs/shop.yaml:7:" in line for line in lines)
    assert "problems; more: shardwright explain SP" in ended.err
    assert ended.out == ""


def test_json_holds_the_problems_and_nothing_is_on_stderr(call: Caller) -> None:
    call.write_specs(SHOP.replace("work_mem", "work_memm"))
    ended = call("validate", "-f", "specs", "-o", "json")
    assert ended.code == 1
    assert ended.err == ""
    (problem,) = ended.json["problems"]
    assert (problem["code"], problem["file"], problem["line"]) == ("SP113", "specs/shop.yaml", 7)
    assert "work_mem" in problem["remedy"]
    assert ended.json["valid"] is False


def test_a_policys_rules_are_type_checked(call: Caller) -> None:
    call.write_specs()
    (call.folder / "specs" / "p.yaml").write_text(POLICY)
    ended = call("validate", "-f", "specs")
    assert ended.code == 1
    assert "PO102 specs/p.yaml:6" in ended.told()


def test_specs_come_from_standard_input(call: Caller) -> None:
    text = SHOP.replace("  schema: {files: [schema/*.sql]}\n", "")
    assert call("validate", "-f", "-", stdin=text.encode()).code == 0
    assert call("validate", "-f", "-", stdin=text.replace("shop", "-").encode()).code == 1


def test_a_folder_of_other_tools_is_not_called_valid(call: Caller) -> None:
    (call.folder / "other.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n")
    ended = call("validate", "-f", ".")
    assert ended.out.startswith("no specs here: 1 file of other tools left alone at ")
    assert ended.code == 0


@pytest.mark.parametrize("data", [b"", b"\t- a", b"a: &a [*a, *a]", b"[" * 10_000, b"\x00" * 100])
def test_strange_bytes_are_told_and_never_traced(call: Caller, data: bytes) -> None:
    marked = b"apiVersion: shardwright.dev/v1alpha1\n" + data
    ended = call("validate", "-f", "-", "-o", "json", stdin=marked)
    ended.told()
    assert ended.code in (0, 1)
    json.loads(ended.out or ended.err)


def test_the_policies_that_ship_are_valid_and_pass_their_cases(call: Caller) -> None:
    from pathlib import Path

    policies = str(Path(__file__).parents[2] / "policies")
    assert call("validate", "-f", policies, "-q").code == 0
    ended = call("policy", "test", policies)
    assert ended.code == 0
    assert "0 failed" in ended.err
    assert "POLICY" in call("policy", "list", policies).out


CASES = """\
---
apiVersion: shardwright.dev/v1alpha1
kind: PolicyTest
metadata: {name: p-test}
spec:
  policy: p
  cases:
    - {name: fine, database: {name: shop}, expect: {r: EXPECTED}}
"""


def test_a_case_that_fails_is_named_with_its_place(call: Caller) -> None:
    good = POLICY.replace("database.nonsense > 1", "database.name == 'shop'")
    (call.folder / "p.yaml").write_text(good + CASES.replace("EXPECTED", "pass"))
    assert call("policy", "test", "p.yaml").code == 0
    (call.folder / "p.yaml").write_text(good + CASES.replace("EXPECTED", "deny"))
    ended = call("policy", "test", "p.yaml")
    assert ended.code == 1
    assert "fail  p: fine  p.yaml:14" in ended.out
    assert "r: expected deny, got pass" in ended.out


def test_a_folder_without_cases_does_not_pass(call: Caller) -> None:
    good = POLICY.replace("database.nonsense > 1", "true")
    (call.folder / "p.yaml").write_text(good)
    assert call("policy", "test", "p.yaml").code == 1
