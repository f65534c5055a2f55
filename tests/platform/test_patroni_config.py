from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.edges.local.patroni_config import (
    MemberLogins,
    MemberPlace,
    dynamic_config,
    patroni_config,
)
from reconciler.model.names import MemberName
from reconciler.model.platform import Credential, Endpoint
from tests.local_home import blueprint

SHOP = blueprint("shop-s0")
PLACE = MemberPlace(
    name=MemberName("shop-s0-0"),
    endpoint=Endpoint("127.0.0.1", 20001, 20002),
    data_dir="/home/x/data",
    bin_dir="/pg/bin",
    log_dir="/home/x/log",
    pgpass="/home/x/pgpass",
    ca="/tls/ca.pem",
    server_cert="/tls/server.pem",
    server_key="/tls/server.key",
)
LOGINS = MemberLogins(
    Credential("shardwright", "p1"),
    Credential("replicator", "p2"),
    Credential("rewind_user", "p3"),
    Credential("patroni_api", "p4"),
    Credential("patroni", "p5"),
)


def config(place: MemberPlace = PLACE) -> dict[str, Any]:
    return patroni_config(SHOP, place, LOGINS, etcd_port=20003)


def without_tls() -> MemberPlace:
    return replace(PLACE, endpoint=replace(PLACE.endpoint, postgres_tls=False))


def test_the_lease_outlives_the_retries_that_patroni_needs() -> None:
    dcs = dynamic_config(SHOP)

    assert dcs["ttl"] >= 20
    assert dcs["ttl"] >= dcs["loop_wait"] + 2 * dcs["retry_timeout"]


@pytest.mark.parametrize(("synchronous", "timeout_s"), [(True, 0), (False, 300)])
def test_only_where_a_standby_has_everything_is_a_crashed_primary_given_up_at_once(
    synchronous: bool, timeout_s: int
) -> None:
    dcs = dynamic_config(replace(SHOP, synchronous=synchronous))

    assert dcs["primary_start_timeout"] == timeout_s
    assert dcs["synchronous_mode"] is synchronous


def test_the_users_parameters_win_over_the_defaults_and_are_not_pinned_locally() -> None:
    wanted = replace(SHOP, parameters=(("shared_buffers", "64MB"), ("work_mem", "16MB")))
    whole = patroni_config(wanted, PLACE, LOGINS, etcd_port=20003)
    begun_with = whole["bootstrap"]["dcs"]["postgresql"]["parameters"]

    assert begun_with["shared_buffers"] == "64MB"
    assert begun_with["work_mem"] == "16MB"
    assert begun_with["wal_level"] == "logical"
    assert not begun_with.keys() & whole["postgresql"]["parameters"].keys()


def test_every_way_in_is_loopback_with_a_password_and_tls() -> None:
    rules = config()["postgresql"]["pg_hba"]

    assert rules == [
        "hostssl replication replicator 127.0.0.1/32 scram-sha-256",
        "hostssl all all 127.0.0.1/32 scram-sha-256",
        "local all all reject",
    ]
    assert config()["postgresql"]["parameters"]["ssl"] == "on"


def test_a_postgresql_built_without_tls_still_asks_for_scram() -> None:
    postgresql = config(without_tls())["postgresql"]

    assert postgresql["parameters"]["ssl"] == "off"
    assert "host all all 127.0.0.1/32 scram-sha-256" in postgresql["pg_hba"]
    assert not any("trust" in rule or "/0" in rule for rule in postgresql["pg_hba"])


@pytest.mark.parametrize("role", ["superuser", "replication", "rewind"])
def test_patroni_checks_the_servers_certificate_and_name(role: str) -> None:
    login = config()["postgresql"]["authentication"][role]

    assert (login["sslmode"], login["sslrootcert"]) == ("verify-full", "/tls/ca.pem")
    assert "sslmode" not in config(without_tls())["postgresql"]["authentication"][role]


def test_patronis_keys_are_under_the_namespace_of_the_database() -> None:
    assert config()["namespace"] == "/shardwright/patroni/default/"
    assert config()["etcd3"]["hosts"] == ["127.0.0.1:20003"]


def test_nothing_listens_beyond_loopback() -> None:
    whole = config()

    assert whole["postgresql"]["listen"] == "127.0.0.1:20001"
    assert whole["restapi"]["listen"] == "127.0.0.1:20002"
    assert whole["postgresql"]["parameters"]["unix_socket_directories"] == ""
