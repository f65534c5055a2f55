"""A sharded database for applications with psycopg: each key's work at its owner.

The fences and guards in PostgreSQL decide who owns a key; the routing map only says where to try
first. So a client may be late without doing harm: it is refused (SQLSTATE PS001), waits for the map
to move, and goes on. resharding.md, 3.3b and 9, has what is asked of a router.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.abc import Params

from reconciler.model.names import Epoch, Scope, ShardName
from reconciler.model.routing import RoutingOwner
from reconciler.sdk import outcome
from reconciler.sdk.config import Config
from reconciler.sdk.dial import Lent, Purpose
from reconciler.sdk.errors import FenceTimeout, KeyRefused
from reconciler.sdk.feed import MapFeed, Patience, monotonic_s
from reconciler.sdk.pool import Pool
from reconciler.sdk.routes import Key, Routes
from reconciler.sdk.scatter import Statement, owned_only

Result = TypeVar("Result")
SCATTER_ROUNDS_MAX = 3
"""A query over all shards is asked again when the map moved under it, this often at most."""


class Shards:
    """Routes, pools, waits out fences. Safe to share between threads; one for each process.

    ::

        with Shards(config) as shards:
            shards.execute(42, "INSERT INTO orders (customer_id, id) VALUES (%s, %s)", [42, 1])
            shards.run(42, lambda tx: tx.execute("UPDATE …"))
            with shards.transaction(42) as tx:
                tx.execute("…")

    Everything may raise NotOpen, NoOwner, KeyTypeMismatch, ShardUnreachable, PasswordRefused and
    PoolExhausted, and psycopg's errors for what PostgreSQL refuses.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._feed = MapFeed(config, self._close_strangers)
        self._pools: dict[tuple[Scope, Purpose], Pool] = {}
        self._making = threading.Lock()

    def open(self) -> Self:
        """Wait for the routing map, and watch it from now on. Raises NoMap, RecordUnreadable."""
        self._feed.start()
        return self

    def close(self) -> None:
        """Close all connections; those in use, when they are given back."""
        self._feed.close()
        for pool in self._pools.values():
            pool.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def epoch(self) -> Epoch:
        """The epoch of the routing map in use."""
        return self._feed.routes.epoch

    def shard_of(self, key: Key) -> ShardName:
        """Return the name of the shard that owns a key by the map in use."""
        return self._feed.routes.owner(key).shard

    @contextmanager
    def transaction(
        self, key: Key, *, isolation: psycopg.IsolationLevel | None = None
    ) -> Iterator[psycopg.Connection]:
        """Lend a connection to a key's owner in a transaction; commit at the end of the body.

        An exception rolls back. Every statement must stay with keys of this one shard. Raises
        KeyRefused, TransactionLost, TransactionAborted, TransactionEnded (all but the last: nothing
        was committed) and OutcomeUnknown.
        """
        routes = self._feed.routes
        pool = self._pool(routes.owner(key), Purpose.WRITE)
        lent, began = _begun(pool, routes.epoch, isolation)
        try:
            try:
                yield lent.connection
            except BaseException as error:
                meaning = outcome.in_body(error, lent.connection, pool.subject)
                if began.__exit__(type(error), error, error.__traceback__):
                    return  # psycopg.Rollback: the body asked for it
                if meaning is error:
                    raise
                raise meaning from error
            _commit(lent.connection, began, pool.subject)
        finally:
            pool.give(lent)

    def run(
        self,
        key: Key,
        body: Callable[[psycopg.Connection], Result],
        *,
        isolation: psycopg.IsolationLevel | None = None,
    ) -> Result:
        """Run a body in a transaction at a key's owner, again after each refusal of the key.

        So the body may be called several times; only the last call is committed. What else fails
        is not repeated. Raises FenceTimeout, and what ``transaction`` raises but KeyRefused.
        """

        def attempt() -> Result | KeyRefused:
            tx: psycopg.Connection | None = None
            try:
                with self.transaction(key, isolation=isolation) as tx:
                    return body(tx)
            except KeyRefused as refused:
                if refused.connection is not tx:  # of a transaction within: its own affair
                    raise
                return refused

        return self._until_owned(attempt)

    def execute(self, key: Key, query: Statement, params: Params | None = None) -> psycopg.Cursor:
        """Run one statement at a key's owner as a transaction of its own, in one round trip.

        Again after each refusal of the key. The cursor holds all rows and outlives the loan. Raises
        FenceTimeout and OutcomeUnknown.

        Not for a ``CALL`` or ``DO`` that commits inside: after a refusal it would begin from its
        start, what it had committed included. Such a one is called once, and says how far it got::

            with shards.session(42) as session:
                session.execute("CALL …")  # KeyRefused: what it committed before stays
        """

        def attempt() -> psycopg.Cursor | KeyRefused:
            routes = self._feed.routes
            pool = self._pool(routes.owner(key), Purpose.WRITE)
            try:
                with _Loan(pool, routes.epoch, Purpose.WRITE) as connection:
                    return connection.execute(query, params)
            except KeyRefused as refused:  # of this one statement: there is nothing within it
                return refused

        return self._until_owned(attempt)

    @contextmanager
    def session(
        self, key: Key, *, read_only: bool = False, standby_ok: bool = False
    ) -> Iterator[psycopg.Connection]:
        """Lend a connection to a key's owner, each statement a transaction of its own.

        ``standby_ok``, for reads only, prefers a standby; what it shows may be older than what was
        just written. Nothing stops a *read* at a former owner in the moments after a move. Raises
        KeyRefused, OutcomeUnknown; ReadLost when ``read_only``.
        """
        routes, purpose = self._feed.routes, purpose_of(read_only, standby_ok)
        pool = self._pool(routes.owner(key), purpose)
        with _Loan(pool, routes.epoch, purpose) as connection:
            yield connection

    def scatter(
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
            found = self._ask_all(routes, query, params, owned, purpose)
            if self._feed.routes.epoch == routes.epoch:
                break
        return found

    def _ask_all(
        self,
        routes: Routes,
        query: LiteralString,
        params: Params | None,
        owned: str | None,
        purpose: Purpose,
    ) -> list[tuple[ShardName, list[tuple[Any, ...]]]]:
        def ask(owner: RoutingOwner) -> tuple[ShardName, list[tuple[Any, ...]]]:
            text: Statement = query
            if owned is not None:
                text = owned_only(query, owned, routes.routing.key_type, owner)
            with _Loan(self._pool(owner, purpose), routes.epoch, purpose) as connection:
                return owner.shard, connection.execute(text, params).fetchall()

        owners: Sequence[RoutingOwner] = routes.serving()
        workers = min(len(owners), self._config.limits.scatter_parallel)
        with ThreadPoolExecutor(workers, "shardwright-scatter") as threads:
            return list(threads.map(ask, owners))

    def _until_owned(self, attempt: Callable[[], Result | KeyRefused]) -> Result:
        """Try until the key is not refused, waiting for the map to move. Raises FenceTimeout."""
        patience: Patience | None = None
        while True:
            epoch = self._feed.routes.epoch
            refused = attempt()
            if not isinstance(refused, KeyRefused):
                return refused
            now_s = monotonic_s()
            patience = patience or Patience(self._config.limits.fence_wait_s, now_s)
            pause_s = patience.next_pause_s(now_s)
            if pause_s is None:
                raise fence_timeout(refused, self._config) from refused
            # A cut that backs out moves no map: the pause ends in another attempt either way.
            if not self._feed.wait_newer(epoch, pause_s) and patience.distrusts_watch:
                self._feed.refresh(epoch)

    def _pool(self, owner: RoutingOwner, purpose: Purpose) -> Pool:
        pool = self._pools.get((owner.scope, purpose))
        if pool is None:
            with self._making:
                pool = self._pools.get((owner.scope, purpose))
                if pool is None:
                    pool = Pool(self._config, self._feed, owner, purpose)
                    self._pools[owner.scope, purpose] = pool
        return pool

    def _close_strangers(self, routes: Routes) -> None:
        """Close the pools of shards that the map has no more."""
        known = {owner.scope for owner in routes.routing.owners}
        with self._making:
            gone = [place for place in self._pools if place[0] not in known]
            for place in gone:
                self._pools.pop(place).close()


class _Loan:
    """A connection to a key's owner, each statement a transaction of its own.

    No generator: two of them a statement cost as much as all else that the client does.
    """

    def __init__(self, pool: Pool, epoch: Epoch, purpose: Purpose) -> None:
        self._pool, self._epoch = pool, epoch
        self._read_only = purpose is not Purpose.WRITE

    def __enter__(self) -> psycopg.Connection:
        self._lent = self._pool.take(self._epoch)
        return self._lent.connection

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        connection, subject = self._lent.connection, self._pool.subject
        try:
            outcome.raise_meaning(error, connection, subject, read_only=self._read_only)
        finally:
            self._pool.give(self._lent)


def purpose_of(read_only: bool, standby_ok: bool) -> Purpose:
    """Return what a session's connection is for. Raises ValueError for writes at a standby."""
    if not read_only:
        if standby_ok:
            raise ValueError("standby_ok needs read_only=True: a standby takes no writes")
        return Purpose.WRITE
    return Purpose.STANDBY if standby_ok else Purpose.READ


def fence_timeout(refused: KeyRefused, config: Config) -> FenceTimeout:
    """Return the error for a key that was refused for too long."""
    return FenceTimeout(
        refused.subject,
        f"refused the key for {config.limits.fence_wait_s:g} s: {refused.problem}",
        remedy="shardwright get operations; does the statement write the key it was routed by?",
    )


def _begun(
    pool: Pool, epoch: Epoch, isolation: psycopg.IsolationLevel | None
) -> tuple[Lent[psycopg.Connection], psycopg.Transaction]:
    """Return a connection in a transaction; one that is lost at BEGIN is replaced by another."""
    while True:
        lent = pool.take(epoch)
        try:
            if lent.connection.isolation_level is not isolation:
                lent.connection.isolation_level = isolation
            # Not connection.transaction(): a generator, which rolls back when it is collected.
            began = psycopg.Transaction(lent.connection)
            began.__enter__()
        except BaseException as error:
            lost = outcome.is_lost(lent.connection)
            pool.give(lent)
            if not lost or not isinstance(error, psycopg.OperationalError):
                raise
        else:
            return lent, began


def _commit(connection: psycopg.Connection, began: psycopg.Transaction, subject: str) -> None:
    """Commit a body that ended well. Raises what ``transaction`` says."""
    refuse = outcome.before_commit(connection, subject)
    if refuse is not None:
        began.__exit__(type(refuse), refuse, None)
        raise refuse
    try:
        began.__exit__(None, None, None)
    except psycopg.Error as error:
        meaning = outcome.in_commit(error, connection, subject)
        if meaning is error:
            raise
        raise meaning from error
