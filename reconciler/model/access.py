"""Values that pass between the engine and the edges: leases, logins, what a guard has to say."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model.desired import KeyType, ShardedTable
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet
from reconciler.model.names import Epoch, FencingToken, ScopeKey
from reconciler.model.platform import Credential, Endpoint, PlatformMember, TlsFiles

OWN_SCHEMA_VERSION = 1
"""Version of the ``shardwright`` schema that this program installs in each shard's database."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A stored value and etcd's mod revision of it."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease. Writes that carry it fail once ``key`` is no longer ours.

    ``token`` is the create revision of ``key``: it grows with each new holder.
    """

    key: str
    lease_id: int
    token: FencingToken


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach one shard's Patroni and PostgreSQL. ``members`` are where to look."""

    key: ScopeKey
    members: tuple[PlatformMember, ...]
    superuser: Credential
    patroni_api: Credential
    tls: TlsFiles


@dataclass(frozen=True, slots=True)
class Seat:
    """One side of a move: a shard's logins, where its primary listens, and the database's name."""

    login: Login
    primary: Endpoint
    database: str


@dataclass(frozen=True, slots=True)
class Guarding:
    """What the guard triggers of a shard have to say."""

    key_type: KeyType
    tables: tuple[ShardedTable, ...]
    keys: KeySet
    epoch: Epoch


class ConflictingWrite(ReconcilerError):
    """A record in etcd was changed by somebody else since it was read.

    Records are written by compare-and-set, so nothing of this write has happened. What was decided
    rests on an old record: read again and decide again.
    """

    code = "ET110"
    transient = True


class FencedOff(ReconcilerError):
    """The applier's lease was lost, and another applier may work by now.

    Every write carries the fencing token of the lease it was made under; etcd and PostgreSQL refuse
    the tokens of former holders. Nothing of the refused write has happened.
    """

    code = "ET111"


class LeaseHeld(ReconcilerError):
    """Another applier holds the lease.

    One applier works at a time. An applier that died frees its lease when the lease's time to live
    has run out, by itself.
    """

    code = "ET112"
    transient = True
