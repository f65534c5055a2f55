"""The daemon's web server over real sockets: who holds connections keeps no probe out."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from reconciler.daemon import http as web
from reconciler.daemon.http import CALLERS_MAX, Endpoints, Post


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    pages = {"/healthz": lambda: (200, "text/plain", b"ok\n")}
    posts = {"/post": Post(1000, lambda _, body: (202, "text/plain", body))}
    server = Endpoints("127.0.0.1", 0, pages, posts)
    server.start()
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    yield host, int(port)
    server.stop()


def _probe(address: tuple[str, int]) -> int:
    connection = http.client.HTTPConnection(*address, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        with connection.getresponse() as answer:
            return answer.status


@contextlib.contextmanager
def _held(address: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """Hold connections, each of which has begun to say something and stopped."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address)) for _ in range(count)]
        for one in held:
            one.sendall(b"POST /post HTTP/1.1\r\nContent-Length: 900\r\n\r\nand then")
        yield held


def test_connections_that_are_only_held_give_way_to_a_probe(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = threading.active_count()
    with _held(address, CALLERS_MAX) as held:
        monkeypatch.setattr(web, "PATIENCE_S", 0.0)
        assert [_probe(address) for _ in range(3)] == [200, 200, 200]
        assert held[0].recv(1) == b"", "the one that was there longest was closed"
        assert threading.active_count() - threads <= CALLERS_MAX + 1
        assert _probe(address) == 200


def test_while_all_are_at_work_one_more_waits_for_its_turn(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PATIENCE_S", 3600.0)
    with _held(address, CALLERS_MAX) as held, socket.create_connection(address) as one:
        one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        one.settimeout(0.5)
        with pytest.raises(TimeoutError):
            one.recv(1)
        held[7].close()
        one.settimeout(60)
        assert one.recv(100).startswith(b"HTTP/1.0 200")


def test_a_caller_that_leaves_before_its_answer_writes_nothing_into_the_log(
    address: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(20):
        with socket.create_connection(address) as one:
            one.sendall(b"POST /post HTTP/1.1\r\nContent-Length: 900\r\n\r\nand then")
            time.sleep(0.005)  # it is read by now; a reset comes in the middle of the body
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert _probe(address) == 200
    assert capfd.readouterr().err == ""
