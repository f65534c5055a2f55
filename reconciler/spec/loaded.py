"""The whole way in: a source's documents to what they ask for, or to all that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import UNSET

from reconciler.model.desired import Database, DesiredState, Place
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.credentials import astray, unfit
from reconciler.spec.decode import DecodedFile, decode_file, locate
from reconciler.spec.documents import Documents
from reconciler.spec.manifest import ShardedDatabase
from reconciler.spec.manifest_other import Manifest, Policy, PolicyTest, ReconcilerConfig
from reconciler.spec.problems import DocumentTwice, Found, NotExactlyOne, Problems
from reconciler.spec.resolve import resolve_database
from reconciler.spec.schemafiles import SchemaTree
from reconciler.spec.tables import ShardKeyOfAnotherType


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
class _Resolved:
    """A document's database, the schema files that it was made with, and its warnings."""

    schema: tuple[tuple[tuple[str, str], ...], ...]
    database: Database
    warnings: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What was made of a file; the same bytes beside the same schema files make it again."""

    data: bytes
    decoded: DecodedFile
    resolved: dict[int, _Resolved] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that a source holds at one revision. ``warnings`` have their positions.

    ``read``: what was made of each file, by its path, for the next revision to take over.
    """

    desired: DesiredState
    policies: tuple[PlacedPolicy, ...] = ()
    policy_tests: tuple[PlacedPolicyTest, ...] = ()
    config: ReconcilerConfig | None = None
    warnings: tuple[ReconcilerError, ...] = ()
    documents: Documents | None = field(default=None, repr=False)
    read: Mapping[str, ReadFile] = field(default_factory=dict, repr=False, compare=False)

    def locate(self, place: Place) -> Position:
        """Return line and column of a place; only the file if it is not among the documents."""
        return _locate(self.documents, place)


def _locate(documents: Documents | None, place: Place) -> Position:
    for file in documents.files if documents else ():
        if file.path == place.file:
            return locate(file.data, place)
    return Position(place.file)


def load(documents: Documents, earlier: Loaded | None = None) -> Loaded:
    """Read, check and resolve everything; what did not change is taken over from ``earlier``.

    Raises ProblemsFound with every problem of all files, each with its position.
    """
    problems = Problems()
    for problem in documents.problems:
        problems.add(problem.where or Position(documents.source), problem)
    manifests: list[tuple[Place, Manifest]] = []
    foreign: list[str] = []
    before = earlier.read if earlier else {}
    read: dict[str, ReadFile] = {}
    for file in documents.files:
        if not file.is_manifest:
            continue
        known = before.get(file.path)
        if known is None or known.data != file.data:
            known = ReadFile(file.data, decode_file(file.path, file.data))
        decoded, read[file.path] = known.decoded, known
        manifests += decoded.manifests
        if decoded.foreign or decoded.estranged:
            foreign.append(file.path)
        for place, error in decoded.problems:
            problems.add(place, error)
        for place, error in decoded.warnings:
            problems.warn(place, error)
    loaded = _resolve(documents, manifests, foreign, read, problems)

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
        read,
    )


def _resolve(
    documents: Documents,
    manifests: list[tuple[Place, Manifest]],
    foreign: list[str],
    read: Mapping[str, ReadFile],
    problems: Problems,
) -> Loaded:
    tree = SchemaTree({file.path: file.data for file in documents.files})
    databases: list[Database] = []
    policies: list[PlacedPolicy] = []
    tests: list[PlacedPolicyTest] = []
    config: ReconcilerConfig | None = None
    for place, manifest in manifests:
        match manifest:
            case ShardedDatabase():
                databases.append(_database(manifest, place, tree, read[place.file], problems))
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
        databases=tuple(sorted(databases, key=lambda database: database.key)),
        foreign_files=documents.foreign_files + len(foreign),
        root=documents.root,
        files_without_spec=frozenset(path.removeprefix(documents.root) for path in foreign),
    )
    return Loaded(desired, tuple(policies), tuple(tests), config)


def _database(
    manifest: ShardedDatabase, place: Place, tree: SchemaTree, file: ReadFile, problems: Problems
) -> Database:
    """Resolve a document, or take over what was made of it. One with a problem is never kept."""
    folder, schema = place.file.rpartition("/")[0], manifest.spec.schema
    patterns = () if schema is UNSET else schema.files
    marks = tuple(tree.marks(folder, pattern) for pattern in patterns)
    known = file.resolved.get(place.document)
    if known is None or known.schema != marks:
        own = Problems()
        database = resolve_database(manifest, place, tree, own)
        known = _Resolved(marks, database, own.noted_warnings)
        for at, problem in own.noted:
            if not (isinstance(problem, ShardKeyOfAnotherType) and _type_unread(file, place)):
                problems.add(at, problem)
        if not own.noted:
            file.resolved[place.document] = known
    for at, warning in known.warnings:
        problems.warn(at, warning)
    return known.database


def _type_unread(file: ReadFile, document: Place) -> bool:
    """Tell whether another type stands in for what a document's ``sharding`` says."""
    at = document.at("spec", "sharding")
    return any(place in (at, at.at("type")) for place, _ in file.decoded.problems)


def _check_sources(config: ReconcilerConfig, place: Place, problems: Problems) -> None:
    """Report sources that are not exactly one thing, and revisions named twice."""
    for index, source in enumerate(config.spec.sources):
        at = place.at("spec", "sources", index)
        subject = f"spec.sources[{index}]"
        kinds = {"git": source.git, "configMap": source.config_map, "folder": source.folder}
        _one_of(subject, kinds, at, problems, needed=True)
        if source.git is not UNSET:
            git = source.git
            names = {
                "branch": git.branch, "tag": git.tag, "commit": git.commit, "semver": git.semver,
            }  # fmt: skip
            _one_of(f"{subject}.git", names, at.at("git"), problems, needed=False)
            for name, check in (("url", astray), ("credentials", unfit)):
                error = check(git, f"{subject}.git.{name}")
                if error:
                    problems.add(at.at("git", name), error)


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
