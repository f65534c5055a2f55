"""One read on every shard: their rows one after the other, under the first one's heading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct

from reconciler.router import wire
from reconciler.router.relay import Backend, Exchange
from reconciler.router.wire import Refusal

_FRAME = Struct("!Bi")
_HEADING = frozenset(b"12tTn3")
_COMPLETE, _ERROR = b"CE"


class Scatter:
    """The owner of one exchange on each shard. ``done`` is set when all are ready again.

    Shards answer at once and are read in turn: whoever is not on is paused after its first bytes.
    """

    def __init__(self, write: Callable[[bytes], None], legs: list[Backend]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed = False
        self._write = write
        self._legs = legs
        self._turn = 0
        self._kept: dict[Backend, list[bytes]] = {leg: [] for leg in legs}
        self._over: set[Backend] = set()
        self._rows = 0
        self._tag = "SELECT"

    def leg(self, backend: Backend) -> Leg:
        """Return the owner of one shard's part."""
        return Leg(self, backend)

    def take(self, backend: Backend, data: bytes) -> None:
        """Take a part of one shard's answer."""
        if self._turn < len(self._legs) and backend is self._legs[self._turn]:
            self._pass(data, first=self._turn == 0)
            return
        self._kept[backend].append(data)
        if backend.transport is not None:
            backend.transport.pause_reading()

    def over(self, backend: Backend) -> None:
        """One shard is ready again."""
        self._over.add(backend)
        while self._turn < len(self._legs) and self._legs[self._turn] in self._over:
            self._turn += 1
            if self._turn < len(self._legs):
                self._resume(self._legs[self._turn])
        if self._turn == len(self._legs) and not self.done.done():
            if not self.failed:
                self._write(wire.command_complete(f"{self._tag} {self._rows}"))
            self.done.set_result(None)

    def fail(self, backend: Backend, refusal: Refusal) -> None:
        """One shard went away."""
        self._told(wire.error(refusal))
        self.over(backend)

    def _resume(self, backend: Backend) -> None:
        for data in self._kept[backend]:
            self._pass(data, first=False)
        self._kept[backend].clear()
        if backend.transport is not None and not backend.closed:
            backend.transport.resume_reading()

    def _told(self, error: bytes) -> None:
        if not self.failed:
            self.failed = True
            self._write(error)

    def _pass(self, data: bytes, *, first: bool) -> None:
        """Write rows on; headings of all but the first, and every end, are left out."""
        at, out = 0, []
        while at < len(data):
            kind, size = _FRAME.unpack_from(data, at)
            whole = data[at : at + size + 1]
            at += size + 1
            if kind == _COMPLETE:
                tag, _, count = whole[wire.HEADER : -1].decode().rpartition(" ")
                self._tag = tag or self._tag
                self._rows += int(count) if count.isdigit() else 0
            elif kind == _ERROR:
                self._told(whole)
            elif not self.failed and (first or kind not in _HEADING):
                out.append(whole)
        if out:
            self._write(b"".join(out))


class Leg:
    """One shard's part of a scatter."""

    def __init__(self, scatter: Scatter, backend: Backend) -> None:
        self._scatter, self._backend = scatter, backend
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Hand complete frames over."""
        data = self._rest + data
        at = 0
        while len(data) - at >= wire.HEADER:
            size = wire.read_int(data, at + 1) + 1
            if len(data) - at < size:
                break
            at += size
        self._rest = data[at:]
        if at:
            self._scatter.take(self._backend, data[:at])

    def finished(self, backend: Backend, exchange: Exchange, status: bytes) -> None:  # noqa: ARG002
        """This shard is done."""
        self._scatter.over(backend)

    def lost(self, backend: Backend, exchange: Exchange | None) -> None:  # noqa: ARG002
        """This shard went away; a read was in flight, so nothing is in doubt."""
        reason = backend.fatal.get("M", "the connection was lost")
        self._scatter.fail(backend, Refusal("08006", f"shard {backend.scope[0]}: {reason}"))
