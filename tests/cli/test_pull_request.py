"""A pull request's check, offline: a repository, two commits, and a state file."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine.snapshot import encode_state
from tests.cli.calls import SHOP, TABLES, Caller
from tests.worlds import NOTHING

GIT = (
    "git", "-c", "user.name=Kim", "-c", "user.email=kim@example.org", "-c", "commit.gpgsign=false",
)  # fmt: skip
AT = "2026-11-26T12:00:00.000+00:00"


class Clone:
    """A clone as a forge's runner has it, with specs in ``prod/``."""

    def __init__(self, call: Caller) -> None:
        self.call, self.folder = call, call.folder / "clone"
        (self.folder / "prod" / "schema").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.write("prod/schema/001.sql", TABLES)
        self.write("prod/shop.yaml", SHOP)
        self.commit("base")
        self.state = call.folder / "state.json"
        self.state.write_bytes(encode_state(replace(NOTHING, looked_at=AT), "kim@host"))
        self.git("checkout", "-q", "-b", "topic")

    def git(self, *words: str) -> None:
        subprocess.run([*GIT, *words], cwd=self.folder, check=True, capture_output=True)

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def plan(self, *words: str, base: str = "main") -> Any:
        here = Caller(self.folder, self.call.home)
        return here("plan", "--base", base, "--path", "prod", "--state", str(self.state), *words)


@pytest.fixture
def clone(call: Caller) -> Clone:
    return Clone(call)


def test_a_proposal_shows_what_it_adds_and_not_what_is_outstanding(clone: Clone) -> None:
    clone.write("prod/desk.yaml", SHOP.replace("name: shop", "name: desk"))
    clone.commit("a second database")
    ended = clone.plan()
    told = ended.told()
    assert ended.code == 0, told
    assert "desk" in ended.out
    assert "provision s0" not in ended.out.partition("desk")[0], "the first is outstanding anyway"
    assert "are outstanding without this proposal" in ended.err
    assert f"as observed at {AT}" in ended.err
    assert clone.plan("--detailed-exitcode").code == 2


def test_a_proposal_that_changes_nothing_says_so(clone: Clone) -> None:
    clone.write("README", "no spec")
    clone.commit("words")
    ended = clone.plan("--detailed-exitcode")
    assert ended.code == 0, ended.told()
    assert "asks for nothing that main does not" in ended.out
    comment = clone.plan("-o", "markdown").out
    assert "10 steps are outstanding without this proposal" in comment
    assert "as observed at 2026" in comment


@pytest.mark.parametrize("form", ["github", "sarif", "gitlab", "junit"])
def test_mistakes_of_the_head_stand_at_their_lines_in_every_form(clone: Clone, form: str) -> None:
    clone.write(
        "prod/shop.yaml", SHOP.replace('["80-"]', '["7f-"]').replace("bigint", "biginteger")
    )
    clone.commit("two mistakes")
    ended = clone.plan("-o", form)
    assert ended.code == 1
    ended.told()
    if form == "github":
        (first, *_, last) = ended.out.splitlines()
        assert first.startswith("::error file=prod/shop.yaml,line=")
        assert "problem" in last
    elif form == "sarif":
        results = json.loads(ended.out)["runs"][0]["results"]
        assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == (
            "prod/shop.yaml"
        )
    elif form == "gitlab":
        assert json.loads(ended.out)[0]["location"]["path"] == "prod/shop.yaml"
    else:
        assert "<failure" in ended.out


def test_a_plan_in_markdown_begins_with_its_marker_and_verdict(clone: Clone) -> None:
    clone.write("prod/desk.yaml", SHOP.replace("name: shop", "name: desk"))
    clone.commit("a second database")
    lines = clone.plan("-o", "markdown").out.splitlines()
    assert lines[0] == "<!-- shardwright:plan -->"
    assert lines[1].startswith("### 2 shards to add")


def test_what_is_missing_is_named_with_the_remedy(clone: Clone, tmp_path: Path) -> None:
    assert "SO131" in clone.plan(base="origin/nowhere").told()
    clone.git("checkout", "-q", "--orphan", "apart")
    clone.commit("another history")
    told = clone.plan().told()
    assert "SO130" in told
    assert "fetch-depth: 0" in told
    clone.state.write_text("{}")
    clone.git("checkout", "-q", "topic")
    assert "ST101" in clone.plan().told()
    clone.state.unlink()
    assert "CL" in clone.plan().told()
    outside = Caller(tmp_path, clone.call.home)
    assert "SO131" in outside("plan", "--base", "main").told()
    assert "leave -f and --git out" in clone.plan("-f", ".").told()


def test_validate_speaks_the_forges_forms_too(clone: Clone) -> None:
    clone.write("prod/shop.yaml", SHOP.replace("bigint", "biginteger"))
    here = Caller(clone.folder, clone.call.home)
    ended = here("validate", "-f", "prod", "-o", "github")
    assert ended.code == 1
    assert ended.out.startswith("::error file=prod/shop.yaml,line=")
