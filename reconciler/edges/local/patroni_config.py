"""A member's ``patroni.yml``, from its shard's blueprint. Pure.

Two sets of PostgreSQL parameters, as Patroni's local file wins over its dynamic configuration:

* ``bootstrap.dcs`` is what the shard begins with, the user's parameters included; from then on it
  is changed through Patroni's REST API and no longer here;
* ``postgresql.parameters`` holds only what belongs to this member and this machine: paths, TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reconciler.model.names import MemberName
from reconciler.model.platform import (
    RESTART_IN_PLACE_S,
    Credential,
    Endpoint,
    ShardBlueprint,
    effective_parameters,
)

TTL_S, LOOP_WAIT_S, RETRY_TIMEOUT_S = 20, 2, 5
"""Patroni's own rule: ttl >= loop_wait + 2 * retry_timeout; 20 is the least ttl it accepts. With 2
a new shard's standby is synchronous after 7 s instead of 10 s with 5, for 0.26 % of a core a member
instead of 0.13 % (measured, idle)."""
MAXIMUM_LAG_ON_FAILOVER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """Where a member lives: its endpoint and absolute paths."""

    name: MemberName
    endpoint: Endpoint
    data_dir: str
    bin_dir: str
    log_dir: str
    pgpass: str
    ca: str
    server_cert: str
    server_key: str


@dataclass(frozen=True, slots=True)
class MemberLogins:
    """The logins that Patroni itself uses; ``etcd`` is its user there."""

    superuser: Credential
    replication: Credential
    rewind: Credential
    patroni_api: Credential
    etcd: Credential


def patroni_namespace(namespace: str) -> str:
    """Return the prefix of Patroni's keys in etcd, without a slash at its end."""
    return f"/shardwright/patroni/{namespace}"


def patroni_config(
    blueprint: ShardBlueprint, place: MemberPlace, logins: MemberLogins, etcd_port: int
) -> dict[str, Any]:
    """Return the whole configuration of one member; it holds passwords."""
    endpoint = place.endpoint
    rest = f"{endpoint.host}:{endpoint.patroni_port}"
    tls = {"cacert": place.ca, "certfile": place.server_cert, "keyfile": place.server_key}
    return {
        "scope": blueprint.scope,
        "namespace": f"{patroni_namespace(blueprint.namespace)}/",
        "name": place.name,
        "log": {"level": "INFO", "traceback_level": "DEBUG"},
        "etcd3": {
            "hosts": [f"{endpoint.host}:{etcd_port}"],
            "protocol": "https",
            "cacert": place.ca,
            "cert": place.server_cert,
            "key": place.server_key,
            **_login(logins.etcd),
        },
        "restapi": {
            "listen": rest,
            "connect_address": rest,
            "certfile": place.server_cert,
            "keyfile": place.server_key,
            "cafile": place.ca,
            # Calls that change something need a certificate of this home and the password.
            "verify_client": "optional",
            "authentication": _login(logins.patroni_api),
        },
        "ctl": tls,
        # Members share one machine: a watchdog would reset all of them at once.
        "watchdog": {"mode": "off"},
        "bootstrap": {"dcs": dynamic_config(blueprint), "initdb": _INITDB},
        "postgresql": _postgresql(place, logins),
    }


_INITDB: list[str | dict[str, str]] = [
    {"encoding": "UTF8"},
    {"locale": "C.UTF-8"},
    {"locale-provider": "libc"},
    {"auth-host": "scram-sha-256"},
    {"auth-local": "reject"},
    "data-checksums",
]


def dynamic_config(blueprint: ShardBlueprint) -> dict[str, Any]:
    """Return what Patroni's dynamic configuration begins with."""
    return {
        "ttl": TTL_S,
        "loop_wait": LOOP_WAIT_S,
        "retry_timeout": RETRY_TIMEOUT_S,
        # A silent etcd alone stops no primary: it goes on while every member of its shard answers,
        # and none of them promotes meanwhile.
        "failsafe_mode": True,
        "maximum_lag_on_failover": MAXIMUM_LAG_ON_FAILOVER_BYTES,
        # 0: fail over at once rather than recover in place, where a standby has everything. While
        # there is none, Patroni recovers in place also with 0 (``Ha.recover``).
        "primary_start_timeout": 0 if blueprint.synchronous else RESTART_IN_PLACE_S,
        "synchronous_mode": blueprint.synchronous,
        "postgresql": {
            "use_pg_rewind": True,
            "use_slots": True,
            # A former primary that cannot be rewound is built anew from the new one.
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
            "parameters": dict(effective_parameters(blueprint.parameters, blueprint.version)),
        },
    }


def _postgresql(place: MemberPlace, logins: MemberLogins) -> dict[str, Any]:
    endpoint = place.endpoint
    address = f"{endpoint.host}:{endpoint.postgres_port}"
    tls = {"sslmode": "verify-full", "sslrootcert": place.ca} if endpoint.postgres_tls else {}
    return {
        "listen": address,
        "connect_address": address,
        "data_dir": place.data_dir,
        "bin_dir": place.bin_dir,
        "pgpass": place.pgpass,
        "authentication": {
            role: {**_login(login), **tls}
            for role, login in (
                ("superuser", logins.superuser),
                ("replication", logins.replication),
                ("rewind", logins.rewind),
            )
        },
        "basebackup": [{"checkpoint": "fast"}],
        "pg_hba": _pg_hba(endpoint, logins),
        "parameters": {
            # No Unix socket: its path would have to fit in 107 bytes, and TCP with TLS serves all.
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",
            **_server_tls(place),
            # One file a weekday, begun anew each week: bounded without a rotation program.
            "logging_collector": "on",
            "log_directory": place.log_dir,
            "log_filename": "postgresql-%u.log",
            "log_rotation_age": "1d",
            "log_truncate_on_rotation": "on",
            "log_line_prefix": "%m [%p] %u@%d %a ",
        },
    }


def _server_tls(place: MemberPlace) -> dict[str, str]:
    if not place.endpoint.postgres_tls:
        return {"ssl": "off"}
    return {
        "ssl": "on",
        "ssl_ca_file": place.ca,
        "ssl_cert_file": place.server_cert,
        "ssl_key_file": place.server_key,
    }


def _pg_hba(endpoint: Endpoint, logins: MemberLogins) -> list[str]:
    """Only loopback, only scram, and only TLS where PostgreSQL was built with it."""
    kind = "hostssl" if endpoint.postgres_tls else "host"
    only = f"{endpoint.host}/32 scram-sha-256"
    return [
        f"{kind} replication {logins.replication.role} {only}",
        f"{kind} all all {only}",
        "local all all reject",
    ]


def _login(credential: Credential) -> dict[str, str]:
    return {"username": credential.role, "password": credential.password}
