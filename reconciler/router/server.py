"""One router process: sockets, the map, registration, signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.names import DatabaseKey
from reconciler.model.platform import Credential, TlsFiles
from reconciler.model.records import decode_routing
from reconciler.model.routing import RoutingMap
from reconciler.router import wire
from reconciler.router.authority import Authority
from reconciler.router.client import Client, Reception
from reconciler.router.dispatch import SessionLimits
from reconciler.router.pool import Access, PoolLimits, Pools
from reconciler.router.registration import Registration
from reconciler.router.routes import Routes
from reconciler.router.scram import Verifier
from reconciler.router.session import Session
from reconciler.sdk.config import Config
from reconciler.sdk.errors import NoMap, NotOpen
from reconciler.sdk.feed import MapFeed
from reconciler.sdk.routes import Routes as Indexed

log = logging.getLogger(__name__)

CLIENTS_A_PROCESS = 1 << 24
"""Cancel keys of process *n* begin at n × this, so that each process knows its own."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Everything one router needs.

    ``users`` is called at start and at each reload (SIGHUP) and returns verifiers by name;
    ``credential_of`` takes a shard's scope. ``cert`` and ``key`` are for clients' TLS.
    ``drain_s``: how long transactions may go on after SIGTERM. ``control`` is a folder for the
    sockets by which the processes of one router pass cancel requests on. ``map_file``: the routing
    map, read at start and at each reload; by default the one in etcd is watched.
    """

    database: DatabaseKey
    etcd: tuple[str, ...]
    tls: TlsFiles | None
    credential_of: Callable[[str], Credential] = field(repr=False)
    users: Callable[[], dict[str, Verifier]] = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 6432
    cert: str = ""
    key: str = ""
    tls_required: bool = False
    processes: int = 1
    drain_s: float = 20.0
    control: str = ""
    map_file: str = ""
    etcd_login: EtcdLogin | None = None
    pools: PoolLimits = field(default_factory=PoolLimits)
    sessions: SessionLimits = field(default_factory=SessionLimits)


class RouterProcess:
    """Process ``index`` of a router."""

    def __init__(self, config: RouterConfig, index: int, listener: socket.socket) -> None:
        self._config, self._index, self._listener = config, index, listener
        self.routes = Routes()
        authority = Authority(config.tls.ca) if config.tls and config.tls.ca else None
        access = Access(config.database.name, config.credential_of, authority)
        self._pools = Pools(access, self.routes, config.pools)
        self._reception = Reception(
            database=config.database.name,
            users=config.users(),
            new_session=self._session,
            parameters=self._parameters,
            cancel=self._cancel,
            tls=_server_tls(config),
            tls_required=config.tls_required,
            first_pid=index * CLIENTS_A_PROCESS,
        )
        self.serving: Callable[[], None] = _nothing
        """Called when clients are taken."""
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions = 0
        address = f"{config.host}:{listener.getsockname()[1]}"
        router = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._registration = Registration(
            config.etcd, config.tls, config.database, router, address, config.etcd_login
        )

    async def run(self) -> None:
        """Serve until ``stop``, then let transactions end. Raises NoMap."""
        loop = asyncio.get_running_loop()
        feed = await self._feed()
        self._registration.start()
        server = await loop.create_server(lambda: Client(self._reception), sock=self._listener)
        control = await self._control()
        try:
            self.serving()
            log.info("process %d serves epoch %d", self._index, self.routes.get().epoch)
            await self._stop.wait()
        finally:
            server.close()
            await self._drain()
            if control is not None:
                control.close()
            self._pools.close()
            for task in self._tasks:
                task.cancel()
            if feed is not None:
                await asyncio.to_thread(feed.close)
            await asyncio.to_thread(self._registration.stop)

    async def _feed(self) -> MapFeed | None:
        """Take the map, and watch it in etcd unless a file has it. Raises NoMap."""
        if self._config.map_file:
            self._read_map()
            return None
        loop = asyncio.get_running_loop()
        config = Config(
            etcd_endpoints=self._config.etcd, database=self._config.database.name,
            namespace=self._config.database.namespace, password="", tls=self._config.tls,
            etcd_login=self._config.etcd_login,
        )  # fmt: skip

        def newest() -> None:
            # The feed knows which map is the newest; the order of these calls says nothing of it.
            with contextlib.suppress(NotOpen):
                self._take(feed.routes.routing)

        def moved(_: Indexed) -> None:
            loop.call_soon_threadsafe(newest)

        feed = MapFeed(config, moved)
        await asyncio.to_thread(feed.start)
        newest()
        return feed

    def _read_map(self) -> None:
        path = Path(self._config.map_file)
        try:
            routing = decode_routing(str(path), path.read_bytes(), 0)
        except OSError as problem:
            raise NoMap(str(path), f"cannot be read: {problem.strerror}") from None
        if routing.database != self._config.database:
            raise NoMap(str(path), f"it is the map of {routing.database}")
        self._take(routing)

    def stop(self) -> None:
        """Take no more clients, and end when the transactions of those here have."""
        self._stop.set()

    def idle_backends(self) -> int:
        """Return how many sessions at shards wait for a client."""
        return self._pools.idle()

    def lost_between(self) -> int:
        """Return how many clients have a lost transaction and were not told yet."""
        sessions = (client.session for client in self._reception.clients.values())
        return sum(1 for one in sessions if one is not None and one.shards.loss is not None)

    def reload(self) -> None:
        """Read users, certificates and the map's file again; clients stay as they are."""
        try:
            self._reception.users = self._config.users()
            self._reception.tls = _server_tls(self._config)
            if self._config.map_file:
                self._read_map()
        except (OSError, ValueError, ReconcilerError) as problem:
            log.error("reload: kept what was: %s", type(problem).__name__)
        else:
            log.info("reloaded users and certificates")

    def _take(self, routing: RoutingMap) -> None:
        if self.routes.replace(routing):
            self._registration.acknowledge(routing.epoch)
            log.info("epoch %d", routing.epoch)

    def _session(self, transport: asyncio.Transport) -> Session:
        self._sessions += 1
        number = self._sessions * self._config.processes + self._index
        return Session(transport, self.routes, self._pools, self._config.sessions, number)

    async def _parameters(self) -> dict[str, str]:
        """Return what a shard says of itself; the first client makes the first connection."""
        if not (known := self._pools.parameters()):
            routing = self.routes.get()
            for index in routing.serving:
                pool = self._pools.of(str(routing.owner(index).scope))
                try:
                    pool.give_back(await pool.take())
                except wire.Refusal as refusal:
                    last = refusal
                    continue
                return pool.parameters
            raise last
        return known

    # ---- cancel

    def _cancel(self, pid: int, secret: int) -> None:
        task = asyncio.get_running_loop().create_task(self._cancelled(pid, secret))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancelled(self, pid: int, secret: int) -> None:
        """Cancel what a client of ours has in flight, or hand it to the process that has it."""
        with contextlib.suppress(OSError, TimeoutError):
            owner = pid // CLIENTS_A_PROCESS
            if owner != self._index:
                path = self._socket(owner)
                if 0 <= owner < self._config.processes and path:
                    _, writer = await asyncio.open_unix_connection(path)
                    writer.write(wire.cancel_request(pid, secret))
                    writer.close()
                return
            client = self._reception.clients.get(pid)
            if client is None or client.session is None:
                return
            if secrets.compare_digest(client.secret.to_bytes(4), secret.to_bytes(4)):
                await client.session.shards.cancel()

    def _socket(self, index: int) -> str:
        return str(Path(self._config.control) / f"{index}.sock") if self._config.control else ""

    async def _control(self) -> asyncio.Server | None:
        path = self._socket(self._index)
        if not path:
            return None
        return await asyncio.start_unix_server(self._forwarded, path)

    async def _forwarded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            packet = await reader.readexactly(16)
            self._cancel(int.from_bytes(packet[8:12], "big"), int.from_bytes(packet[12:16], "big"))
        writer.close()

    async def _drain(self) -> None:
        """Let transactions end, then end what is left."""
        reception = self._reception
        reception.stopping = True
        for client in list(reception.clients.values()):
            client.leave_when_idle()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.drain_s
        while reception.clients and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for client in list(reception.clients.values()):
            client.leave()
        await asyncio.sleep(0)
        for client in list(reception.connections):
            client.abort()
        await asyncio.sleep(0)


def _nothing() -> None:
    return


def _server_tls(config: RouterConfig) -> ssl.SSLContext | None:
    if not config.cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.cert, config.key or None)
    return context


def serve(config: RouterConfig, index: int, listener: socket.socket) -> None:
    """Run one process until SIGTERM or SIGINT; on uvloop."""
    import uvloop

    async def main() -> None:
        process, loop = RouterProcess(config, index, listener), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.stop)
        loop.add_signal_handler(signal.SIGHUP, process.reload)
        gc.collect()
        gc.freeze()  # a look through all that was imported would hold every client for 10 to 60 ms
        await process.run()

    uvloop.run(main())
