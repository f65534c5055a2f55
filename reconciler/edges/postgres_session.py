"""Sessions on a shard's primary, and what PostgreSQL's refusals mean here.

Superuser sessions run with ``search_path = pg_catalog``: the database belongs to a role that we do
not trust, and an unqualified name must never find something that this role made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg

from reconciler.edges.bounded_connection import BoundedConnection, NotingCursor, limit
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.platform import Credential, Endpoint, TlsFiles


class PostgresUnreachable(ReconcilerError):
    """A shard's primary did not accept a connection, or the connection broke.

    The server may be starting, failing over or down. What was in hand is rolled back by the server;
    only a COMMIT that got no answer may have happened, and every step finds that out when it is
    run again.
    """

    code = "PG201"
    transient = True


class LoginRefused(ReconcilerError):
    """PostgreSQL refused a login: password, role, or pg_hba.conf.

    Passwords are made and kept by the platform. A refusal means that somebody changed the role's
    password by hand, or that a rotation is half done.
    """

    code = "PG202"


class CertificateRefused(ReconcilerError):
    """The TLS handshake with PostgreSQL failed: one side does not trust the other's certificate.

    Connections use ``sslmode=verify-full``: the server's certificate must be signed by the
    platform's authority and name the address.
    """

    code = "PG203"


class NotPrimary(ReconcilerError):
    """The server that was taken for the primary is a standby.

    A failover or switchover has happened since the shard was looked at. The next look finds the new
    primary.
    """

    code = "PG204"
    transient = True


class DatabaseMissing(ReconcilerError):
    """The shard's PostgreSQL runs and has no database of this name.

    A shard gets its database when it is provisioned. Somebody dropped or renamed it.
    """

    code = "PG205"


class LockNotObtained(ReconcilerError):
    """A lock was not free within its limit, so nothing was changed.

    Waiting longer would make the application's own statements queue behind us. Long transactions,
    idle transactions and another applier are the usual holders.
    """

    code = "PG206"
    transient = True


class StatementTimedOut(ReconcilerError):
    """A statement took longer than its limit and was cancelled."""

    code = "PG207"
    transient = True


class StatementRefused(ReconcilerError):
    """PostgreSQL refused a statement of Shardwright's own; the SQLSTATE and its words are shown."""

    code = "PG208"


class Interrupted(ReconcilerError):
    """PostgreSQL rolled a transaction back for a reason that passes: a deadlock, a conflict."""

    code = "PG209"
    transient = True


@dataclass(frozen=True, slots=True)
class PostgresTimeouts:
    """Bounds on sessions.

    ``look_ms`` is for a look at the catalogs, ``schema_statement_ms`` for statements of schema
    files. The client waits a little longer than the server itself does. ``read_only``: PostgreSQL
    refuses every write of these sessions.
    """

    connect_s: int = 3
    look_ms: int = 5_000
    statement_ms: int = 30_000
    lock_ms: int = 5_000
    idle_in_transaction_ms: int = 60_000
    schema_statement_ms: int = 3_600_000
    read_only: bool = False


OF_A_MOVE = "shardwright move"
"""How sessions of a move call themselves, with the fencing token of their applier behind it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One database at one primary, and as whom to reach it."""

    primary: Endpoint
    database: str
    credential: Credential
    tls: TlsFiles
    timeouts: PostgresTimeouts
    name: str
    """How errors call it: ``shard shop-s0``."""
    application: str = "shardwright"
    """How its sessions call themselves."""

    @property
    def subject(self) -> str:
        """``shard shop-s0 (127.0.0.1:5433, database shop)``."""
        host, port = self.primary.host, self.primary.postgres_port
        return f"{self.name} ({host}:{port}, database {self.database})"


_READ_ONLY = {"default_transaction_read_only": "on"}
_NOTICED = {
    # Else a server waits for two hours for what a host that is gone was about to send.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


def superuser_options(timeouts: PostgresTimeouts, *, read_only: bool = False) -> dict[str, str]:
    """Return the settings of a session of ours."""
    options = {
        "search_path": "pg_catalog",
        "statement_timeout": str(timeouts.look_ms if read_only else timeouts.statement_ms),
        "lock_timeout": str(timeouts.lock_ms),
        "idle_in_transaction_session_timeout": str(timeouts.idle_in_transaction_ms),
        "jit": "off",
        # A spec may set it off for the application; what fences must be on the standby as well.
        "synchronous_commit": "on",
        "session_replication_role": "origin",
        "default_transaction_isolation": "read\\ committed",
    }
    return options | _NOTICED | (_READ_ONLY if read_only else {})


def owner_options(timeouts: PostgresTimeouts) -> dict[str, str]:
    """Return the settings of a session that runs a schema file as the owner."""
    return {
        "statement_timeout": str(timeouts.schema_statement_ms),
        "lock_timeout": str(timeouts.lock_ms),
        "idle_in_transaction_session_timeout": str(timeouts.idle_in_transaction_ms),
        "synchronous_commit": "on",
        "default_transaction_isolation": "read\\ committed",
    } | _NOTICED


@contextmanager
def session(
    target: Target, options: dict[str, str], *, replication: bool = False
) -> Iterator[psycopg.Connection]:
    """Open an autocommit session on the primary; every psycopg error leaves it typed.

    With ``replication`` it understands the commands of a logical walsender as well, which
    statement_timeout does not bound. Raises the errors of this module, and FencedOff.
    """
    connection = _connect(target, options, replication=replication)
    if not replication:
        limit(connection, int(options["statement_timeout"]))
    try:
        yield connection
    except psycopg.Error as error:
        raise meaning(error, target.subject) from None
    finally:
        connection.close()


def _connect(target: Target, options: dict[str, str], *, replication: bool) -> psycopg.Connection:
    asked = options | (_READ_ONLY if target.timeouts.read_only else {})
    try:
        connection = BoundedConnection.connect(
            host=target.primary.host,
            port=target.primary.postgres_port,
            user=target.credential.role,
            password=target.credential.password,
            dbname=target.database,
            sslmode="verify-full" if target.primary.postgres_tls else "disable",
            sslrootcert=target.tls.ca,
            sslcert=target.tls.cert or None,
            sslkey=target.tls.key or None,
            gssencmode="disable",
            connect_timeout=target.timeouts.connect_s,
            tcp_user_timeout=target.timeouts.statement_ms,
            target_session_attrs="primary",
            application_name=target.application,
            options=" ".join(f"-c {name}={value}" for name, value in asked.items()),
            replication="database" if replication else None,
            autocommit=True,
            cursor_factory=NotingCursor,
        )
    except psycopg.OperationalError as error:
        raise _refusal(str(error), target) from None
    connection.prepare_threshold = None
    return connection


def _refusal(text: str, target: Target) -> ReconcilerError:
    """Say what a failed connection means; libpq tells it only in words."""
    words = " ".join(text.split())
    subject, role = target.subject, target.credential.role
    if "does not exist" in words and f'database "{target.database}"' in words:
        return DatabaseMissing(subject, "there is no such database", remedy="plan again")
    if "certificate" in words or "SSL error" in words or "TLS" in words:
        return CertificateRefused(
            subject, words, remedy="check the platform's authority and the server's certificate"
        )
    if "authentication failed" in words or "pg_hba.conf" in words or "not permitted" in words:
        return LoginRefused(
            subject,
            f"role {role} was refused",
            remedy="raise spec.postgres.passwords.generation to set new passwords",
        )
    if "hot standby" in words or "read-only" in words:
        return NotPrimary(subject, "it is a standby", remedy="plan again")
    return PostgresUnreachable(
        subject, words, remedy="shardwright platform status; shardwright get instances"
    )


def meaning(error: psycopg.Error, subject: str) -> ReconcilerError:
    """Turn what PostgreSQL said into one of our errors."""
    said = " ".join((error.diag.message_primary or str(error)).split())
    state = error.sqlstate
    if state == "PS002":
        return FencedOff(subject, said, remedy="run apply again: it resumes from its journal")
    match error:
        case pg.LockNotAvailable() | pg.ObjectInUse():
            return LockNotObtained(
                subject, said, remedy="end long or idle transactions there (pg_stat_activity)"
            )
        case pg.QueryCanceled():
            return StatementTimedOut(subject, said)
        case pg.ReadOnlySqlTransaction():
            return NotPrimary(subject, "it is a standby now", remedy="plan again")
        case psycopg.OperationalError() if state is None or state[:2] in ("08", "57"):
            return PostgresUnreachable(subject, f"the connection was lost: {said}")
    if state is not None and state[:2] in ("40", "53"):
        return Interrupted(subject, f"{said} (SQLSTATE {state})")
    return StatementRefused(subject, f"{said} (SQLSTATE {state})")
