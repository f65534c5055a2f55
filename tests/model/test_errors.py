"""Every error has a code of its own, and a story that ``shardwright explain`` can tell."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import reconciler
import reconciler.model.errors as errors_module
from reconciler.model.errors import Position, ProblemsFound, ReconcilerError, registry

PARTS = re.findall(r"\b([A-Z]{2}) \w", errors_module.__doc__ or "")
"""The parts that the module of errors lists in its docstring."""


@pytest.fixture(scope="module")
def errors() -> dict[str, type[ReconcilerError]]:
    """All error types of the package: every module of it is imported."""
    for module in pkgutil.walk_packages(reconciler.__path__, "reconciler."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {c: k for c, k in registry().items() if k.__module__.startswith("reconciler.")}


Errors = dict[str, type[ReconcilerError]]


def test_no_code_is_claimed_twice(errors: Errors) -> None:
    assert len(errors) > 80
    assert len({kind.code for kind in errors.values()}) == len(errors)


def test_a_code_claimed_twice_is_told_when_the_errors_are_listed() -> None:
    """In a process of its own: a class that was made cannot be unmade."""
    program = (
        "from reconciler.model.errors import ReconcilerError, registry\n"
        "for n in 'AB': type(n, (ReconcilerError,), {'code': 'ZZ901'})\n"
        "registry()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ZZ901 is claimed by A and B" in done.stderr


def test_every_code_names_its_part(errors: Errors) -> None:
    code = re.compile(f"({'|'.join(PARTS)})[0-9]{{3}}")

    assert len(PARTS) > 12
    assert [c for c in errors if not code.fullmatch(c)] == []


def test_every_error_tells_its_story_in_sentences(errors: Errors) -> None:
    stories = {code: (vars(kind).get("__doc__") or "").strip() for code, kind in errors.items()}

    assert [c for c, s in stories.items() if len(s.partition("\n")[0]) <= 20] == []
    assert [c for c, s in stories.items() if not s.endswith((".", ".)"))] == []


def test_an_error_is_named_after_the_fact(errors: Errors) -> None:
    names = [kind.__name__ for kind in errors.values()]

    assert [n for n in names if n.endswith(("Error", "Exception", "Failure"))] == []


def test_an_error_says_all_it_knows_on_one_line_and_its_advice_below() -> None:
    error = ReconcilerError(
        "shard s0", "is gone", remedy="look for it", where=Position("specs/shop.yaml", 24, 13)
    )

    assert str(error) == ("IN000 specs/shop.yaml:24:13  shard s0: is gone\n      try: look for it")
    assert str(ReconcilerError("shard s0", "is gone")) == "IN000  shard s0: is gone"


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position("a.yaml"), "a.yaml"),
        (Position("a.yaml", 3), "a.yaml:3"),
        (Position("a.yaml", 3, 7), "a.yaml:3:7"),
    ],
)
def test_a_position_leaves_out_what_it_does_not_know(position: Position, text: str) -> None:
    assert str(position) == text


def test_problems_are_sorted_by_file_and_line_and_those_without_a_place_come_first() -> None:
    late = ReconcilerError("x", "late", where=Position("b.yaml", 2))
    early = ReconcilerError("x", "early", where=Position("b.yaml", 1))
    other = ReconcilerError("x", "other file", where=Position("a.yaml", 9))
    nowhere = ReconcilerError("x", "nowhere")

    assert ProblemsFound((late, early, other, nowhere)).problems == (nowhere, other, early, late)
