"""YAML that is refused, with the words the user reads."""

from __future__ import annotations

import pytest

from reconciler.model.desired import Place
from reconciler.spec.decode import locate
from reconciler.spec.yaml_reader import parse, resolve_plain
from tests.spec.texts import GOOD, load, problems, spoilt


def test_a_duplicate_key_is_refused() -> None:
    assert spoilt("  deletion: protected", "  deletion: destroy\n  deletion: protected") == [
        'SP005 a.yaml:20:3  a.yaml: the key "deletion" stands twice in one mapping\n'
        "      try: keep one of the two"
    ]


def test_a_tab_is_named_as_such() -> None:
    assert spoilt("    version:", "\tversion:") == [
        "SP004 a.yaml:7:1  a.yaml: the line is indented with a tab, which YAML does not allow\n"
        "      try: indent with spaces"
    ]


def test_broken_yaml_says_where() -> None:
    (problem,) = spoilt("{orders: customer_id}", "{orders: customer_id")
    assert problem.startswith("SP003 a.yaml:13:14  a.yaml: not YAML: did not find expected ',' or")


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert problems("\n".join(lines) + "\n" + GOOD) == [
        "SP007 a.yaml:4:45  a.yaml: its aliases stand for more than 10,000 values"
    ]


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert spoilt("reference: [countries]", "reference: &a [*a]") == [
        "SP003 a.yaml:13:20  a.yaml: the alias *a has no anchor &a before it"
    ]


def test_an_anchor_that_is_set_anew_does_not_mean_its_old_value_inside_itself() -> None:
    (problem,) = spoilt("reference: [countries]", "x: &a 1\n    reference: &a [*a]")
    assert problem.startswith("SP003 a.yaml:14:20  a.yaml: the alias *a has no anchor &a")


def test_a_file_of_more_than_a_million_values_is_refused() -> None:
    (problem,) = problems(f"{GOOD}---\n[{'a,' * 1_000_001}]")
    assert problem.startswith("SP007 a.yaml:21:")
    assert problem.endswith("it holds more than 1,000,000 values")


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 10_000, "- " * 10_000])
def test_a_document_10_000_deep_is_refused(text: str) -> None:
    (problem,) = problems(f"# {GOOD.splitlines()[0]}\n{text}")
    assert problem.split("  ")[1] == "a.yaml: it nests deeper than 100 levels"


def test_a_document_of_more_than_10_mb_is_refused() -> None:
    assert problems(GOOD + "#" * 10_000_000) == [
        f"SP002 a.yaml  a.yaml: it has {len(GOOD) + 10_000_000:,} bytes, more than the "
        "10,000,000 allowed\n      try: split it, or move it out of the specs folder"
    ]


def test_text_that_is_not_utf_8_is_refused() -> None:
    assert problems(GOOD.encode() + b"\n# \xe9t\xe9\n") == [
        f"SP001 a.yaml:21  a.yaml: byte {len(GOOD) + 3} (0xe9) is not UTF-8\n"
        "      try: save it as UTF-8"
    ]


def test_a_nul_is_refused_and_a_byte_order_mark_is_not() -> None:
    assert problems(GOOD.encode() + b"\0") == [
        "SP003 a.yaml:20  a.yaml: it holds a NUL character, so it is not a text file\n"
        "      try: remove it, or move the file elsewhere"
    ]
    assert problems(b"\xef\xbb\xbf" + GOOD.encode()) == []


def test_control_characters_are_refused_with_their_line() -> None:
    (problem,) = problems(GOOD + "# \x07\n")
    assert problem.startswith("SP003 a.yaml:20  a.yaml: control characters are not allowed")


@pytest.mark.parametrize("value", ["!!python/object:os.system x", "!Ref x", "!!python/tuple [1]"])
def test_a_tag_is_refused(value: str) -> None:
    found = spoilt("deletion: protected", f"deletion: {value}")
    assert any(p.startswith("SP008 a.yaml:19:13  a.yaml: the tag ") for p in found)


def test_a_key_that_is_no_text_is_refused() -> None:
    assert spoilt("{orders: customer_id}", "{no: customer_id, orders: id}") == [
        'SP009 a.yaml:12:14  a.yaml: the key "no" is not text\n      try: quote it'
    ]
    assert spoilt("{orders: customer_id}", "{? [a] : b}")[0].startswith("SP009 a.yaml:12:16")


def test_empty_documents_and_files_of_other_tools_are_counted_and_left_alone() -> None:
    other = "apiVersion: apps/v1\nkind: Deployment\n"
    template = "{{- if .Values.x }}\n\tbroken: [\n"
    loaded = load(f"---\n---\n{GOOD}---\n{other}", other, template, "", "- 1\n- 2\n")
    assert loaded.desired.foreign_files == 4
    assert [str(d.key) for d in loaded.desired.databases] == ["shop"]
    assert loaded.warnings == ()


def test_a_broken_file_that_only_mentions_a_kind_is_left_alone_with_a_warning() -> None:
    loaded = load(GOOD, "kind: ShardedDatabase\nx: [\n")
    assert loaded.desired.foreign_files == 1
    (warning,) = loaded.warnings
    assert str(warning).startswith("SP201 b.yaml:3:1  b.yaml: left alone, it cannot be read: ")


def test_the_second_document_of_a_file_has_its_own_lines() -> None:
    second = GOOD.replace("name: shop", "name: other").replace("deletion:", "deleton:")
    assert problems(f"{GOOD}---\n{second}") == [
        'SP020 a.yaml:39:3  spec: there is no field "deleton"\n      try: did you mean "deletion"?'
    ]


def test_merge_keys_and_aliases_mean_what_they_stand_for() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\nd: {<<: [*a, {z: 4}]}\n"
    assert parse(text, "f").documents == [
        {
            "a": {"x": 1, "y": 2},
            "b": {"x": 1, "y": 3},
            "c": {"x": 1, "y": 2},
            "d": {"x": 1, "y": 2, "z": 4},
        }
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("no", False), ("On", True), ("16.10", 16.1),
        ("42", 42), ("-80", -80), ("0x1f", 31), ("042", "042"), ("1_000", "1_000"), ("80-", "80-"),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("1e5", "1e5"), ("9" * 40, "9" * 40),
        ("nO", "nO"), (".", "."), ("-", "-"), ("1.5e3", 1500.0),
    ],
)  # fmt: skip
def test_a_plain_scalar_means(text: str, value: object) -> None:
    assert resolve_plain(text) == value
    assert type(resolve_plain(text)) is type(value)


def test_a_place_that_is_not_in_the_text_is_shown_at_the_nearest_thing_around_it() -> None:
    data = GOOD.encode()
    shown = {
        path: str(locate(data, Place("a.yaml", 0, path)))
        for path in [
            (),
            ("spec", "shards", 1, "keys", 0),
            ("spec", "shards", 1, "keys", 7),
            ("spec", "shards", 1),
            ("spec", "postgres", "nothing"),
        ]
    }
    assert list(shown.values()) == [
        "a.yaml:1:1", "a.yaml:18:25", "a.yaml:18:18", "a.yaml:18:7", "a.yaml:6:3",
    ]  # fmt: skip


def test_half_a_character_is_refused() -> None:
    (problem,) = spoilt("[countries]", '["\\uD800"]')
    assert "invalid Unicode character escape code" in problem


def test_json_is_read_too() -> None:
    import json

    from reconciler import spec
    from reconciler.model.desired import Revision
    from reconciler.spec.documents import Documents, SourceFile

    text = json.dumps(parse(GOOD, "f").documents[0], indent="\t").encode()
    file = SourceFile("a.json", text)
    loaded = spec.read(Documents("tests", Revision("x"), (file,)))
    assert [str(d.key) for d in loaded.desired.databases] == ["shop"]
