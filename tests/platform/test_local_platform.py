"""The local platform on real etcd, Patroni and PostgreSQL."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from reconciler.edges.local import etcd_keeper, etcd_server, lifecycle, member
from reconciler.edges.local.binaries import available_etcd, available_postgres
from reconciler.edges.local.home import Home, open_home
from reconciler.edges.local.platform import LocalPlatform, ShardUnknown, VersionFixed
from reconciler.edges.local.ports import PortTaken
from reconciler.edges.local.process_identity import identity_of, send_signal, wait_until_gone
from reconciler.edges.local.tls import client_context
from reconciler.model.access import FencedOff
from reconciler.model.names import FencingToken, MemberName
from tests.local_home import (
    blueprint,
    connect,
    fresh_home,
    member_with_role,
    members,
    patroni,
    processes_in,
    roles,
    wait_for,
    wait_until_whole,
)

pytestmark = pytest.mark.platform

SHOP = blueprint("shop-s0").key


@pytest.fixture
def shop(shop_home: Path) -> LocalPlatform:
    lifecycle.up(shop_home)
    wait_until_whole(shop_home, SHOP)
    return LocalPlatform(shop_home)


@pytest.fixture(scope="module")
def every_version() -> Iterator[Path]:
    """A home with one shard of one member for each PostgreSQL of this machine."""
    with fresh_home() as root:
        lifecycle.up(root)
        for major in majors():
            LocalPlatform(root).ensure_members(blueprint(f"pg-{major}", major, 1), (0,))
        yield root


def majors() -> list[str]:
    return sorted({binaries.major for binaries in available_postgres()})


def every_process(home: Home) -> list[int]:
    of_etcd = [etcd_keeper.running(home.etcd, name) for name in ("keeper", "process")]
    of_members = [
        process.pid
        for shard in home.shards()
        for one in member.members_of(home, shard)
        for process in member.processes_of(one)
    ]
    return [*(process.pid for process in of_etcd if process), *of_members]


def test_a_row_written_on_the_primary_is_on_the_standby(
    shop: LocalPlatform, shop_home: Path
) -> None:
    primary = member_with_role(shop_home, SHOP, "leader")
    standby = member_with_role(shop_home, SHOP, "sync_standby")
    with connect(shop, SHOP, primary.endpoint) as connection:
        connection.execute("create table if not exists seen (id int primary key)")
        connection.execute("insert into seen values (1) on conflict do nothing")

    def copied() -> bool:
        with connect(shop, SHOP, standby.endpoint) as connection:
            return connection.execute("select id from seen").fetchall() == [(1,)]

    assert wait_for(copied, "the row on the standby")


@pytest.mark.parametrize("password", ["", "guess"])
def test_nobody_comes_in_without_the_password(
    shop: LocalPlatform, shop_home: Path, password: str
) -> None:
    primary = member_with_role(shop_home, SHOP, "leader")

    with pytest.raises(psycopg.OperationalError, match="password"):
        connect(shop, SHOP, primary.endpoint, password=password)


def test_asking_again_for_what_runs_changes_nothing(shop: LocalPlatform, shop_home: Path) -> None:
    before = lifecycle.status(shop_home)

    shop.ensure_members(blueprint("shop-s0"), (0, 1))
    assert lifecycle.up(shop_home) == before
    assert before.complete


def test_after_everything_was_killed_up_brings_everything_back(
    shop: LocalPlatform, shop_home: Path
) -> None:
    primary = member_with_role(shop_home, SHOP, "leader")
    with connect(shop, SHOP, primary.endpoint) as connection:
        connection.execute("create table kept as select generate_series(1, 1000) id")
    # Those that keep others first, as they would start again what they see die.
    for pid in every_process(open_home(shop_home)):
        if identity := identity_of(pid):
            send_signal(identity, signal.SIGKILL)
    assert not lifecycle.status(shop_home).complete

    assert lifecycle.up(shop_home).complete
    primary = member_with_role(shop_home, SHOP, "leader")
    with connect(shop, SHOP, primary.endpoint) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (1000,)
        connection.execute("drop table kept")


def test_etcd_killed_with_its_keeper_is_started_again_by_up(new_home: Path) -> None:
    lifecycle.up(new_home)
    platform, home = LocalPlatform(new_home), open_home(new_home)
    for process in (etcd_keeper.running(home.etcd, name) for name in ("keeper", "process")):
        assert process is not None
        send_signal(process, signal.SIGKILL)
        assert wait_until_gone([process], 10) == ()
    with pytest.raises(etcd_server.EtcdNotUp, match="does not run"):
        platform.ensure_members(blueprint("shop-s0"), (0, 1))

    assert lifecycle.up(new_home).complete
    assert etcd_keeper.running(home.etcd, "keeper") is not None


def test_a_member_comes_and_goes_with_its_data(shop: LocalPlatform, shop_home: Path) -> None:
    shop.ensure_members(blueprint("shop-s0", instances=3), (0, 1, 2))
    wait_until_whole(shop_home, SHOP)
    folder = open_home(shop_home).member_dir(SHOP, MemberName("shop-s0-2"))
    assert (folder / "data").is_dir()

    for _ in range(2):
        shop.remove_member(SHOP, MemberName("shop-s0-2"))
    assert [m.name for m in members(shop, SHOP)] == ["shop-s0-0", "shop-s0-1"]
    assert not folder.exists()
    assert "shop-s0-2" not in roles(shop_home, SHOP)
    assert not processes_in(folder)


def test_a_shard_stopped_on_purpose_stays_stopped_and_keeps_its_data(
    shop: LocalPlatform, shop_home: Path
) -> None:
    primary = member_with_role(shop_home, SHOP, "leader")
    with connect(shop, SHOP, primary.endpoint) as connection:
        connection.execute("create table asleep as select 1 id")
    for _ in range(2):
        shop.stop_shard(SHOP)
    lifecycle.up(shop_home)
    (seen,) = (shard for shard in shop.observe() if shard.key == SHOP)
    assert seen.stopped
    assert not any(m.running for m in seen.members)
    assert lifecycle.status(shop_home).complete

    shop.start_shard(SHOP)
    primary = member_with_role(shop_home, SHOP, "leader")
    with connect(shop, SHOP, primary.endpoint) as connection:
        assert connection.execute("table asleep").fetchone() == (1,)
        connection.execute("drop table asleep")


def test_patroni_takes_a_promoted_password_at_once(shop: LocalPlatform, shop_home: Path) -> None:
    endpoint = members(shop, SHOP)[0].endpoint
    new = shop.stage_credential(SHOP, "patroni_api")
    login = base64.b64encode(f"{new.role}:{new.password}".encode()).decode()
    assert patroni(shop_home, endpoint, "/reload", "POST", login)[0] == 401

    for _ in range(2):
        shop.promote_credential(SHOP, "patroni_api")
    assert wait_for(
        lambda: patroni(shop_home, endpoint, "/reload", "POST", login)[0] in (200, 202),
        "the new password accepted",
    )


def test_a_call_that_changes_something_needs_a_certificate_of_this_home(
    shop: LocalPlatform, shop_home: Path
) -> None:
    import http.client

    api = shop.credential(SHOP, "patroni_api")
    login = base64.b64encode(f"{api.role}:{api.password}".encode()).decode()
    endpoint = members(shop, SHOP)[0].endpoint
    context = ssl.create_default_context(cafile=shop.client_tls().ca)
    connection = http.client.HTTPSConnection(
        endpoint.host, endpoint.patroni_port, timeout=5, context=context
    )
    connection.request("POST", "/reload", headers={"Authorization": f"Basic {login}"})
    status = connection.getresponse().status
    connection.close()
    assert status == 403


def test_secrets_are_in_no_argument_list_and_no_log(shop: LocalPlatform, shop_home: Path) -> None:
    home = open_home(shop_home)
    secrets = [p.read_bytes() for p in home.secrets.rglob("*") if p.is_file()]
    assert len(secrets) >= 4
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in every_process(home)]
    written = [p.read_bytes() for p in home.root.rglob("*.log")]
    written += [p.read_bytes() for p in home.root.rglob("*.json")]
    assert not [text for text in [*shown, *written] for secret in secrets if secret in text]


def test_a_major_version_is_not_changed_in_place(shop: LocalPlatform) -> None:
    with pytest.raises(VersionFixed, match="runs PostgreSQL 16, asked for 18"):
        shop.ensure_members(blueprint("shop-s0", "18"), (0, 1))


def test_a_shard_that_is_not_here_is_named(shop: LocalPlatform) -> None:
    with pytest.raises(ShardUnknown, match="there are: shop-s0"):
        shop.stop_shard(blueprint("other").key)


def test_the_log_of_each_part_can_be_read(shop: LocalPlatform, shop_home: Path) -> None:
    primary = member_with_role(shop_home, SHOP, "leader").name
    assert any("leader" in line for line in lifecycle.logs(shop_home, primary))
    assert any("LOG:" in line for line in lifecycle.logs(shop_home, f"{primary}:postgres"))
    assert len(list(lifecycle.logs(shop_home, primary, 3))) == 3
    with pytest.raises(lifecycle.PartUnknown, match="there are: etcd, shop-s0-0"):
        lifecycle.logs(shop_home, "postgres")


@pytest.mark.parametrize("major", majors())
def test_every_postgresql_of_this_machine_serves_and_is_reached_safely(
    every_version: Path, major: str
) -> None:
    platform, key = LocalPlatform(every_version), blueprint(f"pg-{major}").key
    endpoint = member_with_role(every_version, key, "leader").endpoint
    with connect(platform, key, endpoint) as connection:
        shown = connection.execute(
            "select current_setting('server_version_num')::int / 10000, "
            "current_setting('data_checksums'), current_setting('password_encryption'), "
            "current_setting('server_encoding'), "
            "(select ssl from pg_stat_ssl where pid = pg_backend_pid())"
        ).fetchone()
    assert shown == (int(major), "on", "scram-sha-256", "UTF8", endpoint.postgres_tls)
    if endpoint.postgres_tls:
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            connect(platform, key, endpoint, sslmode="disable")


def test_a_destroyed_shard_leaves_nothing_and_can_be_made_again(every_version: Path) -> None:
    platform, wanted = LocalPlatform(every_version), blueprint("gone", instances=1)
    home = open_home(every_version)
    for _ in range(2):
        platform.ensure_members(wanted, (0,))
        endpoint = member_with_role(every_version, wanted.key, "leader").endpoint
        with connect(platform, wanted.key, endpoint) as connection:
            connection.execute("create table only_once ()")
        for _ in range(2):
            platform.destroy_shard(wanted.key)
        assert wanted.key not in {shard.key for shard in platform.observe()}
        assert not home.shard_dir(wanted.key).exists()
        assert not (home.secrets / "default" / "gone").exists()


def test_a_former_holder_of_the_lease_changes_nothing(every_version: Path) -> None:
    former, present = LocalPlatform(every_version), LocalPlatform(every_version)
    former.fence(FencingToken(7))
    present.fence(FencingToken(8))

    with pytest.raises(FencedOff, match="token 8"):
        former.ensure_credential(SHOP, "app")
    with pytest.raises(FencedOff):
        LocalPlatform(every_version).fence(FencingToken(7))
    present.fence(FencingToken(8))
    LocalPlatform(every_version).fence(FencingToken(9))


def test_two_homes_do_not_meet(shop: LocalPlatform, shop_home: Path, new_home: Path) -> None:
    mine = {port for part in lifecycle.up(new_home).parts for _, port in part.ports}
    theirs = lifecycle.status(shop_home)
    assert not mine & {port for part in theirs.parts for _, port in part.ports}

    (address,) = LocalPlatform(new_home).etcd_endpoints()
    port = int(address.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        pytest.raises(ssl.SSLError),
    ):
        client_context(open_home(shop_home)).wrap_socket(plain, server_hostname="127.0.0.1")
    lifecycle.destroy(new_home)
    assert lifecycle.status(shop_home) == theirs


def test_down_leaves_no_process_and_up_starts_again(new_home: Path) -> None:
    lifecycle.up(new_home)
    platform, wanted = LocalPlatform(new_home), blueprint("solo", instances=1)
    platform.ensure_members(wanted, (0,))
    wait_until_whole(new_home, wanted.key)
    assert processes_in(new_home)

    for _ in range(2):
        assert not any(part.running for part in lifecycle.down(new_home).parts)
    assert not processes_in(new_home)
    assert lifecycle.up(new_home).complete
    assert wait_until_whole(new_home, wanted.key)


def test_what_outlived_its_supervisor_is_stopped_too(new_home: Path) -> None:
    lifecycle.up(new_home)
    platform, wanted = LocalPlatform(new_home), blueprint("solo", instances=1)
    platform.ensure_members(wanted, (0,))
    wait_until_whole(new_home, wanted.key)
    (one,) = member.members_of(open_home(new_home), open_home(new_home).shards()[0])
    supervisor = one.supervisor
    assert supervisor is not None
    send_signal(supervisor, signal.SIGKILL)
    wait_until_gone([supervisor], 10)
    assert not lifecycle.status(new_home).complete

    lifecycle.down(new_home)
    assert not processes_in(new_home)


def test_what_does_not_react_is_killed(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.up(new_home)
    platform, wanted = LocalPlatform(new_home), blueprint("solo", instances=1)
    platform.ensure_members(wanted, (0,))
    wait_until_whole(new_home, wanted.key)
    for pid in every_process(open_home(new_home)):
        if identity := identity_of(pid):
            send_signal(identity, signal.SIGSTOP)

    monkeypatch.setattr(member, "STOP_TIMEOUT_S", 0.5)
    monkeypatch.setattr(etcd_server, "STOP_TIMEOUT_S", 0.5)
    lifecycle.down(new_home)
    assert not processes_in(new_home)


@pytest.mark.parametrize("part", ["etcd", "member"])
def test_a_remembered_port_taken_by_a_stranger_is_an_error(new_home: Path, part: str) -> None:
    lifecycle.up(new_home)
    LocalPlatform(new_home).ensure_members(blueprint("solo", instances=1), (0,))
    status = lifecycle.down(new_home)
    port = next(p.ports[0][1] for p in status.parts if p.kind == part)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            lifecycle.up(new_home)
    assert lifecycle.up(new_home).complete


@pytest.mark.parametrize("etcd", available_etcd(), ids=lambda etcd: etcd.version_text)
def test_every_etcd_of_this_machine_serves(
    new_home: Path, monkeypatch: pytest.MonkeyPatch, etcd: object
) -> None:
    monkeypatch.setenv("SHARDWRIGHT_ETCD_BIN", str(etcd.path))  # type: ignore[attr-defined]
    (part,) = lifecycle.up(new_home).parts
    assert part.running
    assert part.version == etcd.version_text  # type: ignore[attr-defined]
    in_use = lifecycle.etcd_in_use(new_home)
    assert in_use is not None
    assert in_use[0] == etcd.version_text  # type: ignore[attr-defined]
    assert part.pid is not None
    assert os.readlink(f"/proc/{part.pid}/exe") == os.path.realpath(etcd.path)  # type: ignore[attr-defined]


def test_an_etcd_that_does_not_come_up_says_its_last_words(
    new_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho 'etcd Version: 3.5.9'\n[ $# = 1 ] || echo no quorum >&2\n")
    broken.chmod(0o755)
    monkeypatch.setenv("SHARDWRIGHT_ETCD_BIN", str(broken))

    with pytest.raises(etcd_server.EtcdNotUp, match="its last words: no quorum"):
        lifecycle.up(new_home)
    monkeypatch.delenv("SHARDWRIGHT_ETCD_BIN")
