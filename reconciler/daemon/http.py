"""A small web server for probes and metrics: plain HTTP, on loopback unless told otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from reconciler.model.errors import ReconcilerError

_Request = socket.socket | tuple[bytes, socket.socket]  # the second is that of datagrams
Answer = tuple[int, str, bytes]
"""Status, content type, body."""
CALLERS_MAX = 64
"""Connections that are answered at once; more wait for one of them to end."""
PATIENCE_S = 1.0
"""A connection that is open for longer gives way to a new one, so that nobody who only holds
connections keeps a probe out."""
BACKLOG = 512
"""Connections that wait to be accepted. One that finds no room asks again only after a second:
a probe would be late by that while forges push."""

NOT_FOUND: Answer = (404, "text/plain", b"not found\n")


@dataclass(frozen=True, slots=True)
class Post:
    """What answers a POST, and the longest body that is read for it."""

    bytes_max: int
    answer: Callable[[Mapping[str, str], bytes], Answer]


class AddressTaken(ReconcilerError):
    """The address for probes and metrics cannot be listened on."""

    code = "DM103"


class _Server(ThreadingHTTPServer):
    """A thread a connection, and a bound on them."""

    request_queue_size = BACKLOG
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._changed = threading.Condition()
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def verify_request(self, *_: object) -> bool:
        """Wait until there is room: one ends, or the longest of them has had its time."""
        with self._changed:
            while len(self._since) >= CALLERS_MAX:
                longest, since = next(iter(self._since.items()))
                left_s = PATIENCE_S - (time.monotonic() - since)
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                del self._since[longest]
                with suppress(OSError):  # it has just ended by itself
                    longest.shutdown(socket.SHUT_RDWR)
        return True

    def process_request(self, request: _Request, client_address: Any) -> None:
        """Answer it in a thread of its own."""
        with self._changed:
            self._since[cast("socket.socket", request)] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """It is over."""
        with self._changed:
            self._since.pop(cast("socket.socket", request), None)
            self._changed.notify()
        super().shutdown_request(request)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """Who leaves before the answer is no news; nothing is written but log lines."""


class Endpoints:
    """A small web server; ``pages`` answer a path each, with its query or with any."""

    def __init__(
        self,
        host: str,
        port: int,
        pages: dict[str, Callable[[], Answer]],
        posts: dict[str, Post] | None = None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "shardwright", ""
            timeout = 10

            def do_GET(self) -> None:
                page = pages.get(self.path) or pages.get(self.path.partition("?")[0])
                self._say(*(page() if page else NOT_FOUND))

            def do_POST(self) -> None:
                self.close_connection = True
                post = (posts or {}).get(self.path.partition("?")[0])
                length = self.headers.get("Content-Length", "")
                if post is None:
                    self._say(*NOT_FOUND)
                elif not length.isdecimal():
                    self._say(411, "text/plain", b"say the length\n")
                elif int(length) > post.bytes_max:
                    self._say(413, "text/plain", b"too long\n")
                else:
                    body = self.rfile.read(int(length))
                    self._say(*post.answer(dict(self.headers), body))

            def _say(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds; they are no news."""

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
