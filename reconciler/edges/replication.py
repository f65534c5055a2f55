"""Moving key ranges between two live shards by logical replication: the port ``Mover``.

resharding.md has the protocol and the measurements; ``workflow.reshard`` decides what comes when.
Every call may be repeated, and cut short anywhere: what it left is seen by the next look, and the
same call goes on from there. Names tell what belongs to a move: publication, slot and subscription
``shardwright_<id>_fwd…`` and ``…_rev``; notes in ``shardwright.moved``, ``move_ddl`` and ``beat``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from reconciler.edges import (
    replication_clean,
    replication_copy,
    replication_cut,
    replication_holds,
    replication_matviews,
    replication_numbers,
    replication_preflight,
    replication_seed,
    replication_streams,
    replication_sweep,
    replication_tablesync,
    replication_verify,
    replication_view,
)
from reconciler.edges.postgres_session import OF_A_MOVE, PostgresTimeouts
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication_ends import (
    Ends,
    Limits,
    NotReady,
    Room,
    check_fence,
    install,
    open_session,
    server,
    unknown_room,
)
from reconciler.edges.replication_guards import (
    GuardsForbid,
    accepting,
    change_guards,
    narrowed,
    read_guards,
)
from reconciler.edges.replication_seed import Clones
from reconciler.edges.replication_seed_facts import seed_facts
from reconciler.edges.replication_witness import Witness, open_witness, verify_cut
from reconciler.model.access import Seat
from reconciler.model.desired import CopyDriver
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import (
    Comparison,
    CopyProgress,
    CutResult,
    Leftover,
    Move,
    MoveId,
    MoveView,
    NumberBlock,
    Obstacle,
    SchemaObject,
    SeedFacts,
    Side,
)
from reconciler.model.names import Epoch, FencingToken

_NOBODY = FencingToken(0)


class LogicalMover:
    """The port ``Mover``. Safe to share between threads.

    No session is kept but those that hold the snapshots of a cut until it is compared.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  frozen
        timeouts: PostgresTimeouts = PostgresTimeouts(),  # noqa: B008  frozen
        room: Room = unknown_room,
        clones: Clones | None = None,
    ) -> None:
        self._limits, self._timeouts, self._room = limits, timeouts, room
        self._clones = clones
        self._witnesses: dict[MoveId, Witness] = {}

    def preflight(self, move: Move, source: Seat, target: Seat | None) -> tuple[Obstacle, ...]:
        """Return all that is in the way of the move; changes nothing.

        Without a target, which may not be there yet, only what the source tells.
        """
        ends = self._ends(move, source, target or source, _NOBODY)
        if target is None:
            return replication_preflight.preflight_source(ends)
        return replication_preflight.preflight(ends)

    def schema_objects(self, move: Move, source: Seat) -> tuple[SchemaObject, ...]:
        """Return what the source has beside tables that schema files make by its name."""
        return replication_preflight.objects_at_source(self._ends(move, source, source, _NOBODY))

    def seed_facts(self, move: Move, source: Seat, target: Seat | None) -> SeedFacts:
        """Return what a physical copy of the source would be; changes nothing."""
        ends = self._ends(move, source, target or source, _NOBODY)
        return seed_facts(ends, possible=self._clones is not None)

    def number_blocks(
        self, move: Move, source: Seat, target: Seat | None
    ) -> tuple[NumberBlock, ...]:
        """Return the blocks that the sequences of both sides would get now; changes nothing.

        Without a target, those of one that was just made. Raises NumbersUsedUp.
        """
        ends = self._ends(move, source, target or source, _NOBODY)
        return replication_numbers.number_blocks(ends, new=target is None)

    def view(self, move: Move, source: Seat, target: Seat, map_epoch: Epoch) -> MoveView:
        """Return what is seen. A side that does not answer is Unseen; nothing is raised for it."""
        seen = replication_view.view(self._ends(move, source, target, _NOBODY), map_epoch)
        return replace(seen, cut_held=move.id in self._witnesses)

    def prepare_target(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Make our own tables at both sides, and the target refuse the keys by itself.

        Raises GuardsForbid when the target accepts them, GuardImpossible, LockNotObtained.
        """
        ends = self._ends(move, source, target, token)
        install(ends.source, token)
        install(ends.target, token)
        with open_session(ends.target) as connection:
            guards = read_guards(connection)
            if accepting(move, guards):
                raise GuardsForbid(ends.target.subject, f"it accepts {move.keys} already")
            changes = narrowed(move, guards, move.target_keys, Epoch(move.epoch - 1))
            change_guards(connection, ends.target, move, changes, token)
            with connection.transaction():
                check_fence(connection, token)
                connection.execute(
                    "INSERT INTO shardwright.moved (move_id) VALUES (%s) ON CONFLICT DO NOTHING",
                    [move.id],
                )

    def hold(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Refuse at both sides what no stream can carry, and be ready to refuse stale clients.

        Raises GuardImpossible, LockNotObtained.
        """
        replication_holds.hold(self._ends(move, source, target, token))

    def publish(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Publish the keys' rows at the source. Raises FilterVoid when the filters are not so."""
        replication_streams.publish_forward(self._ends(move, source, target, token))

    def copy(
        self,
        move: Move,
        source: Seat,
        target: Seat,
        token: FencingToken,
        progress: Callable[[CopyProgress], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Copy the rows by the move's driver; own: one that was cut short starts over.

        ``progress`` is called from several threads, one at a time. Raises SlotBlocked, CopyStopped,
        NotReady, SyncFails.
        """
        ends = self._ends(move, source, target, token)
        match move.copy:
            case CopyDriver.OWN:
                replication_copy.copy_rows(ends, progress, stopping)
            case CopyDriver.NATIVE:
                replication_tablesync.sync_rows(ends, progress, stopping)
            case CopyDriver.PHYSICAL:
                clones = replication_seed.require(self._clones)
                replication_seed.seed_rows(ends, clones, progress, stopping)
            case _:
                assert_never(move.copy)

    def build_indexes(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Build what the copy took away, and gather statistics. Raises IndexNotBuilt."""
        replication_copy.build_indexes(self._ends(move, source, target, token))

    def subscribe(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Let the target follow the slot of the copy. Raises NotReady without a whole copy."""
        ends = self._ends(move, source, target, token)
        with open_session(ends.target) as connection:
            query = "SELECT slot, CASE seeded WHEN slot THEN lsn::text END FROM shardwright.moved"
            row = connection.execute(f"{query} WHERE move_id = %s", [move.id]).fetchone()
        slot, origin = row or ("", None)
        if not slot:
            raise NotReady(f"move {move.id}", "no whole copy is at the target")
        replication_streams.subscribe(
            ends.target, ends.source, ends.forward, slot, ends, origin=origin or ""
        )

    def verify(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> Comparison:
        """Compare all rows exactly, and note that they were equal. Raises NotReady."""
        ends = self._ends(move, source, target, token)
        found = replication_verify.verify(ends)
        if not found.equal:
            replication_copy.refuse_after_failover(ends)
        return found

    def refresh_views(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Let the target's materialized views show the rows. Raises ViewNotRefreshed."""
        replication_matviews.refresh_target(self._ends(move, source, target, token))

    def divide_sequences(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Give each side values of its own. Raises NumbersUsedUp, NotReady."""
        replication_numbers.divide_sequences(self._ends(move, source, target, token))

    def verify_cut(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> Comparison:
        """Compare both sides as of the cut; ``later`` when only a later point could be."""
        witness = self._witnesses.pop(move.id, None)
        return verify_cut(self._ends(move, source, target, token), witness)

    def verify_back(
        self, move: Move, source: Seat, target: Seat, token: FencingToken
    ) -> Comparison:
        """As ``verify`` while the source follows the target. Raises NotReady."""
        return replication_verify.verify(self._ends(move, source, target, token), back=True)

    def arm(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Make the way back ready: a publication and a slot at the target. Raises SlotBlocked."""
        replication_streams.arm(self._ends(move, source, target, token))

    def cut(
        self, move: Move, source: Seat, target: Seat, token: FencingToken, epoch: Epoch
    ) -> CutResult:
        """Fence, drain, seal, open; backs out by itself beyond ``pause_max_ms``.

        ``epoch`` is the one that will be published: once open, the loser refuses UPDATEs and
        DELETEs of clients that do not know it. Raises NotReady, with nothing changed, when the
        stream is not close behind.
        """
        ends = self._ends(move, source, target, token)
        witness = open_witness(ends)
        try:
            result = replication_cut.cut(ends, replication_cut.forward_way(ends, epoch), witness)
        except ReconcilerError:
            witness.close()
            raise
        if result.opened and witness.taken:
            self._witnesses[move.id] = witness
        else:
            witness.close()
        return result

    def roll_back_cut(
        self, move: Move, source: Seat, target: Seat, token: FencingToken, epoch: Epoch
    ) -> CutResult:
        """As ``cut`` with the roles exchanged: the source gets its keys back."""
        ends = self._ends(move, source, target, token)
        return replication_cut.cut(ends, replication_cut.backward_way(ends, epoch))

    def refuse_stale(
        self,
        move: Move,
        side: Side,
        epoch: Epoch,
        source: Seat,
        target: Seat,
        token: FencingToken,
    ) -> None:
        """Let a side refuse UPDATEs and DELETEs of clients that do not know ``epoch``."""
        ends = self._ends(move, source, target, token)
        at = ends.source if side is Side.SOURCE else ends.target
        replication_holds.refuse_stale(at, move, epoch, token)

    def finish_opening(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Open the tables at the target that are closed. Raises GuardsForbid."""
        replication_cut.finish_opening(self._ends(move, source, target, token))

    def unfence(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Let the source accept the keys again. Raises GuardsForbid once the target does."""
        replication_cut.unfence(self._ends(move, source, target, token))

    def reverse(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Drop the forward stream, then let the source follow the target."""
        ends = self._ends(move, source, target, token)
        replication_streams.drop_forward(ends)
        replication_streams.subscribe(ends.source, ends.target, ends.reverse, ends.reverse, ends)

    def clean(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> None:
        """Remove every stream and note from the sides that answer; raises for one that does not."""
        if self._clones and move.copy is CopyDriver.PHYSICAL:
            self._clones.discard(move.target_scope)
        replication_clean.clean(self._ends(move, source, target, token))

    def prune(
        self,
        move: Move,
        side: Side,
        source: Seat,
        target: Seat,
        token: FencingToken,
        stopping: Callable[[], bool],
    ) -> int:
        """Delete the keys' rows at a side that refuses them; returns how many are left.

        Raises GuardsForbid when that side accepts them.
        """
        return replication_clean.prune(self._ends(move, source, target, token), side, stopping)

    def sweep(self, seat: Seat) -> tuple[Leftover, ...]:
        """List every object and note of any move that is on a side."""
        beside = self._clones.left(seat.login.key) if self._clones else ()
        clones = replication_sweep.clones_left(beside)
        return (*clones, *replication_sweep.leftovers(server(seat, self._timeouts)))

    def remove(self, id_: MoveId, seat: Seat, token: FencingToken) -> None:
        """Take away all that is of a move on one side. Raises NotReady, IndexNotBuilt."""
        scope = seat.login.key
        if self._clones and any(id_ in name for name in self._clones.left(scope)):
            self._clones.discard(scope)
        replication_sweep.remove(server(seat, self._timeouts), id_, token, self._limits)

    def _server(self, seat: Seat, token: FencingToken) -> Server:
        at = server(seat, self._timeouts)
        return replace(at, application=f"{OF_A_MOVE} {token}") if token else at

    def _ends(self, move: Move, source: Seat, target: Seat, token: FencingToken) -> Ends:
        return Ends(
            move,
            self._server(source, token),
            self._server(target, token),
            _standbys(source),
            _standbys(target),
            token,
            self._limits,
            self._room,
        )


def _standbys(seat: Seat) -> tuple[str, ...]:
    """Name the members that are not its primary: each may be promoted."""
    return tuple(m.name for m in seat.login.members if m.endpoint != seat.primary)
