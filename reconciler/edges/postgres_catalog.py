"""Read a shard's catalogs: one session, one statement, and once a process the hash self-test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import groupby
from typing import Any

import psycopg
from psycopg import errors as pg

from reconciler.edges import postgres_hash
from reconciler.edges.postgres_session import DatabaseMissing, Target, session, superuser_options
from reconciler.model.keyspace import parse_key_set
from reconciler.model.names import Epoch, Lsn, MemberName
from reconciler.model.observed import AppliedFile, Catalog, ObservedGuard, ObservedTable

_SQL = files(__package__) / "sql"
GUARDS = (_SQL / "guards.sql").read_text()
_WHOLE = (_SQL / "catalog.sql").read_text()
_OURS = (_SQL / "catalog_ours.sql").read_text().replace("{guards}", GUARDS)

_ROW_TRIGGER_TYPES = {
    # pg_trigger.h: row 1, before 2, insert 4, delete 8, update 16; 0 for "before" means after.
    "i": (1 + 2 + 4, 1 + 4),
    "u": (1 + 2 + 16, 1 + 16),
    "d": (1 + 2 + 8, 1 + 8),
}


@dataclass(slots=True)
class HashTests:
    """Results of the self-test in this process, by system identifier and server version."""

    passed: dict[tuple[str, int], bool] = field(default_factory=dict)

    def run(self, connection: psycopg.Connection, system: str, version: int) -> bool:
        """Return whether this server hashes as model.hashing does; asks it once."""
        known = self.passed.get((system, version))
        if known is None:
            row = connection.execute(postgres_hash.SQL, postgres_hash.PARAMETERS).fetchone()
            known = row == postgres_hash.expected()
            self.passed[system, version] = known
        return known


def read_catalog(target: Target, members: tuple[MemberName, ...], tests: HashTests) -> Catalog:
    """Return what the primary's catalogs say; when the database is missing, what is known without.

    Raises the errors of postgres_session.
    """
    try:
        return _read(target, target.database, members, tests)
    except DatabaseMissing:
        maintenance = replace(target, database="postgres")
        seen = _read(maintenance, target.database, members, tests)
        return Catalog(
            seen.server_version,
            database_present=False,
            roles=seen.roles,
            hash_ok=seen.hash_ok,
            standbys=seen.standbys,
        )


def _read(
    target: Target, database: str, members: tuple[MemberName, ...], tests: HashTests
) -> Catalog:
    parameters = {"members": list(members), "roles": [f"{database}_owner", f"{database}_app"]}
    with session(target, superuser_options(target.timeouts, read_only=True)) as connection:
        try:
            row = connection.execute(_WHOLE.replace("{ours}", _OURS), parameters).fetchone()
        except (pg.InvalidSchemaName, pg.UndefinedTable, pg.UndefinedFunction):
            # Our schema is not installed yet; that is asked only when it turns out.
            row = connection.execute(_WHOLE.replace("{ours}", ""), parameters).fetchone()
        assert row is not None  # noqa: S101 (a SELECT without FROM has one row)
        seen: dict[str, Any] = json.loads(row[0])
        hash_ok = tests.run(connection, seen["system"], seen["version"])
    return _decode(seen, hash_ok)


def _decode(seen: dict[str, Any], hash_ok: bool) -> Catalog:
    installed, generation = seen.get("meta") or (0, 0)
    return Catalog(
        server_version=seen["version"],
        database_present=True,
        roles=tuple(sorted({*(seen["roles"] or ()), *(seen.get("managed") or ())})),
        installed=installed,
        password_generation=generation,
        history=tuple(AppliedFile(name, digest) for name, digest in seen.get("history") or ()),
        guards=decode_guards(seen.get("triggers") or ()),
        tables=tuple(
            ObservedTable(name, size, rows, tuple((c, t) for c, t in columns or ()))
            for name, size, rows, columns in seen["tables"] or ()
        ),
        bytes=seen["bytes"],
        hash_ok=hash_ok,
        standbys=tuple((MemberName(n), Lsn(lsn)) for n, lsn in seen["standbys"] or ()),
        overrides=tuple((name, value) for name, value in seen["overrides"] or ()),
    )


def decode_guards(rows: Iterable[list[Any]]) -> tuple[ObservedGuard, ...]:
    """Return the guards that stand, from rows (table, trigger, tgtype, tgargs in hex, intact).

    A guard of which one trigger is missing, disabled, changed or says something else than the
    others is no guard: the table is left out, so that the diff asks for it again.
    """
    found = []
    for table, triggers in groupby(rows, key=lambda row: str(row[0])):
        guard = _guard(table, list(triggers))
        if guard is not None:
            found.append(guard)
    return tuple(found)


def _guard(table: str, triggers: list[list[Any]]) -> ObservedGuard | None:
    kinds = {str(name)[-1] for _, name, *_ in triggers}
    arguments = {str(hexadecimal) for *_, hexadecimal, _ in triggers}
    intact = all(
        ok and kind in _ROW_TRIGGER_TYPES[str(name)[-1]] for _, name, kind, _, ok in triggers
    )
    if kinds != _ROW_TRIGGER_TYPES.keys() or len(arguments) != 1 or not intact:
        return None
    try:
        epoch, keys, column = bytes.fromhex(arguments.pop()).decode().split("\0")[:3]
        return ObservedGuard(table, column, parse_key_set(keys), Epoch(int(epoch)))
    except ValueError:
        return None
