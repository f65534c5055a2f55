"""Canaries and gates of a spec: each mistake has its place and its cure."""

from __future__ import annotations

import re

import pytest

from reconciler.model.desired import Canary, Gate, GateLanguage, Rollout
from reconciler.model.names import ShardName
from tests.spec.texts import GOOD, database, problems


def _with(rollout: str) -> str:
    return GOOD.rstrip("\n") + f"\n  rollout: {rollout}\n"


def test_canaries_and_gates_are_read_with_their_units() -> None:
    gates = "[{name: a, sql: SELECT 1, min: 1}, {name: b, promql: up, max: 2.5}]"
    text = f"{{restartsMax: 3, canary: {{shards: [s1], bake: 2m, gates: {gates}}}}}"
    assert database(_with(text)).rollout == Rollout(
        restarts_max=3,
        canary=Canary(
            (ShardName("s1"),),
            120.0,
            (
                Gate("a", GateLanguage.SQL, "SELECT 1", least=1.0),
                Gate("b", GateLanguage.PROMQL, "up", most=2.5),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("canary", "told"),
    [
        ("{shards: [s9]}", "SP122 a.yaml:{line}:31  shop: there is no shard s9"),
        ("{shards: [s0, s0]}", "shard s0 is named twice"),
        ("{shards: [s0, s1]}", "every shard is a canary, so none waits for them"),
        ("{shards: [s0], bake: 8d}", "bake is out of bounds: it must be 0s to 7d"),
        ("{shards: [s0], gates: [{name: a, max: 1}]}", "SP123 .* gate a: it asks no question"),
        ("{shards: [s0], gates: [{name: a, sql: x, promql: x, max: 1}]}", "in two languages"),
        ("{shards: [s0], gates: [{name: a, sql: ' ', max: 1}]}", "its question is empty"),
        ("{shards: [s0], gates: [{name: a, sql: x}]}", "its answer has no bound"),
        ("{shards: [s0], gates: [{name: a, sql: x, min: 2, max: 1}]}", "min is above max"),
        (
            "{shards: [s0], gates: [{name: a, sql: x, max: 1}, {name: a, sql: y, max: 1}]}",
            "two gates have this name",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(canary: str, told: str) -> None:

    text = _with(f"{{canary: {canary}}}")
    found = problems(text)
    line = len(text.splitlines())
    assert any(re.search(told.format(line=line), one) for one in found), found
    assert all(f"a.yaml:{line}:" in one for one in found)
