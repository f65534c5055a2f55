"""Read a running PostgreSQL, any that will have us, for ``shardwright import``: catalogs only.

The session is read-only and has time limits. The password comes from PGPASSWORD, PGPASSFILE or
~/.pgpass as libpq reads them; one in the connection string is refused, because arguments can be
read by every user of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from reconciler.model.errors import ReconcilerError

CONNECT_S = 10
STATEMENT_MS = 30_000
TABLES_MAX = 10_000


class ConnectionStringBad(ReconcilerError):
    """The connection string cannot be used.

    It is a URI (postgresql://user@host/database) or words (host=… dbname=…), without a password:
    other users of the machine can read the arguments of a program.
    """

    code = "PG301"


class ImportUnreachable(ReconcilerError):
    """The PostgreSQL to import from did not let us in, or did not answer."""

    code = "PG302"
    transient = True


class ImportRefused(ReconcilerError):
    """The PostgreSQL to import from refused to show its catalogs, or took too long."""

    code = "PG303"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A reference of one table to another, column by column."""

    columns: tuple[str, ...]
    table: str
    referenced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table with what a choice of shard key rests on; ``rows`` is an estimate, -1 unknown."""

    name: str
    rows: int
    bytes: int
    columns: tuple[tuple[str, str], ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundDatabase:
    """A database as it was found; parameters are those that differ from the built-in default.

    ``standbys`` is None when the role may not see who replicates.
    """

    name: str
    major: str
    version: str
    bytes: int
    standbys: int | None
    synchronous: bool
    parameters: tuple[tuple[str, str], ...]
    tables: tuple[FoundTable, ...]


_SETTINGS: LiteralString = """
select name, current_setting(name) from pg_catalog.pg_settings
where source in ('configuration file', 'command line', 'global', 'database')
  and context not in ('internal', 'backend', 'superuser-backend')
  and setting is distinct from boot_val
order by name
"""
_TABLES: LiteralString = """
select c.oid::int8, n.nspname, c.relname, c.reltuples::int8,
       pg_catalog.pg_total_relation_size(c.oid),
       array(select a.attname || E'\\t' || pg_catalog.format_type(a.atttypid, null)
             from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
       array(select a.attname::text from pg_catalog.pg_index i,
                    unnest(i.indkey) with ordinality k(attnum, place), pg_catalog.pg_attribute a
             where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid
               and a.attnum = k.attnum order by k.place)
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'
  and n.nspname not in ('pg_catalog', 'information_schema', 'shardwright')
  and n.nspname !~ '^pg_'
order by n.nspname, c.relname limit %s
"""
_FOREIGN_KEYS: LiteralString = """
select k.conrelid::int8, k.confrelid::int8,
       array(select a.attname::text from unnest(k.conkey) with ordinality x(n, place)
             join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = x.n
             order by x.place),
       array(select a.attname::text from unnest(k.confkey) with ordinality x(n, place)
             join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = x.n
             order by x.place)
from pg_catalog.pg_constraint k where k.contype = 'f' and k.conparentid = 0 order by k.conname
"""
# Others' rows of pg_stat_replication show no state to roles without pg_read_all_stats.
_FACTS: LiteralString = """
select current_database(), current_setting('server_version_num')::int8,
       current_setting('server_version'), pg_catalog.pg_database_size(current_database()),
       case when pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') then
         (select count(*) from pg_catalog.pg_stat_replication where state = 'streaming') end,
       current_setting('synchronous_standby_names') <> ''
"""


def read_database(dsn: str) -> FoundDatabase:
    """Read a database. Raises ConnectionStringBad, ImportUnreachable, ImportRefused."""
    _check(dsn)
    options = f"-c statement_timeout={STATEMENT_MS} -c default_transaction_read_only=on"
    try:
        connection = psycopg.connect(
            dsn, connect_timeout=CONNECT_S, options=options, application_name="shardwright import"
        )
    except psycopg.Error as error:
        raise ImportUnreachable(
            "import",
            _first_line(error),
            remedy="check host, port and user; the password belongs in PGPASSWORD or PGPASSFILE",
        ) from None
    with connection:
        try:
            return _read(connection)
        except psycopg.Error as error:
            raise ImportRefused("import", _first_line(error)) from None


def _check(dsn: str) -> None:
    try:
        words = conninfo_to_dict(dsn)
    except psycopg.Error:
        # libpq's own text would repeat the string, and with it a password.
        raise ConnectionStringBad(
            "--dsn", "not a connection string",
            remedy="write postgresql://user@host:5432/database",
        ) from None  # fmt: skip
    if words.get("password"):
        raise ConnectionStringBad(
            "--dsn", "it holds a password, which every user of this machine can read",
            remedy="leave it out and set PGPASSWORD or PGPASSFILE; consider this one known",
        )  # fmt: skip


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read(connection: psycopg.Connection) -> FoundDatabase:
    facts = connection.execute(_FACTS).fetchone()
    assert facts is not None  # noqa: S101 (a SELECT without FROM has one row)
    name, number, version, size, standbys, synchronous = facts
    settings = connection.execute(_SETTINGS).fetchall()
    rows = connection.execute(_TABLES, (TABLES_MAX,)).fetchall()
    names = {oid: f"{schema}.{table}" for oid, schema, table, *_ in rows}
    keys: dict[int, list[ForeignKey]] = {}
    for of, to, columns, referenced in connection.execute(_FOREIGN_KEYS).fetchall():
        if to in names:
            key = ForeignKey(tuple(columns), names[to], tuple(referenced))
            keys.setdefault(of, []).append(key)
    tables = tuple(
        FoundTable(
            names[oid], estimate, total,
            tuple((column, kind) for column, _, kind in (c.partition("\t") for c in columns)),
            tuple(primary), tuple(keys.get(oid, ())),
        )
        for oid, _, _, estimate, total, columns, primary in rows
    )  # fmt: skip
    return FoundDatabase(
        name, str(number // 10_000), version, size, standbys, synchronous,
        tuple((str(n), str(v)) for n, v in settings), tables,
    )  # fmt: skip
