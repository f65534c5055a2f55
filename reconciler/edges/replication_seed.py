"""The copy by bytes: the target becomes a physical copy of the source as of the slot's beginning.

A slot keeps what is written from before the base backup on; the copy recovers to a position after
the backup, and the stream begins at just that position, which the subscription is told as its
origin's progress (as pg_createsubscriber does): what was committed before is in the copy, what is
committed from there on comes by the stream, and no snapshot is held meanwhile (resharding.md, 7).

Before it takes the target's place it is put right by a server of its own (``replication_twin``);
once it serves there, on the timeline that Patroni begins then, it is noted as whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_copy import (
    CopyStopped,
    forget_attempt,
    is_whole,
    noted_slot,
)
from reconciler.edges.replication_ends import (
    Ends,
    NotReady,
    check_fence,
    one_text,
    open_session,
    timeline,
)
from reconciler.edges.replication_guards import read_guards
from reconciler.edges.replication_seed_facts import SeedRefused, facts, filled_others, listed
from reconciler.edges.replication_streams import is_unread, make_slot
from reconciler.edges.replication_throttle import OF_FILES, Throttle
from reconciler.edges.replication_twin import Seed, put_right
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import CopyProgress
from reconciler.model.names import ScopeKey
from reconciler.model.platform import Credential, Endpoint

POLL_S = 0.1
_SEEDED = "SELECT seeded FROM shardwright.moved WHERE move_id = %s"
RECOVER_S_MAX = 3600.0
"""How long a copy may take to catch up with the end of its backup."""
SERVES_S_MAX = 10.0
"""How long it is asked itself; a member that starts lets who asks Patroni wait for seconds."""


class Clones(Protocol):
    """What makes physical copies of shards: the platform's part of it."""

    def take(
        self,
        target: ScopeKey,
        source: ScopeKey,
        at: Endpoint,
        name: str,
        pace: Callable[[int], None],
    ) -> None:
        """Take a base backup of the source beside the target; tells the bytes that come."""
        ...

    def serve(
        self, target: ScopeKey, source: ScopeKey, at: Endpoint, name: str, until: str
    ) -> tuple[Endpoint, Credential]:
        """Let the copy recover up to just before an LSN; return where it listens, and to whom.

        Its server need keep nothing through a crash.
        """
        ...

    def check_alive(self, target: ScopeKey, name: str) -> None:
        """Raise when the copy's server has ended."""
        ...

    def close(self, target: ScopeKey, name: str) -> None:
        """Stop the copy's server cleanly, with all that it wrote on the disk."""
        ...

    def logins(self, target: ScopeKey) -> tuple[Credential, ...]:
        """Return the target's own logins."""
        ...

    def put_in_place(self, target: ScopeKey, name: str) -> Endpoint:
        """Give the target the copy as its data, and start it; return where it will serve."""
        ...

    def discard(self, target: ScopeKey) -> None:
        """End and delete the copies of a target that are not in place."""
        ...

    def left(self, target: ScopeKey) -> tuple[str, ...]:
        """Return the names of the copies of a target that are not in place."""
        ...


def seed_rows(
    ends: Ends,
    clones: Clones,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> None:
    """Make the target a copy of the source's rows; called again once it serves, note it as whole.

    Raises CopyStopped, DiskShort, SlotBlocked, SeedRefused, NotReady, and the platform's errors.
    """
    if is_whole(ends):
        return
    slot = noted_slot(ends, _SEEDED)
    if slot and is_unread(ends, slot):
        _note_whole(ends, slot)
    else:
        _clone(ends, clones, tell, stopping)


def _clone(
    ends: Ends,
    clones: Clones,
    tell: Callable[[CopyProgress], None],
    stopping: Callable[[], bool],
) -> None:
    move, name = ends.move, f"{ends.move.prefix}_clone-{ends.token}"
    target, source, at = move.target_scope, move.source_scope, ends.source.primary
    forget_attempt(ends)
    with open_session(ends.target) as connection:
        generation = one_text(connection, "SELECT password_generation FROM shardwright.meta")
    with open_session(ends.source) as connection:
        size, begun_on = int(facts(connection, ends)["bytes"]), timeline(connection)
    ends.check_room(size)
    slot = ends.new_slot()
    make_slot(ends.source, slot, ends)
    with Throttle(ends, OF_FILES) as throttle:
        flow = _Flow(ends, size, tell, stopping, throttle)
        clones.take(target, source, at, name, flow)
    until = _position(ends.source)
    endpoint, superuser = clones.serve(target, source, at, name, until)
    clone = replace(
        ends.source, primary=endpoint, credential=superuser, name=f"the copy for {ends.target.name}"
    )

    def going_on() -> None:
        clones.check_alive(target, name)
        if stopping():
            raise _stopped(ends)

    if not _is_primary_within(RECOVER_S_MAX, clone, going_on):
        raise NotReady(clone.subject, f"it did not recover within {RECOVER_S_MAX:.0f} s")
    seed = Seed(slot, until, begun_on, generation)
    put_right(ends, clone, seed, clones.logins(target), stopping)
    clones.close(target, name)
    _refuse_loss(ends)
    first = replace(ends.target, primary=clones.put_in_place(target, name))
    _is_primary_within(SERVES_S_MAX, first, lambda: None)  # if not, the next look says why


@dataclass(slots=True)
class _Flow:
    """Tells of the bytes that come, holds them back, and ends them."""

    ends: Ends
    total: int
    tell: Callable[[CopyProgress], None]
    stopping: Callable[[], bool]
    throttle: Throttle
    done: int = 0
    told_at: float = 0.0

    def __call__(self, size: int) -> None:
        self.done += size
        self.throttle.pace(size)
        if time.monotonic() - self.told_at < POLL_S:
            return
        self.told_at = time.monotonic()
        self.tell(CopyProgress(min(self.done, self.total), self.total, 0))
        if self.stopping():
            raise _stopped(self.ends)
        self.ends.check_room()


def _stopped(ends: Ends) -> CopyStopped:
    problem = "stopped while the shard was copied"
    return CopyStopped(f"move {ends.move.id}", problem, remedy="apply again")


def _refuse_loss(ends: Ends) -> None:
    """Raise SeedRefused unless all that the target has may go: it owns nothing, and holds nothing.

    Rows of the sharded tables are copies there, as every guard refuses every key.
    """
    with open_session(ends.target) as connection:
        owned = [g.table for g in read_guards(connection).values() if g.keys]
        filled = owned or filled_others(connection, ends)
    if filled:
        problem = f"{listed(filled)} of {ends.move.target} would be lost"
        remedy = "abort the move and set resharding.copy: own"
        raise SeedRefused(f"move {ends.move.id}", problem, remedy=remedy)


def _position(source: Server) -> str:
    """Return a position of the source's WAL that something has been written behind."""
    with open_session(source) as connection:
        position = one_text(connection, "SELECT pg_current_wal_insert_lsn()")
        connection.execute("SELECT pg_logical_emit_message(true, 'shardwright', 'seed')")
    return position


def _is_primary_within(seconds: float, at: Server, going_on: Callable[[], None]) -> bool:
    """Ask a server that starts until it takes writes; ``going_on`` raises to end that."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        going_on()
        try:
            with open_session(at):
                return True
        except ReconcilerError as error:
            if not error.transient:
                raise
        time.sleep(POLL_S)
    return False


def _note_whole(ends: Ends, slot: str) -> None:
    with open_session(ends.target) as connection, connection.transaction():
        check_fence(connection, ends.token)
        noted = connection.execute(
            "UPDATE shardwright.moved SET slot = seeded, timeline = %s"
            " WHERE move_id = %s AND seeded = %s RETURNING 1",
            [timeline(connection), ends.move.id, slot],
        ).fetchone()
    if noted is None:
        raise NotReady(ends.target.subject, "it is another copy than it was")


def require(clones: Clones | None) -> Clones:
    """Return what makes physical copies. Raises SeedRefused where nothing does."""
    if clones is None:
        remedy = "abort the move and set resharding.copy: own"
        raise SeedRefused("this platform", "it makes no physical copies", remedy=remedy)
    return clones
