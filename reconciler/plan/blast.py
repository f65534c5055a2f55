"""How much of a database may be changed at once: the blast radius of its roll-out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.model.desired import Rollout
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.plan.actions import MoveKeyRange, Step


def bounded(
    ready: Iterable[Step], running: Iterable[Step], limits: Mapping[DatabaseKey, Rollout]
) -> Iterator[Step]:
    """Yield the steps of ``ready``, in order, that may begin beside those that run.

    A database without an entry in ``limits`` has none. What alone is more than a limit (a move of
    more bytes, or of a size that nobody knows) begins when nothing else of its kind runs: a limit
    bounds what happens at once, and forbids nothing. Linear in the steps.
    """
    loads: dict[DatabaseKey, _Load] = {}
    for step in running:
        loads.setdefault(step.database, _Load()).add(step)
    for step in ready:
        load = loads.setdefault(step.database, _Load())
        if load.has_room(step, limits.get(step.database, _FREE)):
            load.add(step)
            yield step


_FREE = Rollout()


@dataclass(slots=True)
class _Load:
    """What is under way in one database. ``moved`` None: moves of which a size is unknown."""

    shards: set[ShardName] = field(default_factory=set)
    moves: int = 0
    moved: int | None = 0

    def has_room(self, step: Step, limits: Rollout) -> bool:
        """Say whether a step may begin beside this."""
        if isinstance(step.action, MoveKeyRange):
            if limits.bytes_max is None or not self.moves:
                return True
            moved = _sum(self.moved, _bytes(step.action))
            return moved is not None and moved <= limits.bytes_max
        if step.shard is None or limits.shards_max is None:
            return True
        return step.shard in self.shards or len(self.shards) < limits.shards_max

    def add(self, step: Step) -> None:
        """Count a step in: a move by its bytes, any other by its shard."""
        if isinstance(step.action, MoveKeyRange):
            self.moves += 1
            self.moved = _sum(self.moved, _bytes(step.action))
        elif step.shard is not None:
            self.shards.add(step.shard)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _bytes(move: MoveKeyRange) -> int | None:
    if move.tables is None:
        return None
    return sum(table_bytes for _, table_bytes, _ in move.tables)
