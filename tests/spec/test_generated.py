"""Ten thousand generated specs: problems, never another exception, never a hang."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler import spec
from reconciler.model.desired import Revision
from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.spec.documents import Documents, SourceFile
from reconciler.spec.yaml_reader import parse
from tests.spec.test_form import CONFIG, POLICY
from tests.spec.texts import GOOD

SHOP = (Path(__file__).parents[2] / "specs/shop/shop.yaml").read_text()
TEXTS = [GOOD, SHOP, *POLICY.split("---\n"), CONFIG]
DOCUMENTS: list[Any] = [parse(text, "f").documents[0] for text in (GOOD, SHOP, *TEXTS)]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["-80", "80-", "-", "7f-", "no", "16", 16, "10Gi", "2x", "s0", "../x", "*.sql"]
    ),
)
MUTATIONS = ["vary", "vary", "vary", "double", "drop", "rename", "retype", "add"]
_WORDS = """-80 80- - 7f- 40-80 16 17 18 9 10Gi 1Mi 0k 2x 500m s0 s1 orders public.orders countries
    int text uuid 64kB 1GB 5min off ../x *.sql **/*.sql schema/*.sql [a- 24h 100ms 0s destroy 1e9 0x
    0x10 1e400 .5 5. nan inf -1 1e309MB"""
WORDS = st.sampled_from(_WORDS.split()) | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=6,
)
SIGNS = [*"{}[]:,-#&*!|>'\"%@`\t\n ?~", "&a ", "*a", "<<: "]
KEYS = st.text(max_size=12) | st.sampled_from(
    ["spec", "shards", "name", "keys", "shardz", "verson"]
)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [p for k, v in children for p in [(*path, k), *_paths(v, (*path, k))]]


@st.composite
def spoilt_documents(draw: st.DrawFn) -> str:
    """A good document after one to four mutations, written as YAML."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 4))):
        paths = _paths(document)
        if not paths:
            break
        *above, last = draw(st.sampled_from(paths))
        parent = document
        for step in above:
            parent = parent[step]
        match draw(st.sampled_from(MUTATIONS)):
            case "vary" if isinstance(parent[last], str):
                parent[last] = draw(WORDS)
            case "vary" if type(parent[last]) is int:
                parent[last] = draw(st.integers(-1, 20) | st.integers())
            case "drop":
                del parent[last]
            case "rename" if isinstance(parent, dict):
                parent[draw(KEYS)] = parent.pop(last)
            case "add" if isinstance(parent, dict):
                parent[draw(KEYS)] = draw(VALUES)
            case "double" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
            case _:
                parent[last] = draw(VALUES)
    return str(yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False))


@st.composite
def spoilt_texts(draw: st.DrawFn) -> bytes:
    """A good text with some characters replaced, or bytes of any kind."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(text)))
        gone = draw(st.integers(0, 8))
        new = draw(st.sampled_from(SIGNS) | st.text(max_size=3))
        text = text[:at] + new + text[at + gone :]
    return text.encode("utf-8", "surrogatepass")


def _read(data: bytes) -> None:
    files = (SourceFile("a.yaml", data), SourceFile("schema/001.sql", b"select 1"))
    problems: tuple[ReconcilerError, ...] = ()
    try:
        spec.read(Documents("tests", Revision("files@sha256:0"), files))
    except ProblemsFound as found:
        problems = found.problems
    for problem in problems:
        assert problem.where is not None
        assert str(problem).startswith(problem.code)


GENERATED = settings(
    max_examples=10_000, deadline=10_000, database=None, suppress_health_check=list(HealthCheck)
)


@GENERATED
@given(st.one_of(spoilt_documents().map(str.encode), spoilt_texts(), st.binary(max_size=80)))
def test_a_generated_spec_gives_problems_or_a_state_and_nothing_else(data: bytes) -> None:
    _read(data)
