"""Notes in the forms of the forges: escaped, bounded, the worst first."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from reconciler.plan.render_notes import (
    FORMS,
    GITHUB_KIND_MAX,
    SARIF_RESULTS_MAX,
    Level,
    Note,
    render_notes,
)

BAD = Note(
    Level.ERROR, "specs/a,b:c.yaml", 24, 13, "SP102", "shards overlap: 100%\ntry: <end> s0 at 7f"
)
POOR = Note(Level.WARNING, "specs/shop.yaml", 9, 0, "availability/instances", "two & no more")
WORTH = Note(Level.NOTICE, "", 0, 0, "remark", "nobody shards orders_audit")
ALL = (WORTH, BAD, POOR, BAD)


def test_github_reads_the_worst_first_and_escaped() -> None:
    assert render_notes(ALL, "github", "Refused.").splitlines() == [
        "::error file=specs/a%2Cb%3Ac.yaml,line=24,col=13,title=SP102"
        "::shards overlap: 100%25%0Atry: <end> s0 at 7f",
        "::warning file=specs/shop.yaml,line=9,title=availability/instances::two & no more",
        "::notice title=remark::nobody shards orders_audit",
        "Refused.",
    ]


def test_github_gets_no_more_than_it_shows_and_hears_how_many_there_are() -> None:
    many = [Note(Level.ERROR, f"{i:03}.yaml", 1, 1, "SP1", "wrong") for i in range(35)]
    lines = render_notes([*many, POOR], "github", "35 problems").splitlines()
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == GITHUB_KIND_MAX
    assert errors[-1] == "::error title=shardwright::26 more of this kind: see the log"
    assert sum(line.startswith("::warning") for line in lines) == 1
    whole = render_notes(many[:GITHUB_KIND_MAX], "github", "").splitlines()
    assert "more of this kind" not in "".join(whole)


def test_sarif_names_rules_places_and_fingerprints() -> None:
    found = json.loads(render_notes(ALL, "sarif", ""))
    assert found["version"] == "2.1.0"
    (run,) = found["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        "SP102", "availability/instances", "remark",
    ]  # fmt: skip
    first, second, third = run["results"]
    assert (first["ruleIndex"], first["level"]) == (0, "error")
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "specs/a,b:c.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 24, "startColumn": 13},
    }
    assert second["locations"][0]["physicalLocation"]["region"] == {"startLine": 9}
    assert "locations" not in third
    many = [Note(Level.ERROR, "a", i, 1, "SP1", str(i)) for i in range(SARIF_RESULTS_MAX + 9)]
    bounded = json.loads(render_notes(many, "sarif", ""))["runs"][0]["results"]
    assert len(bounded) == SARIF_RESULTS_MAX


def test_gitlab_tells_notes_apart_although_lines_move() -> None:
    one, two, three = json.loads(render_notes(ALL, "gitlab", ""))
    assert [one["severity"], two["severity"], three["severity"]] == ["critical", "major", "info"]
    assert one["location"] == {"path": "specs/a,b:c.yaml", "lines": {"begin": 24}}
    assert len({one["fingerprint"], two["fingerprint"], three["fingerprint"]}) == 3
    moved = Note(BAD.level, BAD.file, 99, 1, BAD.code, BAD.text)
    (again,) = json.loads(render_notes((moved,), "gitlab", ""))
    assert again["fingerprint"] == one["fingerprint"]


def test_junit_is_xml_whatever_a_text_holds() -> None:
    odd = Note(Level.ERROR, "a.yaml", 1, 1, "SP1", 'a "quote" <b> & \x00\x1b[31m\nsecond')
    text = render_notes((*ALL, odd), "junit", "2 & more problems")
    suite = ET.fromstring(text)  # noqa: S314  our own
    assert (suite.get("tests"), suite.get("failures")) == ("5", "2")
    failures = [case.find("failure") for case in suite if case.find("failure") is not None]
    assert len(failures) == 2


@pytest.mark.parametrize("form", FORMS)
def test_without_notes_every_form_is_still_whole(form: str) -> None:
    text = render_notes((), form, "nothing to do")
    assert {"github": "nothing to do", "gitlab": "[]"}.get(form, text) == text
    assert "nothing to do" in text or form in ("sarif", "gitlab")
