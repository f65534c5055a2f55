"""etcd dies under a writer: its keeper starts it again, and no primary steps down meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from reconciler.edges.local import etcd_keeper, lifecycle
from reconciler.edges.local.home import open_home
from reconciler.edges.local.process_identity import ProcessIdentity, is_alive, send_signal
from tests.local_home import fresh_home, processes_in, wait_for
from tests.platform.failover_shard import FailoverShard, Writer

pytestmark = [pytest.mark.platform, pytest.mark.xdist_group("keeper")]


@pytest.fixture(scope="module")
def one_shard() -> Iterator[FailoverShard]:
    with fresh_home() as root:
        yield FailoverShard(root)


@pytest.fixture
def shard(one_shard: FailoverShard) -> FailoverShard:
    one_shard.await_ready()
    return one_shard


def _running(shard: FailoverShard, name: str = etcd_keeper.PROCESS) -> ProcessIdentity | None:
    return etcd_keeper.running(open_home(shard.root).etcd, name)


def _now(shard: FailoverShard, name: str = etcd_keeper.PROCESS) -> ProcessIdentity:
    found = wait_for(lambda: _running(shard, name), f"{name} of etcd runs")
    assert found is not None
    return found


def test_an_etcd_killed_under_a_writer_is_back_and_no_primary_steps_down(
    shard: FailoverShard,
) -> None:
    leader, timeline, etcd = shard.leader(), shard.timeline(), _now(shard)
    with Writer(shard) as writer:
        send_signal(etcd, signal.SIGKILL)
        wait_for(lambda: _running(shard) not in (None, etcd), "another etcd runs")
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert (shard.leader(), shard.timeline()) == (leader, timeline)


def test_a_killed_keeper_takes_nothing_down_and_another_one_keeps_what_runs(
    shard: FailoverShard,
) -> None:
    etcd, keeper = _now(shard), _now(shard, etcd_keeper.KEEPER)
    send_signal(keeper, signal.SIGKILL)
    wait_for(lambda: _running(shard, etcd_keeper.KEEPER), "another keeper runs")
    assert is_alive(etcd)
    send_signal(etcd, signal.SIGKILL)
    wait_for(lambda: _running(shard) not in (None, etcd), "another etcd runs")


def test_an_etcd_killed_with_its_keeper_is_back_and_belongs_to_no_member(
    shard: FailoverShard,
) -> None:
    leader, timeline = shard.leader(), shard.timeline()
    etcd = _now(shard)
    with Writer(shard) as writer:
        for process in (_now(shard, etcd_keeper.KEEPER), etcd):
            send_signal(process, signal.SIGKILL)
        wait_for(lambda: _running(shard) not in (None, etcd), "another etcd runs")
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert (shard.leader(), shard.timeline()) == (leader, timeline)
    # A member's supervisor has started it: when that one ends all that is its own, this goes on.
    etcd, keeper = _now(shard), _now(shard, etcd_keeper.KEEPER)
    shard.platform.stop_shard(shard.blueprint.key)
    assert is_alive(etcd)
    assert is_alive(keeper)
    shard.platform.start_shard(shard.blueprint.key)


def test_a_primary_goes_on_while_etcd_is_silent_and_all_members_answer(
    shard: FailoverShard,
) -> None:
    leader, timeline, etcd = shard.leader(), shard.timeline(), _now(shard)
    log = shard.folder(leader) / "patroni.log"
    with Writer(shard) as writer:
        send_signal(etcd, signal.SIGSTOP)
        try:
            wait_for(lambda: "failsafe mode is enabled" in log.read_text(), "Patroni goes on")
            writer.await_writes()
        finally:
            send_signal(etcd, signal.SIGCONT)
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert (shard.leader(), shard.timeline()) == (leader, timeline)


def test_etcd_stopped_on_purpose_stays_down(shard: FailoverShard) -> None:
    lifecycle.down(shard.root)
    assert processes_in(shard.root) == {}
    assert not (open_home(shard.root).etcd / "keeper.json").exists()
    assert lifecycle.up(shard.root).complete
