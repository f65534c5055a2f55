"""Sessions at the shards: found at the primary or a standby, lent to clients, reset, kept.

A client keeps a session from its first use of a shard until it leaves. What it leaves behind is
reset by DISCARD ALL before anybody else gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.model.platform import Credential
from reconciler.model.routing import RoutingMember, RoutingOwner
from reconciler.router.authority import Authority
from reconciler.router.login import open_backend
from reconciler.router.relay import Backend, Exchange, run
from reconciler.router.routes import Routes
from reconciler.router.scram import LoginFailed
from reconciler.router.wire import Refusal

LOOK_AGAIN_S = 0.05
CLOCK_S = 0.01
"""The loop's clock is coarse, though finer than this, so that a timer may seem to be early."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool: one shard, one role.

    ``backends_max``: sessions open at once. ``idle_max``: of these, kept without a client; more are
    kept for ``idle_s``, for clients that come again. ``connect_s``: one attempt at one member.
    ``find_s``: until a primary must be found. ``wait_s``: for a session of another client.
    """

    backends_max: int = 80
    idle_max: int = 20
    idle_s: float = 60.0
    connect_s: float = 3.0
    find_s: float = 15.0
    wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Access:
    """How to log in at the shards. ``credential_of`` takes a shard's scope."""

    database: str
    credential_of: Callable[[str], Credential] = field(repr=False)
    authority: Authority | None = None


class Pool:
    """The sessions of one shard in one role."""

    def __init__(
        self, scope: str, standby: bool, access: Access, routes: Routes, limits: PoolLimits
    ) -> None:
        self.scope, self.standby = scope, standby
        self.parameters: dict[str, str] = {}
        self._access, self._routes, self._limits = access, routes, limits
        self._idle: deque[Backend] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open = 0
        self._all: set[Backend] = set()
        self._last = ""
        self._resets: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        """How many sessions wait for a client."""
        return len(self._idle)

    async def take(self) -> Backend:
        """Return a session that is nobody else's. Raises Refusal."""
        while True:
            while self._idle:
                backend = self._idle.pop()
                if not backend.closed:
                    return backend
            if self._open < self._limits.backends_max:
                self._open += 1
                try:
                    return await self._found()
                except BaseException:
                    self._left()
                    raise
            await self._wait()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._limits.wait_s):
                await waiter
        except TimeoutError:
            raise Refusal(
                "53300",
                f"all {self._limits.backends_max} sessions of shard {self.scope} are in use",
                "close idle clients, or raise --backends-max and the shard's max_connections",
            ) from None
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def give_back(self, backend: Backend) -> None:
        """Take a session back; what is in flight on it is cut off."""
        backend.owner = self
        if backend.closed:
            return
        if backend.exchange is not None:
            backend.abort()
            self._left()
            return
        task = asyncio.get_running_loop().create_task(self._reset(backend))
        self._resets.add(task)
        task.add_done_callback(self._resets.discard)

    async def _reset(self, backend: Backend) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                if backend.status != b"I":
                    await run(backend, "ROLLBACK")
                await run(backend, "DISCARD ALL")
        except (Refusal, TimeoutError):
            if not backend.closed:
                backend.close()
            self._left()
            return
        backend.prepared.clear()
        backend.epoch = backend.applied = -1
        self._idle.append(backend)
        loop = asyncio.get_running_loop()
        backend.idle_since = loop.time()
        loop.call_later(self._limits.idle_s, self._trim)
        self._wake()

    def _trim(self) -> None:
        """Close the session that is idle for longest, when that is too long and they are many."""
        if len(self._idle) > self._limits.idle_max:
            idle_s = asyncio.get_running_loop().time() - self._idle[0].idle_since
            if idle_s >= self._limits.idle_s - CLOCK_S:
                self._idle.popleft().close()
                self._left()

    def _left(self) -> None:
        self._open -= 1
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
                return

    def gone(self) -> None:
        """A session that was lent was lost."""
        self._left()

    def write(self, data: bytes) -> None:
        """Notices to an idle session are nobody's."""

    def finished(self, backend: Backend, exchange: Exchange, status: bytes) -> None:
        """Nothing is in flight on idle sessions."""

    def lost(self, backend: Backend, exchange: Exchange | None) -> None:  # noqa: ARG002
        """An idle session ended: its server stopped."""
        with contextlib.suppress(ValueError):
            self._idle.remove(backend)
            self._left()

    def close(self) -> None:
        """Close all sessions; the clients have left."""
        for task in self._resets:
            task.cancel()
        while self._idle:
            self._idle.pop().close()
        for backend in self._all:
            if not backend.closed:
                backend.abort()

    def _owner(self) -> RoutingOwner:
        for owner in self._routes.get().routing.owners:
            if owner.scope == self.scope:
                return owner
        raise Refusal("57P03", f"shard {self.scope} is not in the routing map any more")

    async def _found(self) -> Backend:
        """Try the members, the last good one first, until one has the wanted role."""
        deadline = asyncio.get_running_loop().time() + self._limits.find_s
        last = "no member is known"
        while True:
            members = self._owner().members
            for member in sorted(members, key=lambda m: m.name != self._last):
                backend, last = await self._try(member, last)
                if backend is not None:
                    self._last = member.name
                    return backend
            if self.standby and members:
                raise Refusal("57P03", f"shard {self.scope} has no standby that answers: {last}")
            if asyncio.get_running_loop().time() > deadline:
                what = f"no primary of shard {self.scope} within {self._limits.find_s:g} s: {last}"
                raise Refusal("57P03", what, "shardwright get instances")
            await asyncio.sleep(LOOK_AGAIN_S)

    def _tls(self) -> ssl.SSLContext | None:
        return self._access.authority.context() if self._access.authority else None

    async def _try(self, member: RoutingMember, last: str) -> tuple[Backend | None, str]:
        access = self._access
        try:
            credential = access.credential_of(self.scope)
            backend, parameters = await open_backend(
                member.endpoint, credential, access.database, self._tls(), self._limits.connect_s
            )
        except (OSError, TimeoutError, Refusal, LoginFailed) as problem:
            text = problem.text if isinstance(problem, Refusal) else str(problem)
            return None, f"{member.name}: {text or type(problem).__name__}"
        if (parameters.get("in_hot_standby") == "on") != self.standby:
            backend.close()
            return None, f"{member.name} is {'no' if self.standby else 'a'} standby"
        self.parameters = parameters
        backend.scope = (self.scope, self.standby)
        self._all = {one for one in self._all if not one.closed} | {backend}
        return backend, last


class Pools:
    """All pools of a router, made when first used."""

    def __init__(self, access: Access, routes: Routes, limits: PoolLimits) -> None:
        self._access, self._routes, self._limits = access, routes, limits
        self._pools: dict[tuple[str, bool], Pool] = {}

    def of(self, scope: str, standby: bool = False) -> Pool:
        """Return a shard's pool."""
        pool = self._pools.get((scope, standby))
        if pool is None:
            pool = self._pools[scope, standby] = Pool(
                scope, standby, self._access, self._routes, self._limits
            )
        return pool

    def idle(self) -> int:
        """Return how many sessions wait for a client."""
        return sum(pool.idle for pool in self._pools.values())

    def parameters(self) -> dict[str, str]:
        """Return what some shard reported at login; empty before the first."""
        return next((p.parameters for p in self._pools.values() if p.parameters), {})

    def close(self) -> None:
        """Close all idle sessions."""
        for pool in self._pools.values():
            pool.close()
