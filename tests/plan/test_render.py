"""The forms of a plan, against golden files and limits.

After a wanted change: SHARDWRIGHT_GOLDEN=write pytest tests/plan/test_render.py, and read the diff.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from reconciler.diff.changes import Remark, Standstill
from reconciler.model.desired import Place
from reconciler.model.errors import Position
from reconciler.model.names import DatabaseName
from reconciler.model.observed import Unseen
from reconciler.plan.actions import Estimate, MoveKeyRange, Plan
from reconciler.plan.estimate import estimate
from reconciler.plan.render import plan_schema, render_json, render_markdown, render_names
from reconciler.plan.render_layout import clean, columns_of, wrapped
from reconciler.plan.render_report import PlanReport, ShownDatabase, ShownFinding, duration, size
from reconciler.plan.render_text import render_text
from reconciler.plan.render_verdict import timing, verdict
from tests.plan import render_cases as cases

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Path(__file__).parents[2] / "schemas" / "plan.v1.json"


def compare(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("SHARDWRIGHT_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("case", cases.CASES)
def test_a_plan_reads_as_its_golden_text(case: str, width: int) -> None:
    compare(f"{case}.{width}.txt", render_text(cases.CASES[case](), width))


@pytest.mark.parametrize("case", cases.CASES)
def test_a_plan_reads_as_its_golden_markdown(case: str) -> None:
    compare(f"{case}.md", render_markdown(cases.CASES[case]()))


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("case", cases.CASES)
def test_no_line_is_wider_than_the_terminal(case: str, width: int) -> None:
    for line in render_text(cases.CASES[case](), width).splitlines():
        assert columns_of(line) <= width


@pytest.mark.parametrize("case", cases.CASES)
def test_the_json_form_fits_its_published_schema(case: str) -> None:
    data = json.loads(render_json(cases.CASES[case](), lambda p: Position(p.file, 3, 5)))
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_bytes())).validate(data)
    assert (data["apiVersion"], data["kind"]) == ("shardwright.dev/plan/v1", "Plan")
    assert len(data["steps"]) == len(cases.CASES[case]().plan.steps)


def test_the_published_schema_is_fresh() -> None:
    assert SCHEMA.read_bytes() == plan_schema(), (
        "write it anew: python -m reconciler.plan.render_json > schemas/plan.v1.json"
    )


def test_the_schema_is_a_valid_draft_07() -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(plan_schema()))


def test_a_schema_files_text_is_not_in_the_json_form() -> None:
    assert b"create table t" not in render_json(cases.first(2), lambda p: Position(p.file))


def test_ten_thousand_equal_shards_are_a_few_lines() -> None:
    text = render_text(cases.first(10_000))
    assert "s0 … s9999 (× 10000 shards)" in text
    assert len(text.splitlines()) < 20


def test_shards_are_named_one_by_one_up_to_three_and_in_their_order() -> None:
    assert "provision s0, s1 and s2:" in render_text(cases.first(3))
    backwards = cases.first(12)
    plan = dataclasses.replace(backwards.plan, steps=backwards.plan.steps[::-1])
    text = render_text(dataclasses.replace(backwards, plan=plan))
    assert "s0 … s11 (× 12 shards)" in text


def test_what_loses_data_comes_first() -> None:
    text = render_text(cases.troubled())
    order = [text.index(word) for word in ("- destroy", "~ restart", "- remove", "~ set work_mem")]
    assert order == sorted(order)


def remarks(count: int, text: str) -> PlanReport:
    found = tuple(Remark(cases.SHOP, f"{text} {n}") for n in range(count))
    return PlanReport(Plan("specs", cases.REVISION, (), remarks=found), cases.locate)


@pytest.mark.parametrize(
    "text", ["a table nobody shards", "```" * 40, "é中😀" * 30, "<b>|`@all`" * 9]
)
def test_markdown_stays_below_the_limit_of_a_comment(text: str) -> None:
    report = remarks(3_000, text)
    findings = tuple(ShownFinding("warn", "p", f"r{n}", text * 20) for n in range(500))
    markdown = render_markdown(dataclasses.replace(report, findings=findings))
    assert len(markdown.encode()) < 65_536
    assert markdown.startswith("<!-- shardwright:plan -->\n### ")
    assert markdown.count("<details>") == markdown.count("</details>")


def test_markdown_of_a_policy_cannot_mention_people_or_close_a_fence() -> None:
    findings = (ShownFinding("deny", "p", "r", "ask @everyone <script>"),)
    report = dataclasses.replace(remarks(1, "``````\n# out"), findings=findings)
    markdown = render_markdown(report)
    assert r"\@everyone \<script\>" in markdown
    assert sum(line.startswith("```") for line in markdown.splitlines()) == 2


def test_an_escape_sequence_in_a_spec_does_not_reach_the_terminal() -> None:
    text = render_text(remarks(1, "\x1b[2Jgone\x07\nnext"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "gone" in text


def test_nothing_to_do_is_one_clear_line_with_the_revision() -> None:
    last = render_text(cases.empty()).splitlines()[-1]
    assert last == "nothing to do: main@sha1:4f2a9c1 is what runs."


def test_silence_is_never_called_nothing_to_do() -> None:
    report = dataclasses.replace(cases.empty(), unseen=(Unseen("etcd", "records", "silent"),))
    still = (Standstill(cases.SHOP, "the whole database", "etcd is silent", unseen=True),)
    report = dataclasses.replace(report, plan=dataclasses.replace(report.plan, standstills=still))
    assert "nothing to do" not in render_text(report)
    assert verdict(report).startswith("Unknown whether there is something to do")
    assert json.loads(render_json(report, lambda p: Position(p.file)))["outcome"] == "unknown"


def test_without_etcd_an_empty_plan_is_unknown() -> None:
    report = dataclasses.replace(cases.empty(), unseen=(Unseen("etcd", "records", "silent"),))
    assert verdict(report).startswith("Unknown")
    assert json.loads(render_json(report, lambda p: Position(p.file)))["outcome"] == "unknown"


def test_what_is_left_alone_is_said_beside_nothing_to_do() -> None:
    still = (Standstill(cases.SHOP, "shop", "suspended by its spec"),)
    report = cases.empty()
    report = dataclasses.replace(report, plan=dataclasses.replace(report.plan, standstills=still))
    text = render_text(report)
    assert "left alone: shop: suspended by its spec" in text
    assert text.splitlines()[-1] == "suspended: left alone (shop)."


def test_a_database_left_alone_beside_others_is_named() -> None:
    place = Place("specs/b.yaml")
    other = dataclasses.replace(cases.SHOP, name=DatabaseName("other"))
    shown = (ShownDatabase(cases.SHOP, place), ShownDatabase(other, place))
    still = (Standstill(cases.SHOP, "the whole database", "suspended by its spec"),)
    plan = dataclasses.replace(cases.empty().plan, standstills=still)
    report = dataclasses.replace(cases.empty(), plan=plan, databases=shown)
    assert verdict(report).endswith("is what runs, but for shop: suspended.")


def book_keeping() -> PlanReport:
    split = cases.split()
    notes = tuple(
        dataclasses.replace(s, after=()) for s in split.plan.steps if s.id.endswith("/writerecord")
    )
    return dataclasses.replace(split, plan=dataclasses.replace(split.plan, steps=notes))


def test_a_note_of_our_own_is_nothing_to_do() -> None:
    report = book_keeping()
    assert verdict(report) == "Nothing to do but to note the new revision."
    assert json.loads(render_json(report, lambda p: Position(p.file)))["outcome"] == "nothingToDo"


def test_a_refusal_is_not_said_beside_counts_of_our_own_notes() -> None:
    refusals = cases.troubled().plan.refusals
    report = book_keeping()
    report = dataclasses.replace(report, plan=dataclasses.replace(report.plan, refusals=refusals))
    assert verdict(report).startswith("Refused:")


def test_a_time_that_is_not_whole_is_said_to_be_a_least() -> None:
    first, *rest = (s for s in cases.split().plan.steps if s.visible)
    steps = (
        dataclasses.replace(first, estimate=Estimate(40.0, "median of 3 runs here")),
        *(dataclasses.replace(s, estimate=Estimate(None, "none")) for s in rest),
    )
    report = dataclasses.replace(
        cases.split(), plan=dataclasses.replace(cases.split().plan, steps=steps)
    )
    assert timing(report) == "At least about 40 s (measured here); 1 step has no estimate yet."


def test_a_time_that_was_measured_is_told_from_one_that_was_assumed() -> None:
    move, first = sorted(
        (s for s in cases.split().plan.steps if s.visible),
        key=lambda step: not isinstance(step.action, MoveKeyRange),
    )
    steps = (
        dataclasses.replace(move, estimate=estimate(move.action, {})),
        dataclasses.replace(first, estimate=Estimate(40.0, "median of 1 run here"), after=()),
    )
    report = dataclasses.replace(
        cases.split(), plan=dataclasses.replace(cases.split().plan, steps=steps)
    )
    assert timing(report).endswith(" in all (measured here, moves at an assumed 60 MB/s).")


def test_names_are_the_ids_of_the_steps_in_order() -> None:
    assert render_names(cases.split()).splitlines() == [
        "shop-s2/startshard", "shop-s0/movekeyrange", "shop/writerecord",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.025, "25 ms"), (0.0001, "1 ms"), (25, "25 s"), (180, "3 min"), (86_400, "24 h"),
     (864_000, "10 days")],
)  # fmt: skip
def test_times_are_said_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 30, "1 GiB"), (int(2.1 * (1 << 30)), "2.1 GiB"),
     (5 << 40, "5 TiB"), (8192 << 40, "8192 TiB")],
)  # fmt: skip
def test_sizes_are_said_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_wide_and_combining_characters_are_counted_as_terminals_do() -> None:
    assert columns_of("中文") == 4
    assert columns_of("e\u0301") == 1
    assert clean("a\tb") == "a b"
    assert all(columns_of(line) <= 24 for line in wrapped("中文 " * 30, 24, 2, lambda _, t: t, ""))


def test_what_is_refused_of_many_shards_for_one_reason_is_said_once() -> None:
    report = cases.troubled()
    (first,) = report.plan.refusals
    many = tuple(dataclasses.replace(first, subject=f"shard s{i}") for i in (10, 2, 1, 0))
    other = dataclasses.replace(first, subject="shard s9", problem="it runs something else")
    plan = dataclasses.replace(report.plan, refusals=(*many, other))

    text = render_text(dataclasses.replace(report, plan=plan), 300)

    assert text.count("storage.size cannot become smaller") == 1
    assert "TE901 shards s0 … s10 (× 4): storage.size cannot become smaller" in text
    assert "TE901 shard s9: it runs something else" in text
