"""The short way: one whole statement of one key, for a session that is in order.

Nearly all that a router does is this, so it copies, decodes and keeps nothing that it need not: the
key is cut out of the client's bytes, which go to the shard as they came. Whatever else it meets it
leaves alone and untouched, to the long way of ``session`` and ``dispatch``, which also tells
mistakes.
"""

from __future__ import annotations

import re
import struct
from struct import Struct

from reconciler.router import wire
from reconciler.router.dispatch import Dispatcher
from reconciler.router.keyed import Constant
from reconciler.router.relay import Exchange
from reconciler.router.routes import CompiledMap, Routes
from reconciler.router.statements import PLAIN_WORDS
from reconciler.router.units import Prepared, Statements, Unit, decoded
from reconciler.router.wire import Refusal

_QUERY, _PARSE, _BIND = b"QPB"
_HINTED = re.compile(
    rb"Q....\s*/\*\s*shard(_key)?\s*:\s*([^\s*'$]+)\s*\*/\s*(?i:%s)\b" % PLAIN_WORDS.encode(),
    re.DOTALL,
)
_EXECUTE_AND_SYNC = wire.frame(b"E", b"\0\0\0\0\0") + wire.frame(b"S")
_ENDS = frozenset((_EXECUTE_AND_SYNC, wire.frame(b"D", b"P\0") + _EXECUTE_AND_SYNC))
"""What comes after a Bind of the unnamed portal, of which all rows are wanted."""

_LENGTH, _SHORT = Struct("!i"), Struct("!h")
_BEGINNING = Struct("!hhi")
"""After the names in a Bind, when all parameters are texts: 0, how many, and the first's length."""


class Quick:
    """The short way of one client; its exchange is used again and again."""

    def __init__(self, shards: Dispatcher, routes: Routes, statements: Statements) -> None:
        self._shards, self._routes, self._statements = shards, routes, statements
        self._state, self._held, self._known = shards.state, shards.held, statements.known
        self._exchange = Exchange(shards, b"")
        shards.recall = self._recall

    def sent(self, data: bytes) -> bool:
        """Send what an idle client asks; False: not done, it is for the long way."""
        routing = self._routes.current
        if routing is None:
            return False
        try:
            if data[0] == _BIND:
                return self._bound(routing, data, 0)
            if data[0] == _QUERY:
                return self._simple(routing, data)
            if data[0] == _PARSE:
                return self._parsed(routing, data)
        except (IndexError, ValueError, struct.error, Refusal):
            pass
        return False

    def _simple(self, routing: CompiledMap, data: bytes) -> bool:
        """Send a simple query with its key in front, or among its constants."""
        found = _HINTED.match(data)
        if len(data) != _LENGTH.unpack_from(data, 1)[0] + 1 or not data.isascii():
            return False
        if found is None:
            wishes = self._state.wishes
            key = routing.shapes.key_of(data[wire.HEADER : -1])
            if key is None or wishes.key or wishes.shard:
                return False
            return self._send(routing, routing.owner_of(key, binary=False), data)
        more = data.find(b";", found.end())
        if more >= 0 and not data[more + 1 : -1].isspace() and more != len(data) - 2:
            return False
        if found[1]:
            return self._send(routing, routing.owner_of(found[2], binary=False), data)
        return self._send(routing, routing.named(found[2].decode()), data)

    def _parsed(self, routing: CompiledMap, data: bytes) -> bool:
        """Send an unnamed Parse, the same as the last one, and its Bind."""
        prepared = self._known.get(b"")
        if prepared is None or not data.startswith(prepared.message):
            return False
        at = len(prepared.message)
        return data[at] == _BIND and self._bound(routing, data, at)

    def _bound(self, routing: CompiledMap, data: bytes, start: int) -> bool:
        """Send a Bind of the unnamed portal, at ``start``, and what executes it."""
        end = start + _LENGTH.unpack_from(data, start + 1)[0] + 1
        if data[start + 5] or data[end:] not in _ENDS:
            return False
        stop = data.index(0, start + 6)
        prepared = self._known.get(data[start + 6 : stop])
        if prepared is None or prepared.reading is None or prepared.epoch != routing.epoch:
            return False
        if start and prepared.name:  # the Parse before it is of another
            return False
        wishes = self._state.wishes
        if (wishes.key or wishes.shard) and not prepared.reading.hint:
            return False
        if prepared.number:
            value, binary = parameter_of(data, stop + 1, end, prepared.number)
            owner = routing.owner_of(value, binary=binary)
        elif isinstance(term := prepared.reading.term, Constant):
            owner = routing.owner_of(term.text.encode(), binary=False)
        else:
            return False
        return self._send(routing, owner, data, prepared, parsed=start > 0)

    def _send(
        self, routing: CompiledMap, owner: int, data: bytes, prepared: Prepared | None = None,
        *, parsed: bool = False,
    ) -> bool:  # fmt: skip
        """Send it, if this client has a session there that is up to date."""
        shards, state = self._shards, self._state
        scope = routing.scopes[owner][state.standby]
        backend = shards.pinned
        if backend is None:
            backend = self._held.get(scope)
            if backend is None or state.status != b"I" or backend.epoch != routing.epoch:
                return False
            if backend.applied != state.version:
                return False
        elif backend.scope != scope or state.status != b"T":
            return False
        if parsed and prepared is not None:
            backend.prepared[b""] = prepared
        elif prepared is not None and backend.prepared.get(prepared.name) is not prepared:
            return False
        exchange = self._exchange
        if not (exchange.quick and exchange.plain):
            exchange = self._exchange = Exchange(shards, data)
            exchange.quick = exchange.plain = True
        exchange.data, exchange.epoch = data, backend.epoch
        exchange.retry = shards.pinned is None
        shards.exchange, shards.backend = exchange, backend
        backend.start(exchange, data)
        return True

    def _recall(self, exchange: Exchange) -> None:
        """Find out what an exchange asks, now that it has to go the long way."""
        if not exchange.quick:
            return
        exchange.quick = False
        data = exchange.data
        if data[0] == _QUERY:
            text = decoded(data[wire.HEADER : -1])
            exchange.reading = self._routes.get().reader.read(text)
            return
        exchange.unit = Unit()
        at = 0
        while at < len(data):
            after = at + wire.read_int(data, at + 1) + 1
            self._statements.add(exchange.unit, data[at], data[at:after])
            at = after


def parameter_of(data: bytes, at: int, end: int, number: int) -> tuple[bytes, bool]:
    """Return a Bind's parameter, and whether it is binary; ``at`` is after the statement's name.

    Raises IndexError or struct.error where there is none.
    """
    formats, values, size = _BEGINNING.unpack_from(data, at)
    if number == 1 and not formats and values > 0 <= size <= end - at - 8:
        return data[at + 8 : at + 8 + size], False
    which = 0 if formats == 1 else number - 1
    binary = formats > 0 and data[at + 3 + 2 * which] == 1
    at += 2 + 2 * formats
    if number > _SHORT.unpack_from(data, at)[0]:
        raise IndexError
    at += 2
    for _ in range(number - 1):
        at += 4 + max(_LENGTH.unpack_from(data, at)[0], 0)
    size = _LENGTH.unpack_from(data, at)[0]
    if size < 0 or at + 4 + size > end:
        raise IndexError
    return data[at + 4 : at + 4 + size], binary
