"""What can stop an apply, as typed errors."""

from __future__ import annotations

from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Comparison, Move, Stage


class PolicyDenies(ReconcilerError):
    """A policy denies the plan. Nothing of it is applied."""

    code = "AP102"


class PolicyHolds(ReconcilerError):
    """A policy holds the plan back, for example until a maintenance window opens."""

    code = "AP103"
    transient = True


class PlanStale(ReconcilerError):
    """Something that a saved plan rests on has changed since it was made.

    A saved plan means exactly what was reviewed: when the specs, a record in etcd, a shard's
    members or its catalog moved, it is refused, and names what moved.
    """

    code = "AP104"


class PlanUsed(ReconcilerError):
    """A saved plan was applied before. A saved plan is good for one apply."""

    code = "AP105"


class DaemonLeads(ReconcilerError):
    """A daemon applies what its sources say, so nobody else applies anything.

    What is committed is applied by it, at once with `shardwright reconcile`; what waits for a
    person goes on by `shardwright approve`. To apply something else by hand, such as the
    correction of drift that a spec lets it only report, stop the daemon first: SIGTERM lets it end
    at a safe point.
    """

    code = "AP113"


class PlanFileBroken(ReconcilerError):
    """A saved plan's file is not what `plan --out` wrote: edited, cut short, or something else."""

    code = "AP106"


class NotHealthyInTime(ReconcilerError):
    """Members did not become healthy within the time that the settings allow.

    They go on trying: Patroni and their supervisors keep at it. A later apply waits again.
    """

    code = "AP107"
    transient = True


class LeaderNotRemoved(ReconcilerError):
    """A member that leads was about to be removed; that is refused whatever the plan says."""

    code = "AP108"


class StoppedByUser(ReconcilerError):
    """The apply was asked to stop, and the step ended at a safe point.

    Whatever it had begun is in the journal and in the cluster; the next apply goes on from there.
    """

    code = "AP109"
    transient = True


class ApplierGone(ReconcilerError):
    """Another apply took over while this one was not heard of; its writes are refused."""

    code = "AP110"


class StepBroken(ReconcilerError):
    """A step failed in a way that Shardwright did not foresee: a bug, or a broken machine."""

    code = "AP111"


class NothingSeen(ReconcilerError):
    """etcd does not answer, so nothing can be written or decided."""

    code = "AP112"
    transient = True


class MoveObstructed(ReconcilerError):
    """Something at one of the two shards makes a move of keys impossible, or unsafe.

    It is looked for before anything is changed; each obstacle is named with its cure.
    """

    code = "AP203"


class ShardInMove(ReconcilerError):
    """A move of keys cannot begin yet: another one works on one of its shards, or on its keys.

    It has not come to its cut, was paused there, or is being taken back. Plan again when it is
    through.
    """

    code = "AP206"
    transient = True


class RowsDiffer(ReconcilerError):
    """Source and target of a move do not hold the same rows.

    The move stops before its cut. The source owns the keys and nothing is lost; what differs is at
    the target, and says that something wrote there, or that replication left something out.
    """

    code = "AP204"


class WaitedTooLong(ReconcilerError):
    """A move of keys could do nothing for a long time. It is safe as it stands; apply again."""

    code = "AP205"
    transient = True


def rows_differ(move: Move, found: Comparison) -> RowsDiffer:
    """Return the error that shows what differs, and what to do."""
    before = move.stage is Stage.BEFORE
    undo = "abort` undoes the copy" if before else "rollback` goes back to the source's rows"
    return RowsDiffer(
        f"move {move.id}",
        f"source and target differ in {', '.join(found.tables)}: {'; '.join(found.samples)}",
        remedy=f"look at them; `shardwright operation {undo} (move {move.id})",
    )


class MovePaused(ReconcilerError):
    """A move of keys is paused, so apply leaves it where it is and ends.

    Nothing is undone, and no writer waits: a pause holds only what would begin something.
    `shardwright operation resume` lets the next apply go on.
    """

    code = "AP207"
    transient = True
