"""A small web server for probes and metrics: plain HTTP, on loopback unless told otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from reconciler.model.errors import ReconcilerError

Answer = tuple[int, str, bytes]
"""Status, content type, body."""
CALLERS_MAX = 64
"""Connections that are answered at once; more are closed unread."""


NOT_FOUND: Answer = (404, "text/plain", b"not found\n")
THREADS = 64
"""Threads that the rest of the daemon may have: sources, workers, the lease."""


@dataclass(frozen=True, slots=True)
class Post:
    """What answers a POST, and the longest body that is read for it."""

    bytes_max: int
    answer: Callable[[Mapping[str, str], bytes], Answer]


class AddressTaken(ReconcilerError):
    """The address for probes and metrics cannot be listened on."""

    code = "DM103"


class Endpoints:
    """A small web server; ``pages`` answer a path each."""

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
                page = pages.get(self.path.partition("?")[0])
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

        class Server(ThreadingHTTPServer):
            def verify_request(self, *_: object) -> bool:
                return threading.active_count() < CALLERS_MAX + others

        others = threading.active_count() + THREADS
        self._server = Server((host, port), Handler)
        self._server.daemon_threads = True
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
