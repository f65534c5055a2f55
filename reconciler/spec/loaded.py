"""The whole way in: a source's documents to what they ask for, or to all that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import UNSET

from reconciler.model.desired import Database, DesiredState, Place
from reconciler.model.errors import Position, ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.spec.decode import decode_file, locate
from reconciler.spec.documents import Documents
from reconciler.spec.manifest import ShardedDatabase
from reconciler.spec.manifest_other import Manifest, Policy, PolicyTest, ReconcilerConfig
from reconciler.spec.problems import DocumentTwice, NotExactlyOne, Problems
from reconciler.spec.resolve import resolve_database
from reconciler.spec.schemafiles import SchemaTree


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """A policy and the place of its document: a rule's expression is at ``spec.rules[i].when``."""

    manifest: Policy
    place: Place


@dataclass(frozen=True, slots=True)
class PlacedPolicyTest:
    """Cases for a policy and the place of their document."""

    manifest: PolicyTest
    place: Place


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that a source holds at one revision. ``warnings`` have their positions."""

    desired: DesiredState
    policies: tuple[PlacedPolicy, ...] = ()
    policy_tests: tuple[PlacedPolicyTest, ...] = ()
    config: ReconcilerConfig | None = None
    warnings: tuple[ReconcilerError, ...] = ()
    documents: Documents | None = field(default=None, repr=False)

    def locate(self, place: Place) -> Position:
        """Return line and column of a place; only the file if it is not among the documents."""
        return _locate(self.documents, place)


def _locate(documents: Documents | None, place: Place) -> Position:
    for file in documents.files if documents else ():
        if file.path == place.file:
            return locate(file.data, place)
    return Position(place.file)


def load(documents: Documents) -> Loaded:
    """Read, check and resolve everything.

    Raises ProblemsFound with every problem of all files, each with its position.
    """
    problems = Problems()
    for problem in documents.problems:
        problems.add(problem.where or Position(documents.source), problem)
    manifests: list[tuple[Place, Manifest]] = []
    foreign: list[str] = []
    for file in documents.files:
        if not file.is_manifest:
            continue
        decoded = decode_file(file.path, file.data)
        manifests += decoded.manifests
        if decoded.foreign or decoded.estranged:
            foreign.append(file.path)
        for place, error in decoded.problems:
            problems.add(place, error)
        for place, error in decoded.warnings:
            problems.warn(place, error)
    loaded = _resolve(documents, manifests, foreign, problems)

    data = {file.path: file.data for file in documents.files}

    def at(place: Place) -> Position:
        return locate(data[place.file], place) if place.file in data else Position(place.file)

    problems.raise_if_any(at)
    return Loaded(
        loaded.desired,
        loaded.policies,
        loaded.policy_tests,
        loaded.config,
        problems.warnings(at),
        documents,
    )


def _resolve(
    documents: Documents,
    manifests: list[tuple[Place, Manifest]],
    foreign: list[str],
    problems: Problems,
) -> Loaded:
    tree = SchemaTree({file.path: file.data for file in documents.files})
    databases: list[tuple[DatabaseKey, Database]] = []
    policies: list[PlacedPolicy] = []
    tests: list[PlacedPolicyTest] = []
    config: ReconcilerConfig | None = None
    for place, manifest in manifests:
        match manifest:
            case ShardedDatabase():
                database = resolve_database(manifest, place, tree, problems)
                databases.append((database.key, database))
            case Policy():
                policies.append(PlacedPolicy(manifest, place))
            case PolicyTest():
                tests.append(PlacedPolicyTest(manifest, place))
            case ReconcilerConfig():
                config = manifest
                _check_sources(manifest, place, problems)
    _report_twice(documents, manifests, problems)
    desired = DesiredState(
        source=documents.source,
        revision=documents.revision,
        databases=tuple(database for _, database in sorted(databases, key=lambda d: d[0])),
        foreign_files=documents.foreign_files + len(foreign),
        root=documents.root,
        files_without_spec=frozenset(path.removeprefix(documents.root) for path in foreign),
    )
    return Loaded(desired, tuple(policies), tuple(tests), config)


def _check_sources(config: ReconcilerConfig, place: Place, problems: Problems) -> None:
    """Report sources that are not exactly one thing, and revisions named twice."""
    for index, source in enumerate(config.spec.sources):
        at = place.at("spec", "sources", index)
        subject = f"spec.sources[{index}]"
        kinds = {"git": source.git, "configMap": source.config_map, "folder": source.folder}
        _one_of(subject, kinds, at, problems, needed=True)
        if source.git is not UNSET:
            git = source.git
            names = {"branch": git.branch, "tag": git.tag, "commit": git.commit}
            _one_of(f"{subject}.git", names, at.at("git"), problems, needed=False)


def _one_of(
    subject: str, fields: Mapping[str, object], place: Place, problems: Problems, *, needed: bool
) -> None:
    named = [name for name, value in fields.items() if value is not UNSET]
    if len(named) > 1:
        problem = f"it names {' and '.join(named)}"
        problems.add(place, NotExactlyOne(subject, problem, remedy="name one of them"))
    elif needed and not named:
        problem = f"it names none of {', '.join(fields)}"
        problems.add(place, NotExactlyOne(subject, problem, remedy="name one of them"))


def _report_twice(
    documents: Documents, manifests: list[tuple[Place, Manifest]], problems: Problems
) -> None:
    """Report documents of one kind, namespace and name; of ReconcilerConfig there is only one."""
    first: dict[tuple[str, str, str], Place] = {}
    for place, manifest in manifests:
        name, namespace = manifest.metadata.name, manifest.metadata.namespace
        identity = (manifest.kind, namespace, name)
        if isinstance(manifest, ReconcilerConfig):
            identity = (manifest.kind, "", "")
        other = first.setdefault(identity, place)
        if other is not place:
            at = place.at("metadata", "name")
            where = _locate(documents, other.at("metadata", "name"))
            problem = f"{manifest.kind} {name} is described twice, also at {where}"
            problems.add(at, DocumentTwice(name, problem, remedy="remove one of the two"))
