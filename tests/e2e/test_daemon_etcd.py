"""The daemon while its etcd is away, slow, without a leader, compacted or full.

Each time: it says so, on /readyz and once in its log; nobody's rows are touched; it does not spin;
and it goes on by itself when the fault is over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from reconciler.edges.local import etcd_server, lifecycle
from reconciler.edges.local.home import open_home
from tests.e2e.etcd_elsewhere import PROGRAM
from tests.e2e.faulty_etcd import (
    EtcdMember,
    ThreeMembers,
    home_of_three,
    home_whose_etcd,
    set_options,
)
from tests.e2e.test_daemon import Running, World, world
from tests.local_home import connect, wait_for
from tests.sdk.cutting_proxy import cutting_proxy

pytestmark = pytest.mark.platform
__all__ = ["world"]
ROUNDS = "controller_runtime_reconcile_total"
LOOKED_AT_S = 6
ROUNDS_MAX = 30
"""More rounds than this of one database, in so many seconds of a fault, are a spin: a back-off from
5 ms makes some eleven, and a look every 5 s begins it anew."""


@pytest.fixture
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ThreeMembers | None]:
    """An etcd of three members for tests that say so, else None."""
    if getattr(request, "param", 1) != 3:
        yield None
        return
    (tmp_path / "etcd").mkdir()
    with home_of_three(tmp_path / "etcd") as three:
        yield three


@pytest.fixture
def e2e_home(request: pytest.FixtureRequest, three: ThreeMembers | None) -> Iterator[Path]:
    """A platform of the test's own, whose etcd has the options that the test asks for."""
    if three:
        yield three.members[0].root
        return
    changed = getattr(request, "param", {})
    with home_whose_etcd(lambda command: set_options(command, **changed)) as root:
        yield root


@pytest.fixture
def shop(world: World) -> World:
    world.scene.write("shop")
    world.commit("shop")
    return world


def _ready(daemon: Running) -> bool:
    return daemon.page("/readyz") == (200, "ready\n")


def _not_ready(daemon: Running, *words: str) -> bool:
    status, text = daemon.page("/readyz")
    return status == 503 and all(word in text for word in words)


def _edit(world: World, before: str, after: str) -> None:
    world.scene.edit("shop", f"work_mem: {before}", f"work_mem: {after}")
    world.commit(f"{after} of memory")


def _await_applied(world: World, daemon: Running, memory: str) -> None:
    wait_for(lambda: _ready(daemon) or None, "it is ready again", 60)

    def settled() -> bool:  # the condition that is on record may be of before the fault
        running = [one for one in world.scene.operations() if one.result == "running"]
        return _sql(world, "show work_mem") == [(memory,)] and not running

    world.await_ready("shop", settled)


def _stays_calm(daemon: Running) -> None:
    """Watch a daemon under a fault: it answers probes, and tries only now and then."""
    before, lines = daemon.count(ROUNDS), len(daemon.lines())
    time.sleep(LOOKED_AT_S)
    assert daemon.page("/healthz") == (200, "ok\n")
    assert daemon.count(ROUNDS) - before < ROUNDS_MAX
    assert len(daemon.lines()) - lines < ROUNDS_MAX


def _sql(world: World, query: str) -> list[tuple[Any, ...]]:
    """Run SQL at the one member, whose place no etcd need tell."""
    there, platform = world.scene.shard("shop"), cast("Any", world.scene.world().eyes.platform)
    with connect(platform, there.key, there.members[0].endpoint, dbname="shop") as own:
        cursor = own.execute(query)
        return cursor.fetchall() if cursor.description else []


def _add(world: World, number: int) -> None:
    _sql(world, f"insert into customers values ({number}, 'Ada')")


def _lost_nothing(world: World, daemon: Running, rows: int) -> None:
    assert _sql(world, "select count(*) from customers") == [(rows,)]
    assert "Traceback" not in daemon.log_file.read_text()
    assert "RoundBroken" not in daemon.log_file.read_text()
    assert "running" not in {one.result for one in world.scene.operations()}
    assert world.scene.steps() == []


def test_etcd_down_is_said_and_what_was_asked_meanwhile_is_done_when_it_is_back(
    shop: World,
) -> None:
    daemon = shop.start()
    shop.await_ready("shop")
    _add(shop, 1)
    root = shop.scene.home

    etcd_server.stop(open_home(root))
    wait_for(lambda: _not_ready(daemon, "etcd does not answer", "ET101") or None, "it says so", 60)
    _edit(shop, "16MB", "21MB")
    _add(shop, 2)
    _stays_calm(daemon)
    told = shop.scene.call("status")
    assert told.code == 1
    assert "ET101" in told.told()
    assert sum(line["event"] == "etcd does not answer" for line in daemon.lines()) == 1
    assert _sql(shop, "show work_mem") == [("16MB",)]

    lifecycle.up(root)
    _await_applied(shop, daemon, "21MB")
    assert daemon.said("etcd answers")
    _add(shop, 3)
    _lost_nothing(shop, daemon, 3)


def test_a_slow_etcd_slows_the_daemon_and_one_that_is_too_slow_is_said_to_be_silent(
    shop: World,
) -> None:
    etcd = EtcdMember.of(shop.scene.home)
    with cutting_proxy(etcd.port) as proxy:
        daemon = shop.start(
            PROGRAM, PYTHONPATH=str(Path(__file__).parents[2]), SHARDWRIGHT_ANSWER_S="1",
            SHARDWRIGHT_TEST_ETCD=f"https://127.0.0.1:{proxy.port}",
        )  # fmt: skip
        shop.await_ready("shop")
        proxy.delay_s = 0.3
        _edit(shop, "16MB", "21MB")
        _await_applied(shop, daemon, "21MB")
        _add(shop, 1)

        proxy.delay_s = 3
        wait_for(lambda: _not_ready(daemon, "ET102") or None, "it says so", 60)
        _edit(shop, "21MB", "22MB")
        _stays_calm(daemon)
        _add(shop, 2)

        proxy.delay_s = 0
        _await_applied(shop, daemon, "22MB")
        _lost_nothing(shop, daemon, 2)


@pytest.mark.parametrize("three", [3], indirect=True)
def test_an_etcd_that_loses_its_leader_costs_an_election_and_one_without_quorum_is_waited_for(
    shop: World, three: ThreeMembers
) -> None:
    daemon = shop.start(
        PROGRAM, PYTHONPATH=str(Path(__file__).parents[2]), SHARDWRIGHT_ANSWER_S="1",
        SHARDWRIGHT_TEST_ETCD=three.addresses,
    )  # fmt: skip
    shop.await_ready("shop")
    _add(shop, 1)

    hung = three.leader()
    with three.stopped(hung):
        heir = three.leader(tuple({0, 1, 2} - {hung}))
        _edit(shop, "16MB", "21MB")
        wait_for(lambda: _ready(daemon) or None, "it found the others", 60)
        wait_for(lambda: _sql(shop, "show work_mem") == [("21MB",)] or None, "the edit", 120)
        _add(shop, 2)
    _await_applied(shop, daemon, "21MB")

    with three.stopped(*{0, 1, 2} - {heir}):
        wait_for(lambda: _not_ready(daemon, "ET102") or None, "nobody leads", 60)
        _edit(shop, "21MB", "22MB")
        _stays_calm(daemon)
    _await_applied(shop, daemon, "22MB")

    # Killed for good, one is not missed.
    three.beside[0].kill()
    _edit(shop, "22MB", "23MB")
    _await_applied(shop, daemon, "23MB")
    _lost_nothing(shop, daemon, 2)


def test_an_etcd_that_forgets_its_history_all_the_time_is_read_all_the_same(shop: World) -> None:
    etcd = EtcdMember.of(shop.scene.home)
    for number in range(1100):  # three pages of what the daemon reads every second
        etcd.put(f"/shardwright/v1/requests/none/of/{number:04}", b"{}")
    daemon = shop.start()
    shop.await_ready("shop")
    _add(shop, 1)

    for memory in ("17MB", "18MB", "19MB"):
        _edit(shop, f"{int(memory[:2]) - 1}MB", memory)
        for _ in range(60):
            etcd.compact(etcd.put("/tests/news", b""))
            time.sleep(0.05)
    _await_applied(shop, daemon, "19MB")
    assert not daemon.said("etcd does not answer")
    _lost_nothing(shop, daemon, 1)


@pytest.mark.parametrize("e2e_home", [{"quota_backend_bytes": f"{8 << 20}"}], indirect=True)
def test_a_full_etcd_is_said_with_its_remedy_and_after_it_the_edit_is_applied(shop: World) -> None:
    etcd = EtcdMember.of(shop.scene.home)
    daemon = shop.start()
    shop.await_ready("shop")
    _add(shop, 1)

    etcd.fill()
    _edit(shop, "16MB", "21MB")
    wait_for(lambda: _not_ready(daemon, "etcd takes no writes", "ET104") or None, "it says so", 60)
    _stays_calm(daemon)
    refusals = [line for line in daemon.lines() if line["event"] == "etcd takes no writes"]
    assert ["defrag" in line["remedy"] for line in refusals] == [True]
    _add(shop, 2)
    assert _sql(shop, "show work_mem") == [("16MB",)]
    told = shop.scene.call("apply", "-f", "specs", "--yes")
    assert told.code == 1
    assert "ET104" in told.told() or "AP113" in told.told()

    etcd.make_room()
    _await_applied(shop, daemon, "21MB")
    assert daemon.said("etcd takes writes")
    # What it could not write of itself is written now, though nothing is new.
    source = shop.status()["daemon"]["sources"][0]
    assert source["revision"] == shop.database("shop")["lastAppliedRevision"]
    _lost_nothing(shop, daemon, 2)
