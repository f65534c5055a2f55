"""The ways by which a ledger reaches its shards: our SDK, the router, or straight at a map."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel

from reconciler.edges.local.secrets_store import CredentialMissing
from reconciler.model.hashing import position_of_key
from reconciler.model.routing import RoutingMap, RoutingOwner
from reconciler.sdk import (
    AsyncShards,
    Config,
    OutcomeUnknown,
    PoolExhausted,
    ReadLost,
    Shards,
    ShardUnreachable,
    TransactionLost,
)
from reconciler.sdk.routes import Key
from tests.ledger import Again, NotDone, Query, Refused, Rows, Unknown

_AGAIN = ("40001", "40P01")
_NOT_DONE = (TransactionLost, ShardUnreachable, PoolExhausted, ReadLost)


@contextmanager
def _sdk_meanings() -> Iterator[None]:
    try:
        yield
    except OutcomeUnknown as error:
        raise Unknown(str(error)) from error
    except _NOT_DONE as error:
        raise NotDone(str(error)) from error
    except psycopg.Error as error:
        if error.sqlstate in _AGAIN:
            raise Again from error
        raise


class SdkSession:
    """A client with the sync SDK; a refusal never reaches it."""

    def __init__(self, config: Config) -> None:
        self._shards = Shards(config).open()

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        with _sdk_meanings():
            if level is None:
                ((query, params),) = work
                return [self._shards.execute(key, query, params).fetchall()]
            return self._shards.run(
                key, lambda tx: [tx.execute(q, p).fetchall() for q, p in work], isolation=level
            )

    def close(self) -> None:
        self._shards.close()


class AsyncSdkSession:
    """A client with the async SDK, its loop in a thread."""

    def __init__(self, config: Config) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._shards = AsyncShards(config)
        asyncio.run_coroutine_threadsafe(self._shards.open(), self._loop).result()

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        with _sdk_meanings():
            return asyncio.run_coroutine_threadsafe(
                self._run(key, work, level), self._loop
            ).result()

    async def _run(
        self, key: Key, work: Sequence[Query], level: IsolationLevel | None
    ) -> list[Rows]:
        if level is None:
            ((query, params),) = work
            return [await (await self._shards.execute(key, query, params)).fetchall()]

        async def body(tx: psycopg.AsyncConnection) -> list[Rows]:
            return [await (await tx.execute(query, params)).fetchall() for query, params in work]

        return await self._shards.run(key, body, isolation=level)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shards.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _work(
    connection: psycopg.Connection[Any], work: Sequence[Query], level: IsolationLevel | None
) -> list[Rows]:
    if level is None:
        ((query, params),) = work
        return [connection.execute(query, params).fetchall()]
    connection.isolation_level = level
    with connection.transaction():
        return [connection.execute(query, params).fetchall() for query, params in work]


class RouterSession:
    """A client with one connection to a router; it connects again when it is lost.

    A transaction that meets the fence after its first statement is refused whole, and run again;
    a statement of its own is never refused.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(**self._options, autocommit=True)
        except psycopg.OperationalError as error:
            raise NotDone(str(error)) from error
        try:
            return _work(self._connection, work, level)
        except psycopg.Error as error:
            if error.sqlstate in _AGAIN:
                raise Again from error
            if error.sqlstate == "PS001" and level is not None:
                raise Refused from error
            if error.sqlstate == "08006":
                raise NotDone(str(error)) from error
            if error.sqlstate == "08007" or self._connection.closed:
                raise Unknown(str(error)) from error
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class MapSession:
    """A client of its own making: it goes where the map says; ``stale`` never reads it again.

    It tells no epoch, as clients do that know nothing of Shardwright.
    """

    def __init__(
        self,
        read_map: Callable[[], RoutingMap],
        connect: Callable[[RoutingMap, RoutingOwner], psycopg.Connection[Any]],
        *,
        stale: bool = False,
        tells_epoch: bool = False,
    ) -> None:
        self._read_map, self._connect = read_map, connect
        self._stale, self._tells_epoch = stale, tells_epoch
        self._routing = read_map()
        self._sessions: dict[str, psycopg.Connection[Any]] = {}

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        connection = self._session(key)
        try:
            return _work(connection, work, level)
        except psycopg.Error as error:
            if error.sqlstate in _AGAIN:
                raise Again from error
            if error.sqlstate == "PS001":
                self._hear()
                raise Refused from error
            self.close()
            raise Unknown(str(error)) from error

    def _hear(self) -> None:
        if self._stale:
            return
        newest = self._read_map()
        if newest.epoch != self._routing.epoch:
            self.close()
            self._routing = newest

    def _session(self, key: Key) -> psycopg.Connection[Any]:
        position = position_of_key(self._routing.key_type, str(key))
        owner = self._routing.owner_of(position)
        assert owner is not None
        known = self._sessions.get(owner.scope)
        if known is not None and not known.closed:
            return known
        try:
            connection = self._connect(self._routing, owner)
            connection.autocommit = True
            if self._tells_epoch:
                connection.execute(f"SET shardwright.epoch = '{self._routing.epoch}'")
        except (psycopg.Error, CredentialMissing) as error:  # its shard has retired meanwhile
            self._hear()
            raise NotDone(str(error)) from error
        self._sessions[owner.scope] = connection
        return connection

    def close(self) -> None:
        for connection in self._sessions.values():
            connection.close()
        self._sessions.clear()
