"""One client after its login: its messages in units, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from reconciler.router import wire
from reconciler.router.answers import PREFIX, Answer, own_answer
from reconciler.router.dispatch import FAILING_PARSE, Dispatcher, SessionLimits
from reconciler.router.pool import Pools
from reconciler.router.quick import Quick
from reconciler.router.relay import Exchange
from reconciler.router.routes import Routes
from reconciler.router.statements import Kind, Reading, Statement
from reconciler.router.units import Statements, Unit, decoded
from reconciler.router.wire import Malformed, Refusal

_QUERY, _SYNC, _FLUSH, _END, _FUNCTION, _COPY_ROW = b"QSHXFd"
_COPY = frozenset(b"dcf")
_COPY_ENDS = frozenset(b"cf")
_OWN = frozenset((Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK, Kind.SAVEPOINT, Kind.SET, Kind.SHOW,
                  Kind.LISTEN, Kind.DEALLOCATE, Kind.DISCARD))  # fmt: skip


class Session:
    """A client's connection from its login to its end."""

    def __init__(
        self, client: asyncio.Transport, routes: Routes, pools: Pools, limits: SessionLimits,
        number: int,
    ) -> None:  # fmt: skip
        self.client, self.limits = client, limits
        self.shards = Dispatcher(client.write, self._idle, routes, pools, limits, number)
        self.shards.pause_input, self.shards.resume_input = self._pause, self._resume
        self.state = self.shards.state
        self.on_idle: Callable[[], None] | None = None
        self._routes = routes
        self._statements = Statements()
        self._quick = Quick(self.shards, routes, self._statements)
        self._unit = Unit()
        self._buffer = b""
        self._paused = False
        self._row_rest = 0

    def received(self, data: bytes) -> None:
        """Take bytes of the client. Raises Malformed."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        shards = self.shards
        exchange = shards.exchange
        if exchange is None and shards.task is None:
            begun = shards.skip_to_sync or self._unit.size or self._row_rest
            if not begun and self._quick.sent(data):
                return
        if self._row_rest and (exchange is None or not exchange.copying):
            data = self._rest_of_row(data)
        if not self.shards.busy:
            self._take(data)
        elif exchange is not None and (exchange.copying or exchange.opened):
            self._continue(exchange, data)
        else:
            self._buffer = data
            if len(data) > self.limits.ahead_bytes_max:
                self._pause()

    def _rest_of_row(self, data: bytes) -> bytes:
        """Pass on the end of a row in whose middle a COPY failed: its shard waits for it."""
        size = min(self._row_rest, len(data))
        self._row_rest -= size
        self._pass_on(data[:size])
        return data[size:]

    def _take(self, data: bytes) -> None:
        """Go through complete messages until one has to wait for a shard."""
        at, end = 0, len(data)
        while end - at >= wire.HEADER:
            size = self._size(data, at)
            if end - at < size:
                break
            message = data if size == end else data[at : at + size]
            at += size
            self._message(message[0], message)
            if self.shards.busy:
                if at < end:
                    self.received(data[at:])
                return
            if self.client.is_closing():
                return
        self._buffer = data[at:]

    def _size(self, data: bytes, at: int) -> int:
        size = wire.read_int(data, at + 1) + 1
        if not wire.HEADER <= size <= self.limits.message_bytes_max:
            raise Malformed(f"a message of {size} bytes")
        return size

    def _message(self, kind: int, data: bytes) -> None:
        if kind == _END:
            self.client.close()
        elif self.shards.skip_to_sync:
            if kind == _SYNC:
                self.shards.skip_to_sync = False
                self.shards.ready()
        elif kind == _QUERY:
            try:
                self._simple(data)
            except Refusal as refusal:
                self.shards.refuse(refusal)
        elif kind == _FUNCTION:
            self.shards.refuse(Refusal("0A000", "function calls are not passed on; use SELECT"))
        elif kind not in _COPY:  # those were still on their way when a COPY failed
            self._extended(kind, data)

    # ---- simple queries

    def _simple(self, data: bytes) -> None:
        routing = self._routes.get()
        reading = routing.reader.read(decoded(data[wire.HEADER : -1]))
        only = reading.only
        if self.shards.loss is not None:
            self.shards.tell_loss(reading.statements)
        if only is None:
            _check_alone(reading)
        elif only.kind in _OWN and (answer := self._answer(only)) is not None:
            self.client.write(answer.whole())
            self.shards.ready()
            return
        exchange = Exchange(self.shards, data, retry=_is_whole(reading.statements))
        exchange.reading = reading
        self.shards.send(routing, exchange)

    def _answer(self, statement: Statement) -> Answer | None:
        """Answer here, or return None. Raises Refusal."""
        kind, setting = statement.kind, statement.setting
        if kind is Kind.DEALLOCATE and self._forget(statement.name):
            return Answer("DEALLOCATE" if statement.name else "DEALLOCATE ALL")
        if kind is Kind.DISCARD or (setting is not None and setting.name == "*"):
            if self.state.status != b"I":
                raise Refusal("25001", "cannot run inside a transaction block")
            self._statements.known.clear()
            self.state.forget()
            self.shards.give_back()
            return Answer("DISCARD ALL" if kind is Kind.DISCARD else "RESET")
        return own_answer(self.state, statement, self.shards.pinned is not None)

    def _forget(self, name: str) -> bool:
        if not name:
            self._statements.known.clear()
            return True
        return self._statements.known.pop(name.encode(), None) is not None

    # ---- extended queries

    def _extended(self, kind: int, data: bytes) -> None:
        unit = self._unit
        if unit.refusal is None:
            try:
                self._statements.add(unit, kind, data)
            except Refusal as refusal:
                unit.refusal = refusal
        if unit.size > self.limits.message_bytes_max:
            raise Malformed("too much before a Sync")
        if kind not in (_SYNC, _FLUSH):
            return
        self._unit = Unit()
        try:
            self._whole(unit, flush=kind == _FLUSH)
        except Refusal as refusal:
            self.shards.refuse(refusal, flush=kind == _FLUSH)

    def _whole(self, unit: Unit, *, flush: bool) -> None:
        if unit.refusal is not None:
            raise unit.refusal
        if len(unit.steps) == 1:  # nothing but the Sync or Flush
            if not flush:
                self.shards.ready()
            return
        routing = self._routes.get()
        for prepared, _ in unit.bound:
            prepared.read(routing)
        if self.shards.loss is not None and unit.executes:
            self.shards.tell_loss(unit.statements())
        if self._answered(unit):
            return
        opened = flush and unit.executes
        data = unit.data()
        if flush and not opened:  # nothing of it is a transaction's, so a Sync does the same
            data = data[:-5] + b"S\0\0\0\4"
        whole = _is_whole(unit.statements())
        exchange = Exchange(self.shards, data, retry=whole and not opened)
        exchange.unit, exchange.opened, exchange.unready = unit, opened, flush and not opened
        self.shards.send(routing, exchange)

    def _answered(self, unit: Unit) -> bool:
        """Answer a unit of the router's own statements; False when it is for a shard."""
        statements = unit.statements()
        if len(unit.bound) != 1 or len(statements) != 1 or statements[0].kind not in _OWN:
            return False
        answer = self._answer(statements[0])
        if answer is None:
            return False
        for step in unit.steps:
            self._step(step.kind, step.data, answer)
        return True

    def _step(self, kind: int, data: bytes, answer: Answer) -> None:
        if kind == ord("D"):
            if data[wire.HEADER : wire.HEADER + 1] == b"S":
                self.client.write(wire.frame(b"t", b"\0\0"))
            self.client.write(answer.description())
        elif kind == ord("E"):
            self.client.write(answer.rows())
        elif kind == _SYNC:
            self.shards.ready()
        elif (done := _DONE.get(kind)) is not None:
            self.client.write(wire.frame(done))

    # ---- a COPY, or a unit that was flushed in its middle

    def _continue(self, exchange: Exchange, data: bytes) -> None:
        """Pass on what belongs to the unit in flight, which its shard is waiting for."""
        at = min(self._row_rest, len(data))
        sent, end = 0, len(data)
        self._row_rest -= at
        while end - at >= wire.HEADER and (exchange.copying or exchange.opened):
            kind, size = data[at], self._size(data, at)
            row = exchange.copying and kind == _COPY_ROW
            if end - at < size:
                if row:  # a row may be long: it passes in parts
                    self._row_rest, at = size - (end - at), end
                break
            if not row:
                self._pass_on(data[sent:at])
                self._more(exchange, kind, data[at : at + size])
                sent = at + size
            at += size
        self._pass_on(data[sent:at] if sent or at < end else data)
        self._buffer = data[at:]

    def _pass_on(self, data: bytes) -> None:
        if data and self.shards.backend is not None:
            self.shards.backend.send(data)

    def _more(self, exchange: Exchange, kind: int, data: bytes) -> None:
        """Pass on one message of a unit in flight, if it is for the same shard."""
        if exchange.copying:
            if kind in _COPY_ENDS:
                exchange.copying = False
                exchange.opened = exchange.unit is not None  # its Sync is still to come
        elif kind == _SYNC:
            exchange.opened = False
        elif exchange.refusal is not None:
            return
        else:
            unit = Unit()
            try:
                self._statements.add(unit, kind, data)
                self.shards.check_same(unit)
            except Refusal as refusal:
                exchange.refusal = refusal
                data = FAILING_PARSE
        self._pass_on(data)

    # ---- flow

    def _pause(self) -> None:
        if not self.client.is_closing():
            self._paused = True
            self.client.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self.client.is_closing():
            self._paused = False
            self.client.resume_reading()

    def pause_output(self) -> None:
        """The client reads too slowly: stop reading from its shard."""
        backend = self.shards.backend
        if backend is not None and backend.transport is not None and not backend.closed:
            backend.transport.pause_reading()

    def resume_output(self) -> None:
        """The client has read."""
        backend = self.shards.backend
        if backend is not None and backend.transport is not None and not backend.closed:
            backend.transport.resume_reading()

    def _idle(self) -> None:
        """Go on with what the client has sent meanwhile."""
        if not (self._buffer or self._paused or self.on_idle is not None):
            return
        if self.client.is_closing():
            return
        if self.on_idle is not None and self.state.status == b"I":
            self.on_idle()
        data, self._buffer = self._buffer, b""
        self._resume()
        if data:
            self.received(data)

    def close(self) -> None:
        """The client has left."""
        self.shards.close()


_DONE = {ord("P"): b"1", ord("B"): b"2", ord("C"): b"3"}


def _check_alone(reading: Reading) -> None:
    for statement in reading.statements:
        setting = statement.setting
        if setting is not None and setting.name.startswith(PREFIX):
            raise Refusal("0A000", "settings of the router go alone, not beside other statements")
        if statement.kind is Kind.LISTEN:
            raise Refusal("0A000", "LISTEN and NOTIFY do not work through the router")


def _is_whole(statements: Iterable[Statement]) -> bool:
    """Whether a refusal undid all of it, so that it may be sent to another shard."""
    return not any(statement.commits for statement in statements)
