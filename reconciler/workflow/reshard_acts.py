"""What a move of keys can do to the world: a closed set, performed by the engine with its edges.

Each act is idempotent and may be cut short anywhere; what it left is seen at the next look. What
the rules of ``reshard`` rely on within an act stands in the act's docstring: between the decision
and the act a shard may have failed over, so those conditions are the edge's to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from reconciler.model.moves import Side, Stage
from reconciler.model.names import Epoch


@dataclass(frozen=True, slots=True)
class PrepareTarget:
    """Give the target the schema, with guards that refuse the keys."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Let both sides refuse what no stream of the move can carry, for as long as one may live.

    An UPDATE of the shard key over the move's border, which is sent as an INSERT without the values
    that it left alone out of line, and TRUNCATE. Where something was missing, a comparison made
    before is forgotten.
    """


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the keys' rows at the source, and read the filters back."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the rows under a new slot's snapshot; a copy that is not whole starts over.

    In this order: the marker goes, the slot goes, the keys' rows at the target go, a slot is made,
    rows are copied, the marker is written.
    """


@dataclass(frozen=True, slots=True)
class BuildIndexes:
    """Build at the target what the copy left out: indexes, constraints, statistics."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Let the target follow the slot that the copy was made under."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare both sides exactly, and remember that they were equal. Raises on a difference."""


@dataclass(frozen=True, slots=True)
class RefreshViews:
    """Refresh the target's materialized views, each after those that it reads.

    Before the cut: writers would wait for it within, and readers of the target miss rows after.
    """


@dataclass(frozen=True, slots=True)
class DivideSequences:
    """Give each side's sequences values of their own, of what the source's have left."""


@dataclass(frozen=True, slots=True)
class VerifyCut:
    """Compare both sides as of the cut, and record the outcome. Raises on a difference.

    By the snapshots that the cut took between the drain and the opening; once they are lost with
    their process, at a later exact point of the way back's stream.
    """


@dataclass(frozen=True, slots=True)
class GiveUpVerifyCut:
    """Record why the cut never can be compared, so that nothing tries again."""

    why: str


@dataclass(frozen=True, slots=True)
class VerifyBack:
    """As ``Verify`` before a rollback's cut: the target writes, the source follows."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Make the way back ready: a publication and a slot at the target."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Fence every table at the source, drain, seal, open every table at the target.

    One act, because writers wait from its first step to its last. The source refuses clients of an
    older epoch than the one to be published before the first table is opened, and not any more when
    none was. Before the first table is opened:
    the fence is on the source's promotable standby, a beat written after the last fence of *this*
    cut is seen at the target, neither side has failed over since the copy (``Stream.gap``), the
    way back's slot is past what the target has applied, and all that is on the target's standby.
    If the pause grows too long before the first table is opened, it unfences and says so.
    """


@dataclass(frozen=True, slots=True)
class FinishOpening:
    """Open the tables at the target that are still closed; touches nothing else.

    Neither the way back's slot: it may hold writes by now that the source has not.
    """


@dataclass(frozen=True, slots=True)
class Unfence:
    """Let the source accept the keys again."""


@dataclass(frozen=True, slots=True)
class RefuseStale:
    """Let the side that lost the keys refuse UPDATEs and DELETEs of clients with an older epoch.

    They could miss rows that were born at the new owner, or are no longer here, in silence. An
    epoch above it, of a cut that did not come to its commit point, is taken back.
    """

    side: Side
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class WriteMap:
    """Publish who owns the keys, by compare-and-set: the target, or with ``back`` the source."""

    epoch: Epoch
    back: bool


@dataclass(frozen=True, slots=True)
class Reverse:
    """Drop the forward subscription and its slot, then let the source follow the target.

    In this order: with both alive, PostgreSQL 15 sends each row round and round.
    """


@dataclass(frozen=True, slots=True)
class RollBackCut:
    """The cut with the roles exchanged: close the target, drain, open the source.

    The same conditions hold before the first table is opened at the source. If one is open there
    already, only the rest is left to open.
    """


@dataclass(frozen=True, slots=True)
class Clean:
    """Remove every subscription, slot, publication and marker of the move from both sides.

    Its triggers go last, and only from a side that no stream of it is on any more.

    Slots go before their subscriptions: one that outlives its subscription would be followed again
    from its confirmed position, which is behind what was applied.
    """


@dataclass(frozen=True, slots=True)
class Prune:
    """Delete the keys' rows from one side, in throttled batches, and refresh what showed them.

    Only after ``Clean``: a stream that lives would carry the deletions to the owner.
    """

    side: Side


@dataclass(frozen=True, slots=True)
class Record:
    """Write the stage into the move's record, by compare-and-set (``record_stage``)."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class EndMove:
    """Remove the move's record: nothing else of it is left."""


Step: TypeAlias = (
    PrepareTarget
    | Hold
    | Publish
    | Copy
    | BuildIndexes
    | Subscribe
    | Verify
    | RefreshViews
    | DivideSequences
    | VerifyCut
    | GiveUpVerifyCut
    | VerifyBack
    | Arm
    | Cut
    | FinishOpening
    | Unfence
    | RefuseStale
    | WriteMap
    | Reverse
    | RollBackCut
    | Clean
    | Prune
    | Record
    | EndMove
)
