"""Manifests to DesiredState: defaults, references, cross-checks. Every problem is collected."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import msgspec
from msgspec import UNSET

from reconciler.model.desired import (
    AutoApply,
    CopyDriver,
    Database,
    Deletion,
    DriftPolicy,
    KeyType,
    Mode,
    Place,
    Resharding,
    ShardedTable,
    Sharding,
)
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.spec.manifest import (
    AutoApplySpec,
    ShardedDatabase,
    ShardingSpec,
)
from reconciler.spec.parameters import VERSIONS
from reconciler.spec.parameters.check import check_parameter, risk_of
from reconciler.spec.problems import Problems, quoted
from reconciler.spec.quantities import duration_ms, ratio
from reconciler.spec.rollout import own_rollout
from reconciler.spec.schemafiles import SchemaTree, find_schema_files
from reconciler.spec.shards import Context, own_shards
from reconciler.spec.tables import table_problems, table_warnings

PAUSE_MS_MIN, PAUSE_MS_MAX = 1, 60_000
ROLLBACK_MS_MAX = 90 * 86_400_000
RATIO_MIN, RATIO_MAX = 1.0, 1000.0


class TableDeclaredTwice(ReconcilerError):
    """A table is declared twice, for example as sharded and as a reference table.

    A sharded table's rows are split over the shards; a reference table is whole on every shard. A
    table without its schema is in public, so orders and public.orders are the same.
    """

    code = "SP106"


class UnsupportedVersion(ReconcilerError):
    """PostgreSQL of that version is not run by Shardwright.

    A spec names a major version; minor versions are bug fixes of the same on-disk format, and which
    one runs is the platform's business.
    """

    code = "SP107"


class SecretNotKept(ReconcilerError):
    """A password is referenced on a platform that keeps no Secrets.

    The local platform generates the passwords into files of mode 0600 below its home. A generated
    one in the place of the referenced one would lock out whoever holds that.
    """

    code = "SP121"


class NoShardedTable(ReconcilerError):
    """No table is declared to be sharded."""

    code = "SP108"


def resolve_database(
    manifest: ShardedDatabase, place: Place, tree: SchemaTree, problems: Problems
) -> Database:
    """Return what a document asks for; only to be used when no problem was reported."""
    spec = manifest.spec
    context = Context(manifest.metadata.name, place.at("spec"), problems)
    at = context.spec_place
    version_known = _check_version(spec.postgres.version, context)
    schema = (
        find_schema_files(spec.schema.files, at.at("schema", "files"), tree, problems)
        if spec.schema is not UNSET
        else ()
    )
    _refuse_secret(manifest, context)
    sharding = _sharding(spec.sharding, context)
    declared = _places(spec.sharding, at.at("sharding"))
    for where, error in table_problems(schema, sharding, place.file, declared):
        problems.add(where, error)
    for where, warning in table_warnings(schema, sharding, declared) if schema else ():
        problems.warn(where, warning)
    database = Database(
        key=DatabaseKey(Namespace(manifest.metadata.namespace), DatabaseName(context.database)),
        version=spec.postgres.version,
        sharding=sharding,
        shards=own_shards(manifest, context),
        place=place,
        labels=tuple(sorted(manifest.metadata.labels.items())),
        parameters=_parameters(manifest, context) if version_known else (),
        schema=schema,
        resharding=_resharding(manifest, context),
        deletion=Deletion(spec.deletion),
        password_generation=spec.postgres.passwords.generation,
        suspend=spec.suspend,
        auto_apply=_auto_apply(spec.auto_apply),
        drift_policy=DriftPolicy(spec.drift_policy),
        rollout=own_rollout(manifest, context),
    )
    return replace(database, digest=digest_of(database))


def _auto_apply(spec: AutoApplySpec) -> AutoApply:
    online, restart, move, destroy = (
        Mode(word) if isinstance(word, str) else Mode.YES if word else Mode.NEVER
        for word in (spec.online, spec.restart, spec.move, spec.destroy)
    )
    return AutoApply(online, restart, move, destroy)


def _refuse_secret(manifest: ShardedDatabase, context: Context) -> None:
    secret = manifest.spec.postgres.passwords.secret_ref
    if secret is not UNSET:
        problem = f"the local platform keeps no Secrets, so {secret.name}/{secret.key} is not there"
        remedy = "leave secretRef out: passwords are generated, and rotated by generation"
        place = context.spec_place.at("postgres", "passwords", "secretRef")
        context.problems.add(place, SecretNotKept(context.database, problem, remedy=remedy))


def _check_version(version: str, context: Context) -> bool:
    if version in VERSIONS:
        return True
    major = version.partition(".")[0]
    if major in VERSIONS:
        problem = f"{quoted(version)} is a minor version; only the major is chosen here"
        remedy = f'write "{major}"'
    else:
        problem = f"PostgreSQL {quoted(version)} is not supported"
        remedy = f"write one of {', '.join(VERSIONS)}"
    error = UnsupportedVersion(context.database, problem, remedy=remedy)
    context.problems.add(context.spec_place.at("postgres", "version"), error)
    return False


def _parameters(manifest: ShardedDatabase, context: Context) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    place = context.spec_place.at("postgres", "parameters")
    for name, value in manifest.spec.postgres.parameters.items():
        checked = check_parameter(manifest.spec.postgres.version, name, value)
        if isinstance(checked, ReconcilerError):
            context.problems.add(place.at(name), checked)
            continue
        found[checked[0]] = checked[1]
        if (risk := risk_of(*checked)) is not None:
            context.problems.warn(place.at(name), risk)
    return tuple(sorted(found.items()))


def _qualified(table: str) -> str:
    return table if "." in table else f"public.{table}"


def _sharding(spec: ShardingSpec, context: Context) -> Sharding:
    place = context.spec_place.at("sharding")
    if not spec.tables:
        remedy = "name at least one table and its shard key: {orders: customer_id}"
        error = NoShardedTable(context.database, "sharding.tables is empty", remedy=remedy)
        context.problems.add(place.at("tables"), error)
    entries = [(table, place.at("tables", table), "a sharded table") for table in spec.tables]
    entries += [
        (table, place.at("reference", index), "a reference table")
        for index, table in enumerate(spec.reference)
    ]
    _report_twice(entries, context)
    tables = sorted((_qualified(table), column) for table, column in spec.tables.items())
    return Sharding(
        KeyType(spec.type),
        tuple(ShardedTable(name, key) for name, key in tables),
        tuple(sorted({_qualified(table) for table in spec.reference})),
    )


def _places(spec: ShardingSpec, place: Place) -> dict[str, Place]:
    """Return where each table is declared, by its full name."""
    tables = {_qualified(table): place.at("tables", table) for table in spec.tables}
    return tables | {
        _qualified(table): place.at("reference", index)
        for index, table in enumerate(spec.reference)
    }


def _report_twice(entries: list[tuple[str, Place, str]], context: Context) -> None:
    declared: dict[str, str] = {}
    for table, at, role in entries:
        name = _qualified(table)
        if name in declared:
            problem = f"table {name} is {role}, and is already declared as {declared[name]}"
            error = TableDeclaredTwice(context.database, problem, remedy="declare it once")
            context.problems.add(at, error)
        declared.setdefault(name, role)


def _resharding(manifest: ShardedDatabase, context: Context) -> Resharding:
    spec, place = manifest.spec.resharding, context.spec_place.at("resharding")
    pause = duration_ms(spec.pause_max)
    window = duration_ms(spec.rollback_window)
    latency = ratio(spec.throttle.latency_max)
    context.bounded(place.at("pauseMax"), pause, (PAUSE_MS_MIN, PAUSE_MS_MAX), "1ms to 60s")
    context.bounded(place.at("rollbackWindow"), window, (0, ROLLBACK_MS_MAX), "0s to 90d")
    at = place.at("throttle", "latencyMax")
    context.bounded(at, latency, (RATIO_MIN, RATIO_MAX), "1x to 1000x")
    copy = None if spec.copy == "auto" else CopyDriver(spec.copy)
    return Resharding(pause, window // 1000, latency, copy)


def digest_of(database: Database) -> str:
    """Return the SHA-256 of a database's meaning, in hexadecimal.

    Places and the texts of schema files are left out (their own digests are in), so that moving a
    document or adding a comment to it changes nothing.
    """
    meaning = {
        "key": [database.key.namespace, database.key.name],
        "version": database.version,
        "sharding": database.sharding,
        "shards": [
            [
                s.name,
                str(s.keys),
                s.instances,
                s.synchronous,
                s.resources,
                s.moved_from,
            ]
            for s in database.shards
        ],
        "labels": database.labels,
        "parameters": database.parameters,
        "schema": [[f.name, f.sha256, f.transactional] for f in database.schema],
        "resharding": database.resharding,
        "deletion": database.deletion,
        "passwords": database.password_generation,
        "suspend": database.suspend,
    }
    return sha256(msgspec.json.encode(meaning, order="deterministic")).hexdigest()
