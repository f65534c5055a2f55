"""The machine's clock is set back under a running shard: for its supervisors and its Patroni."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.local import member
from tests.local_home import fresh_home, wait_for
from tests.platform.failover_shard import FailoverShard, Writer

pytestmark = pytest.mark.platform
_CLOCK = Path(__file__).parents[1] / "clock"


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the seconds by which the clock of all parts is off."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    real = member.base_environment

    def environment() -> dict[str, str]:
        usual = real()
        path = f"{_CLOCK}:{usual['PYTHONPATH']}"
        return {**usual, "PYTHONPATH": path, "SHARDWRIGHT_TEST_CLOCK": str(offset)}

    monkeypatch.setattr(member, "base_environment", environment)
    return offset


@pytest.fixture
def shard(clock: Path) -> Iterator[FailoverShard]:
    with fresh_home() as root:
        yield FailoverShard(root)


def test_a_clock_set_back_by_an_hour_costs_no_write_and_no_failover_is_slower(
    shard: FailoverShard, clock: Path
) -> None:
    lease, leader, timeline = _lease(shard), shard.leader(), shard.timeline()
    with Writer(shard) as writer:
        clock.write_text("-3600")
        # Patroni sleeps until the hour it has planned; the end of its lease in etcd wakes it.
        wait_for(lambda: _lease(shard) not in (0, lease), "the leader has another lease")
        writer.await_writes()
        shard.await_ready()
        assert (shard.leader(), shard.timeline()) == (leader, timeline)
        standby = shard.standby()
        shard.kill(leader, "patroni", "postgres")
        wait_for(lambda: shard.leader() == standby, "the standby leads")
        writer.await_writes()
    assert writer.lost() == set()
    assert "gave up leader lease" in shard.log(leader)


def _lease(shard: FailoverShard) -> int:
    holder = shard.keys().view.leader
    return holder.lease if holder else 0
