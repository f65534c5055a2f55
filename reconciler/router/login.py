"""Opening a session at one member of a shard: TLS where it has it, SCRAM, its first parameters."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from reconciler.model.platform import Credential, Endpoint
from reconciler.router import wire
from reconciler.router.relay import Backend
from reconciler.router.scram import MECHANISM, ClientLogin, LoginFailed
from reconciler.router.wire import Refusal, read_int

_OK, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 10, 11, 12


class _Login(asyncio.Protocol):
    """Collects frames until the shard is ready for the first query."""

    def __init__(self, credential: Credential, database: str) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.parameters: dict[str, str] = {}
        self.key = (0, 0)
        self.transport: asyncio.Transport | None = None
        self._credential, self._database = credential, database
        self._scram = ClientLogin(credential.password)
        self._proven = False
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop\'s transports are no subclasses of asyncio\'s.
        self.transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        """Send the start-up message."""
        self._write(
            wire.startup(
                {
                    "user": self._credential.role,
                    "database": self._database,
                    "client_encoding": "UTF8",
                    "application_name": "shardwright router",
                }
            )
        )

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():  # one byte answers an SSLRequest, and nothing may follow it
            self.answer.set_result(data)
            return
        self._data += data
        while len(self._data) >= wire.HEADER and not self.ready.done():
            size = read_int(self._data, 1) + 1
            if len(self._data) < size:
                return
            kind, body = self._data[:1], self._data[wire.HEADER : size]
            self._data = self._data[size:]
            try:
                self._take(kind, body)
            except (Refusal, LoginFailed, wire.Malformed) as problem:
                self.ready.set_exception(problem)

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"R":
            self._authenticate(read_int(body, 0), body[4:])
        elif kind == b"E":
            fields = wire.error_fields(body)
            raise Refusal(fields.get("C", "08006"), fields.get("M", "refused"))
        elif kind == b"S":
            name, at = wire.read_text(body, 0)
            self.parameters[name.decode()] = wire.read_text(body, at)[0].decode(errors="replace")
        elif kind == b"K":
            self.key = (int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"))
        elif kind == b"Z":
            if not self._proven:
                raise LoginFailed("the shard asked for no password: that is not our shard")
            self.ready.set_result(None)

    def _authenticate(self, what: int, body: bytes) -> None:
        if what == _SASL:
            if MECHANISM.encode() not in body.split(b"\0"):
                raise LoginFailed("the shard does not offer SCRAM-SHA-256")
            first = self._scram.first().encode()
            size = len(first).to_bytes(4, "big")
            self._write(wire.frame(b"p", wire.text(MECHANISM) + size + first))
        elif what == _SASL_CONTINUE:
            self._write(wire.frame(b"p", self._scram.final(body.decode()).encode()))
        elif what == _SASL_FINAL:
            self._scram.check(body.decode())
            self._proven = True
        elif what != _OK:
            raise LoginFailed("the shard asks for a weaker login than SCRAM-SHA-256")

    def connection_lost(self, exc: Exception | None) -> None:
        lost = exc or ConnectionError("closed while logging in")
        for future in (self.answer, self.ready):
            if not future.done():
                future.set_exception(lost)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


async def open_backend(
    endpoint: Endpoint,
    credential: Credential,
    database: str,
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> tuple[Backend, dict[str, str]]:
    """Return a session and the parameters that the shard reported.

    Raises Refusal, LoginFailed, OSError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    transport: asyncio.BaseTransport | None = None
    login = _Login(credential, database)
    try:
        async with asyncio.timeout(timeout_s):
            address = (endpoint.host, endpoint.postgres_port)
            transport, _ = await loop.create_connection(lambda: login, *address)
            if endpoint.postgres_tls:
                transport = await _with_tls(login, tls, endpoint.host)
                login.transport = transport  # type: ignore[assignment]
            else:
                login.answer.set_result(b"")
            login.begin()
            await login.ready
    except BaseException:
        _forget(login)
        if transport is not None:
            cast(asyncio.Transport, transport).abort()
        raise
    backend = Backend(*login.key, address)
    assert login.transport is not None  # noqa: S101
    login.transport.set_protocol(backend)
    backend.connection_made(login.transport)
    return backend, login.parameters


def _forget(login: _Login) -> None:
    """Nobody will ask how it ended."""
    for future in (login.answer, login.ready):
        future.cancel()
        if future.done() and not future.cancelled():
            future.exception()


async def _with_tls(login: _Login, tls: ssl.SSLContext | None, host: str) -> asyncio.BaseTransport:
    if tls is None or login.transport is None:
        raise LoginFailed("the shard wants TLS and the router has no authority to check it with")
    login.transport.write(b"\0\0\0\x08" + wire.SSL_REQUEST.to_bytes(4, "big"))
    if await login.answer != b"S":
        raise LoginFailed("the shard does not take TLS")
    loop = asyncio.get_running_loop()
    transport = await loop.start_tls(login.transport, login, tls, server_hostname=host)
    assert transport is not None  # noqa: S101
    return transport


async def cancel(address: tuple[str, int], pid: int, secret: int, timeout_s: float) -> None:
    """Ask a shard to cancel; like PostgreSQL's own, this says nothing of whether it did."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        transport.write(wire.cancel_request(pid, secret))
        transport.close()
