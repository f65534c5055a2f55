"""A unit of a client's messages: a simple query, or an extended one up to its Sync or Flush."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.router import wire
from reconciler.router.keyed import Parameter
from reconciler.router.owned import owned_text
from reconciler.router.relay import Backend, Exchange
from reconciler.router.routes import Anywhere, CompiledMap, Destination, Everywhere, Wishes
from reconciler.router.statements import Kind, Reading, Statement
from reconciler.router.wire import Bind, Refusal

STATEMENTS_MAX = 10_000
"""Named prepared statements of one client."""


@dataclass(slots=True, eq=False)
class Prepared:
    """A prepared statement as the client sent it. Equal only to itself.

    ``number``: the parameter that is its one key; 0 when it has none, or was not read.
    """

    name: bytes
    message: bytes
    text: str
    parameters: int = 0
    reading: Reading | None = None
    epoch: int = -1
    number: int = 0
    _owned: dict[int, Prepared] = field(default_factory=dict)

    def read(self, routing: CompiledMap) -> Reading:
        """Return what it says, read once for each map."""
        if self.reading is None or self.epoch != routing.epoch:
            self.reading, self.epoch = routing.reader.read(self.text), routing.epoch
            term = self.reading.term
            self.number = term.number if isinstance(term, Parameter) else 0
            self._owned.clear()
        return self.reading

    def owned(self, routing: CompiledMap, index: int) -> Prepared:
        """Return it confined to the keys of one owner, the same for each map. Raises Refusal."""
        if index not in self._owned:
            spots = self.read(routing).statements[0].confined.spots
            text = owned_text(self.text.encode(), spots, routing.routing, index)
            rest = self.message[wire.HEADER + len(self.name) + len(self.text.encode()) + 2 :]
            message = wire.frame(b"P", self.name + b"\0" + text + b"\0" + rest)
            self._owned[index] = Prepared(self.name, message, text.decode(), self.parameters)
        return self._owned[index]


@dataclass(frozen=True, slots=True)
class Step:
    """One message. ``bind`` and ``prepared`` are what Bind and Parse are about."""

    kind: int
    data: bytes
    prepared: Prepared | None = None
    bind: Bind | None = None


@dataclass(slots=True)
class Unit:
    """An extended query's messages, in order."""

    steps: list[Step] = field(default_factory=list)
    bound: list[tuple[Prepared, Bind]] = field(default_factory=list)
    needs: list[Prepared] = field(default_factory=list)
    """Statements that it uses and does not parse itself."""
    size: int = 0
    executes: bool = False
    refusal: Refusal | None = None
    """What is wrong with one of its messages; the rest of the unit is skipped."""

    def readings(self) -> tuple[Reading, ...]:
        """Return what its Binds are about."""
        return tuple(p.reading for p, _ in self.bound if p.reading)

    def statements(self) -> tuple[Statement, ...]:
        """Return the statements of its Binds."""
        return tuple(s for reading in self.readings() for s in reading.statements)

    def parsed(self) -> list[Prepared]:
        """Return the statements that it parses itself."""
        found = (s.prepared for s in self.steps if s.kind == ord("P"))
        return [prepared for prepared in found if prepared is not None]

    def data(self) -> bytes:
        """Return the messages as they came."""
        return b"".join(step.data for step in self.steps)

    def owned(self, routing: CompiledMap, index: int) -> Unit:
        """Return it with what it asks for confined to the keys of one owner. Raises Refusal."""
        ((asked, bind),) = self.bound
        mine = asked.owned(routing, index)
        steps = [
            Step(s.kind, mine.message if s.kind == ord("P") else s.data, mine, s.bind)
            if s.prepared is asked
            else s
            for s in self.steps
        ]
        needs = [mine if prepared is asked else prepared for prepared in self.needs]
        return Unit(steps, [(mine, bind)], needs, self.size, self.executes)


class Statements:
    """A client's prepared statements and portals, by name."""

    def __init__(self) -> None:
        self.known: dict[bytes, Prepared] = {}

    def add(self, unit: Unit, kind: int, data: bytes) -> None:
        """Append a message to a unit and note what it is about. Raises Refusal, Malformed."""
        unit.size += len(data)
        if kind == ord("P"):
            unit.steps.append(Step(kind, data, self._parse(data)))
        elif kind == ord("B"):
            bind = wire.read_bind(data[wire.HEADER :])
            prepared = self._named(bind.statement)
            self._use(unit, prepared)
            unit.bound.append((prepared, bind))
            unit.executes = True
            unit.steps.append(Step(kind, data, prepared, bind))
        elif kind == ord("D") and data[wire.HEADER : wire.HEADER + 1] == b"S":
            prepared = self._named(data[wire.HEADER + 1 : -1])
            self._use(unit, prepared)
            unit.steps.append(Step(kind, data, prepared))
        elif kind == ord("C") and data[wire.HEADER : wire.HEADER + 1] == b"S":
            closed = self.known.pop(data[wire.HEADER + 1 : -1], None)
            unit.steps.append(Step(kind, data, closed))
        else:
            unit.executes |= kind == ord("E")
            unit.steps.append(Step(kind, data))

    def _parse(self, data: bytes) -> Prepared:
        name, at = wire.read_text(data, wire.HEADER)
        text, at = wire.read_text(data, at)
        if len(self.known) >= STATEMENTS_MAX:
            raise Refusal("54000", f"more than {STATEMENTS_MAX} prepared statements")
        if name and name in self.known:
            raise Refusal("42P05", f'prepared statement "{name.decode(errors="replace")}" exists')
        known = self.known.get(name)
        if known is not None and known.message == data:
            return known  # the unnamed one once more: what was read of it stays
        prepared = Prepared(name, data, decoded(text), wire.read_short(data, at))
        self.known[name] = prepared
        return prepared

    def _named(self, name: bytes) -> Prepared:
        prepared = self.known.get(name)
        if prepared is None:
            shown = name.decode(errors="replace")
            raise Refusal("26000", f'prepared statement "{shown}" does not exist')
        return prepared

    def _use(self, unit: Unit, prepared: Prepared) -> None:
        parsed_here = any(s.kind == ord("P") and s.prepared is prepared for s in unit.steps)
        if not parsed_here and prepared not in unit.needs:
            unit.needs.append(prepared)


def decoded(text: bytes) -> str:
    """Return a statement's text. Raises Refusal."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Refusal(
            "22021", "the statement is not UTF-8", "SET client_encoding TO UTF8"
        ) from None


def _readings_of(exchange: Exchange) -> tuple[Reading, ...]:
    """Return the texts of a unit that has gone the long way."""
    if exchange.unit is not None:
        return exchange.unit.readings()
    return (exchange.reading,) if exchange.reading is not None else ()


def statements_of(exchange: Exchange) -> tuple[Statement, ...]:
    """Return the statements of them."""
    return tuple(s for reading in _readings_of(exchange) for s in reading.statements)


def goes_along(exchange: Exchange) -> bool:
    """Tell whether a unit goes wherever its transaction is: it has no key, and no hint."""
    readings = _readings_of(exchange)
    statements = statements_of(exchange)
    unsaid = all(not s.confined.sharded or s.kind is Kind.OTHER for s in statements)
    return unsaid and not any(reading.hint for reading in readings)


def destination_of(unit: Unit, routing: CompiledMap, wishes: Wishes) -> Destination:
    """Return where a unit goes. Raises Refusal."""
    found: set[Destination] = set()
    for prepared, bind in unit.bound:
        reading = prepared.read(routing)
        for statement in reading.statements:
            if statement.kind is Kind.LISTEN:
                raise Refusal("0A000", "LISTEN and NOTIFY do not work through the router")
            own = statement.setting is not None and statement.setting.name.startswith(
                "shardwright."
            )
            if own and len(unit.bound) > 1:
                raise Refusal("0A000", "settings of the router go alone, not in a pipeline")
        found.add(routing.destination(reading, wishes, bind))
    found.discard(Anywhere())
    if Everywhere() in found and len(unit.bound) > 1:
        raise Refusal("0A000", "asking every shard goes alone, not in a pipeline")
    if len(found) > 1:
        raise Refusal(
            "0A000", "a pipeline up to its Sync is one transaction, and has keys of several shards",
            "send a Sync between statements for different shards",
        )  # fmt: skip
    return found.pop() if found else Anywhere()


Part = tuple[bytes, Unit | None]
"""What one shard is sent of a read of all shards."""


def parts_of(exchange: Exchange, routing: CompiledMap) -> list[Part]:
    """Return, for each serving owner, what it is asked: for its own keys. Raises Refusal."""
    if exchange.unit is not None:
        units = [exchange.unit.owned(routing, index) for index in routing.serving]
        return [(unit.data(), unit) for unit in units]
    assert exchange.reading is not None  # noqa: S101
    spots, text = exchange.reading.statements[0].confined.spots, exchange.data[wire.HEADER : -1]
    owned = [owned_text(text, spots, routing.routing, index) for index in routing.serving]
    return [(wire.frame(b"Q", one + b"\0"), None) for one in owned]


def with_parses(backend: Backend, exchange: Exchange, unit: Unit) -> bytes:
    """Return a unit, and before it the Parse of each statement that this shard lacks."""
    first: list[bytes] = []
    for prepared in unit.needs:
        if backend.prepared.get(prepared.name) is prepared:
            continue
        first += _closed(backend, exchange, prepared.name)
        first.append(prepared.message)
        exchange.parses += 1
        backend.prepared[prepared.name] = prepared
    for prepared in unit.parsed():
        first += _closed(backend, exchange, prepared.name)
        backend.prepared[prepared.name] = prepared
    return b"".join([*first, exchange.data]) if first else exchange.data


def _closed(backend: Backend, exchange: Exchange, name: bytes) -> list[bytes]:
    """A named statement stays until it is closed; the unnamed one is replaced."""
    if not name or name not in backend.prepared:
        return []
    exchange.closes += 1
    return [wire.frame(b"C", b"S" + name + b"\0")]
