"""What is wrong with a rule is said when it is loaded, at its line and column."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reconciler.model.desired import Place
from reconciler.policy.places import locate_expression
from reconciler.policy.rules import compile_policies
from tests.policy.written import HEAD, documents, mistake, mistakes, policies, rule

MISTAKES = [
    ("database.name ==", "spec", "PO101", "9:32", "not CEL: it ends too early", ""),
    ("'true true'", "spec", "PO101", "9:22", "not CEL: 'true' is not expected here", ""),
    ("'@'", "spec", "PO101", "9:17", "not CEL: token recognition error at: '@'", ""),
    ("''", "spec", "PO101", "9:17", "the expression is empty", "write true"),
    ("database.shards.all(s, s.instnces > 1)", "spec", "PO102", "9:41",
     'a shard has no "instnces"', 'did you mean "instances"?'),
    ("size(databse.shards) == 1", "spec", "PO102", "9:21",
     'there is no variable or function "databse"', 'did you mean "database"?'),
    ("database.shards.exist(s, s.name == 'x')", "spec", "PO102", "9:32",
     'there is no variable or function "exist"', 'did you mean "exists"?'),
    ("xyzzy == 1", "plan", "PO102", "9:16",
     'there is no variable or function "xyzzy"', "there are database, plan, fleet, now"),
    ("database.shards.all(s, s.share < 1)", "spec", "PO103", "9:47",
     '"<" does not take (double, int)',
     "write the number with a point, such as 1.0, or convert it with double()"),
    ("database.version >= 16", "spec", "PO103", "9:33", '">=" does not take (string, int)',
     'put text in quotes; a size in text is converted by quantity("10Gi")'),
    ("'!database.name'", "spec", "PO103", "9:17", '"!" does not take (string)', ""),
    ("database != 1", "spec", "PO103", "9:25", '"!=" does not take (database, int)', ""),
    ("plan.moves.all(m, m.bytes > 'x')", "plan", "PO103", "9:42",
     '">" does not take (int, string)',
     'put text in quotes; a size in text is converted by quantity("10Gi")'),
    ("database.name.first == 'x'", "spec", "PO103", "9:29",
     "expression of type 'string' cannot be the operand of a select operation",
     "only messages and maps have fields"),
    ("plan.restarts == 0", "spec, plan", "PO104", "9:16",
     'there is no "plan" yet at spec', "at: [plan, apply]"),
    ("step.risk < RESTART", "plan", "PO104", "9:16",
     'there is no "step" yet at plan', "at: [apply]"),
    ("database.name", "spec", "PO105", "9:16", "its result is string, not true or false",
     "compare it with something, for example == or > 0"),
    ("dyn(database.name)", "spec", "PO105", "9:16", "its result is dyn, not true or false",
     "compare it with something, for example == or > 0"),
    ("now.getHours('Europe/Pari') > 2", "spec", "PO107", "9:29",
     "getHours('Europe/Pari') can only fail: Invalid timezone",
     'a name of the tz database, such as "Europe/Paris", or an offset such as "+02:00"'),
    ("quantity('10Gx') > 1", "spec", "PO107", "9:25",
     "quantity('10Gx') can only fail: '10Gx' is not a size such as 10Gi",
     'a size such as "10Gi"'),
    ("duration('1x') > duration('1s')", "spec", "PO107", "9:25",
     "duration('1x') can only fail: String to Duration conversion failed",
     'a duration such as "90s" or "24h"'),
    ("now > timestamp('2026')", "spec", "PO107", "9:32",
     "timestamp('2026') can only fail: String to Timestamp conversion failed",
     'a time such as "2026-01-31T22:00:00Z"'),
    ("database.name.matches('a(')", "spec", "PO107", "9:38",
     "matches('a(') can only fail: invalid regular expression: missing ): a(",
     "a regular expression of RE2"),
    ("'" + "(" * 40 + "1" + ")" * 40 + " == 1'", "spec", "PO108", "9:17",
     "the expression nests deeper than CEL reads",
     "split the rule, or chain its parts with && and ||"),
]  # fmt: skip


@pytest.mark.parametrize(("require", "at", "code", "position", "problem", "remedy"), MISTAKES)
def test_a_mistake_in_a_rule_is_told_at_its_column(
    require: str, at: str, code: str, position: str, problem: str, remedy: str
) -> None:
    told = f"{code} policies/p0.yaml:{position}  policy moves, rule r, require: {problem}"
    assert mistake(require, at) == (f"{told}\n      try: {remedy}" if remedy else told)


def test_an_expression_of_more_than_four_thousand_characters_is_refused() -> None:
    assert "the expression has 4,019 characters" in mistake(f"database.name != '{'x' * 4_000}'")
    policies(rule(f"database.name != '{'x' * 3_980}'"))


def test_an_expression_that_could_grow_without_bound_is_refused() -> None:
    growing = "['x']" + "".join(f".map(a{n}, a{n} + a{n} + a{n} + a{n})" for n in range(16))
    assert "16 calls of map, replace, format and join" in mistake(f"size({growing}) == 1")
    assert "PO108" in mistake("\"'x'" + ".replace('x', 'xxxxxxxx')" * 4 + " != ''\"")
    policies(rule("\"'x'" + ".replace('x', 'xxxxxxxx')" * 3 + " != ''\""))


def test_a_name_in_a_text_is_no_mistake() -> None:
    policies(rule("database.name != \"quantity('10Gx')\""))


def test_each_part_of_a_rule_is_told_once_however_many_stages_it_has() -> None:
    text = rule("database.nme == 'x'", when="database.nmae == 'x'", at="spec, plan, apply")
    found = mistakes(HEAD + text)
    assert [str(p).partition(":")[0][:5] for p in found] == ["PO102", "PO102"]
    assert [str(p.where) for p in found] == ["policies/p0.yaml:9:22", "policies/p0.yaml:10:25"]


def test_all_mistakes_of_all_rules_are_told_at_once() -> None:
    first = HEAD + rule("nope", name="a") + rule("1", name="b")
    found = mistakes(first, HEAD.replace("moves", "other") + rule("nope"))
    assert [p.code for p in found] == ["PO102", "PO105", "PO102"]


@pytest.mark.parametrize(
    ("written", "position"),
    [
        ("database.nme == 'x'", "9:25"),
        ("\"database.nme == 'x'\"", "9:26"),
        ("|\n        database.name == 'x' &&\n\n          database.nme == 'y'", "12:20"),
        ("|\n        database.nme == 'y'", "10:18"),
        (">-\n        true &&\n        database.nme == 'y'", "9:16"),
        ("\"database.name != 'a\\u00e9' && database.nme == ''\"", "9:16"),
        ('\'database.name == "aé😀" && database.nme == ""\'', "9:52"),
        ("database.nme\n        == 'x'", "9:16"),
    ],
)
def test_a_place_in_an_expression_is_found_in_every_style_of_text(
    written: str, position: str
) -> None:
    (problem,) = mistakes(HEAD + rule(written))
    assert str(problem.where) == f"policies/p0.yaml:{position}"


def test_without_the_text_only_the_file_is_named() -> None:
    place = Place("policies/gone.yaml", 0, ("spec", "rules", 0, "require"))
    assert str(locate_expression(place, {})) == "policies/gone.yaml"
    assert str(locate_expression(place, {"policies/gone.yaml": b"{"})) == "policies/gone.yaml"


def test_two_rules_of_one_name_are_refused() -> None:
    (problem,) = mistakes(HEAD + rule("true") + rule("true"))
    assert str(problem) == (
        "PO106 policies/p0.yaml:12:13  policy moves, rule r: there is another rule of this name\n"
        "      try: give each its own name"
    )


def test_two_policies_of_one_name_are_refused() -> None:
    (problem,) = mistakes(HEAD + rule("true"), HEAD + rule("true"))
    assert str(problem).startswith("PO106 policies/p1.yaml:3:18  policy moves: there is another")


def test_a_rule_without_when_is_compiled_without_one() -> None:
    (found,), _ = documents(HEAD + rule("true"))
    compiled = compile_policies((found,))
    assert [r.when for stage in compiled.rules.values() for r in stage] == [None]


def test_cel_is_imported_for_the_first_rule_and_not_before() -> None:
    script = (
        "import sys\n"
        "from reconciler.policy.check import Stage\n"
        "import reconciler.policy.cases\n"
        "from reconciler.policy.rules import PolicyDocument, Rule, compile_policies\n"
        "loaded = lambda: [m for m in sys.modules if m.startswith(('cel_', 'google.protobuf'))]\n"
        "compile_policies(())\n"
        "assert not loaded(), loaded()\n"
        "compile_policies((PolicyDocument('p', (Rule('r', (Stage.SPEC,), 'true', 'm'),)),))\n"
        "assert loaded()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
