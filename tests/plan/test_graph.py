"""The order of steps, and what waits for what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.plan.graph import DependencyCycle, behind, order


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Graphs without a cycle, given in any order."""
    count = draw(st.integers(0, 8))
    nodes = [f"n{i}" for i in range(count)]
    needs = {
        node: draw(st.lists(st.sampled_from(nodes[:i]), unique=True)) if i else []
        for i, node in enumerate(nodes)
    }
    return {node: needs[node] for node in draw(st.permutations(nodes))}


@given(graphs())
def test_each_stands_behind_those_it_waits_for(after: dict[str, list[str]]) -> None:
    found = order(after)

    assert sorted(found) == sorted(after)
    assert all(found.index(need) < found.index(node) for node in after for need in after[node])


def test_what_waits_for_nothing_keeps_the_order_it_was_given_in() -> None:
    assert order({"c": [], "a": [], "b": []}) == ("c", "a", "b")


def test_no_steps_are_in_order() -> None:
    assert order({}) == ()


@pytest.mark.parametrize(
    ("after", "ids"),
    [
        ({"a": ["a"]}, ("a",)),
        ({"a": ["b"], "b": ["a"]}, ("a", "b")),
        ({"free": [], "a": ["c"], "b": ["a"], "c": ["b"], "late": ["c"]}, ("a", "b", "c", "late")),
    ],
)
def test_steps_that_wait_for_one_another_are_named(
    after: dict[str, list[str]], ids: tuple[str, ...]
) -> None:
    with pytest.raises(DependencyCycle, match="wait for one another") as caught:
        order(after)
    assert caught.value.ids == ids


def test_an_id_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError, match="ghost"):
        order({"a": ["ghost"]})


def test_what_is_behind_a_step_waits_for_it_directly_or_not() -> None:
    after = {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["c", "d"]}

    assert behind(after, ["b"]) == {"c", "e"}
    assert behind(after, ["d", "e"]) == {"e"}
    assert behind(after, []) == frozenset()


def test_behind_a_step_that_is_done_and_gone_nothing_is_looked_for() -> None:
    """Apply asks with what is left; steps that are done are in nobody's list any more."""
    assert behind({"b": ["a"]}, ["a"]) == frozenset()
    assert behind({"b": ["gone"], "c": ["b"]}, ["b"]) == {"c"}


@given(graphs())
def test_what_is_behind_agrees_with_walking_the_graph(after: dict[str, list[str]]) -> None:
    def waits_for(node: str, start: str) -> bool:
        return any(need == start or waits_for(need, start) for need in after[node])

    for start in after:
        assert behind(after, [start]) == {node for node in after if waits_for(node, start)}


def test_what_is_behind_many_forks_is_looked_at_once() -> None:
    """Walking each way through fifty forks would take for ever."""
    after: dict[str, list[str]] = {"0": []}
    for i in range(1, 51):
        after |= {f"{i}a": [f"{i - 1}"], f"{i}b": [f"{i - 1}"], f"{i}": [f"{i}a", f"{i}b"]}

    assert len(behind(after, ["0"])) == 150
