"""Pool, for asyncio: the same, word for word, where a thread would wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import psycopg

from reconciler.model.names import Epoch
from reconciler.model.routing import RoutingOwner
from reconciler.sdk.config import Config
from reconciler.sdk.dial import Attempts, Lent, Purpose, is_quiet, options_of
from reconciler.sdk.feed import MapFeed
from reconciler.sdk.outcome import is_fit, is_lost
from reconciler.sdk.pool import epoch_statement

_Lent = Lent[psycopg.AsyncConnection]


class AsyncPool:
    """Lends connections; for tasks of one event loop."""

    def __init__(self, config: Config, feed: MapFeed, owner: RoutingOwner, purpose: Purpose):
        self._config, self._feed, self._purpose = config, feed, purpose
        self._owner = owner
        self._idle: deque[_Lent] = deque()
        self._free = asyncio.Semaphore(config.limits.pool_max)
        self._closed = False
        self.subject = f"shard {owner.shard} of {config.key}"
        """How errors name the shard."""

    async def take(self, epoch: Epoch) -> _Lent:
        """Return a connection whose session was told ``epoch``; give it back.

        It is the one of the map by which the caller came here: told a newer one that was heard of
        while it waited, the session would vouch for knowing what has moved away (3.3b). Raises
        ShardUnreachable, PasswordRefused, PoolExhausted.
        """
        attempts = Attempts(self._config, self.subject, time.monotonic())
        if self._free.locked():
            await self._freed(attempts)
        else:
            await self._free.acquire()  # at once, and so without a timer
        lent: _Lent | None = None
        try:
            while True:
                lent = await self._unused() or await self._connect(attempts, epoch)
                if await self._told(lent, epoch):
                    return lent
                await lent.connection.close()
        except BaseException:
            self._free.release()
            if lent is not None:
                await lent.connection.close()
            raise

    async def _freed(self, attempts: Attempts) -> None:
        """Wait for another to give a connection back. Raises PoolExhausted."""
        try:
            async with asyncio.timeout(self._config.limits.checkout_s):
                await self._free.acquire()
        except TimeoutError:
            raise attempts.exhausted() from None

    async def give(self, lent: _Lent) -> None:
        """Take a connection back; one that is broken or in a transaction is closed."""
        try:
            if self._closed or not is_fit(lent.connection):
                await lent.connection.close()
            else:
                lent.idle_since_s = time.monotonic()
                self._idle.append(lent)
                await self._close_one_that_is_old(lent.idle_since_s)
        finally:  # a task may be cancelled at each await
            self._free.release()

    async def close(self) -> None:
        """Close all that are unused; those in use are closed when they are given back."""
        self._closed = True
        while self._idle:
            await self._idle.popleft().connection.close()

    async def _unused(self) -> _Lent | None:
        """Return an unused connection that looks alive."""
        while True:
            try:
                lent = self._idle.pop()
            except IndexError:
                return None
            if not is_lost(lent.connection) and is_quiet(lent.connection.fileno()):
                return lent
            await lent.connection.close()

    async def _connect(self, attempts: Attempts, epoch: Epoch) -> _Lent:
        while True:
            self._owner = self._feed.routes.newest(self._owner)
            try:
                options = options_of(self._config, self._owner, epoch, self._purpose)
                return Lent(await psycopg.AsyncConnection.connect(**options), epoch)
            except psycopg.OperationalError as error:
                await asyncio.sleep(attempts.pause_s(error, time.monotonic()))

    async def _told(self, lent: _Lent, epoch: Epoch) -> bool:
        """Tell a session the epoch that it is routed by, if it does not know it (3.3b)."""
        if lent.epoch != epoch:
            try:
                await lent.connection.execute(epoch_statement(epoch))
            except psycopg.Error:
                return False
            lent.epoch = epoch
        return True

    async def _close_one_that_is_old(self, now_s: float) -> None:
        """One at a time: who gives a connection back shall not wait for the closing of many."""
        try:
            oldest = self._idle.popleft()
        except IndexError:
            return
        if now_s - oldest.idle_since_s > self._config.limits.idle_s:
            await oldest.connection.close()
        else:
            self._idle.appendleft(oldest)
