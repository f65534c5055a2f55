"""How many shards of a database may be changed at once: the blast radius of its roll-out. Pure.

How much data may be between its shards is a question before a move begins: ``diff.moving``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.model.desired import Rollout
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.plan.actions import Step


def bounded(
    ready: Iterable[Step], running: Iterable[Step], limits: Mapping[DatabaseKey, Rollout]
) -> Iterator[Step]:
    """Yield the steps of ``ready``, in order, that may begin beside those that run.

    A database without an entry in ``limits`` has none. Linear in the steps.
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
    """What is under way in one database."""

    shards: set[ShardName] = field(default_factory=set)

    def has_room(self, step: Step, limits: Rollout) -> bool:
        """Say whether a step may begin beside this."""
        if step.shard is None or limits.shards_max is None:
            return True
        return step.shard in self.shards or len(self.shards) < limits.shards_max

    def add(self, step: Step) -> None:
        """Count a step's shard in."""
        if step.shard is not None:
            self.shards.add(step.shard)
