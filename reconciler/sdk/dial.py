"""How a connection to a shard is made: the options, and what a refused attempt means. Pure.

The primary is found by libpq: all members are named, and ``target_session_attrs`` picks. So a
failover needs no news from anybody.
"""

from __future__ import annotations

import random
import select
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from reconciler.model.names import Epoch
from reconciler.model.routing import RoutingOwner
from reconciler.sdk.config import Config
from reconciler.sdk.errors import PasswordRefused, PoolExhausted, ShardUnreachable

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 0.5
"""Between attempts while a shard has no primary; clients go on this much after it has one."""
_CONNECT_MIN_S = 2
"""libpq takes a connect_timeout of 1 for 2."""
_TCP_USER_TIMEOUT_MS = 30_000

C = TypeVar("C")


class Purpose(Enum):
    """What a connection is for, and where it may be."""

    WRITE = "read-write"
    READ = "primary"
    STANDBY = "prefer-standby"


@dataclass(slots=True)
class Lent(Generic[C]):
    """A connection, the epoch that its session was told, and since when it is unused."""

    connection: C
    epoch: Epoch
    idle_since_s: float = 0.0


def options_of(
    config: Config, owner: RoutingOwner, epoch: Epoch, purpose: Purpose
) -> dict[str, Any]:
    """Return psycopg's keyword arguments; asks the configuration for the shard's password."""
    members = list(owner.members)
    if purpose is Purpose.STANDBY:
        random.shuffle(members)
    own = dict(config.options)
    settings = [own.pop("options", ""), f"-c shardwright.epoch={epoch}"]
    if purpose is not Purpose.WRITE:
        settings.append("-c default_transaction_read_only=on")
    return {
        "application_name": config.application_name,
        "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
        **_tls_of(config, owner),
        **own,
        "host": ",".join(m.endpoint.host for m in members),
        "port": ",".join(str(m.endpoint.postgres_port) for m in members),
        "dbname": config.database,
        "user": config.role,
        "password": config.password_of(owner.scope),
        "connect_timeout": max(config.limits.connect_s, _CONNECT_MIN_S),
        "target_session_attrs": purpose.value,
        "options": " ".join(filter(None, settings)),
        "autocommit": True,
    }


def _tls_of(config: Config, owner: RoutingOwner) -> dict[str, str]:
    if config.tls is None:
        return {}  # libpq's own default, or what config.options say
    if all(member.endpoint.postgres_tls for member in owner.members):
        return {"sslmode": "verify-full", "sslrootcert": config.tls.ca}
    # The routing map says that the server was built without; the wheel's listens on loopback only.
    return {"sslmode": "disable"}


def is_quiet(descriptor: int) -> bool:
    """Tell whether an unused connection's socket is silent, as a living one's is.

    A server that stopped has sent its farewell, or closed: both make the socket readable. One
    system call, instead of a round trip for each checkout.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return not poll.poll(0)


class Attempts:
    """The attempts at one checkout: how long to pause between them, and what to raise at last."""

    def __init__(self, config: Config, subject: str, now_s: float) -> None:
        self._config, self._subject = config, subject
        self._end_s = now_s + config.limits.checkout_s
        self._pause_s = PAUSE_FIRST_S
        self._refused = 0

    def remaining_s(self, now_s: float) -> float:
        """Return what is left of ``checkout_s``."""
        return max(self._end_s - now_s, 0.0)

    def pause_s(self, error: Exception, now_s: float) -> float:
        """Return the pause before the next attempt. Raises ShardUnreachable, PasswordRefused."""
        words = " ".join(str(error).split())
        if "authentication failed" in words or "pg_hba.conf" in words:
            self._refused += 1
            if self._refused > 1:
                raise PasswordRefused(
                    self._subject,
                    f"role {self._config.role} was refused",
                    remedy="check what the configuration's password gives for this shard",
                ) from None
        if now_s >= self._end_s:
            raise ShardUnreachable(
                self._subject,
                f"no connection within {self._config.limits.checkout_s:g} s: {words}",
                remedy="shardwright get instances; it may be failing over",
            ) from None
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        return min(pause_s, self.remaining_s(now_s))

    def exhausted(self) -> PoolExhausted:
        """Return the error for a pool whose connections all stayed in use."""
        limits = self._config.limits
        return PoolExhausted(
            self._subject,
            f"all {limits.pool_max} connections stayed in use for {limits.checkout_s:g} s",
            remedy="shorter transactions, or a higher limits.pool_max",
        )
