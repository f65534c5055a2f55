"""What a client of a sharded database has to tell apart, as types.

PostgreSQL's own errors (a unique violation, a syntax error) pass through as psycopg raises them.
Where one of these types says *nothing was committed*, the same work may be done again; only
``OutcomeUnknown`` leaves that to the application, because nobody else can find out.
"""

from __future__ import annotations

from reconciler.model.errors import ReconcilerError


class NoMap(ReconcilerError):
    """There is no routing map: etcd did not answer, or the database has none yet.

    A client needs the map once, at its start. Afterwards it goes on with the last one that it
    knows, also while etcd is away.
    """

    code = "SD101"
    transient = True


class NoOwner(ReconcilerError):
    """The routing map names no shard for a key, or no shard of that name."""

    code = "SD102"


class KeyTypeMismatch(ReconcilerError):
    """A shard key is not of the type that the database is sharded by.

    bigint and int want a Python int within their range, text a str, uuid a uuid.UUID. Nothing is
    converted: the text "42" and the number 42 hash apart, and one would not find the other's row.
    """

    code = "SD103"


class KeyRefused(ReconcilerError):
    """A shard refused a row because it does not, or not any more, own its key (SQLSTATE PS001).

    The key is being moved, or was moved and this client's routing map was older. Nothing was
    committed. ``run`` and ``execute`` wait and try again by themselves; who uses ``transaction``
    does it, because a with block cannot run twice. The same refusal meets a statement that writes
    a key other than the one the transaction was opened for: one transaction, one shard.

    In a ``session``, what a procedure committed before it was refused stays committed.
    """

    code = "SD104"
    transient = True
    connection: object = None
    """The connection that was refused, to tell one transaction's refusal from a nested one's."""


class FenceTimeout(ReconcilerError):
    """A shard went on refusing a key for longer than ``fence_wait_s``.

    A move holds writers back for milliseconds. A refusal that lasts means a move that stands
    still, or a statement that writes another key than the one it was routed by. Nothing was
    committed.
    """

    code = "SD105"
    transient = True


class OutcomeUnknown(ReconcilerError):
    """The connection was lost while a write was being committed: it may have happened or not.

    Never repeated by the client, because a second time might be one too many. Find out, by a
    row that only this write makes (a unique id of the request), or write so that twice is once
    (INSERT … ON CONFLICT DO NOTHING).
    """

    code = "SD106"


class TransactionLost(ReconcilerError):
    """The connection was lost within a transaction, before its COMMIT was sent.

    PostgreSQL rolls such a transaction back, so nothing was committed, and it may be run again.
    It is not repeated by the client: only the application knows whether its body ended the
    transaction by a statement of its own.
    """

    code = "SD107"
    transient = True


class ReadLost(ReconcilerError):
    """The connection was lost during a read-only session.

    Nothing was written; the read may be repeated.
    """

    code = "SD108"
    transient = True


class ShardUnreachable(ReconcilerError):
    """No connection to a shard within ``checkout_s``: every member refused, or none is primary.

    During a failover a shard has no primary for some seconds, and clients wait here. Nothing was
    sent.
    """

    code = "SD109"
    transient = True


class PasswordRefused(ReconcilerError):
    """A shard refused the application's login: password, role or pg_hba.conf.

    The password is asked for anew at each connection, so a rotation needs no restart; two refusals
    in a row with what was then given mean that it is wrong.
    """

    code = "SD110"


class PoolExhausted(ReconcilerError):
    """All connections to a shard stayed in use for longer than ``checkout_s``.

    Transactions are long, or more of them run at once than ``pool_max`` allows. Opening a
    transaction within another's body needs a second connection for each.
    """

    code = "SD111"
    transient = True


class TransactionAborted(ReconcilerError):
    """A statement failed, the body went on as if it had not, and COMMIT would have rolled back.

    PostgreSQL answers COMMIT of a failed transaction with ROLLBACK and no error. Nothing was
    committed. Put the statement that may fail in a savepoint: ``with tx.transaction():``.
    """

    code = "SD112"


class TransactionEnded(ReconcilerError):
    """The body of a transaction ended it by itself, with a COMMIT or ROLLBACK of its own.

    What came before its COMMIT is committed, what came after it ran statement by statement. The
    transaction is ended by leaving the body: normally to commit, by an exception to roll back.
    """

    code = "SD113"


class ConfigInvalid(ReconcilerError):
    """A client was configured with a value that cannot be."""

    code = "SD114"


class NotOpen(ReconcilerError):
    """The client is used before it was opened, or after it was closed.

    ``with Shards(config) as shards:`` opens and closes it. It does not survive a fork: open it in
    the process that uses it.
    """

    code = "SD115"
