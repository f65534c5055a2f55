"""What is rotated under a daemon that works: certificates of etcd and Patroni, etcd's passwords."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.edges.local import death, etcd_server, lifecycle, member, tls
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import Home, open_home
from reconciler.edges.local.member import Member
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.local.process_identity import read_identity, send_signal
from reconciler.edges.patroni_http import PatroniUnreachable
from tests.e2e.scene import Scene, spec_text
from tests.e2e.test_daemon import World, stopping
from tests.local_home import fresh_home, wait_for

pytestmark = pytest.mark.platform


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world on a platform of its own: what is rotated is everybody's there."""
    with fresh_home() as root:
        lifecycle.up(root)
        with stopping(World(Scene(root, tmp_path))) as one:
            yield one


def _rotate_certificates(home: Home) -> None:
    """Authority and all, in place; then etcd is started again, and Patronis read theirs anew."""
    shutil.rmtree(home.tls)
    tls.ensure_certificates(home)
    etcd_server.stop(home)
    lifecycle.up(home.root)
    for shard in home.shards():
        for one in member.members_of(home, shard):
            member.reload(one)


def test_a_daemon_goes_on_with_rotated_certificates_and_passwords(world: World) -> None:
    scene = world.scene
    home = open_home(scene.home)
    scene.write("turns", spec_text("turns", instances=2, synchronous=True))
    world.commit("turns")
    daemon = world.start()
    world.await_ready("turns")

    for user in (EtcdUser.WRITER, EtcdUser.READER, EtcdUser.PATRONI):
        Path(LocalPlatform(scene.home).etcd_login(user).password_file).write_text(f"next {user}")
    lifecycle.up(scene.home)
    scene.edit("turns", "work_mem: 16MB", "work_mem: 21MB")
    world.commit("after the passwords")
    world.await_ready("turns", lambda: scene.sql("turns", "SHOW work_mem") == [("21MB",)])

    supervisor = scene.processes("turns-s0-0")[0].pid
    _rotate_certificates(home)
    scene.edit("turns", "work_mem: 21MB", "work_mem: 22MB")
    world.commit("after the certificates")
    world.await_ready("turns", lambda: _work_mem(scene) == [("22MB",)])
    assert daemon.process.poll() is None
    assert scene.processes("turns-s0-0")[0].pid == supervisor

    # A supervisor that could not reach etcd any more would leave this to Patroni's ttl.
    members = {str(one.name): one for s in home.shards() for one in member.members_of(home, s)}
    leader = str(scene.view("turns").leader)
    _kill_server(members[leader])
    wait_for(lambda: scene.view("turns").leader not in (None, leader) or None, "another leads")
    logs = "".join((one.folder / "supervisor.log").read_text() for one in members.values())
    assert "gave up leader lease" in logs


def _work_mem(scene: Scene) -> list[tuple[Any, ...]]:
    """Return what it is, nothing while a server has not taken its new certificate up yet."""
    with suppress(PatroniUnreachable):
        return scene.sql("turns", "SHOW work_mem")
    return []


def _kill_server(one: Member) -> None:
    """Kill -9 Patroni and PostgreSQL, which the supervisor has adopted: they are no children."""
    patroni, postgres = one.folder / "patroni.json", death.find_postmaster(one.folder / "data")
    assert postgres is not None
    processes = (read_identity(patroni), postgres.process, *death.children_of(postgres.process.pid))
    for process in processes:
        assert process is not None
        send_signal(process, signal.SIGKILL)
