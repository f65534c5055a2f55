"""From a client to its shards and back: sessions that it holds, transactions, and being held back.

A transaction is *deferred* until its first statement that names a shard, then *pinned* to a
session there until it ends. An error of the router's own inside a pinned transaction must fail it
at the shard too: the shard is sent something that it refuses, and the client is told our words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from reconciler.router import wire
from reconciler.router.answers import SessionState
from reconciler.router.login import cancel
from reconciler.router.pool import Pools
from reconciler.router.relay import Backend, Exchange, run
from reconciler.router.routes import Anywhere, CompiledMap, Destination, Everywhere, Routes
from reconciler.router.scatter import Scatter
from reconciler.router.statements import Kind, Statement
from reconciler.router.units import (
    Part,
    Unit,
    destination_of,
    goes_along,
    parts_of,
    statements_of,
    with_parses,
)  # fmt: skip
from reconciler.router.wire import Refusal

_FAILING = wire.query("refused by the shardwright router")
"""No statement, so the shard's parser refuses it and fails the transaction."""

FAILING_PARSE = wire.frame(b"P", b"\0refused by the shardwright router\0\0\0")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one client.

    ``message_bytes_max``: one message, and one unit. ``hold_s``: how long a client is held back
    for a new routing map. ``probe_s``: while held, how often the shard is asked again (a cut may
    have backed out). ``ahead_bytes_max``: what a client may send before its last unit is answered.
    ``cancel_s``: reaching a shard to cancel.
    """

    message_bytes_max: int = 64 << 20
    hold_s: float = 30.0
    probe_s: float = 0.25
    ahead_bytes_max: int = 1 << 20
    cancel_s: float = 3.0


class Dispatcher:
    """Sends one unit at a time, and owns its exchange. ``idle`` is called when it is answered."""

    def __init__(
        self, write: Callable[[bytes], None], idle: Callable[[], None], routes: Routes,
        pools: Pools, limits: SessionLimits, number: int,
    ) -> None:  # fmt: skip
        self.write = write
        self.state = SessionState()
        self.exchange: Exchange | None = None
        self.backend: Backend | None = None
        self.pinned: Backend | None = None
        self.task: asyncio.Task[None] | None = None
        self.skip_to_sync = False
        self.loss: Refusal | None = None
        """The client's transaction was lost between two statements, and it was not told yet."""
        self.pause_input: Callable[[], None] = _nothing
        self.resume_input: Callable[[], None] = _nothing
        self.recall: Callable[[Exchange], None] = _nothing
        self._idle, self._routes, self._pools = idle, routes, pools
        self._limits, self._number = limits, number
        self.held: dict[tuple[str, bool], Backend] = {}

    @property
    def busy(self) -> bool:
        """Whether a unit is being answered."""
        return self.exchange is not None or self.task is not None

    def ready(self) -> None:
        """Tell the client that it may go on."""
        self.write(wire.ready(self.state.status))

    def refuse(self, refusal: Refusal, *, flush: bool = False) -> None:
        """Answer a unit with an error; ``flush``: the unit's Sync is still to come."""
        self.skip_to_sync = flush
        if self.pinned is not None and self.state.status == b"T":
            exchange = Exchange(self, b"")
            exchange.refusal, exchange.unready = refusal, flush
            self._start(self.pinned, exchange, self.pinned.epoch)
            return
        if self.state.status == b"T":
            self.state.status, self.state.deferred = b"E", None
        self.write(wire.error(refusal))
        if not flush:
            self.ready()

    def tell_loss(self, statements: tuple[Statement, ...]) -> None:
        """Tell that a transaction was lost meanwhile, as the error of what comes next.

        A COMMIT must not pass for done; a ROLLBACK has what it wants. Raises Refusal.
        """
        loss, self.loss = self.loss, None
        kinds = {statement.kind for statement in statements}
        if loss is None or kinds == {Kind.ROLLBACK}:
            return
        if Kind.COMMIT in kinds:
            self.state.status = b"I"
        raise loss

    # ---- to a shard

    def where(self, routing: CompiledMap, exchange: Exchange) -> Destination:
        """Return where a unit goes. Raises Refusal."""
        if self.pinned is not None:
            if goes_along(exchange):
                return Anywhere()
        elif self.state.status == b"E" and (exchange.unit is None or exchange.unit.executes):
            raise Refusal("25P02", "current transaction is aborted, commands ignored until its end")
        if exchange.unit is not None:
            return destination_of(exchange.unit, routing, self.state.wishes)
        assert exchange.reading is not None  # noqa: S101
        return routing.destination(exchange.reading, self.state.wishes, None)

    def send(self, routing: CompiledMap, exchange: Exchange) -> None:
        """Send a unit now when its session is at hand, otherwise when it is. Raises Refusal."""
        where = self.where(routing, exchange)
        unit = exchange.unit
        exchange.apart = unit is not None and not unit.executes and self.pinned is None
        if isinstance(where, Everywhere):
            if self.state.status != b"I":
                raise Refusal("0A000", "a transaction is of one shard; ask every shard outside it")
            self._spawn(self._scatter(routing, exchange, parts_of(exchange, routing)))
            return
        scope = self._scope(routing, where)
        pinned = self.pinned
        if pinned is not None:
            if scope != pinned.scope:
                raise routing.of_another_shard(pinned.scope[0], pinned.epoch, scope[0])
            exchange.retry = False
            self._start(pinned, exchange, pinned.epoch)
            return
        backend = self.held.get(scope)
        version = self.state.version
        if backend is not None and backend.epoch == routing.epoch and backend.applied == version:
            self._start(backend, exchange, routing.epoch)
        else:
            self._spawn(self._send_later(routing, exchange, scope))

    def check_same(self, unit: Unit) -> None:
        """Check that more of a flushed unit is for the shard that has its beginning.

        Raises Refusal.
        """
        backend, routing = self.backend, self._routes.get()
        assert backend is not None  # noqa: S101
        for prepared, _ in unit.bound:
            prepared.read(routing)
        for prepared in unit.needs:
            if backend.prepared.get(prepared.name) is not prepared:
                raise Refusal("0A000", "the statement is not prepared here", "send a Sync first")
        for prepared in unit.parsed():
            if prepared.name in backend.prepared and prepared.name:
                raise Refusal("42P05", "the statement was prepared before", "send a Sync first")
            backend.prepared[prepared.name] = prepared
        where = destination_of(unit, routing, self.state.wishes)
        if isinstance(where, Everywhere):
            raise Refusal("0A000", "asking every shard goes alone, not in a pipeline")
        if not isinstance(where, Anywhere) and self._scope(routing, where) != backend.scope:
            raise Refusal(
                "0A000", "a pipeline up to its Sync is one transaction, of one shard",
                "send a Sync between statements for different shards",
            )  # fmt: skip

    def _scope(self, routing: CompiledMap, where: Destination) -> tuple[str, bool]:
        if not isinstance(where, Anywhere):
            assert not isinstance(where, Everywhere)  # noqa: S101
            return str(routing.owner(where.owner).scope), self.state.standby
        if self.pinned is not None:
            return self.pinned.scope
        last = self.backend
        if last is not None and not last.closed and last.scope[1] == self.state.standby:
            return last.scope
        index = routing.serving[self._number % len(routing.serving)] if routing.serving else 0
        return str(routing.owner(index).scope), self.state.standby

    def _start(self, backend: Backend, exchange: Exchange, epoch: int) -> None:
        data = exchange.data or _FAILING
        if exchange.unit is not None:
            data = with_parses(backend, exchange, exchange.unit)
        if self.state.deferred and self.pinned is None and not exchange.apart:
            exchange.quiet = len(self.state.deferred)
            data = b"".join(wire.query(sql) for sql in self.state.deferred) + data
        exchange.epoch, exchange.plain = epoch, exchange.is_plain()
        self.exchange, self.backend = exchange, backend
        backend.start(exchange, data)

    async def _send_later(
        self, routing: CompiledMap, exchange: Exchange, scope: tuple[str, bool]
    ) -> None:
        backend = await self._session_at(scope, routing)
        self._start(backend, exchange, routing.epoch)

    async def _session_at(self, scope: tuple[str, bool], routing: CompiledMap) -> Backend:
        """Return this client's session at a shard, with all that it has set. Raises Refusal."""
        backend = self.held.get(scope)
        if backend is None or backend.closed:
            backend = await self._pools.of(*scope).take()
            self.held[scope] = backend
        backend.owner = None
        texts = [f"SET shardwright.epoch = '{routing.epoch}'"]
        if backend.applied != self.state.version:
            texts = [*(["RESET ALL"] if backend.applied >= 0 else []),
                     *self.state.settings.values(), *texts]  # fmt: skip
        try:
            await run(backend, ";".join(texts))
        except BaseException:
            self._drop(backend)
            raise
        backend.applied, backend.epoch, backend.owner = self.state.version, routing.epoch, self
        return backend

    def _drop(self, backend: Backend) -> None:
        if self.held.get(backend.scope) is not backend:
            return
        del self.held[backend.scope]
        pool = self._pools.of(*backend.scope)
        if backend.closed:
            pool.gone()
        else:
            pool.give_back(backend)

    async def _scatter(self, routing: CompiledMap, exchange: Exchange, parts: list[Part]) -> None:
        legs = [
            await self._session_at((str(routing.owner(i).scope), self.state.standby), routing)
            for i in routing.serving
        ]
        scatter = Scatter(self.write, legs)
        for leg, (data, unit) in zip(legs, parts, strict=True):
            part = Exchange(scatter.leg(leg), data)
            part.unready = True
            leg.start(part, data if unit is None else with_parses(leg, part, unit))
        await scatter.done
        if exchange.unready:
            self.skip_to_sync = scatter.failed
        else:
            self.ready()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(self._worked(work))

    async def _worked(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refusal as refusal:
            self.task = None
            self.refuse(refusal)
        self.task = None
        if not self.busy:
            self._idle()

    # ---- from a shard

    def finished(self, backend: Backend, exchange: Exchange, status: bytes) -> None:
        """Take the end of an answer."""
        self.exchange = None
        if exchange.quick and exchange.plain and status == self.state.status:
            self._idle()
            return
        if exchange.caught is not None:
            self._spawn(self._hold(backend, exchange))
            return
        if not exchange.apart:
            self._settle(backend, exchange, status)
            self.state.status, self.state.deferred = status, None
            self.pinned = None if status == b"I" else backend
        if exchange.failed and exchange.unready:
            self.skip_to_sync = True
        if self.task is None:
            self._idle()

    def _settle(self, backend: Backend, exchange: Exchange, status: bytes) -> None:
        """Remember settings once they are sure to stay."""
        state = self.state
        statements = statements_of(exchange)
        if not exchange.failed:
            for statement in statements:
                if statement.kind is Kind.SET and statement.setting is not None:
                    state.uncommitted[statement.setting.name] = statement
        if status != b"I" or not state.uncommitted:
            return
        undone = exchange.failed or any(s.kind is Kind.ROLLBACK for s in statements)
        if not undone and state.status != b"E":
            current = backend.applied == state.version
            for statement in state.uncommitted.values():
                state.note(statement)
            if current:
                backend.applied = state.version
        state.uncommitted.clear()

    async def _hold(self, backend: Backend, exchange: Exchange) -> None:
        """Hold the client back until its keys have a shard again, then send its unit once more."""
        self.recall(exchange)
        if backend.status != b"I":
            backend.owner = None
            await run(backend, "ROLLBACK")
            backend.owner = self
        now = asyncio.get_running_loop().time()
        exchange.deadline = exchange.deadline or now + self._limits.hold_s
        guard, left = exchange.refused_epoch(), exchange.deadline - now
        if guard is not None and guard <= exchange.epoch:
            raise _refused(exchange, "a row's key is not the key that the statement was sent by")
        if left <= 0:
            raise _refused(exchange, f"held back for {self._limits.hold_s:g} s; nothing was done")
        await self._routes.newer(exchange.epoch, min(left, self._limits.probe_s))
        routing = self._routes.get()
        exchange.reset()
        where = self.where(routing, exchange)
        backend = await self._session_at(self._scope(routing, where), routing)
        self._start(backend, exchange, routing.epoch)

    def lost(self, backend: Backend, exchange: Exchange | None) -> None:
        """A session at a shard is gone."""
        self._drop(backend)
        pinned = self.pinned is backend
        if pinned:
            self.pinned = None
            self.state.status, self.state.deferred = b"E", None
        reason = backend.fatal.get("M", "the connection was lost")
        shard = f"shard {backend.scope[0]} went away"
        if exchange is None:
            if self.state.status == b"E" and pinned:
                text = f"{shard}; the transaction was rolled back"
                self.loss = Refusal("08006", text, "begin it again", reason)
            return
        self.exchange = None
        if any(s.kind is Kind.COMMIT for s in statements_of(exchange)):
            self.state.status = b"I"  # as in PostgreSQL, a COMMIT that fails ends it all the same
        elif self.state.status == b"T":
            self.state.status = b"E"
        self.state.deferred = None
        self.state.uncommitted.clear()
        refusal = Refusal(
            "08007",
            f"{shard} in the middle of a statement",
            "find out whether it was done before you repeat it",
            reason,
        )
        self.write(wire.error(refusal))
        if exchange.opened or exchange.unready:
            self.skip_to_sync = True
        else:
            self.ready()
        if self.task is None:
            self._idle()

    # ---- the client's end

    def give_back(self) -> None:
        """Return all sessions; they are reset."""
        for backend in list(self.held.values()):
            self._drop(backend)
        self.backend = None

    async def cancel(self) -> None:
        """Cancel what is in flight, wherever it is."""
        exchange, backend = self.exchange, self.backend
        if exchange is not None and backend is not None:
            await cancel(backend.address, backend.pid, backend.secret, self._limits.cancel_s)
        elif self.task is not None:
            self.task.cancel()
            self.task = None
            self.refuse(Refusal("57014", "canceling statement due to user request"))
            self._idle()

    def close(self) -> None:
        """The client has left."""
        if self.task is not None:
            self.task.cancel()
        self.pinned = None
        self.give_back()


def _nothing(*_: object) -> None:
    return


def _refused(exchange: Exchange, why: str) -> Refusal:
    fields = exchange.caught or {}
    return Refusal(fields.get("C", "PS001"), fields.get("M", "refused"), why, fields.get("D", ""))
