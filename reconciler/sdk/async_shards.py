"""Shards, for asyncio: the same, where a thread would wait a task does.

The map is watched by the same thread as in ``shards``; it wakes the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.abc import Params

from reconciler.model.names import Epoch, Scope, ShardName
from reconciler.model.routing import RoutingOwner
from reconciler.sdk import outcome
from reconciler.sdk.async_pool import AsyncPool
from reconciler.sdk.config import Config
from reconciler.sdk.dial import Lent, Purpose
from reconciler.sdk.errors import KeyRefused
from reconciler.sdk.feed import MapFeed, Patience, monotonic_s
from reconciler.sdk.routes import Key, Routes
from reconciler.sdk.scatter import Statement, owned_only
from reconciler.sdk.shards import SCATTER_ROUNDS_MAX, fence_timeout, purpose_of

Result = TypeVar("Result")


class AsyncShards:
    """Routes, pools, waits out fences. For the tasks of one event loop.

    ::

        async with AsyncShards(config) as shards:
            await shards.execute(42, "INSERT INTO orders (customer_id) VALUES (%s)", [42])
            await shards.run(42, lambda tx: tx.execute("UPDATE …"))
            async with shards.transaction(42) as tx:
                await tx.execute("…")

    Everything may raise NotOpen, NoOwner, KeyTypeMismatch, ShardUnreachable, PasswordRefused and
    PoolExhausted, and psycopg's errors for what PostgreSQL refuses.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._feed = MapFeed(config, self._wake)
        self._pools: dict[tuple[Scope, Purpose], AsyncPool] = {}
        self._retired: list[AsyncPool] = []
        self._moved = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Self:
        """Wait for the routing map, and watch it from now on. Raises NoMap, RecordUnreadable."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._feed.start)
        return self

    async def close(self) -> None:
        """Close all connections; those in use, when they are given back."""
        await asyncio.to_thread(self._feed.close)
        for pool in (*self._pools.values(), *self._retired):
            await pool.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def epoch(self) -> Epoch:
        """The epoch of the routing map in use."""
        return self._feed.routes.epoch

    def shard_of(self, key: Key) -> ShardName:
        """Return the name of the shard that owns a key by the map in use."""
        return self._feed.routes.owner(key).shard

    @asynccontextmanager
    async def transaction(
        self, key: Key, *, isolation: psycopg.IsolationLevel | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend a connection to a key's owner in a transaction; commit at the end of the body.

        An exception rolls back. Every statement must stay with keys of this one shard. Raises
        KeyRefused, TransactionLost, TransactionAborted, TransactionEnded (all but the last: nothing
        was committed) and OutcomeUnknown.
        """
        routes = self._feed.routes
        pool = await self._pool(routes.owner(key), Purpose.WRITE)
        lent, began = await _begun(pool, routes.epoch, isolation)
        try:
            try:
                yield lent.connection
            except BaseException as error:
                meaning = outcome.in_body(error, lent.connection, pool.subject)
                if await began.__aexit__(type(error), error, error.__traceback__):
                    return  # psycopg.Rollback: the body asked for it
                if meaning is error:
                    raise
                raise meaning from error
            await _commit(lent.connection, began, pool.subject)
        finally:
            await pool.give(lent)

    async def run(
        self,
        key: Key,
        body: Callable[[psycopg.AsyncConnection], Awaitable[Result]],
        *,
        isolation: psycopg.IsolationLevel | None = None,
    ) -> Result:
        """Run a body in a transaction at a key's owner, again after each refusal of the key.

        So the body may be called several times; only the last call is committed. What else fails
        is not repeated. Raises FenceTimeout, and what ``transaction`` raises but KeyRefused.
        """

        async def attempt() -> Result | KeyRefused:
            tx: psycopg.AsyncConnection | None = None
            try:
                async with self.transaction(key, isolation=isolation) as tx:
                    return await body(tx)
            except KeyRefused as refused:
                if refused.connection is not tx:  # of a transaction within: its own affair
                    raise
                return refused

        return await self._until_owned(attempt)

    async def execute(
        self, key: Key, query: Statement, params: Params | None = None
    ) -> psycopg.AsyncCursor:
        """Run one statement at a key's owner as a transaction of its own, in one round trip.

        Again after each refusal of the key. The cursor holds all rows and outlives the loan. Raises
        FenceTimeout and OutcomeUnknown.

        Not for a ``CALL`` or ``DO`` that commits inside: after a refusal it would begin from its
        start, what it had committed included. Such a one is called once, and says how far it got::

            async with shards.session(42) as session:
                await session.execute("CALL …")  # KeyRefused: what it committed before stays
        """

        async def attempt() -> psycopg.AsyncCursor | KeyRefused:
            routes = self._feed.routes
            pool = await self._pool(routes.owner(key), Purpose.WRITE)
            try:
                async with _Loan(pool, routes.epoch, Purpose.WRITE) as connection:
                    return await connection.execute(query, params)
            except KeyRefused as refused:  # of this one statement: there is nothing within it
                return refused

        return await self._until_owned(attempt)

    @asynccontextmanager
    async def session(
        self, key: Key, *, read_only: bool = False, standby_ok: bool = False
    ) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend a connection to a key's owner, each statement a transaction of its own.

        ``standby_ok``, for reads only, prefers a standby; what it shows may be older than what was
        just written. Nothing stops a *read* at a former owner in the moments after a move. Raises
        KeyRefused, OutcomeUnknown; ReadLost when ``read_only``.
        """
        routes, purpose = self._feed.routes, purpose_of(read_only, standby_ok)
        pool = await self._pool(routes.owner(key), purpose)
        async with _Loan(pool, routes.epoch, purpose) as connection:
            yield connection

    async def scatter(
        self,
        query: LiteralString,
        params: Params | None = None,
        *,
        owned: str | None = None,
        standby_ok: bool = False,
    ) -> list[tuple[ShardName, list[tuple[Any, ...]]]]:
        """Ask all shards the same, read-only and side by side; return each shard's rows.

        After a move its source keeps the moved rows for a while. Name the key's column in
        ``owned`` and write ``{owned}`` as a condition of the query, and each row is seen once::

            shards.scatter("SELECT count(*) FROM orders WHERE {owned}", owned="customer_id")

        The shards are not read at one instant. When the map moved meanwhile, all are asked again.
        Raises ReadLost.
        """
        purpose = purpose_of(True, standby_ok)
        for _ in range(SCATTER_ROUNDS_MAX):
            routes = self._feed.routes
            found = await self._ask_all(routes, query, params, owned, purpose)
            if self._feed.routes.epoch == routes.epoch:
                break
        return found

    async def _ask_all(
        self,
        routes: Routes,
        query: LiteralString,
        params: Params | None,
        owned: str | None,
        purpose: Purpose,
    ) -> list[tuple[ShardName, list[tuple[Any, ...]]]]:
        side_by_side = asyncio.Semaphore(self._config.limits.scatter_parallel)

        async def ask(owner: RoutingOwner) -> tuple[ShardName, list[tuple[Any, ...]]]:
            text: Statement = query
            if owned is not None:
                text = owned_only(query, owned, routes.routing.key_type, owner)
            async with side_by_side:
                pool = await self._pool(owner, purpose)
                async with _Loan(pool, routes.epoch, purpose) as connection:
                    cursor = await connection.execute(text, params)
                    return owner.shard, await cursor.fetchall()

        tasks = [asyncio.create_task(ask(owner)) for owner in routes.serving()]
        try:
            return await asyncio.gather(*tasks)
        finally:  # one failed: the others' answers are of no use
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_owned(self, attempt: Callable[[], Awaitable[Result | KeyRefused]]) -> Result:
        """Try until the key is not refused, waiting for the map to move. Raises FenceTimeout."""
        patience: Patience | None = None
        while True:
            epoch = self._feed.routes.epoch
            refused = await attempt()
            if not isinstance(refused, KeyRefused):
                return refused
            now_s = monotonic_s()
            patience = patience or Patience(self._config.limits.fence_wait_s, now_s)
            pause_s = patience.next_pause_s(now_s)
            if pause_s is None:
                raise fence_timeout(refused, self._config) from refused
            # A cut that backs out moves no map: the pause ends in another attempt either way.
            if not await self._wait_newer(epoch, pause_s) and patience.distrusts_watch:
                await asyncio.to_thread(self._feed.refresh, epoch)

    async def _wait_newer(self, epoch: Epoch, timeout_s: float) -> bool:
        """Wait for a map of another epoch; tell whether there is one."""
        moved = self._moved
        if self._feed.routes.epoch == epoch:
            with suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), timeout_s)
        return self._feed.routes.epoch != epoch

    async def _pool(self, owner: RoutingOwner, purpose: Purpose) -> AsyncPool:
        while self._retired:
            await self._retired.pop().close()
        pool = self._pools.get((owner.scope, purpose))
        if pool is None:
            pool = AsyncPool(self._config, self._feed, owner, purpose)
            self._pools[owner.scope, purpose] = pool
        return pool

    def _wake(self, routes: Routes) -> None:
        """Tell the event loop, from the feed's thread; a loop that has ended needs no news."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take_note, routes)

    def _take_note(self, routes: Routes) -> None:
        """Wake who waits for a map, and retire the pools of shards that it has no more."""
        self._moved.set()
        self._moved = asyncio.Event()
        known = {owner.scope for owner in routes.routing.owners}
        for place in [place for place in self._pools if place[0] not in known]:
            self._retired.append(self._pools.pop(place))


class _Loan:
    """A connection to a key's owner, each statement a transaction of its own.

    No generator: two of them a statement cost as much as all else that the client does.
    """

    def __init__(self, pool: AsyncPool, epoch: Epoch, purpose: Purpose) -> None:
        self._pool, self._epoch = pool, epoch
        self._read_only = purpose is not Purpose.WRITE

    async def __aenter__(self) -> psycopg.AsyncConnection:
        self._lent = await self._pool.take(self._epoch)
        return self._lent.connection

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        connection, subject = self._lent.connection, self._pool.subject
        try:
            outcome.raise_meaning(error, connection, subject, read_only=self._read_only)
        finally:
            await self._pool.give(self._lent)


async def _begun(
    pool: AsyncPool, epoch: Epoch, isolation: psycopg.IsolationLevel | None
) -> tuple[Lent[psycopg.AsyncConnection], psycopg.AsyncTransaction]:
    """Return a connection in a transaction; one that is lost at BEGIN is replaced by another."""
    while True:
        lent = await pool.take(epoch)
        try:
            if lent.connection.isolation_level is not isolation:
                await lent.connection.set_isolation_level(isolation)
            # Not connection.transaction(): a generator, which rolls back when it is collected.
            began = psycopg.AsyncTransaction(lent.connection)
            await began.__aenter__()
        except BaseException as error:
            lost = outcome.is_lost(lent.connection)
            await pool.give(lent)
            if not lost or not isinstance(error, psycopg.OperationalError):
                raise
        else:
            return lent, began


async def _commit(
    connection: psycopg.AsyncConnection, began: psycopg.AsyncTransaction, subject: str
) -> None:
    """Commit a body that ended well. Raises what ``transaction`` says."""
    refuse = outcome.before_commit(connection, subject)
    if refuse is not None:
        await began.__aexit__(type(refuse), refuse, None)
        raise refuse
    try:
        await began.__aexit__(None, None, None)
    except psycopg.Error as error:
        meaning = outcome.in_commit(error, connection, subject)
        if meaning is error:
            raise
        raise meaning from error
