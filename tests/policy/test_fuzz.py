"""Whatever is written as an expression: a typed error or a verdict, never anything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.policy.check import Subject, Verdict, check
from reconciler.policy.expressions import Stage
from reconciler.policy.facts import DatabaseFacts, FleetFacts, PlanFacts, ShardFacts, StepFacts
from reconciler.policy.rules import PolicyDocument, Rule, compile_policies
from tests.policy.written import NOON

_ATOMS = [
    "database", "plan", "fleet", "step", "now", "GiB", "DATA_LOSS", "true", "null", "1", "-1", "0",
    "1.5", "9223372036854775807", "'x'", '""', "'10Gi'", "b'x'", "[]", "{}", "[1, 'a']",
    "{'a': 1}", "database.shards", "plan.moves", "plan.bytesMoved", "database.labels", "s", "s.cpu",
    "database.pauseMax", "database.name", "step.bytes", "fleet.risk", "shardwright.Shard{}",
    "google.protobuf.Timestamp{}", "type(1)", "dyn(1)",
]  # fmt: skip
_SHAPES = [
    "({0} && {1})", "({0} == {1})", "({0} < {1})", "({0} + {1})", "({0} / {1})", "({0} % {1})",
    "!{0}", "-{0}", "({0} in {1})", "{0}[{1}]", "{0}.all(s, {1})", "{0}.exists(s, {1})",
    "{0}.map(s, {1})", "{0}.filter(s, {1})", "has({0}.name)", "size({0})", "quantity({0})",
    "{0}.matches({1})", "({0} ? {1} : {0})", "duration({0})", "timestamp({0})", "{0}.getHours({1})",
    "{0}.name", "string({0})", "int({0})", "{0}.join({1})", "{0}.split({1})", "{0}.format([{1}])",
    "{0}.charAt({1})", "{0}.replace({1}, {1})", "dyn({0})",
]  # fmt: skip


def _combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda s, a, b: s.format(a, b), st.sampled_from(_SHAPES), inner, inner)


EXPRESSIONS = st.recursive(st.sampled_from(_ATOMS), _combine, max_leaves=12)
SUBJECT = Subject(
    DatabaseFacts(shards=(ShardFacts("s0"), ShardFacts("s1", cpu=1.0)), labels=(("a", "b"),)),
    PlanFacts(bytes_moved=None),
    StepFacts(),
)


def judged(expression: str, stage: Stage) -> Verdict | ReconcilerError:
    """Compile and check a rule; only the error that users are told may come out."""
    rule = Rule("r", (stage,), expression, "message", when=expression)
    try:
        policies = compile_policies((PolicyDocument("p", (rule,)),))
    except ProblemsFound as found:
        return found
    return check(policies, stage, (SUBJECT,), NOON, FleetFacts())


@settings(max_examples=1500, deadline=None)
@given(EXPRESSIONS, st.sampled_from(Stage))
def test_any_expression_ends_in_a_verdict_or_a_told_mistake(text: str, stage: Stage) -> None:
    judged(text, stage)


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS)
def test_any_condition_of_true_or_false_ends_in_a_verdict(text: str) -> None:
    judged(f"dyn({text}) == dyn({text}) || true == dyn({text})", Stage.APPLY)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=60))
def test_any_text_ends_in_a_verdict_or_a_told_mistake(text: str) -> None:
    judged(text, Stage.SPEC)


@settings(max_examples=300, deadline=None)
@given(st.text("()[]{}!-.?:\"'\\ \n\tabdnt&|<>=+%", max_size=300))
def test_any_heap_of_signs_ends_in_a_told_mistake(text: str) -> None:
    judged(text, Stage.PLAN)
