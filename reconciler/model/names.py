"""Names and scalar types, kept apart so that a type checker sees a mix-up.

A database is known by its namespace and name. A shard has two names: its ``ShardName``, which a
spec may change with ``moved``, and its ``Scope``, which the platform gave it when it was
provisioned and which never changes (Patroni's scope, the StatefulSet's name, the data folder).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

Namespace = NewType("Namespace", str)
DatabaseName = NewType("DatabaseName", str)
ShardName = NewType("ShardName", str)
Scope = NewType("Scope", str)
"""``<database>-<shard>`` as the shard was first called (``shop-s0``); unique in a namespace."""
MemberName = NewType("MemberName", str)
"""``<scope>-<ordinal>``, for example ``shop-s0-1``."""
RoleName = NewType("RoleName", str)
"""A PostgreSQL role."""
Epoch = NewType("Epoch", int)
"""The routing map's epoch: grows by one with each published change of ownership."""
FencingToken = NewType("FencingToken", int)
"""Grows with each new holder of the applier's lease: etcd's create revision of the lease's key."""
Lsn = NewType("Lsn", int)
"""A position in the write-ahead log, in bytes."""


@dataclass(frozen=True, slots=True, order=True)
class DatabaseKey:
    """A database's identity: namespace and name."""

    namespace: Namespace
    name: DatabaseName

    def __str__(self) -> str:
        """``shop``, or ``team/shop`` outside the default namespace."""
        return self.name if self.namespace == "default" else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ScopeKey:
    """A shard's identity on a platform: namespace and scope."""

    namespace: Namespace
    scope: Scope

    def __str__(self) -> str:
        return self.scope if self.namespace == "default" else f"{self.namespace}/{self.scope}"


def owner_role(database: DatabaseName) -> RoleName:
    """Return the role that owns a database and runs its schema files."""
    return RoleName(f"{database}_owner")


def app_role(database: DatabaseName) -> RoleName:
    """Return the role that applications log in as; it owns nothing, so it cannot drop a guard."""
    return RoleName(f"{database}_app")


def member_name(scope: Scope, ordinal: int) -> MemberName:
    """Return the name of a shard's member by its ordinal, counted from 0."""
    return MemberName(f"{scope}-{ordinal}")


def member_ordinal(member: MemberName) -> int:
    """Return the ordinal in a member's name; the inverse of ``member_name``."""
    return int(member.rpartition("-")[2])
