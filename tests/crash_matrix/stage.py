"""The platform of a crash matrix: two shards of two members, a router, and what can break there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from reconciler.edges.local import lifecycle
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.engine.observe import primary_of
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import MemberName, Scope, ScopeKey, app_role
from reconciler.model.routing import RoutingMap
from reconciler.sdk import Config, Limits
from tests.cli.calls import SHARDWRIGHT
from tests.crash_matrix.plan import TILINGS, Fault, Way
from tests.e2e.scene import Scene, key_of, scope, spec_text
from tests.ledger import ledger_tables
from tests.local_home import connect, wait_for

NAME = "mv"
KEYS = tuple(range(1, 37))
NEWEST = "SET shardwright.epoch = '1000000000'"
_FORGET = f"{NEWEST}; DELETE FROM entries; UPDATE accounts SET balance = 0, version = 0"
_HANGING_UP = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')
   AND application_name !~ '^mv-s'
"""
"""Cuts every connection but those of standbys, which Patroni would not miss for so long."""


class Links:
    """A TCP proxy whose connections can be cut, all at once."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:
                    client.close()
                    continue
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, come: socket.socket, go: socket.socket) -> None:
        self._open.add(come)
        with suppress(OSError):
            while data := come.recv(65536):
                go.sendall(data)
        with suppress(OSError):
            go.shutdown(socket.SHUT_RDWR)
        self._open.discard(come)
        come.close()


class Stage:
    """One database that every run moves keys of."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.tiling = scene, "two"
        self._router: subprocess.Popen[str] | None = None
        self.links = Links(1)

    def prepare(self) -> None:
        """Make the database, its accounts, and the router."""
        folder = self.scene.specs / NAME
        folder.mkdir(parents=True)
        (folder / "001.sql").write_text(ledger_tables())
        self.write("two")
        self.scene.applied()
        for owner in self.routing().owners:
            self.scene.sql(
                NAME, f"INSERT INTO accounts (id) SELECT k FROM generate_series(1, {KEYS[-1]}) k "
                f"WHERE hashint8extended(k, 0) {'< 0' if owner.shard == 's0' else '>= 0'}",
                owner.shard,
            )  # fmt: skip
        self.start_router()

    def write(self, tiling: str, copy: str = "own") -> None:
        """Write the spec of a tiling."""
        text = spec_text(
            NAME, *TILINGS[tiling], instances=2, synchronous=True,
            tables="{accounts: id, entries: account_id}", reference="[]",
            more=f"  resharding: {{pauseMax: 5s, copy: {copy}}}\n",
        )  # fmt: skip
        self.scene.write(NAME, text)
        self.tiling = tiling

    def routing(self) -> RoutingMap:
        return self.scene.routing(NAME)

    def reset(self) -> None:
        """Forget what was booked."""
        for owner in self.routing().owners:
            self.scene.sql(NAME, _FORGET, owner.shard)

    # Clients ------------------------------------------------------------------------------------

    def config(self) -> Config:
        platform = self.scene.world().eyes.platform
        return Config(
            platform.etcd_endpoints(), NAME, self._password,  # type: ignore[attr-defined]
            tls=platform.client_tls(), limits=Limits(fence_wait_s=240, start_s=60),
            etcd_login=platform.etcd_login(EtcdUser.READER),  # type: ignore[attr-defined]
        )  # fmt: skip

    def _password(self, shard: str) -> str:
        key = ScopeKey(key_of(NAME).namespace, Scope(shard))
        return (
            self.scene.world().eyes.platform.credential(key, app_role(key_of(NAME).name)).password
        )

    def router_options(self) -> dict[str, Any]:
        config = self.config()
        return {
            "host": "127.0.0.1", "port": self.links.port, "user": config.role,
            "password": self._password(scope(NAME).scope), "dbname": NAME, "connect_timeout": 10,
        }  # fmt: skip

    def start_router(self) -> None:
        """Start the router, unless it runs."""
        if self._router is not None and self._router.poll() is None:
            return
        self._end_router()
        environment = {**self.scene.call.environment, "PYTHONPATH": os.getcwd()}
        self._router = subprocess.Popen(
            [*SHARDWRIGHT, "router", "run", NAME, "--listen", "127.0.0.1:0", "--hold-s", "240"],
            cwd=self.scene.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._router.stdout is not None
        found = re.findall(r":(\d+)$", self._router.stdout.readline().strip())
        if found:
            self.links.server_port = int(found[0])

    def kill_router(self) -> None:
        if self._router is not None:
            _kill_tree(self._router.pid)
            self._router.wait()

    def _end_router(self) -> None:
        if self._router is not None and self._router.stdout:
            self._router.stdout.close()
        self._router = None

    # What breaks --------------------------------------------------------------------------------

    def strike(self, fault: Fault, way: Way) -> None:
        """Let something break; what is not there can break no more."""
        with suppress(ReconcilerError, psycopg.Error, StopIteration, AssertionError):
            self._strike(fault, way)

    def _strike(self, fault: Fault, way: Way) -> None:
        source, target = way.source, way.target
        breaks: dict[Fault, Callable[[], object]] = {
            Fault.SOURCE: lambda: self.scene.kill(self.leader(source)),
            Fault.TARGET: lambda: self.scene.kill(self.leader(target)),
            Fault.ETCD: lambda: os.kill(self._etcd_pid(), signal.SIGKILL),
            Fault.ROUTER: self.kill_router,
            Fault.CLIENTS: self.links.cut,
            Fault.AT_SOURCE: lambda: self.hang_up(source),
            Fault.AT_TARGET: lambda: self.hang_up(target),
            Fault.SWITCH_SOURCE: lambda: self.switch(source),
            Fault.SWITCH_TARGET: lambda: self.switch(target),
        }
        breaks[fault]()

    def leader(self, shard: str) -> str:
        leader = self.scene.view(NAME, shard).leader
        assert leader is not None
        return leader

    def hang_up(self, shard: str) -> None:
        there, platform = self.scene.shard(NAME, shard), self.scene.world().eyes.platform
        primary = primary_of(there, self.scene.view(NAME, shard))
        assert primary is not None
        with connect(platform, there.key, primary) as session:  # type: ignore[arg-type]
            session.execute(_HANGING_UP)

    def switch(self, shard: str) -> None:
        view = self.scene.view(NAME, shard)
        other = next(m.name for m in view.members if m.name != view.leader)
        assert view.leader is not None
        login = self.scene.login(NAME, shard)
        self.scene.world().eyes.patroni.switch_over(login, view.leader, MemberName(other))

    def revive(self) -> None:
        """Start again whatever is dead."""
        with suppress(ReconcilerError):
            lifecycle.up(self.scene.home)
        self.start_router()

    def await_whole(self) -> None:
        """Wait until every member of every shard is healthy and synchronous."""
        self.revive()

        def whole() -> bool:
            self.scene.settle_members(NAME)
            return all(self.scene.view(NAME, o.shard).synchronous for o in self.routing().owners)

        wait_for(whole, "all members")

    def _etcd_pid(self) -> int:
        pid = lifecycle.status(self.scene.home).parts[0].pid
        assert pid is not None
        return pid

    def close(self) -> None:
        self.kill_router()
        self._end_router()
        self.links.close()


def _kill_tree(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def staged(home: Path, folder: Path) -> Iterator[Stage]:
    """Give a stage on a platform that runs; at the end nothing of it is left."""
    scene = Scene(home, folder)
    stage = Stage(scene)
    try:
        stage.prepare()
        yield stage
    finally:
        stage.close()
        scene.drop()
