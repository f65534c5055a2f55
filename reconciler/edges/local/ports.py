"""Free loopback ports, chosen once and remembered by their home."""

from __future__ import annotations

import errno
import random
import socket
import time

from reconciler.model.errors import ReconcilerError

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 20000, 32700
"""Below the kernel's ephemeral range (32768 and up), so that no outgoing connection ever takes a
remembered port while its server is down."""
FREED_S = 3.0
"""How long a port may still be held by a process that was killed."""
ATTEMPTS_MAX = 200


class PortTaken(ReconcilerError):
    """A remembered port is in use by a process that is not of this home.

    Ports are chosen once, because routing maps and clients know them. A program that listens there
    now keeps the platform's server from starting.
    """

    code = "LP107"


class NoPortFree(ReconcilerError):
    """No free port was found on the loopback address."""

    code = "LP108"


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a former server that still time out are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as problem:
            if problem.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def choose_ports(count: int, taken: frozenset[int]) -> tuple[int, ...]:
    """Return ``count`` different free ports outside ``taken``. Raises NoPortFree.

    At random, so that two homes that choose at the same moment hardly ever choose the same.
    """
    chosen: list[int] = []
    for _ in range(ATTEMPTS_MAX):
        if len(chosen) == count:
            return tuple(chosen)
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - no secret
        if port not in taken and port not in chosen and is_free(port):
            chosen.append(port)
    raise NoPortFree(
        f"{LOOPBACK}:{FIRST_PORT}-{LAST_PORT}",
        f"no {count} free ports in {ATTEMPTS_MAX} attempts",
        remedy="end programs that listen there: ss -ltnp",
    )


def require_free(port: int, part: str) -> None:
    """Raise PortTaken unless the port of ``part`` is free, or soon is.

    A process of ours that was killed holds its ports until the kernel has torn it down.
    """
    until = time.monotonic() + FREED_S
    while not is_free(port):
        if time.monotonic() >= until:
            raise PortTaken(
                f"{part}, {LOOPBACK}:{port}",
                "the port is in use by a process that is not of this home",
                remedy=f"end that process; see it with: ss -ltnp 'sport = :{port}'",
            )
        time.sleep(0.05)
