"""PostgreSQL of one shard, through its primary: the port ``Postgres``.

Every change checks the fencing token in the transaction that makes it, so that an applier that lost
its lease changes nothing, however late its statement arrives.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.edges import postgres_guards, postgres_roles, postgres_schema
from reconciler.edges.postgres_catalog import HashTests, read_catalog
from reconciler.edges.postgres_measure import measure
from reconciler.edges.postgres_session import (
    PostgresTimeouts,
    Target,
    session,
    superuser_options,
)
from reconciler.model.access import Guarding, Login
from reconciler.model.desired import SchemaFile
from reconciler.model.names import FencingToken
from reconciler.model.observed import Catalog
from reconciler.model.platform import Credential, Endpoint


class PostgresSql:
    """The port ``Postgres`` on psycopg 3. Safe to share between threads: no session is kept."""

    def __init__(self, timeouts: PostgresTimeouts = PostgresTimeouts()) -> None:  # noqa: B008
        self._timeouts = timeouts
        self._hash_tests = HashTests()

    def catalog(self, login: Login, primary: Endpoint, database: str) -> Catalog:
        """Read everything that a plan looks at, in one session, read-only."""
        target = self._target(login, primary, database)
        members = tuple(member.name for member in login.members)
        return read_catalog(target, members, self._hash_tests)

    def fence(self, login: Login, primary: Endpoint, database: str, token: FencingToken) -> None:
        """Refuse from now on every holder of a lower token. Raises FencedOff when this is lower."""
        target = self._target(login, primary, database)
        with session(target, superuser_options(self._timeouts)) as connection:
            connection.execute("SELECT shardwright.check_fence(%s)", [token])

    def set_up(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        roles: tuple[Credential, ...],
        token: FencingToken,
        password_generation: int,
    ) -> None:
        """Make roles (owner, app), database and our own schema, each where missing."""
        target = self._target(login, primary, database)
        postgres_roles.set_up(target, roles, token, password_generation)

    def apply_schema(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        owner: Credential,
        file: SchemaFile,
        token: FencingToken,
    ) -> None:
        """Run one schema file in a session of the owner and note it; nothing when it is noted."""
        target = self._target(login, primary, database)
        postgres_schema.apply_schema(target, owner, file, token)

    def measure(
        self, login: Login, primary: Endpoint, database: str, owner: Credential, text: str
    ) -> float:
        """Return the one number that a query answers, in a read-only session of the owner."""
        return measure(replace(self._target(login, primary, database), credential=owner), text)

    def install_guards(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        guarding: Guarding,
        token: FencingToken,
    ) -> None:
        """Make the guard triggers say exactly this, one table a transaction."""
        postgres_guards.install_guards(self._target(login, primary, database), guarding, token)

    def rotate_passwords(
        self,
        login: Login,
        primary: Endpoint,
        database: str,
        roles: tuple[Credential, ...],
        generation: int,
        token: FencingToken,
    ) -> None:
        """Set the roles' passwords, as scram verifiers made here, and note the generation."""
        target = self._target(login, primary, database)
        postgres_roles.rotate_passwords(target, roles, generation, token)

    def _target(self, login: Login, primary: Endpoint, database: str) -> Target:
        return Target(
            primary, database, login.superuser, login.tls, self._timeouts, f"shard {login.key}"
        )
