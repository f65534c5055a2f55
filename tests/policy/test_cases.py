"""Cases beside a policy: strict about what they say, exact about what they find."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.model.desired import Place
from reconciler.model.errors import ProblemsFound
from reconciler.policy.cases import Case, CaseResult, decode_cases, run_cases
from reconciler.spec.decode import decode_file
from reconciler.spec.manifest_other import PolicyTest
from tests.policy.written import policies, rule

RULES = policies(
    rule("plan.bytesMoved <= 1 * TiB && plan.risk < DATA_LOSS", name="bytes", at="plan"),
    rule("database.shards.all(s, s.storage >= quantity('5Gi'))", name="storage", otherwise="warn"),
)
FILE = "policies/moves.test.yaml"


def decode(case: str, policy: str = "moves") -> tuple[Case, ...]:
    """Decode one case in YAML's flow style."""
    text = (
        "apiVersion: shardwright.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: moves}\n"
        f"spec:\n  policy: {policy}\n  cases:\n    - {case}\n"
    )
    ((place, manifest),) = decode_file(FILE, text.encode()).manifests
    assert isinstance(manifest, PolicyTest)
    return decode_cases(manifest, place, RULES, {FILE: text.encode()})


def run(case: str) -> CaseResult:
    """Run one case."""
    (result,) = run_cases(RULES, decode(case))
    return result


@pytest.mark.parametrize(
    "case",
    [
        "{at: plan, plan: {moves: [{bytes: 600Gi}]}, expect: {bytes: pass}}",
        "{at: plan, plan: {moves: [{bytes: 600Gi}, {bytes: 600Gi}]}, expect: {bytes: deny}}",
        "{at: plan, plan: {moves: [{bytes: 600Gi}], bytesMoved: 2Ti}, expect: {bytes: deny}}",
        "{at: plan, plan: {risk: DATA_LOSS}, expect: {bytes: deny}}",
        "{at: plan, plan: {moves: [{bytes: 1}, {}]}, expect: {bytes: deny (failed)}}",
        "{database: {shards: [{storage: 5Gi}, {}]}, expect: {storage: pass}}",
        "{database: {shards: [{storage: 4Gi, share: 1}]}, expect: {storage: warn}}",
        "{database: {pauseMax: 50ms, labels: {a: b}}, expect: {storage: pass}}",
    ],
)
def test_a_case_that_does_as_expected_passes(case: str) -> None:
    assert run(case).passed


@pytest.mark.parametrize(
    ("case", "difference"),
    [
        ("{at: plan, expect: {bytes: deny}}", ("bytes", "deny", "pass")),
        (
            "{at: plan, plan: {bytesMoved: 2Ti}, expect: {bytes: warn}}",
            ("bytes", "warn", "deny"),
        ),
        (
            "{at: plan, plan: {bytesMoved: null}, expect: {bytes: deny}}",
            ("bytes", "deny", "deny (failed)"),
        ),
    ],
)
def test_a_case_that_does_otherwise_is_told(case: str, difference: tuple[str, str, str]) -> None:
    result = run(case)
    assert not result.passed
    assert result.differences == (difference,)


MISTAKES = [
    ("{wen: x, expect: {storage: pass}}",
     "7:13", 'there is no field "wen"',
     "its fields are name, at, now, database, plan, fleet, step, expect"),
    ("{at: apply, expect: {storage: pass}}",
     "7:37", "rule storage is not checked at apply",
     ""),
    ("{at: plna, expect: {storage: pass}}",
     "7:12", '"plna" is no stage',
     "use one of spec, plan, apply"),
    ("{plan: {}, expect: {storage: pass}}",
     "7:14", 'there is no "plan" at spec',
     ""),
    ("{now: noon, expect: {storage: pass}}",
     "7:13", '"noon" is no time with an offset',
     'write it as "2026-01-31T22:00:00+01:00"'),
    ("{now: 2026-01-31T22:00:00, expect: {storage: pass}}",
     "7:13", '"2026-01-31T22:00:00" is no time with an offset',
     'write it as "2026-01-31T22:00:00+01:00"'),
    ("{name: a}",
     "7:7", "it expects nothing",
     "expect: {rule: pass|deny|hold|warn}"),
    ("{expect: {storag: pass}}",
     "7:25", 'the policy has no rule "storag"',
     'did you mean "storage"?'),
    ("{expect: {storage: maybe}}",
     "7:26", '"maybe" is no outcome',
     "use one of pass, deny, hold, warn, deny (failed), hold (failed), warn (failed)"),
    ("{database: {shards: [{}, {instnces: 3}]}, expect: {storage: pass}}",
     "7:43", 'there is no field "instnces"',
     'did you mean "instances"?'),
    ("{database: {shards: 3}, expect: {storage: pass}}",
     "7:27", "it must be a list",
     ""),
    ("{database: 3, expect: {storage: pass}}",
     "7:18", "it must be a mapping",
     ""),
    ("{database: {shards: [{storage: 10GB}]}, expect: {storage: pass}}",
     "7:38", "'10GB' is not a size such as 10Gi",
     ""),
    ("{database: {shards: [{instances: true}]}, expect: {storage: pass}}",
     "7:40", '"True" must be a whole number or a size',
     ""),
    ("{database: {version: 16}, expect: {storage: pass}}",
     "7:28", '"16" must be text',
     "quote it"),
    ("{database: {labels: {a: 1}}, expect: {storage: pass}}",
     "7:27", "it must be a mapping of texts",
     "quote numbers, true and false"),
    ("{database: {suspend: 1}, expect: {storage: pass}}",
     "7:28", '"1" must be true or false',
     ""),
    ("{database: {latencyRatioMax: x}, expect: {storage: pass}}",
     "7:36", '"x" must be a number',
     ""),
    ("{database: {pauseMax: 3}, expect: {storage: pass}}",
     "7:29", '"3" must be a duration such as 24h',
     ""),
]  # fmt: skip


@pytest.mark.parametrize(("case", "position", "problem", "remedy"), MISTAKES)
def test_a_mistake_in_a_case_is_told_at_its_place(
    case: str, position: str, problem: str, remedy: str
) -> None:
    with pytest.raises(ProblemsFound) as caught:
        decode(case)
    (found,) = caught.value.problems
    assert found.code == "PO109"
    assert str(found.where) == f"{FILE}:{position}"
    assert (found.problem, found.remedy) == (problem, remedy)


def test_a_test_of_no_policy_is_told() -> None:
    with pytest.raises(ProblemsFound) as caught:
        decode("{expect: {storage: pass}}", policy="mvoes")
    (problem,) = caught.value.problems
    assert str(problem) == (
        f'PO109 {FILE}:5:11  test of mvoes: there is no policy "mvoes"\n'
        '      try: did you mean "moves"?'
    )


def test_a_case_without_a_time_runs_on_a_wednesday_at_noon() -> None:
    (case,) = decode("{expect: {storage: pass}}")
    assert case.now == datetime(2026, 1, 14, 12, tzinfo=UTC)
    assert case.place == Place(FILE, 0, ("spec", "cases", 0))


def test_a_policy_that_does_not_match_the_case_is_no_pass() -> None:
    found: Any = decode("{expect: {storage: pass}}")
    (result,) = run_cases(policies(rule("plan.risk > 1", name="other", at="plan")), found)
    assert result.differences == (("storage", "pass", "not asked: match leaves it out"),)
