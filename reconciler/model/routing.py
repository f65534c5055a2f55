"""The routing map and the last-applied record: the two records that a database has in etcd."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model.desired import Deletion, KeyType
from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, Epoch, MemberName, Scope, ShardName
from reconciler.model.platform import Endpoint


@dataclass(frozen=True, slots=True)
class RoutingMember:
    """A member that clients may try; the primary is found by ``target_session_attrs``."""

    name: MemberName
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class RoutingOwner:
    """A shard and the keys that it owns; none for a shard not yet, or no longer, in use."""

    shard: ShardName
    scope: Scope
    keys: KeySet
    members: tuple[RoutingMember, ...]


@dataclass(frozen=True, slots=True)
class RoutingMap:
    """Who owns which keys of one database.

    ``epoch`` grows with each change of ownership. ``version`` is etcd's mod revision of the record
    as it was read (0: not stored yet), for compare-and-set; it is no part of the content.
    """

    database: DatabaseKey
    epoch: Epoch
    key_type: KeyType
    tables: tuple[tuple[str, str], ...]
    reference: tuple[str, ...]
    owners: tuple[RoutingOwner, ...]
    version: int = 0

    def owner_of(self, position: int) -> RoutingOwner | None:
        """Return the owner of a position in the key space."""
        return next((owner for owner in self.owners if position in owner.keys), None)


@dataclass(frozen=True, slots=True)
class AppliedRecord:
    """What was last applied to a database in full, and by which source.

    ``applied_at`` is UTC in ISO 8601. ``version`` as in RoutingMap. ``file`` is the one of the
    source that held the spec, relative to the source; ``parts`` are digests of the spec's parts by
    name (``diff.origin``). Both are empty in records of earlier versions.
    """

    database: DatabaseKey
    source: str
    revision: str
    digest: str
    deletion: Deletion
    applied_at: str
    version: int = 0
    file: str = ""
    parts: tuple[tuple[str, str], ...] = ()
