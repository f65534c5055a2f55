"""Differences that cannot be acted on: a person or a commit has to decide first.

They are error types so that ``shardwright explain`` tells their story; the diff carries them as
``Refusal`` values, and apply raises them.
"""

from __future__ import annotations

from reconciler.model.errors import ReconcilerError


class DeletionProtected(ReconcilerError):
    """A database left the specs while it is protected from deletion.

    Removing a file must never remove data by surprise. ``deletion: protected`` is the default and
    is kept in the last-applied record, so that it still holds when the file is gone.
    """

    code = "PL101"


class MajorVersionChanged(ReconcilerError):
    """The spec asks for another major version of PostgreSQL than the shard runs.

    A data directory of one major version cannot be opened by another. Moving the keys to new shards
    of the new version changes it without downtime.
    """

    code = "PL102"


class StorageShrunk(ReconcilerError):
    """The spec asks for smaller storage, or another storage class, than the shard has.

    Neither can be done in place: no volume shrinks under a running database.
    """

    code = "PL103"


class SchemaFileChanged(ReconcilerError):
    """A schema file differs from what a shard has already applied under its name.

    Files are applied once. Changing an old one would leave old shards with another schema than new
    ones, so the change belongs in a new file.
    """

    code = "PL104"


class SchemaFileMissing(ReconcilerError):
    """A shard has applied a schema file that the spec no longer lists.

    A new shard would not get it, and would then differ from the others.
    """

    code = "PL105"


class SchemaFileOutOfOrder(ReconcilerError):
    """A new schema file sorts before one that is already applied.

    Every shard applies the files in the same order; a new shard would run this one earlier than the
    shards that exist.
    """

    code = "PL106"


class ShardedTableMissing(ReconcilerError):
    """A table under ``sharding.tables`` does not exist, and no schema file is left to make it."""

    code = "PL107"


class ShardKeyUnfit(ReconcilerError):
    """A table's shard key column is missing or has another type than ``sharding.type``."""

    code = "PL108"


class RoutingDisagrees(ReconcilerError):
    """The routing map is missing, and the guards in a shard name other keys than the spec gives it.

    The guards are what the database enforces. Publishing the spec's ranges would send keys to a
    shard that refuses them, or hide rows that it holds.
    """

    code = "PL109"


class HashDisagrees(ReconcilerError):
    """A shard's PostgreSQL hashes keys otherwise than Shardwright does.

    Every key would be looked for in the wrong place. It happens on big-endian machines and would
    happen if PostgreSQL changed its hash functions.
    """

    code = "PL110"


class OwnSchemaNewer(ReconcilerError):
    """A shard's ``shardwright`` schema was installed by a later version of this program."""

    code = "PL111"


class KeyTypeChanged(ReconcilerError):
    """The spec gives the shard key another type than the routing map has.

    The type decides the hash, and the hash decides where every row lives.
    """

    code = "PL112"


class SpecUnreadable(ReconcilerError):
    """The file that a database's spec was applied from is still there, and holds no spec any more.

    It may have been emptied, saved in another encoding, garbled by a merge, or given to another
    tool. None of these says that the database is not wanted, so nothing of it is deleted. Deleting
    the file, or its document from among others, says so.
    """

    code = "PL115"


class MoveRefused(ReconcilerError):
    """A move of keys that the spec asks for would fail, or lose something, as its shards stand.

    It is looked for before anything is started or changed: one refusal for each table and reason.
    What it says to do can be a commit of its own, applied before the shards are edited.
    """

    code = "PL116"


class MovedTableNotMade(ReconcilerError):
    """Keys would move to a shard that has no table for their rows, and no schema file makes it.

    A new shard has what the schema files make. A reference table or a sharded one that was made by
    hand on the older shards would be missing there, and the move would fail once the shard is up.
    """

    code = "PL117"


class OwnerGone(ReconcilerError):
    """The routing map gives keys to a shard that its platform does not have any more.

    Provisioning an empty shard in its place would turn missing rows into rows that never were.
    """

    code = "PL114"
