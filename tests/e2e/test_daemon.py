"""The daemon on a real platform: commits become shards, mistakes become conditions, no two lead."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine.records import APPLIER
from tests.cli.calls import SHARDWRIGHT
from tests.e2e.scene import TABLES, Scene, spec_text
from tests.local_home import wait_for

pytestmark = pytest.mark.platform

CONFIG = """\
apiVersion: shardwright.dev/v1alpha1
kind: ReconcilerConfig
metadata: {{name: reconciler}}
spec:
  interval: 5s
  sources:
    - git: {{url: "{repository}", branch: main, interval: 1s}}
"""


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=Kim", "-c", "user.email=kim@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


class Running:
    """A daemon that runs, and its log."""

    def __init__(
        self, scene: Scene, number: int, *arguments: str,
        program: Sequence[str] = SHARDWRIGHT, **environment: str,
    ) -> None:  # fmt: skip
        self.log_file = scene.folder / f"daemon-{number}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, *arguments, "--listen", "127.0.0.1:0"],
                cwd=scene.folder, env=scene.call.environment | environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def lines(self) -> list[dict[str, Any]]:
        """Return the log; every line of it is JSON."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def said(self, event: str) -> bool:
        return any(line["event"] == event for line in self.lines())

    @property
    def address(self) -> str:
        """Where its web server is."""
        return str(next(line["address"] for line in self.lines() if line["event"] == "listening"))

    def page(self, path: str) -> tuple[int, str]:
        """Return an answer of its web server."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def count(self, metric: str) -> float:
        """Return a metric, summed over its labels."""
        text = self.page("/metrics")[1]
        found = re.findall(rf"^{metric}(?:\{{.*\}})? ([\d.e+]+)$", text, re.MULTILINE)
        return sum(map(float, found))


class World:
    """A repository of specs, and daemons that follow it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.specs.mkdir()
        git(scene.specs, "init", "-q", "-b", "main")
        self.config = scene.folder / "reconciler.yaml"
        self.config.write_text(CONFIG.format(repository=scene.specs))
        self.daemons: list[Running] = []

    def start(self, program: Sequence[str] = SHARDWRIGHT, **environment: str) -> Running:
        daemon = Running(
            self.scene, len(self.daemons), "--config", str(self.config), "run",
            program=program, **environment,
        )  # fmt: skip
        self.daemons.append(daemon)
        return daemon

    def commit(self, message: str) -> None:
        git(self.scene.specs, "add", "-A")
        git(self.scene.specs, "commit", "-q", "-m", message)

    def status(self) -> dict[str, Any]:
        ended = self.scene.call("status", "-o", "json")
        assert "Traceback" not in ended.told()
        found: dict[str, Any] = ended.json
        return found

    def database(self, name: str) -> dict[str, Any]:
        found = [d for d in self.status()["databases"] if d["name"] == name]
        return found[0] if found else {}

    def await_ready(self, name: str, also: Callable[[], bool] = lambda: True) -> None:
        wait_for(
            lambda: self.database(name).get("ready") is True and also(), f"{name} is ready", 240
        )


@contextlib.contextmanager
def stopping(world: World) -> Iterator[World]:
    """Kill its daemons at the end."""
    try:
        yield world
    finally:
        for daemon in world.daemons:
            with contextlib.suppress(ProcessLookupError):
                daemon.process.send_signal(signal.SIGCONT)
                daemon.process.kill()
            daemon.process.wait()


@pytest.fixture
def world(scene: Scene) -> Iterator[World]:
    with stopping(World(scene)) as one:
        yield one


def test_commits_are_applied_mistakes_are_quarantined_and_a_broken_database_holds_back_no_other(
    world: World,
) -> None:
    scene = world.scene
    scene.write("calm")
    scene.write("torn", spec_text("torn"), _001="select 1 from nowhere;\n" + TABLES)
    world.commit("two databases, one with a mistake in its SQL")
    daemon = world.start()

    # One becomes ready, the other fails over and over, and says why.
    world.await_ready("calm")
    wait_for(lambda: world.database("torn").get("failures", 0) >= 2, "torn fails again", 240)
    torn = world.database("torn")
    assert torn["stalled"] is True
    assert "nowhere" in torn["message"]
    assert daemon.page("/healthz") == (200, "ok\n")
    assert daemon.page("/readyz") == (200, "ready\n")
    metrics = daemon.page("/metrics")[1]
    assert 'shardwright_database_ready{database="calm",namespace="default"} 1.0' in metrics
    assert re.search(r'workqueue_adds_total{name="shardeddatabase"} [1-9]', metrics)

    # A revision with a mistake is quarantined whole; what it says of calm is not done either.
    scene.edit("calm", "work_mem: 16MB", "work_mem: 21MB")
    (scene.specs / "typo.yaml").write_text(spec_text("typo").replace("sharding:", "shardin:"))
    world.commit("an edit and a typing mistake")
    wait_for(lambda: world.status()["daemon"]["sources"][0]["problems"] or None, "quarantine")
    shown = scene.call("status")
    assert shown.code == 1
    assert "quarantined" in shown.out
    assert "typo.yaml:" in shown.out
    assert scene.sql("calm", "show work_mem") == [("16MB",)]

    # The next one is tried afresh; the SQL is mended in it as well.
    (scene.specs / "typo.yaml").unlink()
    (scene.specs / "torn" / "001.sql").write_text(TABLES)
    world.commit("mended")
    wait_for(lambda: scene.sql("calm", "show work_mem") == [("21MB",)] or None, "the edit", 240)
    world.await_ready("torn")
    assert world.status()["daemon"]["sources"][0]["problems"] == []

    # A person's apply is told who leads; a person's question is answered.
    refused = scene.call("apply", "-f", "specs", "--yes", stdin=b"")
    assert refused.code in (0, 1)
    asked = scene.call("reconcile", "calm")
    assert asked.code == 0, asked.told()
    assert "UpToDate" in asked.out
    assert scene.call("reconcile", "nobody").code == 1

    # Stopped, it leaves no lease behind.
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert scene.world().eyes.store.read(APPLIER) == {}
    assert daemon.said("stopped")


def test_two_daemons_never_lead_at_once_and_killing_is_a_normal_end(world: World) -> None:
    scene = world.scene
    scene.write("lead")
    world.commit("one database")
    first = world.start()
    wait_for(lambda: first.said("leading") or None, "the first leads")
    second = world.start()
    wait_for(lambda: second.said("not leading") or None, "the second waits")
    wait_for(lambda: second.page("/readyz")[0] == 200, "readiness needs no leadership")
    world.await_ready("lead")

    # Stopped beyond its lease and continued, the former leader writes nothing.
    first.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: second.said("leading") or None, "the second leads")
    scene.edit("lead", "work_mem: 16MB", "work_mem: 22MB")
    world.commit("an edit")
    wait_for(lambda: scene.sql("lead", "show work_mem") == [("22MB",)] or None, "the edit", 240)
    first.process.send_signal(signal.SIGCONT)
    wait_for(lambda: first.said("lost the lease") or None, "the first knows")

    # Killed in the middle of an edit; the other goes on from there.
    scene.edit("lead", "instances: 1", "instances: 2")
    world.commit("another member")
    wait_for(lambda: second.said("step begun") or None, "it began")
    second.process.kill()
    second.process.wait()
    world.await_ready("lead", lambda: len(scene.shard("lead").members) == 2)
    assert {line["event"] for line in first.lines()} >= {"leading", "lost the lease"}


def test_its_own_configuration_is_reloaded_and_the_last_good_one_stays(world: World) -> None:
    """No database is needed for that: a folder of policies is a source as well."""
    scene = world.scene
    (scene.specs / "stays.yaml").write_text(
        "apiVersion: shardwright.dev/v1alpha1\nkind: Policy\nmetadata: {name: stays}\n"
        'spec:\n  rules: [{name: stays, at: [spec], require: "true", message: none}]\n'
    )
    world.commit("a policy")
    daemon = world.start()
    wait_for(lambda: daemon.said("revision in force") or None, "the source is read")
    good = world.config.read_text()

    world.config.write_text(good.replace("git:", "gti:"))
    wait_for(lambda: daemon.said("configuration kept") or None, "the mistake is said")
    mistakes = [x for x in daemon.lines() if x["event"] == "problem in configuration"]
    assert mistakes[0]["where"].startswith(f"{world.config}:7")
    wait_for(lambda: world.status()["daemon"]["configuration"] or None, "status tells it", 60)
    shown = scene.call("status")
    assert shown.code == 1
    assert "its newest configuration is not taken over" in shown.out
    assert 'did you mean "git"' in shown.out
    other = scene.folder / "others"
    other.mkdir()
    (other / "none.yaml").write_text("# nothing of ours\n")
    world.config.write_text(good + f"    - folder: {{path: {json.dumps(str(other))}}}\n")
    wait_for(lambda: daemon.said("configuration in force") or None, "it is taken over")
    wait_for(lambda: len(world.status()["daemon"]["sources"]) == 2 or None, "both are followed")
    assert world.status()["daemon"]["configuration"] == []

    assert scene.call("run").code == 1  # no source is named
    unverified = good.replace("interval: 1s", 'interval: 1s, verify: {keys: "signers"}')
    world.config.write_text(unverified)

    def doubted() -> bool:
        sources = world.status()["daemon"]["sources"]
        return any("SO121" in problem for source in sources for problem in source["problems"])

    assert wait_for(doubted, "without the file of keys nothing is believed", 60)
    assert not daemon.said("needs a restart")
    assert not daemon.said("webhooks refused")
    late = "  prometheus: {url: https://prometheus.example}\n  movesMax: 3\n"
    world.config.write_text(unverified + late + "  webhook: {secretFile: nowhere}\n")
    wait_for(lambda: daemon.said("needs a restart") or None, "what is not in force is said")
    assert [x["fields"] for x in daemon.lines() if x["event"] == "needs a restart"] == [
        ["movesMax", "prometheus"]
    ]
    wait_for(lambda: daemon.said("webhooks refused") or None, "that the secret is not there")
