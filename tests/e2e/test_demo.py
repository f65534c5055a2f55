"""The demo's parts: it kills what runs, it never ends in a traceback."""

from __future__ import annotations

import subprocess
import sys

import psutil
import psycopg
import pytest

from reconciler.demo.__main__ import kill_family, told_safely
from reconciler.demo.router import running_router
from reconciler.demo.shards import connect
from reconciler.demo.story import DemoFailed, wait_for
from reconciler.demo.writer import Outcome, Writer, owner_of
from reconciler.engine.problems import NotHealthyInTime
from reconciler.engine.wishes import moves_under_way, record_wish
from reconciler.model.hashing import position_of_key
from reconciler.model.moves import Wish
from tests.e2e.scene import TWO, Scene, key_of, spec_text

SPLIT = ('{name: s0, keys: ["-40"]}', TWO[1], '{name: s2, keys: ["40-80"]}')


@pytest.mark.platform
def test_the_demos_writer_goes_with_its_keys_and_counts_what_is_lost_or_doubled(
    scene: Scene,
) -> None:
    scene.write("demo", spec_text("demo", *TWO, reference="[]"))
    scene.applied()
    moving = tuple(
        c for c in range(1, 99) if 0x40 << 56 <= position_of_key("bigint", str(c)) < 0x80 << 56
    )[:3]
    routing = scene.routing("demo")
    with connect(scene.world(), routing, routing.owners[0]) as session:
        for customer in moving:
            session.execute("INSERT INTO customers VALUES (%s, 'x')", [customer])
    with running_router(scene.home, scene.world(), key_of("demo")) as router:
        writer = Writer(router, moving)
        writer.start()
        try:
            wait_for(lambda: len(writer.acknowledged) > 50, "the writer to write")
            patient = "  resharding: {pauseMax: 5s}\n"
            scene.write("demo", spec_text("demo", *SPLIT, reference="[]", more=patient))
            scene.applied()
            split = len(writer.acknowledged)
            wait_for(lambda: len(writer.acknowledged) > split + 50, "the writer to go on")
        finally:
            writer.stop()

    def outcome() -> Outcome:
        return writer.outcome(scene.world(), key_of("demo"))

    owner = owner_of(scene.routing("demo"), moving[0])
    assert owner.shard == "s2"
    assert not writer.failed
    assert outcome().doubled, "the source keeps its copy until the move is finished"
    for move in moves_under_way(scene.world().eyes.store):
        record_wish(scene.world(), move.id, Wish.FINISH)
    scene.applied()
    assert outcome() == Outcome(len(writer.acknowledged), 0, 0)
    with connect(scene.world(), scene.routing("demo"), owner) as session:
        session.execute("DELETE FROM orders WHERE id = %s", [writer.acknowledged[-1][1]])
    assert outcome().lost == 1


def test_a_child_that_ends_by_itself_does_not_stop_the_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = subprocess.Popen(
        ["sh", "-c", "sleep 60 & sleep 60 & wait"],
    )
    family = psutil.Process(parent.pid)
    while len(family.children()) < 2:
        pass
    first, second = family.children()
    kill = psutil.Process.kill

    def killed_in_between(process: psutil.Process) -> None:
        if process.pid == first.pid:
            raise psutil.NoSuchProcess(process.pid)
        kill(process)

    monkeypatch.setattr(psutil.Process, "kill", killed_in_between)

    assert kill_family(parent.pid) == 2
    assert parent.wait() == -9
    monkeypatch.undo()
    kill(first)
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_is_gone_counts_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert kill_family(gone.pid) == 0


@pytest.mark.parametrize(
    "problem",
    [
        DemoFailed("a\nb"),
        NotHealthyInTime("s0", "no primary"),
        psycopg.OperationalError("connection refused\nIs the server running?"),
        FileNotFoundError(2, "No such file", "git"),
        subprocess.CalledProcessError(128, ["git"]),
        psutil.NoSuchProcess(1),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_a_failing_demo_ends_with_one_line(
    problem: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def tell() -> None:
        raise problem

    assert told_safely(tell) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("the demo failed: ")
