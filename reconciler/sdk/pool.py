"""Connections to one shard for one purpose; the last one given back is lent first.

Not psycopg_pool: its reconnecting pauses begin at a second and double, which a failover of two
seconds would feel; it keeps four threads a pool, and there is a pool a shard; and it does not know
which epoch a session was told. Here the thread that wants a connection makes it.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import psycopg
from psycopg import sql

from reconciler.model.names import Epoch
from reconciler.model.routing import RoutingOwner
from reconciler.sdk.config import Config
from reconciler.sdk.dial import Attempts, Lent, Purpose, is_quiet, options_of
from reconciler.sdk.feed import MapFeed
from reconciler.sdk.outcome import is_fit, is_lost

_Lent = Lent[psycopg.Connection]


class Pool:
    """Lends connections; safe to share between threads."""

    def __init__(self, config: Config, feed: MapFeed, owner: RoutingOwner, purpose: Purpose):
        self._config, self._feed, self._purpose = config, feed, purpose
        self._owner = owner
        self._idle: deque[_Lent] = deque()
        self._free = threading.Semaphore(config.limits.pool_max)
        self._closed = False
        self.subject = f"shard {owner.shard} of {config.key}"
        """How errors name the shard."""

    def take(self, epoch: Epoch) -> _Lent:
        """Return a connection whose session was told ``epoch``; give it back.

        It is the one of the map by which the caller came here: told a newer one that was heard of
        while it waited, the session would vouch for knowing what has moved away (3.3b). Raises
        ShardUnreachable, PasswordRefused, PoolExhausted.
        """
        attempts = Attempts(self._config, self.subject, time.monotonic())
        if not self._free.acquire(timeout=self._config.limits.checkout_s):
            raise attempts.exhausted()
        lent: _Lent | None = None
        try:
            while True:
                lent = self._unused() or self._connect(attempts, epoch)
                if self._told(lent, epoch):
                    return lent
                lent.connection.close()
        except BaseException:
            self._free.release()
            if lent is not None:
                lent.connection.close()
            raise

    def give(self, lent: _Lent) -> None:
        """Take a connection back; one that is broken or in a transaction is closed."""
        if self._closed or not is_fit(lent.connection):
            lent.connection.close()
        else:
            lent.idle_since_s = time.monotonic()
            self._idle.append(lent)
            self._close_one_that_is_old(lent.idle_since_s)
        self._free.release()

    def close(self) -> None:
        """Close all that are unused; those in use are closed when they are given back."""
        self._closed = True
        while self._idle:
            self._idle.popleft().connection.close()

    def _unused(self) -> _Lent | None:
        """Return an unused connection that looks alive."""
        while True:
            try:
                lent = self._idle.pop()
            except IndexError:  # another thread was quicker, or there is none
                return None
            if not is_lost(lent.connection) and is_quiet(lent.connection.fileno()):
                return lent
            lent.connection.close()

    def _connect(self, attempts: Attempts, epoch: Epoch) -> _Lent:
        while True:
            self._owner = self._feed.routes.newest(self._owner)
            try:
                options = options_of(self._config, self._owner, epoch, self._purpose)
                return Lent(psycopg.connect(**options), epoch)
            except psycopg.OperationalError as error:
                time.sleep(attempts.pause_s(error, time.monotonic()))

    def _told(self, lent: _Lent, epoch: Epoch) -> bool:
        """Tell a session the epoch that it is routed by, if it does not know it (3.3b)."""
        if lent.epoch != epoch:
            try:
                lent.connection.execute(epoch_statement(epoch))
            except psycopg.Error:
                return False
            lent.epoch = epoch
        return True

    def _close_one_that_is_old(self, now_s: float) -> None:
        """One at a time: who gives a connection back shall not wait for the closing of many."""
        try:
            oldest = self._idle.popleft()
        except IndexError:
            return
        if now_s - oldest.idle_since_s > self._config.limits.idle_s:
            oldest.connection.close()
        else:
            self._idle.appendleft(oldest)


def epoch_statement(epoch: Epoch) -> sql.Composed:
    """Return the statement that tells a session its epoch."""
    return sql.SQL("SET shardwright.epoch = {}").format(sql.Literal(int(epoch)))
