"""Make a shard's roles, database and our own schema in it; set passwords.

Passwords travel as SCRAM verifiers computed here, so that no server log, no pg_stat_activity and no
statement statistics ever hold one (``log_statement`` would).
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import psycopg
from psycopg import sql

from reconciler.edges.postgres_session import Target, session, superuser_options
from reconciler.model.names import FencingToken
from reconciler.model.platform import Credential

INSTALLED_VERSION = 1
"""Of ``sql/install.sql``; raise it with every change there."""

_INSTALL = (files(__package__) / "sql" / "install.sql").read_text()
_KINDS = ("owner", "app")


def set_up(
    target: Target,
    roles: tuple[Credential, ...],
    token: FencingToken,
    password_generation: int,
) -> None:
    """Make the roles (owner, app), the database and our schema; each part only where missing.

    Passwords are set until their generation is noted, which is the last thing done: a set-up that
    died half-way is finished with the passwords of the present attempt.
    """
    noted = _noted_generation(target, token)
    maintenance = replace(target, database="postgres")
    with session(maintenance, superuser_options(target.timeouts)) as connection:
        for role in roles:
            _ensure_role(connection, role, set_password=noted == 0)
        _ensure_database(connection, target.database, roles[0])
    options = superuser_options(target.timeouts)
    with session(target, options) as connection, connection.transaction():
        _install(connection)
        connection.execute("SELECT shardwright.check_fence(%s)", [token])
        for statement in _grants(target.database, *(role.role for role in roles)):
            connection.execute(statement)
        for role, kind in zip(roles, _KINDS, strict=True):
            connection.execute(
                "INSERT INTO shardwright.managed_role (name, kind) VALUES (%s, %s)"
                " ON CONFLICT DO NOTHING",
                [role.role, kind],
            )
        connection.execute(
            "UPDATE shardwright.meta SET password_generation = %s WHERE password_generation = 0",
            [password_generation],
        )


def rotate_passwords(
    target: Target, roles: tuple[Credential, ...], generation: int, token: FencingToken
) -> None:
    """Set the roles' passwords and note the generation in one transaction.

    The passwords are set whatever is noted: they are staged ones, which a crash may have left
    behind with or without their generation, and setting them is what makes them sure.
    """
    options = superuser_options(target.timeouts)
    with session(target, options) as connection, connection.transaction():
        connection.execute("SELECT shardwright.check_fence(%s)", [token])
        connection.execute(
            "UPDATE shardwright.meta SET password_generation = greatest(password_generation, %s)",
            [generation],
        )
        for role in roles:
            connection.execute(password_statement(connection, role))


def _noted_generation(target: Target, token: FencingToken) -> int:
    """Return the generation noted in the database; 0 when it, or our schema, is not there.

    Where the fence exists it is asked before anything is touched.
    """
    maintenance = replace(target, database="postgres")
    with session(maintenance, superuser_options(target.timeouts)) as connection:
        found = connection.execute(
            "SELECT FROM pg_database WHERE datname = %s", [target.database]
        ).fetchone()
    if found is None:
        return 0
    with session(target, superuser_options(target.timeouts)) as connection:
        installed = connection.execute("SELECT to_regclass('shardwright.meta') IS NOT NULL")
        if installed.fetchone() != (True,):
            return 0
        connection.execute("SELECT shardwright.check_fence(%s)", [token])
        row = connection.execute("SELECT password_generation FROM shardwright.meta").fetchone()
        return int(row[0]) if row else 0


def _ensure_role(connection: psycopg.Connection, role: Credential, *, set_password: bool) -> None:
    exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role.role]).fetchone()
    with connection.transaction():
        if exists is None:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role.role)))
        connection.execute(
            sql.SQL(
                "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            ).format(sql.Identifier(role.role))
        )
        if exists is None or set_password:
            connection.execute(password_statement(connection, role))


def password_statement(connection: psycopg.Connection, role: Credential) -> sql.Composed:
    """Return ALTER ROLE with a SCRAM verifier; what fails it never shows the password."""
    verifier = connection.pgconn.encrypt_password(
        role.password.encode(), role.role.encode(), b"scram-sha-256"
    )
    return sql.SQL("ALTER ROLE {} PASSWORD {}").format(
        sql.Identifier(role.role), sql.Literal(verifier.decode())
    )


def _ensure_database(connection: psycopg.Connection, database: str, owner: Credential) -> None:
    """CREATE DATABASE cannot run in a transaction: either it is there afterwards or it is not.

    template0, because only from there the encoding may be chosen; hashing needs UTF-8.
    """
    found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchone()
    if found is None:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0").format(
                sql.Identifier(database), sql.Identifier(owner.role)
            )
        )


def _install(connection: psycopg.Connection) -> None:
    """Run install.sql unless this version of it is in place."""
    row = connection.execute("SELECT to_regclass('shardwright.meta') IS NOT NULL").fetchone()
    if row == (True,):
        row = connection.execute("SELECT installed_version FROM shardwright.meta").fetchone()
        if row is not None and row[0] >= INSTALLED_VERSION:
            return
    connection.execute(_INSTALL.encode())
    connection.execute(
        "INSERT INTO shardwright.meta (installed_version) VALUES (%s)"
        " ON CONFLICT (one) DO UPDATE SET installed_version = excluded.installed_version",
        [INSTALLED_VERSION],
    )


def _grants(database: str, owner: str, app: str) -> list[sql.Composed]:
    """Say who may do what.

    The application's role owns nothing and may not TRUNCATE: it can neither drop nor disable a
    guard, nor empty a table past it.
    """
    names = {
        "database": sql.Identifier(database),
        "owner": sql.Identifier(owner),
        "app": sql.Identifier(app),
    }
    return [
        sql.SQL(text).format(**names)
        for text in (
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
            "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {app}",
            "ALTER SCHEMA public OWNER TO {owner}",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            "GRANT USAGE ON SCHEMA public TO {app}",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SCHEMAS TO {app}",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner}"
            " GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app}",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE, SELECT ON SEQUENCES TO {app}",
            "GRANT USAGE ON SCHEMA shardwright TO {owner}",
            # reject(): a partition that the owner adds to a guarded table gets the guard with it.
            "GRANT EXECUTE ON FUNCTION shardwright.begin_schema(bigint),"
            " shardwright.note_schema(text, text, bigint), shardwright.reject() TO {owner}",
        )
    ]
