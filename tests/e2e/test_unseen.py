"""What does not answer is unseen: said so, left alone, and no reason to stop the rest."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from reconciler.edges.local import etcd_server, lifecycle
from reconciler.edges.local.home import open_home
from reconciler.edges.local.platform import home_record
from reconciler.engine.events import StepStarted
from tests.e2e.scene import TWO, Scene, spec_text
from tests.local_home import wait_for

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def calm(stage: Scene) -> Scene:
    """Two shards of one member each."""
    stage.write("calm", spec_text("calm", *TWO))
    return stage.applied()


@contextmanager
def _stopped(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGCONT)


def _etcd(scene: Scene) -> psutil.Process:
    pid = next(p.pid for p in lifecycle.status(scene.home).parts if p.name == "etcd")
    assert pid
    return psutil.Process(pid)


def test_without_etcd_nothing_is_known_and_nothing_is_done(calm: Scene) -> None:
    calm.edit("calm", "work_mem: 16MB", "work_mem: 18MB")

    with _stopped(_etcd(calm)):
        planned = calm.call("plan", "-f", "specs", "--detailed-exitcode")
        applied = calm.call("apply", "-f", "specs", "--yes")

    assert planned.code == 1
    assert "unseen" in planned.told()
    assert "nothing to do" not in planned.out
    assert applied.code == 1
    assert "etcd" in applied.told()
    calm.settle_members("calm")
    assert calm.sql("calm", "show work_mem") == [("16MB",)]
    calm.applied()


def test_a_silent_shard_is_left_alone_and_the_others_go_on(calm: Scene) -> None:
    calm.edit("calm", "work_mem: 18MB", "work_mem: 21MB")

    with _stopped(*calm.processes("calm-s0-0")):
        planned = calm.call("plan", "-f", "specs")
        assert "calm-s0" in planned.told()
        assert "left alone" in planned.out
        applied = calm.call("apply", "-f", "specs", "--yes")
        assert applied.code == 1  # not all of it could be done
        assert "left alone" in applied.told()
        assert calm.sql("calm", "show work_mem", "s1") == [("21MB",)]

    calm.settle_members("calm")
    assert calm.sql("calm", "show work_mem", "s0") == [("18MB",)]
    assert "calm-s0/configure" in calm.steps()
    calm.applied()
    assert calm.sql("calm", "show work_mem", "s0") == [("21MB",)]


def test_a_lost_leader_key_is_taken_again_and_nothing_is_planned_meanwhile(calm: Scene) -> None:
    home = open_home(calm.home)
    leader = "/shardwright/patroni/default/calm-s1/leader"
    etcd_server.delete_patronis(home, home_record(home), leader)

    outlook = calm.look()

    assert not [s for s in outlook.plan.steps if "calm-s1" in s.id]
    calm.settle_members("calm")
    assert calm.view("calm", "s1").leader == "calm-s1-0"
    calm.settle()


def test_a_member_killed_during_an_apply_is_waited_for(calm: Scene) -> None:
    calm.edit("calm", "{work_mem: 21MB}", '{work_mem: 21MB, max_connections: "120"}')
    killed: list[str] = []

    class Killing(list):  # type: ignore[type-arg]
        def append(self, event: object) -> None:
            super().append(event)
            if isinstance(event, StepStarted) and event.step.id == "calm-s0/restart" and not killed:
                killed.append("calm-s0-0")
                for process in calm.processes("calm-s0-0")[1:]:  # not its supervisor
                    with suppress(psutil.NoSuchProcess):  # they die of one another
                        process.kill()

    calm.events = Killing()
    ended = calm.apply()

    calm.events = []
    assert killed
    if ended.failed:  # its primary was away for longer than one step waits
        calm.settle_members("calm")
    calm.applied()
    assert calm.sql("calm", "show max_connections", "s0") == [("120",)]
    assert calm.sql("calm", "show max_connections", "s1") == [("120",)]


def test_a_member_whose_supervisor_died_too_is_started_by_the_next_apply(calm: Scene) -> None:
    calm.kill("calm-s1-0")

    plan = calm.look().plan
    assert [s.id for s in plan.steps] == ["calm-s1/start"]
    calm.applied()
    wait_for(lambda: calm.view("calm", "s1").leader, "a leader")
