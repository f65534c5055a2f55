"""``shardwright policy``: the rules of a source, and the cases beside them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.lazy import LazyCommand, LazyGroup, command
from reconciler.cli.session import output_option
from reconciler.cli.source import Where, load
from reconciler.cli.terminal import style_for, tell_line, write

if TYPE_CHECKING:
    from reconciler.policy.cases import CaseResult
    from reconciler.policy.rules import PolicySet
    from reconciler.spec.loaded import Loaded

_ME = "reconciler.cli.policy:"


@click.group(
    "policy",
    cls=LazyGroup,
    table={
        "list": LazyCommand("Commands", _ME + "list_", "List the rules of all policies."),
        "test": LazyCommand("Commands", _ME + "test", "Run the cases beside the policies."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
def policy() -> None:
    """List policies and run their test cases."""


@command("list")
@click.argument("path", default="policies")
@output_option("text", "json")
def list_(path: str, output: str) -> None:
    """List the rules of all policies.

    PATH is a file or folder, "policies" if left out.
    """
    rules = [
        {
            "policy": document.name, "rule": rule.name, "at": [stage.value for stage in rule.at],
            "otherwise": rule.otherwise.value, "when": rule.when, "require": rule.require,
            "message": rule.message,
        }
        for document in _compiled(load(Where(path))).documents
        for rule in document.rules
    ]  # fmt: skip
    if output == "json":
        import json

        write(json.dumps(rules, indent=2, ensure_ascii=False))
        return
    from reconciler.cli.table import shown_table

    rows = [
        (
            str(r["policy"]),
            str(r["rule"]),
            ",".join(r["at"]),
            str(r["otherwise"]),
            str(r["message"]),
        )
        for r in rules
    ]
    heads = ("POLICY", "RULE", "AT", "OTHERWISE", "MESSAGE")
    write(shown_table(heads, rows, style_for(sys.stdout)))


@command("test")
@click.argument("path", default="policies")
@output_option("text", "json")
@click.option("-q", "--quiet", is_flag=True, help="Print only cases that fail.")
def test(path: str, output: str, quiet: bool) -> int:
    """Run the cases beside the policies.

    PATH is a file or folder, "policies" if left out. Exit 1 when a case fails, or when there is
    none.
    """
    loaded = load(Where(path))
    results = _run(loaded)
    failed = [result for result in results if not result.passed]
    if output == "json":
        import json

        write(json.dumps([_fields(result) for result in results], indent=2, ensure_ascii=False))
    else:
        for result in failed if quiet else results:
            write("\n".join(_told(result, loaded)))
        tell_line(f"{len(results) - len(failed)} passed, {len(failed)} failed")
        if not results:
            tell_line(f"no case: {path} holds no PolicyTest", "warn")
    return 1 if failed or not results else 0


def _compiled(loaded: Loaded) -> PolicySet:
    from reconciler.cli.rules import compile_all

    return compile_all(loaded)


def _run(loaded: Loaded) -> tuple[CaseResult, ...]:
    """Decode every case first, so that all mistakes in them are told at once."""
    from reconciler.model.errors import ProblemsFound, ReconcilerError
    from reconciler.policy.cases import Case, decode_cases, run_cases

    policies = _compiled(loaded)
    files = loaded.documents.files if loaded.documents else ()
    sources = {file.path: file.data for file in files}
    cases: list[Case] = []
    problems: list[ReconcilerError] = []
    for one in loaded.policy_tests:
        try:
            cases += decode_cases(one.manifest, one.place, policies, sources)
        except ProblemsFound as found:
            problems += found.problems
    if problems:
        raise ProblemsFound(tuple(problems))
    return run_cases(policies, tuple(cases))


def _told(result: CaseResult, loaded: Loaded) -> list[str]:
    paint = style_for(sys.stdout)
    case = result.case
    if result.passed:
        return [f"{paint('good', 'pass')}  {case.policy}: {case.name}"]
    where = loaded.locate(case.place)
    lines = [f"{paint('error', 'fail')}  {case.policy}: {case.name}  {where.file}:{where.line}"]
    lines += [f"      {rule}: expected {e}, got {a}" for rule, e, a in result.differences]
    lines += [f"      {found.rule}: {found.text}" for found in result.findings]
    return lines


def _fields(result: CaseResult) -> dict[str, object]:
    return {
        "policy": result.case.policy,
        "case": result.case.name,
        "passed": result.passed,
        "differences": [
            {"rule": rule, "expected": expected, "actual": actual}
            for rule, expected, actual in result.differences
        ],
    }
