"""One connection to a shard, and how answers pass through it to whoever asked.

A chunk from the shard is written to the client as it came. Its frames are walked for their ends
only, except at the head of an answer, which is held back until it is known not to be a refusal
that may be repeated elsewhere (``PS001`` before anything else was answered).
"""

from __future__ import annotations

import asyncio
import re
from struct import Struct
from typing import TYPE_CHECKING, Protocol, cast

from reconciler.router import wire

if TYPE_CHECKING:
    from reconciler.router.statements import Reading
    from reconciler.router.units import Unit

_FRAME = Struct("!Bi")
_READY, _ERROR, _COPY_IN, _ROW, _COPY_DATA = b"ZEGDd"
_PARSED, _CLOSED = b"13"
_READY_FRAME = b"Z\0\0\0\5"
_SPECIAL = frozenset(b"ZEG")
_HEAD = frozenset(b"123tTnNS")
"""What may come before the first word on whether a statement was done.

A text of several statements answers each that is done with CommandComplete, so a refusal after one
is passed on and never repeated.
"""
_BEFORE_ROWS = frozenset(b"12tTn")
"""What a statement is answered with each time alike, before its rows."""
_BEFORE_ROWS_BYTES_MAX = 1024
_PASSED_IN_PARTS = frozenset((_ROW, _COPY_DATA))
MOVED = "PS001"
_EPOCH = re.compile(r"\(epoch (\d+)\)")


class Owner(Protocol):
    """Whoever an exchange is for."""

    def write(self, data: bytes) -> None:
        """Take a part of the answer."""

    def finished(self, backend: Backend, exchange: Exchange, status: bytes) -> None:
        """The shard is ready for the next; ``status`` is ReadyForQuery's."""

    def lost(self, backend: Backend, exchange: Exchange | None) -> None:
        """The connection is gone; ``exchange`` is what was in flight."""


class Exchange:
    """One unit of a client's messages, and how far its answer is.

    ``data`` is what is sent again when it was refused by a shard that lost the key. ``quiet``
    counts answers to be dropped before its own, ``parses`` and ``closes`` the ParseComplete and
    CloseComplete that the client did not ask for. ``opened``: flushed in its middle, more follows.
    ``unready``: the client did not send the Sync that ends it, and gets no ReadyForQuery.
    ``apart``: it only prepares, so a transaction that has no shard yet goes on having none.
    ``refusal`` takes the place of the shard's next error. ``reading`` is a simple query's,
    ``unit`` an extended one's; a ``quick`` one has neither. ``plain``: nothing is left out of the
    answer so far, so that it may pass as a whole.
    """

    __slots__ = (
        "apart", "caught", "closes", "copying", "data", "deadline", "epoch", "failed", "opened",
        "owner", "parses", "passing", "plain", "quick", "quiet", "reading", "refusal", "retry",
        "unit", "unready",
    )  # fmt: skip

    def __init__(self, owner: Owner, data: bytes, *, epoch: int = 0, retry: bool = False) -> None:
        self.owner = owner
        self.data = data
        self.epoch = epoch
        self.retry = retry
        self.apart = False
        self.quiet = 0
        self.parses = 0
        self.closes = 0
        self.passing = False
        self.plain = False
        self.quick = False
        self.failed = False
        self.copying = False
        self.opened = False
        self.unready = False
        self.deadline = 0.0
        self.caught: dict[str, str] | None = None
        self.refusal: wire.Refusal | None = None
        self.reading: Reading | None = None
        self.unit: Unit | None = None

    def reset(self) -> None:
        """Make it ready to be sent once more."""
        self.quiet = self.parses = self.closes = 0
        self.passing = self.failed = False
        self.caught = None

    def is_plain(self) -> bool:
        """Tell whether the answer is for the client from its first byte to its last."""
        added = self.quiet or self.parses or self.closes
        return not added and not self.unready and not self.opened and self.refusal is None

    def refused_epoch(self) -> int | None:
        """Return the epoch that the refusing guard has, when it says one."""
        found = _EPOCH.search(self.caught.get("M", "")) if self.caught else None
        return int(found[1]) if found else None


class Backend(asyncio.Protocol):
    """A logged-in session at one member of a shard."""

    def __init__(self, pid: int, secret: int, address: tuple[str, int]) -> None:
        self.pid, self.secret, self.address = pid, secret, address
        self.transport: asyncio.Transport | None = None
        self.owner: Owner | None = None
        self.exchange: Exchange | None = None
        self.status = b"I"
        self.epoch = -1
        self.applied = -1
        self.idle_since = 0.0
        self.prepared: dict[bytes, object] = {}
        self.scope: tuple[str, bool] = ("", False)
        self.fatal: dict[str, str] = {}
        self.closed = False
        self._rest = b""
        self._skip = 0
        self._before_rows = b""
        """Whole frames that the last answer began with: they need not be walked again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport from the login."""
        # uvloop\'s transports are no subclasses of asyncio\'s.
        self.transport = cast(asyncio.Transport, transport)

    def start(self, exchange: Exchange, data: bytes) -> None:
        """Send a unit; its answer goes to its owner."""
        self.exchange = exchange
        if self.closed or self.transport is None:
            asyncio.get_running_loop().call_soon(self._tell_lost)
            return
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send more of the unit in flight."""
        if self.transport is not None and not self.closed:
            self.transport.write(data)

    def close(self) -> None:
        """Say good-bye."""
        if self.transport is not None and not self.closed:
            self.owner = None
            self.transport.write(b"X\0\0\0\4")
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self.owner = self.exchange = None
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The shard reads too slowly: stop reading from the client."""
        if (pause := getattr(self.owner, "pause_input", None)) is not None:
            pause()

    def resume_writing(self) -> None:
        """The shard has read."""
        if (resume := getattr(self.owner, "resume_input", None)) is not None:
            resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Tell whoever uses it."""
        self.closed = True
        self._tell_lost()

    def _tell_lost(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.plain = False
        owner = exchange.owner if exchange is not None else self.owner
        if owner is not None:
            owner.lost(self, exchange)

    def data_received(self, data: bytes) -> None:
        """Pass an answer on."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        exchange = self.exchange
        if exchange is None:
            self._between(data)
        elif exchange.plain:
            self._whole(exchange, data)
        elif exchange.passing:
            self._pass(exchange, data, 0)
        else:
            self._head(exchange, data)

    def _whole(self, exchange: Exchange, data: bytes) -> None:
        """Pass a whole answer on, when this is one and has no error."""
        if data[-6:-1] == _READY_FRAME:
            end, known = len(data) - 6, self._before_rows
            at = len(known) if known and data.startswith(known) else self._to_rows(data, end)
            while at < end:
                kind, size = _FRAME.unpack_from(data, at)
                if kind in _SPECIAL:
                    break
                at += size + 1
            if at == end:
                self.exchange, self.status = None, data[-1:]
                exchange.owner.write(data)
                exchange.owner.finished(self, exchange, self.status)
                return
        exchange.plain = False
        self._head(exchange, data)

    def _to_rows(self, data: bytes, end: int) -> int:
        """Walk to an answer's first row, and remember what is before it."""
        at = 0
        while at < end:
            kind, size = _FRAME.unpack_from(data, at)
            if kind not in _BEFORE_ROWS:
                break
            at += size + 1
        self._before_rows = data[:at] if at <= min(end, _BEFORE_ROWS_BYTES_MAX) else b""
        return at

    def _pass(self, exchange: Exchange, data: bytes, start: int) -> None:
        """Write through from ``start``, walking frames for the end of the answer."""
        at, end = start, len(data)
        if self._skip:
            at = min(self._skip, end)
            self._skip -= at
        kind = size = 0
        while end - at >= wire.HEADER:
            kind, size = _FRAME.unpack_from(data, at)
            if at + size >= end:
                break
            if kind in _SPECIAL:
                if kind == _READY:
                    self._ready(exchange, data, start, at)
                    return
                start = self._special(exchange, data, start, at)
            at += size + 1
        if end - at >= wire.HEADER and kind in _PASSED_IN_PARTS:
            self._skip = at + size + 1 - end
            at = end
        if at < end:
            self._rest = data[at:]
        if at > start:
            exchange.owner.write(data if at == end and not start else data[start:at])

    def _special(self, exchange: Exchange, data: bytes, start: int, at: int) -> int:
        """Note the beginning of a COPY, or an error; return where to pass on from."""
        if data[at] == _COPY_IN:
            exchange.copying = True
            return start
        after = at + wire.read_int(data, at + 1) + 1
        if not self._error(exchange, data[at:after]):
            return start
        self._replace(exchange, data[start:at])
        return after

    def _ready(self, exchange: Exchange, data: bytes, start: int, at: int) -> None:
        """The answer is complete."""
        after = at + 6
        self.status = data[at + 5 : after]
        self.exchange = None
        stop = at if exchange.unready else after
        if stop > start:
            whole = not start and stop == len(data)
            exchange.owner.write(data if whole else data[start:stop])
        exchange.owner.finished(self, exchange, self.status)
        if after < len(data):
            self.data_received(data[after:])

    def _replace(self, exchange: Exchange, before: bytes) -> None:
        """Leave an error out, and tell the router's own instead when it has one."""
        if before:
            exchange.owner.write(before)
        if exchange.refusal is not None:
            exchange.owner.write(wire.error(exchange.refusal))
            exchange.refusal = None

    def _error(self, exchange: Exchange, whole: bytes) -> bool:
        """Note an error; True when it is not to be passed on.

        That is so for the router's own doing, and for the connection's end, told in another way.
        """
        exchange.failed = True
        if exchange.refusal is not None:
            return True
        fields = wire.error_fields(whole[wire.HEADER :])
        if fields.get("V", fields.get("S")) in ("FATAL", "PANIC"):
            self.fatal = fields
            return True
        return False

    def _head(self, exchange: Exchange, data: bytes) -> None:
        """Look at the beginning of an answer, frame by frame."""
        at = start = 0
        end = len(data)
        while end - at >= wire.HEADER:
            kind, size = _FRAME.unpack_from(data, at)
            after = at + size + 1
            if after > end:
                break
            if exchange.quiet or exchange.caught is not None or self._unasked(exchange, kind):
                start = after
                if kind == _READY and self._quiet_ready(exchange, data[at + 5 : after]):
                    self._after(data[after:])
                    return
            elif kind == _ERROR and self._refused(exchange, data[at:after]):
                start = after
            elif kind not in _HEAD or not exchange.retry:
                exchange.passing = True
                self._pass(exchange, data, start)
                return
            at = after
        self._rest = data[start:]

    def _unasked(self, exchange: Exchange, kind: int) -> bool:
        if kind == _PARSED and exchange.parses:
            exchange.parses -= 1
            return True
        if kind == _CLOSED and exchange.closes:
            exchange.closes -= 1
            return True
        return False

    def _quiet_ready(self, exchange: Exchange, status: bytes) -> bool:
        """End one dropped answer; True when it was the exchange's own, refused."""
        self.status = status
        if exchange.quiet:
            exchange.quiet -= 1
            return False
        self.exchange = None
        exchange.owner.finished(self, exchange, status)
        return True

    def _after(self, rest: bytes) -> None:
        if rest:
            self.data_received(rest)

    def _refused(self, exchange: Exchange, whole: bytes) -> bool:
        """Catch a refusal that may be repeated elsewhere."""
        fields = wire.error_fields(whole[wire.HEADER :])
        if exchange.retry and fields.get("C") == MOVED:
            exchange.failed = True
            exchange.caught = fields
            return True
        return False

    def _between(self, data: bytes) -> None:
        """Nobody asked: notices, changed settings, or the end."""
        at, end = 0, len(data)
        while end - at >= wire.HEADER:
            kind, size = _FRAME.unpack_from(data, at)
            after = at + size + 1
            if after > end:
                break
            if kind == _ERROR:
                self.fatal = wire.error_fields(data[at + wire.HEADER : after])
            elif kind in b"NS" and self.owner is not None:
                self.owner.write(data[at:after])
            at = after
        self._rest = data[at:]


class Command:
    """The owner of a statement of the router's own; its result is the error, if any."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._said = b""

    def write(self, data: bytes) -> None:
        """Keep the first error."""
        self._said = self._said or data

    def finished(self, backend: Backend, exchange: Exchange, status: bytes) -> None:  # noqa: ARG002
        """Tell how it ended."""
        if self.done.done():
            return
        if exchange.failed:
            self.done.set_exception(_first_error(self._said))
        else:
            self.done.set_result(None)

    def lost(self, backend: Backend, exchange: Exchange | None) -> None:  # noqa: ARG002
        """It never ended."""
        if not self.done.done():
            reason = backend.fatal.get("M", "connection lost")
            self.done.set_exception(wire.Refusal("08006", f"the shard went away: {reason}"))


def _first_error(said: bytes) -> wire.Refusal:
    at = 0
    while at + wire.HEADER <= len(said):
        kind, size = _FRAME.unpack_from(said, at)
        if kind == _ERROR:
            fields = wire.error_fields(said[at + wire.HEADER : at + size + 1])
            return wire.Refusal(fields.get("C", "XX000"), fields.get("M", "refused"))
        at += size + 1
    return wire.Refusal("XX000", "refused")


async def run(backend: Backend, sql: str) -> None:
    """Run a statement of the router's own. Raises Refusal."""
    command = Command()
    backend.start(Exchange(command, b""), wire.query(sql))
    await command.done
