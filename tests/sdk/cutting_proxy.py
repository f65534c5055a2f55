"""A TCP proxy that is slow, or cuts a connection right after a client's message: no answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CuttingProxy:
    """Forwards to a server; ``cut_after`` names the bytes whose answer is withheld, once.

    What the server says is passed on ``delay_s`` late, a read at a time.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after = b""
        self.cuts = 0
        self.delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                gag = threading.Event()
                for pump in (self._up, self._down):
                    threading.Thread(target=pump, args=(client, server, gag), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, gag: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.cut_after and self.cut_after in data:
                    self.cut_after, self.cuts = b"", self.cuts + 1
                    gag.set()
                    server.sendall(data)
                    continue
                server.sendall(data)
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket, gag: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(65536)) and not gag.is_set():
                time.sleep(self.delay_s)
                client.sendall(data)
        _end(client)
        _end(server)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def cutting_proxy(port: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
