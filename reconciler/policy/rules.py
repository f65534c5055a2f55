"""Policy documents read into compiled rules, or into every mistake they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from reconciler.model.desired import Place
from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.policy.diagnosis import ExpressionPlace, check_literals, check_size, explain
from reconciler.policy.expressions import CompileError, Expression, Stage, environment
from reconciler.policy.places import Sources, locate_expression
from reconciler.policy.problems import RuleTwice
from reconciler.spec.manifest_other import Policy


class Outcome(StrEnum):
    """What follows when a rule is not fulfilled, worst first."""

    DENY = "deny"
    HOLD = "hold"
    WARN = "warn"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Outcome).index(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it is written. ``place`` is that of its mapping in the document."""

    name: str
    at: tuple[Stage, ...]
    require: str
    message: str
    when: str = "true"
    otherwise: Outcome = Outcome.DENY
    place: Place = field(default_factory=lambda: Place("policy"))


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """One policy; ``namespaces`` and ``databases`` are patterns with ``*``."""

    name: str
    rules: tuple[Rule, ...]
    namespaces: tuple[str, ...] = ("*",)
    databases: tuple[str, ...] = ("*",)
    place: Place = field(default_factory=lambda: Place("policy"))

    def speaks_of(self, namespace: str, database: str) -> bool:
        """Whether it matches a database."""
        return any(fnmatchcase(namespace, pattern) for pattern in self.namespaces) and any(
            fnmatchcase(database, pattern) for pattern in self.databases
        )


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule that can be evaluated at one stage. ``when`` None: always."""

    policy: PolicyDocument
    rule: Rule
    stage: Stage
    when: Expression | None
    require: Expression


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All compiled rules of all policies, by stage; empty when there are none."""

    documents: tuple[PolicyDocument, ...] = ()
    rules: Mapping[Stage, tuple[CompiledRule, ...]] = field(default_factory=dict)

    def at(self, stage: Stage) -> tuple[CompiledRule, ...]:
        """Return the rules of a stage."""
        return self.rules.get(stage, ())


def policy_document(manifest: Policy, place: Place) -> PolicyDocument:
    """Return a manifest as a policy."""
    spec = manifest.spec
    rules = tuple(
        Rule(
            name=rule.name,
            at=tuple(dict.fromkeys(Stage(stage) for stage in rule.at)),
            require=rule.require,
            message=rule.message,
            when=rule.when,
            otherwise=Outcome(rule.otherwise),
            place=place.at("spec", "rules", index),
        )
        for index, rule in enumerate(spec.rules)
    )
    match = spec.match
    return PolicyDocument(
        manifest.metadata.name, rules, tuple(match.namespaces), tuple(match.databases), place
    )


def compile_policies(
    documents: tuple[PolicyDocument, ...], sources: Sources | None = None
) -> PolicySet:
    """Compile and type-check every rule at every stage it names; imports CEL if there is a rule.

    ``sources`` are the files' bytes by path, for line and column of a mistake. Raises ProblemsFound
    with all mistakes of all rules.
    """
    problems = list(_find_twice(documents, sources or {}))
    rules: dict[Stage, list[CompiledRule]] = {stage: [] for stage in Stage}
    for document in documents:
        for rule in document.rules:
            try:
                for compiled in _compile(document, rule, sources or {}):
                    rules[compiled.stage].append(compiled)
            except ProblemsFound as found:
                problems += found.problems
    if problems:
        raise ProblemsFound(tuple(problems))
    return PolicySet(documents, {stage: tuple(found) for stage, found in rules.items()})


def _compile(document: PolicyDocument, rule: Rule, sources: Sources) -> Iterator[CompiledRule]:
    problems: dict[str, ReconcilerError] = {}
    compiled: list[CompiledRule] = []
    for stage in rule.at:
        programs: dict[str, Expression] = {}
        for part, text in (("when", rule.when), ("require", rule.require)):
            subject = f"policy {document.name}, rule {rule.name}, {part}"
            where = ExpressionPlace(rule.place.at(part), sources)
            try:
                programs[part] = _compile_part(stage, subject, text, where)
            except ReconcilerError as problem:
                problems.setdefault(part, problem)
        if not problems:
            when = None if rule.when.strip() == "true" else programs["when"]
            compiled.append(CompiledRule(document, rule, stage, when, programs["require"]))
    if problems:
        raise ProblemsFound(tuple(problems.values()))
    yield from compiled


def _compile_part(stage: Stage, subject: str, text: str, where: ExpressionPlace) -> Expression:
    check_size(subject, text, where)
    cel = environment(stage)
    try:
        program, result = cel.compile(text)
    except CompileError as error:
        raise explain(cel, subject, text, error, where) from None
    check_literals(cel, subject, text, result, where)
    return program


def _find_twice(
    documents: tuple[PolicyDocument, ...], sources: Sources
) -> Iterator[ReconcilerError]:
    policies: set[str] = set()
    for document in documents:
        if document.name in policies:
            place = document.place.at("metadata", "name")
            yield _twice(f"policy {document.name}", "policy", place, sources)
        policies.add(document.name)
        rules: set[str] = set()
        for rule in document.rules:
            if rule.name in rules:
                subject = f"policy {document.name}, rule {rule.name}"
                yield _twice(subject, "rule", rule.place.at("name"), sources)
            rules.add(rule.name)


def _twice(subject: str, what: str, place: Place, sources: Sources) -> RuleTwice:
    return RuleTwice(
        subject,
        f"there is another {what} of this name",
        remedy="give each its own name",
        where=locate_expression(place, sources),
    )
