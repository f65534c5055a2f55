"""Fast failover on real servers, under a ttl so long that it cannot explain the failover."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from reconciler.edges.local import death, etcd_server
from reconciler.edges.local.home import open_home
from reconciler.edges.local.process_identity import (
    identity_of,
    is_alive,
    send_signal,
    wait_until_gone,
)
from reconciler.workflow.failover import Survivors
from tests.local_home import DEADLINE_S, fresh_home, wait_for
from tests.platform.failover_shard import FailoverShard, Writer

pytestmark = [pytest.mark.platform, pytest.mark.xdist_group("failover")]


@pytest.fixture(scope="module")
def one_shard() -> Iterator[FailoverShard]:
    with fresh_home() as root:
        shard = FailoverShard(root)
        shard.use_long_ttl()
        yield shard


@pytest.fixture
def shard(one_shard: FailoverShard) -> FailoverShard:
    one_shard.await_ready()
    return one_shard


def _given_up(log: str) -> int:
    return log.count("gave up leader lease")


def test_a_primary_killed_whole_is_followed_at_once_and_no_acknowledged_write_is_lost(
    shard: FailoverShard,
) -> None:
    old, new = shard.leader(), shard.standby()
    before = _given_up(shard.log(old))
    segment = death.last_segment(shard.folder(old) / "data")
    assert death.attached(segment) is Survivors.SOME
    with Writer(shard) as writer:
        shard.kill(old, "patroni", "postgres")
        wait_for(lambda: shard.leader() == new, "the standby leads")
        assert death.attached(segment) is Survivors.NONE
        writer.await_writes()
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert _given_up(shard.log(old)) == before + 1
    assert shard.keys().view.sync_standbys == (old,)


def test_a_primary_whose_postmaster_alone_is_killed_is_followed_at_once(
    shard: FailoverShard,
) -> None:
    old, new = shard.leader(), shard.standby()
    patroni = shard.process(old, "patroni")
    assert patroni is not None
    with Writer(shard) as writer:
        send_signal(patroni, signal.SIGSTOP)  # alive, but it must not be the first to see it
        shard.kill(old, "postgres")
        wait_for(lambda: shard.leader() == new, "the standby leads")
        writer.await_writes()
    assert writer.lost() == set()
    assert "KillMember" in shard.log(old)


def test_a_backend_that_outlives_its_postmaster_is_killed_before_the_lease_is_given_up(
    shard: FailoverShard,
) -> None:
    old, new = shard.leader(), shard.standby()
    with Writer(shard) as writer, closing(shard.connect()) as session:
        backend = identity_of(session.info.backend_pid)
        postgres = shard.process(old, "postgres")
        patroni = shard.process(old, "patroni")
        supervisor = shard.process(old, "supervisor")
        assert backend is not None
        assert postgres is not None
        assert patroni is not None
        assert supervisor is not None
        send_signal(backend, signal.SIGSTOP)  # so that it cannot end by itself
        send_signal(supervisor, signal.SIGSTOP)  # so that it finds both dead, not one after another
        send_signal(patroni, signal.SIGKILL)
        send_signal(postgres, signal.SIGKILL)
        assert not wait_until_gone((patroni, postgres), DEADLINE_S)  # a kill takes its time
        send_signal(supervisor, signal.SIGCONT)
        wait_for(lambda: shard.leader() == new, "the standby leads")
        assert not is_alive(backend)
        writer.await_writes()
    assert writer.lost() == set()
    assert "processes are left behind" in shard.log(old)


def test_a_patroni_that_dies_alone_changes_nothing_but_its_process(shard: FailoverShard) -> None:
    leader, timeline = shard.leader(), shard.timeline()
    patroni, postgres = shard.process(leader, "patroni"), shard.process(leader, "postgres")
    given_up = _given_up(shard.log(leader))
    with Writer(shard) as writer:
        shard.kill(leader, "patroni")
        wait_for(
            lambda: (p := shard.process(leader, "patroni")) not in (None, patroni) and is_alive(p),
            "another Patroni runs",
        )
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert shard.leader() == leader
    assert shard.timeline() == timeline
    assert shard.process(leader, "postgres") == postgres
    assert _given_up(shard.log(leader)) == given_up


def test_a_supervisor_that_dies_alone_is_replaced_and_adopts_what_runs(
    shard: FailoverShard,
) -> None:
    leader, timeline = shard.leader(), shard.timeline()
    parts = [shard.process(leader, part) for part in ("patroni", "postgres")]
    supervisor = shard.process(leader, "supervisor")
    shard.kill(leader, "supervisor")
    wait_for(
        lambda: (p := shard.process(leader, "supervisor")) != supervisor and is_alive(p),
        "another supervisor runs",
    )
    wait_for(lambda: "adopted the running Patroni" in shard.log(leader), "it adopted")
    assert [shard.process(leader, part) for part in ("patroni", "postgres")] == parts
    assert (shard.leader(), shard.timeline()) == (leader, timeline)


def test_a_primary_killed_after_it_was_adopted_is_followed_at_once(shard: FailoverShard) -> None:
    old, new = shard.leader(), shard.standby()
    assert "adopted the running Patroni" in shard.log(old)
    with Writer(shard) as writer:
        shard.kill(old, "patroni", "postgres")
        wait_for(lambda: shard.leader() == new, "the standby leads")
        writer.await_writes()
    assert writer.lost() == set()


def test_a_primary_killed_with_its_supervisor_is_given_up_by_a_peer(shard: FailoverShard) -> None:
    old, new = shard.leader(), shard.standby()
    before = _given_up(shard.log(new))
    supervisor = shard.process(old, "supervisor")
    with Writer(shard) as writer:
        shard.kill(old, "supervisor", "patroni", "postgres")
        wait_for(lambda: shard.leader() == new, "the standby leads")
        writer.await_writes()
        shard.await_ready()  # so the peer has started the supervisor again
    assert writer.lost() == set()
    assert _given_up(shard.log(new)) == before + 1
    assert shard.process(old, "supervisor") != supervisor


def test_a_switchover_gives_the_key_up_once_the_candidate_holds_all(shard: FailoverShard) -> None:
    old, new = shard.leader(), shard.standby()
    with Writer(shard) as writer:
        shard.switch_over(to=new)
        wait_for(lambda: shard.leader() == new, "the candidate leads")
        writer.await_writes()
        shard.await_ready()
    assert writer.lost() == set()
    assert "clean shutdown, the candidate holds all WAL" in shard.log(old)


def test_a_paused_patroni_keeps_its_lease(shard: FailoverShard) -> None:
    leader, standby = shard.leader(), shard.standby()
    given_up = _given_up(shard.log(leader))
    shard.configure(pause=True)
    wait_for(lambda: shard.keys().view.paused, "pause is known")
    shard.kill(leader, "patroni", "postgres")
    wait_for(lambda: ": Patroni is paused" in shard.log(leader), "it is said")
    wait_for(lambda: is_alive(shard.process(leader, "patroni")), "Patroni runs")
    assert _given_up(shard.log(leader)) == given_up
    assert shard.leader() != standby
    wait_for(lambda: shard.keys().view.running == (standby,), "its own keys are of today")
    shard.configure(pause=None)
    shard.await_ready()


def test_a_primary_without_a_standby_is_restarted_in_place(shard: FailoverShard) -> None:
    leader, standby = shard.leader(), shard.standby()
    given_up = _given_up(shard.log(leader))
    shard.stop_supervisor(standby)
    wait_for(lambda: not shard.keys().view.sync_standbys, "the standby is no longer named")
    with Writer(shard) as writer:
        shard.kill(leader, "patroni", "postgres")
        writer.await_writes()
    assert writer.lost() == set()
    assert shard.leader() == leader
    assert _given_up(shard.log(leader)) == given_up
    assert shard.process(standby, "supervisor") is None  # stopped on purpose, so not revived
    shard.platform.start_shard(shard.blueprint.key)
    shard.await_ready()


def test_a_primary_that_dies_while_etcd_is_silent_is_left_to_patroni(shard: FailoverShard) -> None:
    leader = shard.leader()
    begin = len(shard.log(leader))
    etcd = etcd_server.running(open_home(shard.root))
    assert etcd is not None
    with Writer(shard) as writer:
        send_signal(etcd, signal.SIGSTOP)
        try:
            shard.kill(leader, "patroni", "postgres")
            wait_for(lambda: ": etcd: " in shard.log(leader)[begin:], "etcd is said to be silent")
            wait_for(lambda: is_alive(shard.process(leader, "patroni")), "Patroni runs")
            in_silence = shard.log(leader)[begin:]
        finally:
            send_signal(etcd, signal.SIGCONT)
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert _given_up(in_silence) == 0
    # Nothing decided in the silence is done after it. What Patroni then starts may die once more,
    # with etcd and the standby there to see: only such a new death is a reason to give up.
    after, gave_up, _ = shard.log(leader)[begin + len(in_silence) :].partition("gave up leader")
    assert not gave_up or "has ended" in after


def test_a_primary_that_nobody_can_keep_is_fenced_and_followed(shard: FailoverShard) -> None:
    old, new = shard.leader(), shard.standby()
    config = shard.folder(old) / "patroni.yml"
    away = config.with_suffix(".away")
    with Writer(shard) as writer:
        config.rename(away)
        shard.kill(old, "patroni")
        wait_for(lambda: shard.leader() == new, "the standby leads")
        writer.await_writes()
        away.rename(config)
        shard.await_ready()
    assert writer.lost() == set()
    assert "FencePostgres" in shard.log(old)


def test_no_commit_waits_longer_than_a_second_for_a_walsender_that_missed_it(
    shard: FailoverShard,
) -> None:
    """What wakes such a walsender is the standby's next word; the race itself cannot be staged."""
    with shard.connect() as session:
        row = session.execute("show wal_receiver_status_interval").fetchone()
    assert row == ("1s",)
