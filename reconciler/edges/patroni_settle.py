"""Whether a member has taken a new configuration, as its PostgreSQL says it.

Patroni does not tell: ``GET /config`` is etcd's content, and a member first writes postgresql.conf,
then reloads, and only a second later marks what waits for a restart (``ConfigHandler.
reload_config``). A look in between would find nothing pending and the shard done. So PostgreSQL is
asked what its files say, whether it has read them, and what waits; then Patroni must name the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reconciler.model.access import Login
from reconciler.model.errors import ReconcilerError
from reconciler.model.platform import PlatformMember

_ALWAYS_WRITTEN = frozenset(
    {
        "cluster_name", "hot_standby", "max_connections", "max_locks_per_transaction",
        "max_prepared_transactions", "max_replication_slots", "max_wal_senders",
        "max_worker_processes", "track_commit_timestamp", "wal_level", "wal_log_hints",
    }
)  # fmt: skip
"""Patroni writes these with its own default when nobody sets them (``CMDLINE_OPTIONS``)."""
_CONNECT_S = 2
_STATEMENT_MS = 5_000

_SQL = """
WITH file AS (
  SELECT DISTINCT ON (lower(name)) lower(name) AS name, setting, sourcefile
    FROM pg_file_settings ORDER BY lower(name), seqno DESC
)
SELECT (SELECT min(w.name) FROM unnest(%(names)s::text[], %(values)s::text[]) AS w(name, value)
          LEFT JOIN file f ON f.name = lower(w.name)
         WHERE f.setting IS DISTINCT FROM w.value),
       (SELECT min(w.name) FROM unnest(%(names)s::text[], %(values)s::text[]) AS w(name, value)
          JOIN file f ON f.name = lower(w.name) AND f.setting <> w.value
         WHERE f.sourcefile LIKE '%%/postgresql.auto.conf'),
       (SELECT min(g.name) FROM unnest(%(gone)s::text[], %(old)s::text[]) AS g(name, value)
          JOIN file f ON f.name = lower(g.name) AND f.setting = g.value),
       pg_conf_load_time() >= (pg_stat_file(current_setting('config_file'))).modification,
       ARRAY(SELECT lower(name) FROM pg_settings WHERE pending_restart)
"""


class ParameterOverridden(ReconcilerError):
    """A parameter of the spec was set by ALTER SYSTEM on a member, to another value.

    PostgreSQL reads postgresql.auto.conf last, so what is written there wins over everything that
    Patroni writes. Somebody set it by hand, on this one member.
    """

    code = "PA112"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: parameters as text, and those removed with their former values."""

    parameters: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]


def is_settled(
    login: Login, member: PlatformMember, asked: Asked, patroni_pending: frozenset[str]
) -> str:
    """Return what the member has not taken yet, in words; empty when it has taken everything.

    A member whose PostgreSQL does not answer takes the configuration when it starts: nothing is
    waited for. Raises ParameterOverridden for what waiting does not help against.
    """
    gone = [(n, v) for n, v in asked.removed if n.lower() not in _ALWAYS_WRITTEN]
    row = _ask(
        login,
        member,
        {
            "names": [name for name, _ in asked.parameters],
            "values": [value for _, value in asked.parameters],
            "gone": [name for name, _ in gone],
            "old": [value for _, value in gone],
        },
    )
    if row is None:
        return ""
    names = {name.lower() for name, _ in (*asked.parameters, *asked.removed)}
    missing, overridden, kept, is_loaded, pending = row
    if overridden is not None:
        raise ParameterOverridden(
            f"shard {login.key} member {member.name}",
            f"{overridden} is set in its postgresql.auto.conf, which wins over Patroni",
            remedy=f"on that member: ALTER SYSTEM RESET {overridden}; SELECT pg_reload_conf(); "
            "then apply again",
        )
    if missing is not None or kept is not None:
        return f"{missing or kept} in its postgresql.conf is not as asked"
    if not is_loaded:
        return "its PostgreSQL has not read its postgresql.conf yet"
    unmarked = {name for name in names & set(pending) if name not in _lower(patroni_pending)}
    stale = names & _lower(patroni_pending) - set(pending)
    if unmarked or stale:
        return f"Patroni has not looked yet whether {min(unmarked | stale)} waits for a restart"
    return ""


def _ask(
    login: Login, member: PlatformMember, parameters: dict[str, list[str]]
) -> tuple[Any, ...] | None:
    """Return the row of ``_SQL``; None when the member's PostgreSQL does not answer."""
    import psycopg

    from reconciler.edges.bounded_connection import BoundedConnection, limit

    try:
        with BoundedConnection.connect(
            host=member.endpoint.host,
            port=member.endpoint.postgres_port,
            user=login.superuser.role,
            password=login.superuser.password,
            dbname="postgres",
            sslmode="verify-full" if member.endpoint.postgres_tls else "disable",
            sslrootcert=login.tls.ca,
            sslcert=login.tls.cert or None,
            sslkey=login.tls.key or None,
            gssencmode="disable",
            connect_timeout=_CONNECT_S,
            application_name="shardwright",
            options=f"-c search_path=pg_catalog -c statement_timeout={_STATEMENT_MS}",
            autocommit=True,
        ) as connection:
            limit(connection, _STATEMENT_MS)
            return connection.execute(_SQL, parameters).fetchone()
    except psycopg.OperationalError:
        return None


def _lower(names: frozenset[str]) -> set[str]:
    return {name.lower() for name in names}
