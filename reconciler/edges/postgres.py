"""PostgreSQL of one shard, through its primary: the port ``Postgres``.

Every change checks the fencing token in the transaction that makes it, so that an applier that lost
its lease changes nothing, however late its statement arrives.
"""

from __future__ import annotations

from dataclasses import replace

from psycopg import errors as pg

from reconciler.edges import postgres_guards, postgres_roles, postgres_schema
from reconciler.edges.postgres_catalog import HashTests, read_catalog
from reconciler.edges.postgres_measure import measure
from reconciler.edges.postgres_session import (
    OF_A_MOVE,
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

END_MS = 5_000
"""How long a session that is ended may take for it."""
_CHECK_FENCE = "SELECT shardwright.check_fence(%s)"
_END_MOVES = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name ~ %(of)s
   AND substring(application_name FROM '[0-9]+$')::numeric < %(token)s
"""
# An applier begins by raising the token, so whoever holds the fence has the stored one or an older
# one. Those who wait for it as we do hold only the table's lock.
_END_SUPERSEDED = """
SELECT pg_terminate_backend(l.pid, %s)
  FROM pg_locks l JOIN pg_database d ON d.oid = l.database, shardwright.fencing f
 WHERE d.datname = current_database() AND l.relation = 'shardwright.fencing'::regclass
   AND l.granted AND l.mode <> 'AccessShareLock' AND l.pid <> pg_backend_pid() AND f.token < %s
   AND NOT EXISTS (SELECT FROM pg_locks w WHERE w.pid = l.pid AND NOT w.granted)
"""


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
        """Refuse from now on every holder of a lower token. Raises FencedOff when this is lower.

        Their sessions for moves are ended, which may hang with a snapshot, or in a COPY that waits
        for its client without a limit; any other that does not let go of the fence in time, too.
        """
        target = self._target(login, primary, database)
        with session(target, superuser_options(self._timeouts)) as connection:
            connection.execute(_END_MOVES, {"of": f"^{OF_A_MOVE} [0-9]+$", "token": token})
            try:
                connection.execute(_CHECK_FENCE, [token])
            except pg.LockNotAvailable:
                connection.execute(_END_SUPERSEDED, [END_MS, token])
                connection.execute(_CHECK_FENCE, [token])

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
