"""The policies that ship: their cases pass, and ordinary work passes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from reconciler.model.desired import Database, Deletion
from reconciler.model.observed import ObservedState
from reconciler.policy.cases import Case, decode_cases, run_cases
from reconciler.policy.check import Verdict, check_plan, check_spec, prepare_plan_check
from reconciler.policy.rules import Outcome, PolicySet, compile_policies, policy_document
from reconciler.spec.decode import decode_file
from reconciler.spec.manifest_other import Policy, PolicyTest
from tests.policy.plans import planned
from tests.policy.written import NOON
from tests.worlds import NOTHING, after, database, desired, shard

FOLDER = Path(__file__).parents[2] / "policies"


@cache
def shipped() -> tuple[PolicySet, tuple[Case, ...]]:
    """Read the whole folder, with its cases."""
    sources = {f"policies/{p.name}": p.read_bytes() for p in sorted(FOLDER.glob("*.yaml"))}
    decoded = {path: decode_file(path, data) for path, data in sources.items()}
    assert not [p for d in decoded.values() for p in d.problems]
    manifests = [pair for d in decoded.values() for pair in d.manifests]
    documents = [policy_document(m, p) for p, m in manifests if isinstance(m, Policy)]
    policies = compile_policies(tuple(documents), sources)
    tests = [(p, m) for p, m in manifests if isinstance(m, PolicyTest)]
    return policies, tuple(c for p, m in tests for c in decode_cases(m, p, policies, sources))


@pytest.mark.parametrize("case", shipped()[1], ids=lambda c: f"{c.policy}: {c.name}")
def test_a_case_of_the_default_set(case: Case) -> None:
    (result,) = run_cases(shipped()[0], (case,))
    assert result.differences == ()


def test_every_rule_of_the_default_set_has_a_case_in_which_it_passes_and_one_in_which_not() -> None:
    policies, cases = shipped()
    wanted = {(c.policy, rule, o == "pass") for c in cases for rule, o in c.expect.items()}
    rules = {(d.name, rule.name) for d in policies.documents for rule in d.rules}
    assert wanted == {(*rule, passes) for rule in rules for passes in (True, False)}


def demo(instances: int, parameters: tuple[tuple[str, str], ...] = ()) -> Database:
    """Two shards, as the demo has them."""
    shards = (shard("s0", "-80", instances), shard("s1", "80-", instances))
    return database(*shards, parameters=parameters)


def verdict(wanted: tuple[Database, ...], seen: ObservedState) -> Verdict:
    """Hold the default set against a spec, its plan and every step of it."""
    policies, _ = shipped()
    state = desired(*wanted)
    plan = planned(state, seen)
    found = check_spec(policies, state, NOON).joined(check_plan(policies, state, plan, NOON))
    steps = prepare_plan_check(policies, state, plan)
    for step in plan.steps:
        found = found.joined(steps.at_step(step, NOON))
    return found


def test_the_demo_is_created_with_a_warning_about_its_two_instances() -> None:
    found = verdict((demo(2),), NOTHING)
    assert [(f.outcome, f.rule) for f in found.findings] == [
        (Outcome.WARN, "instances"),
        (Outcome.WARN, "owner"),
    ]
    assert found.findings[0].text == "two instances cannot survive a failure during maintenance"


def test_the_demo_is_scaled_and_restarted_without_a_finding() -> None:
    seen = after(desired(demo(2)))
    found = verdict((demo(3, (("shared_buffers", "64MB"),)),), seen)
    assert [f.rule for f in found.findings] == ["owner"]


def test_a_split_of_the_demo_passes() -> None:
    shards = (shard("s0", "-40", 3), shard("s2", "40-80", 3), shard("s1", "80-", 3))
    found = verdict((database(*shards),), after(desired(demo(3))))
    assert found.worst is Outcome.WARN


def test_destroying_a_database_is_denied_at_the_plan_and_at_the_step() -> None:
    gone = database(deletion=Deletion.DESTROY)
    found = verdict((), after(desired(gone)))
    denied = {f.rule for f in found.findings if f.outcome is Outcome.DENY}
    assert denied == {"no-destroy", "no-destroy-step"}


def test_keeping_the_data_of_a_deleted_database_is_allowed() -> None:
    gone = database(deletion=Deletion.KEEP_DATA)
    assert verdict((), after(desired(gone))).worst is None
