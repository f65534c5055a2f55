"""A flood of push events: ``python -m tests.e2e.flood ADDRESS SECRET REPOSITORY RATE SECONDS``.

A process of its own, so that it does not share the daemon's or the test's interpreter. They
are wrongly signed, right, sent again, a megabyte long, too long, no HTTP, or leave unanswered.
Prints what came back, by kind and status, as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
from collections import Counter
from collections.abc import Callable

WAITING_MAX = 200
"""Connections that are open at once; a sender that has more than that waits."""


def kinds(secret: bytes, repository: str) -> dict[str, Callable[[int], bytes]]:
    """Return what makes the request of a kind, from a number."""
    push = json.dumps({"ref": "refs/heads/main", "repository": {"clone_url": repository}}).encode()
    long = push[:-1] + b', "padding": "' + b"x" * (1024 * 1024 - len(push) - 16) + b'"}'

    def sent(body: bytes, signature: str, delivery: str = "", length: int = 0) -> bytes:
        head = (
            f"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n"
            f"X-Gitea-Event: push\r\nX-Gitea-Signature: {signature}\r\n"
            f"X-Gitea-Delivery: {delivery}\r\n\r\n"
        )
        return head.encode() + body

    right, right_long = (hmac.new(secret, b, hashlib.sha256).hexdigest() for b in (push, long))
    return {
        "wrong": lambda _: sent(push, "0" * 64),
        "right": lambda number: sent(push, right, f"delivery {number}"),
        "again": lambda _: sent(push, right, "one delivery"),
        "long": lambda number: sent(long, right_long if number % 200 else "0" * 64),
        "too long": lambda _: sent(b"", right, length=1 << 40),
        "leaves": lambda _: sent(push, "0" * 64),
        "no HTTP": lambda _: b"\x16\x03\x01 hello\r\n\r\n",
    }


def kind_of(number: int) -> str:
    """Return the kind of a request: a hundredth is long, for a megabyte is a thousand of others."""
    if number % 100 == 0:
        return "long"
    return ("wrong", "right", "again", "wrong", "right", "too long", "no HTTP", "leaves")[
        number % 8
    ]


async def _one(host: str, port: int, request: bytes, *, stays: bool) -> str:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return type(error).__name__
    try:
        writer.write(request)
        await writer.drain()
        if not stays:
            writer.transport.abort()
            return "gone"
        answer = await asyncio.wait_for(reader.read(400), 20)
        return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP") else "closed"
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    finally:
        writer.close()


async def flood(
    host: str, port: int, make: dict[str, Callable[[int], bytes]], rate: int, seconds: float
) -> tuple[Counter[str], float]:
    """Send so many a second for so long; return what came back and how long it took."""
    came: Counter[str] = Counter()
    room = asyncio.Semaphore(WAITING_MAX)
    begun = time.monotonic()

    async def send(number: int) -> None:
        kind = kind_of(number)
        stays = kind != "leaves"
        async with room:
            came[f"{kind}: {await _one(host, port, make[kind](number), stays=stays)}"] += 1

    sending = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        sending.append(asyncio.create_task(send(number)))
    await asyncio.gather(*sending)
    return came, time.monotonic() - begun


def main() -> None:
    address, secret, repository, rate, seconds = sys.argv[1:]
    host, _, port = address.removeprefix("http://").rpartition(":")
    made = kinds(secret.encode(), repository)
    came, took = asyncio.run(flood(host, int(port), made, int(rate), float(seconds)))
    print(json.dumps({"came": dict(sorted(came.items())), "rate": sum(came.values()) / took}))


if __name__ == "__main__":
    main()
