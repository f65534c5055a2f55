"""The supervisor's parts: processes told apart, a lease given up on conditions, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.edges.local import death, etcd_users, lifecycle
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import HomeRecord, open_home, read_record
from reconciler.edges.local.process_identity import identity_of, is_alive, wait_until_gone
from reconciler.edges.local.supervisor_etcd import EtcdAccess, LeaseUnreachable, ScopeStore
from reconciler.edges.local.supervisor_files import (
    Member,
    MemberHeld,
    MemberUnreadable,
    bound_log,
    hold,
    read_member,
)
from reconciler.edges.local.supervisor_member import RunningMember, Watched, parse_lsn
from reconciler.edges.local.tls import server_files
from reconciler.workflow.failover import GiveUpLease, LeaderKey, Survivors, Switchover
from tests.local_home import fresh_home, wait_for
from tests.platform.failover_shard import FailoverShard, Writer

PREFIX, SCOPE, ME = "/shardwright/patroni/test", "s0", "s0-0"


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdAccess]:
    """A home's own etcd, with TLS and no shard."""
    with fresh_home() as root:
        lifecycle.up(root)
        home = open_home(root)
        record = read_record(home.record, HomeRecord)
        assert record is not None
        files = server_files(home)
        yield EtcdAccess(
            (f"https://127.0.0.1:{record.etcd_client_port}",),
            files.ca,
            files.cert,
            files.key,
            etcd_users.login(home, EtcdUser.PATRONI),
        )


@pytest.fixture
def store(etcd: EtcdAccess) -> ScopeStore:
    """A scope of which this member is the leader, with one synchronous standby."""
    scope = f"s{time.monotonic_ns()}"
    fresh = ScopeStore(etcd, PREFIX, scope)
    lease = int(fresh._call("/v3/lease/grant", {"TTL": 900})["ID"])
    _put(fresh, "leader", ME, lease)
    _put(fresh, "sync", json.dumps({"leader": ME, "sync_standby": "s0-1"}))
    for name in (ME, "s0-1"):
        _put(
            fresh, f"members/{name}", json.dumps({"state": "running", "api_url": f"https://{name}"})
        )
    return fresh


def _put(store: ScopeStore, key: str, value: str, lease: int = 0) -> None:
    from reconciler.edges.local.supervisor_etcd import _b64

    path = _b64(f"{PREFIX}/{store.scope}/{key}")
    store._call("/v3/kv/put", {"key": path, "value": _b64(value), "lease": str(lease)})


def _order(store: ScopeStore) -> GiveUpLease:
    view = store.read().view
    assert view.leader is not None
    return GiveUpLease(ME, view.leader.lease, view.sync_revision, revoke=True, reason="test")


def _ttl(store: ScopeStore, lease: int) -> int:
    return int(store._call("/v3/lease/timetolive", {"ID": str(lease)})["TTL"])


def test_patronis_keys_are_read_as_patroni_writes_them(store: ScopeStore) -> None:
    _put(store, "failover", json.dumps({"leader": ME, "member": "s0-1"}))
    _put(store, "config", json.dumps({"ttl": 20, "pause": True}))
    scope = store.read()
    assert isinstance(scope.view.leader, LeaderKey)
    assert scope.view.leader.member == scope.view.sync_leader == ME
    assert scope.view.sync_standbys == ("s0-1",)
    assert scope.view.running == (ME, "s0-1")
    assert scope.view.switchover == Switchover(ME, "s0-1")
    assert scope.view.paused
    assert scope.api_urls == ((ME, f"https://{ME}"), ("s0-1", "https://s0-1"))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"s0-1"', '{"sync_standby": null}'])
def test_a_sync_key_that_names_nobody_is_no_standby(store: ScopeStore, text: str) -> None:
    _put(store, "sync", text)
    assert store.read().view.sync_standbys == ()


def test_a_switchover_for_later_is_none_now(store: ScopeStore) -> None:
    later = {"leader": ME, "member": "s0-1", "scheduled_at": "2099-01-01T00:00:00+00:00"}
    _put(store, "failover", json.dumps(later))
    assert store.read().view.switchover is None


def test_a_lease_is_given_up_with_all_of_its_keys(store: ScopeStore) -> None:
    order = _order(store)
    _put(store, f"members/{ME}", json.dumps({"state": "running"}), order.lease)
    assert store.give_up(order)
    view = store.read().view
    assert view.leader is None
    assert view.running == ("s0-1",)
    assert _ttl(store, order.lease) == -1


def test_a_live_patronis_lease_outlives_its_leader_key(store: ScopeStore) -> None:
    order = replace(_order(store), revoke=False)
    assert store.give_up(order)
    assert store.read().view.leader is None
    assert _ttl(store, order.lease) > 0


def test_a_key_that_names_another_member_is_not_given_up(store: ScopeStore) -> None:
    order = _order(store)
    _put(store, "leader", "s0-1", order.lease)
    assert not store.give_up(order)
    assert store.read().view.leader == LeaderKey("s0-1", order.lease)
    assert _ttl(store, order.lease) > 0


def test_a_key_that_was_taken_again_in_another_lease_is_not_given_up(store: ScopeStore) -> None:
    order = _order(store)
    other = int(store._call("/v3/lease/grant", {"TTL": 900})["ID"])
    _put(store, "leader", ME, other)
    assert not store.give_up(order)
    assert store.read().view.leader == LeaderKey(ME, other)
    assert _ttl(store, order.lease) > 0


def test_a_lease_is_not_given_up_when_the_standbys_have_changed(store: ScopeStore) -> None:
    order = _order(store)
    _put(store, "sync", json.dumps({"leader": ME, "sync_standby": ""}))
    assert not store.give_up(order)
    assert store.read().view.leader is not None


def test_a_silent_etcd_is_a_typed_error(etcd: EtcdAccess) -> None:
    silent = ScopeStore(replace(etcd, endpoints=("https://127.0.0.1:1",)), PREFIX, SCOPE)
    with pytest.raises(LeaseUnreachable):
        silent.read()
    assert silent.received("https://127.0.0.1:1/patroni") == 0


def test_the_second_endpoint_is_asked_when_the_first_is_silent(store: ScopeStore) -> None:
    endpoints = ("https://127.0.0.1:1", *store.access.endpoints)
    both = ScopeStore(replace(store.access, endpoints=endpoints), PREFIX, store.scope)
    assert both.read().view.leader is not None


def test_a_stale_postmaster_file_is_no_postmaster(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        (tmp_path / "postmaster.pid").write_text(f"{sleeper.pid}\n{tmp_path}\n0\n5432\n\n\n1 2\n")
        assert death.find_postmaster(tmp_path) is None
        assert death.last_segment(tmp_path) == death.Segment(1, 2)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_single_user_server_is_no_postmaster(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"-{os.getpid()}\n{tmp_path}\n")
    assert death.find_postmaster(tmp_path) is None


def test_processes_are_found_by_the_folder_they_work_in_and_killed(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"], cwd=tmp_path)
    process = identity_of(sleeper.pid)
    assert process is not None
    assert death.processes_in(tmp_path) == (process,)
    assert process in death.children_of(os.getpid())
    assert death.kill_all((process,), within_s=60)
    assert sleeper.wait() == -signal.SIGKILL
    assert death.processes_in(tmp_path) == ()
    assert death.open_pidfd(process) is None


def test_an_unknown_segment_is_not_an_unused_one(tmp_path: Path) -> None:
    assert death.attached(None) is Survivors.UNKNOWN
    assert death.attached(death.Segment(key=0, shmid=2**31 - 1)) is Survivors.NONE
    assert death.last_segment(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "position"), [("0/3000028", 0x3000028), ("16/B374D848", (0x16 << 32) + 0xB374D848)]
)
def test_a_wal_position_is_read_as_postgres_writes_it(text: str, position: int) -> None:
    assert parse_lsn(text) == position


@pytest.mark.parametrize("text", ["", "0", "x/y"])
def test_what_is_no_wal_position_is_the_lowest(text: str) -> None:
    assert parse_lsn(text) == 0


def test_a_patroni_that_never_answered_has_kept_nothing_however_old_it_became(
    tmp_path: Path,
) -> None:
    nowhere = EtcdAccess(())
    member = Member(tmp_path, SCOPE, ME, (), "", tmp_path, "", nowhere, "", "https://127.0.0.1:1")
    long_ago = time.monotonic() - 60
    for heard in (False, True):
        sleeper = subprocess.Popen(["sleep", "600"])
        patroni = Watched.open(identity_of(sleeper.pid))
        assert patroni is not None
        patroni.since = long_ago
        running = RunningMember(member, patroni=patroni, kept_at=long_ago, heard=heard)
        running.hear()
        assert running.heard is heard
        sleeper.kill()
        sleeper.wait()
        assert running.notice_deaths()
        assert (running.unkept_s >= 60) is not heard


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"etcd": 1}'])
def test_a_member_that_cannot_be_read_is_one_typed_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "member.json").write_text(text)
    with pytest.raises(MemberUnreadable):
        read_member(tmp_path)
    program = [sys.executable, "-m", "reconciler.edges.local.supervisor", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "LP141" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_member_has_one_supervisor_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(MemberHeld):
        hold(tmp_path)
    hold(tmp_path).close()


def test_a_log_past_its_bound_is_set_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("reconciler.edges.local.supervisor_files.LOG_BYTES_MAX", 10)
    log = tmp_path / "patroni.log"
    bound_log(log)
    assert not log.exists()
    with log.open("ab") as writer:
        writer.write(b"more than ten bytes")
        writer.flush()
        bound_log(log)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "patroni.log.1").read_bytes() == b"more than ten bytes"


@pytest.mark.platform
def test_a_member_that_is_told_to_stop_leaves_nothing_behind_and_hands_over_nothing() -> None:
    with fresh_home() as root:
        shard = FailoverShard(root)
        leader = shard.leader()
        with Writer(shard):
            pass
        parts = [shard.process(n, p) for n in shard.members() for p in _PARTS]
        supervisor = shard.process(leader, "supervisor")
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGHUP)
        reloaded = "Reloading PostgreSQL configuration"
        quiet = "No PostgreSQL configuration items changed"
        log = shard.folder(leader) / "patroni.log"
        wait_for(lambda: any(t in log.read_text() for t in (reloaded, quiet)), "Patroni reloads")
        lifecycle.down(root)
        living = [p for p in parts if p]
        assert len(living) == len(parts)
        assert wait_until_gone(living, 0) == ()
        assert not any(is_alive(p) for p in living)
        assert "gave up" not in shard.log(leader)
        assert shard.log(leader).rstrip().endswith("stopped")


_PARTS = ("supervisor", "patroni", "postgres")
