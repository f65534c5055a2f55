"""The sweeper: what a move left behind whose record is gone, and why it may be taken away.

A move's record is written before its first object and removed after its last one, so an object
without a record belongs to no move. Only an applier makes either, under its lease: the sweeper
holds that lease, raises the fence in every shard with its token, and looks again, so that nobody
who still knew the move can come back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.engine.leasing import kept
from reconciler.engine.observe import login_of, observe, primary_of
from reconciler.engine.records import APPLIER, DATABASES
from reconciler.engine.wishes import moves_under_way
from reconciler.engine.world import World
from reconciler.model.access import Lease, Seat
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Leftover, MoveId
from reconciler.model.names import FencingToken, ScopeKey
from reconciler.model.observed import Catalog, ObservedState


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something of a move that is no more; ``scope`` None: a key in etcd.

    ``token`` is what the shard's fence was raised to before it went, None while it is there.
    """

    scope: ScopeKey | None
    found: Leftover
    token: FencingToken | None = None

    @property
    def proof(self) -> str:
        """Why it is safe to remove."""
        record = f"there is no record of move {self.found.move}"
        if self.token is None:
            return record
        return f"{record}, and no applier before fencing token {self.token} can act any more"


def find_orphans(world: World) -> tuple[Orphan, ...]:
    """Return what is left of moves without a record, on shards that answer and in etcd.

    Records are read after the shards: a move that begins meanwhile has its record by then.
    """
    state = observe(world.eyes)
    found = [
        (scope, leftover)
        for scope, seat in seats_of(world, state)
        for leftover in world.mover.sweep(seat)
    ]
    known = {move.id for move in moves_under_way(world.eyes.store)}
    orphans = [Orphan(scope, left) for scope, left in found if left.move not in known]
    return (*orphans, *(Orphan(None, key) for key in _keys(world, known)))


def sweep_orphans(world: World) -> tuple[Orphan, ...]:
    """Remove what ``find_orphans`` finds, and return it. Raises LeaseHeld while an apply runs."""
    store, lease_s = world.eyes.store, world.settings.lease_s
    lost: list[ReconcilerError] = []
    with kept(store, store.acquire(APPLIER, world.actor, lease_s), lease_s, lost.append) as lease:
        state = observe(world.eyes)
        seats = dict(seats_of(world, state))
        for seat in seats.values():
            world.eyes.postgres.fence(seat.login, seat.primary, seat.database, lease.token)
        orphans = find_orphans(world)
        removed = tuple(_removed(world, lease, seats, orphans))
    if lost:
        raise lost[0]
    return removed


def _removed(
    world: World, lease: Lease, seats: dict[ScopeKey, Seat], orphans: Iterable[Orphan]
) -> Iterator[Orphan]:
    done: set[tuple[ScopeKey, str]] = set()
    for orphan in orphans:
        world.eyes.store.keep_alive(lease)
        move, scope = orphan.found.move, orphan.scope
        if scope is None:
            world.eyes.store.write({orphan.found.what.removeprefix("key "): (None, None)}, lease)
        elif scope not in seats:
            continue  # it began to answer after the fences were raised
        elif (scope, move) not in done:
            world.mover.remove(move, seats[scope], lease.token)
            done.add((scope, move))
        yield Orphan(scope, orphan.found, lease.token)


def seats_of(world: World, state: ObservedState) -> Iterator[tuple[ScopeKey, Seat]]:
    """Yield how to reach each shard that was looked into and that our schema is installed in."""
    for database in state.databases:
        for shard in database.shards:
            primary = primary_of(shard.platform, shard.patroni)
            catalog = shard.catalog
            if primary and isinstance(catalog, Catalog) and catalog.installed:
                login = login_of(world.eyes.platform, shard.platform)
                yield shard.key, Seat(login, primary, shard.platform.database)


def _keys(world: World, known: Iterable[str]) -> Iterator[Leftover]:
    """Yield the keys below a move's record whose record is gone."""
    known = set(known)
    for key in sorted(world.eyes.store.read(DATABASES)):
        parts = key.removeprefix(DATABASES).split("/")
        if len(parts) > 4 and parts[2] == "moves" and parts[3] not in known:
            yield Leftover(MoveId(parts[3]), f"key {key}")
