"""One applier in the simulated world: what it may still change once another has taken over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from reconciler.model.moves import Move
from tests.workflow.move_shard import Shard
from tests.workflow.move_world import World


class FencedOff(Exception):
    """Another applier has raised the token, or holds the lease."""


@dataclass(frozen=True, slots=True)
class Hand:
    """One applier with its token: each change of a shard checks it in the same transaction."""

    world: World
    token: int

    @property
    def source(self) -> Shard:
        return self.world.source

    @property
    def target(self) -> Shard:
        return self.world.target

    def fence(self, shard: Shard) -> None:
        if shard.state.token > self.token:
            raise FencedOff
        if shard.state.token < self.token:
            shard.commit("token", self.token)

    def hold_home(self) -> None:
        """Take the platform's lock, which is refused to whoever was superseded."""
        if self.token < self.world.lease:
            raise FencedOff

    def commit(self, shard: Shard, *change: Any, sync: bool = True) -> None:
        self.fence(shard)
        shard.commit(*change, sync=sync)

    def drop_slot(self, shard: Shard, name: str) -> None:
        self.fence(shard)
        shard.slots.pop(name, None)

    def record(self, move: Move, version: int) -> None:
        """Write the record by compare-and-set under the lease."""
        now = self.world.move
        if self.token == self.world.lease and now is not None and now.version == version:
            self.world.move = replace(move, version=version + 1)
