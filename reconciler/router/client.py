"""A client's connection from its first byte: TLS, login, cancel requests, then its session."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from reconciler.router import wire
from reconciler.router.scram import MECHANISM, LoginFailed, ServerLogin, Verifier, make_verifier
from reconciler.router.session import Session
from reconciler.router.wire import Malformed, Refusal

log = logging.getLogger(__name__)

_GREETING = ("server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle",
             "TimeZone", "integer_datetimes", "standard_conforming_strings",
             "in_hot_standby", "is_superuser", "default_transaction_read_only")  # fmt: skip
_NOT_SETTINGS = frozenset(("user", "database", "replication", "options"))


@dataclass(slots=True)
class Reception:
    """What clients are received with. ``users`` maps a name to its verifier."""

    database: str
    users: dict[str, Verifier] = field(repr=False)
    new_session: Callable[[asyncio.Transport], Session]
    parameters: Callable[[], Coroutine[Any, Any, dict[str, str]]]
    cancel: Callable[[int, int], None]
    tls: ssl.SSLContext | None = None
    tls_required: bool = False
    login_s: float = 30.0
    first_pid: int = 0
    clients_max: int = 10_000
    clients: dict[int, Client] = field(default_factory=dict)
    connections: set[Client] = field(default_factory=set)
    nobody: Verifier = field(default_factory=lambda: make_verifier(secrets.token_urlsafe()))
    numbers: int = 0
    stopping: bool = False


class Client(asyncio.Protocol):
    """One connection. ``pid`` and ``secret`` are what a cancel request must name."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self.secret = secrets.randbits(32)
        self.pid = 0
        self.session: Session | None = None
        self._transport: asyncio.Transport | None = None
        self._take: Callable[[bytes], None] = self._startup
        self._data = b""
        self._parameters: dict[str, str] = {}
        self._scram: ServerLogin | None = None
        self._first = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection."""
        # uvloop\'s transports are no subclasses of asyncio\'s.
        self._transport = cast(asyncio.Transport, transport)
        self._reception.connections.add(self)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._reception.login_s, self._too_slow)

    def _too_slow(self) -> None:
        if self.session is None and self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        try:
            if self.session is not None:
                self.session.received(data)
            else:
                self._data += data
                self._take(self._data)
        except Malformed as problem:
            self._end(Refusal("08P01", f"protocol violation: {problem}"))
        except Refusal as refusal:
            self._end(refusal)

    def _end(self, refusal: Refusal) -> None:
        if self._transport is not None:
            self._transport.write(wire.error(refusal, "FATAL"))
            self._transport.close()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        if self.session is not None:
            self.session.pause_output()

    def resume_writing(self) -> None:
        """The client has read."""
        if self.session is not None:
            self.session.resume_output()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The client has left."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._reception.clients.pop(self.pid, None)
        self._reception.connections.discard(self)
        if self.session is not None:
            self.session.close()

    # ---- start-up

    def _startup(self, data: bytes) -> None:
        if len(data) < 4:
            return
        size = wire.read_int(data, 0)
        if not 8 <= size <= wire.STARTUP_BYTES_MAX:
            raise Malformed("no start-up packet of PostgreSQL's protocol")
        if len(data) < size:
            return
        self._data = data[size:]
        code, body = wire.read_int(data, 4), data[8:size]
        if code in (wire.SSL_REQUEST, wire.GSS_REQUEST):
            self._encryption(code)
        elif code == wire.CANCEL_REQUEST and len(body) == 8:
            self._reception.cancel(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big"))
            self._close()
        elif code >> 16 == 3:
            self._begin(code & 0xFFFF, wire.startup_parameters(body))
        else:
            raise Refusal("0A000", "only protocol version 3 is spoken")

    def _encryption(self, code: int) -> None:
        assert self._transport is not None  # noqa: S101
        if self._data:  # sent in clear before TLS began: never trusted (CVE-2021-23214)
            raise Malformed("bytes after an encryption request")
        tls = self._reception.tls
        if code == wire.SSL_REQUEST and tls is not None and self._first:
            self._first = False
            self._transport.write(b"S")
            self._transport.pause_reading()
            self._run(self._with_tls(tls))
            return
        self._transport.write(b"N")

    async def _with_tls(self, tls: ssl.SSLContext) -> None:
        assert self._transport is not None  # noqa: S101
        try:
            loop = asyncio.get_running_loop()
            transport = await loop.start_tls(self._transport, self, tls, server_side=True)
        except (OSError, ssl.SSLError) as problem:
            log.info("a TLS handshake failed: %s", type(problem).__name__)
            self._close()
            return
        # uvloop\'s transports are no subclasses of asyncio\'s.
        self._transport = cast(asyncio.Transport, transport)

    def _begin(self, minor: int, parameters: dict[str, str]) -> None:
        reception = self._reception
        assert self._transport is not None  # noqa: S101
        if reception.stopping:
            raise Refusal("57P03", "the router is stopping")
        if len(reception.connections) > reception.clients_max:
            raise Refusal("53300", f"{reception.clients_max} clients are connected already")
        if reception.tls_required and self._first:
            raise Refusal("28000", "the router takes TLS connections only", "sslmode=require")
        if parameters.get("replication", "false") not in ("false", "off", "0", "no"):
            raise Refusal("0A000", "replication does not go through the router")
        unknown = [name for name in parameters if name.startswith("_pq_.")]
        if minor or unknown:
            names = b"".join(map(wire.text, unknown))
            count = len(unknown).to_bytes(4, "big")
            self._transport.write(wire.frame(b"v", b"\0\0\0\0" + count + names))
        self._parameters = parameters
        verifier = reception.users.get(parameters.get("user", ""), reception.nobody)
        self._scram = ServerLogin(verifier)
        self._transport.write(wire.frame(b"R", b"\0\0\0\x0a" + wire.text(MECHANISM) + b"\0"))
        self._take = self._prove

    # ---- login

    def _prove(self, data: bytes) -> None:
        if len(data) < wire.HEADER:
            return
        size = wire.read_int(data, 1) + 1
        if data[0] != ord("p") or not wire.HEADER <= size <= wire.STARTUP_BYTES_MAX:
            raise Malformed("a password message was due")
        if len(data) < size:
            return
        body, self._data = data[wire.HEADER : size], data[size:]
        try:
            self._proof(body)
        except (LoginFailed, UnicodeDecodeError, ValueError):
            user = self._parameters.get("user", "")
            raise Refusal("28P01", f'password authentication failed for user "{user}"') from None
        if self._data:
            self._take(self._data)

    def _proof(self, body: bytes) -> None:
        assert self._scram is not None and self._transport is not None  # noqa: S101, PT018
        if self._take == self._prove and not self._scram.begun:
            mechanism, at = wire.read_text(body, 0)
            if mechanism.decode() != MECHANISM:
                raise LoginFailed("another mechanism")
            answer = self._scram.first(body[at + 4 :].decode())
            self._transport.write(wire.frame(b"R", b"\0\0\0\x0b" + answer.encode()))
            return
        answer = self._scram.final(body.decode())
        self._transport.write(
            wire.frame(b"R", b"\0\0\0\x0c" + answer.encode()) + wire.frame(b"R", b"\0\0\0\0")
        )
        wanted = self._parameters.get("database") or self._parameters["user"]
        if wanted != self._reception.database:
            raise Refusal("3D000", f'the router serves database "{self._reception.database}"')
        self._take = _wait
        self._run(self._welcome())

    async def _welcome(self) -> None:
        """Greet as a shard would; the parameters are those of the first shard that answers."""
        reception, transport = self._reception, self._transport
        assert transport is not None  # noqa: S101
        try:
            known = await reception.parameters()
            session = reception.new_session(transport)
            for name, value in _settings(self._parameters):
                session.state.preset(name, value)
        except Refusal as refusal:
            self._end(refusal)
            return
        reported = {name: known[name] for name in _GREETING if name in known}
        lower = {name.lower(): name for name in reported}
        for name, value in self._parameters.items():
            if name.lower() in lower:
                reported[lower[name.lower()]] = value
        reported["application_name"] = self._parameters.get("application_name", "")
        reported["session_authorization"] = self._parameters.get("user", "")
        reception.numbers += 1
        self.pid = reception.first_pid + reception.numbers
        reception.clients[self.pid] = self
        transport.write(
            b"".join(wire.parameter_status(n, v) for n, v in reported.items())
            + wire.key_data(self.pid, self.secret)
            + wire.ready(b"I")
        )
        self.session = session
        if self._timer is not None:
            self._timer.cancel()
        data, self._data = self._data, b""
        if data:
            self.data_received(data)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """End an idle client, as a server does that stops."""
        self._end(Refusal("57P01", "terminating connection: the router stops"))

    def leave_when_idle(self) -> None:
        """End the client now, or as soon as its transaction is over."""
        session = self.session
        if session is None or (session.state.status == b"I" and not session.shards.busy):
            self.leave()
        else:
            session.on_idle = self.leave


def _wait(data: bytes) -> None:  # noqa: ARG001 - bytes before the greeting wait in the buffer
    return


def _settings(parameters: dict[str, str]) -> list[tuple[str, str]]:
    """Return the settings that a start-up message asks for, also those in ``options``."""
    found = [(n, v) for n, v in parameters.items() if n not in _NOT_SETTINGS and n[:5] != "_pq_."]
    words = parameters.get("options", "").replace("\\ ", "\0").split()
    joined = " ".join(words).replace("-c ", "--")
    for word in joined.split():
        name, equals, value = word.removeprefix("--").removeprefix("-c").partition("=")
        if not equals:
            raise Refusal("42601", f"cannot read the option {word}", "write -c name=value")
        found.append((name.replace("-", "_"), value.replace("\0", " ")))
    return found
