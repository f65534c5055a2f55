"""Roll-outs that go to canaries first: their gates are asked, and how far they are is noted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.engine.audit import Deed, write_audited
from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.orders import ordering
from reconciler.engine.ports import Store
from reconciler.engine.records import decode_rollout, encode_rollout, rollout_key
from reconciler.model.access import Lease
from reconciler.model.desired import Database, DesiredState, Gate, GateLanguage
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey, owner_role
from reconciler.model.observed import ObservedDatabase, ObservedShard, ObservedState
from reconciler.model.rollouts import RolloutRecord
from reconciler.plan.actions import Plan, Step, Wave, by_database
from reconciler.plan.canary import Answer, Phase, Standing, begun, judged, standing

if TYPE_CHECKING:
    from reconciler.engine.world import Outlook, World

PROMETHEUS = "Prometheus"
NO_GAUGE = "this process has none: name it in --config (spec.prometheus) or SHARDWRIGHT_PROMETHEUS"


class RolloutStopped(ReconcilerError):
    """A gate failed while a change went over the shards, so no other shard gets it.

    Nothing goes back by itself: revert the spec, change it, or look at it and let it go on with
    `shardwright rollout retry` (it bakes again) or `promote` (the gates are not asked any more).
    """

    code = "RO101"


class GateSilent(ReconcilerError):
    """A gate says nothing, so nobody knows whether it holds: the roll-out waits."""

    code = "RO102"
    transient = True


class NothingToOrder(ReconcilerError):
    """No roll-out of the database waits for anybody: nothing is to be retried or promoted."""

    code = "RO103"


def standings(
    world: World, desired: DesiredState, observed: ObservedState, plan: Plan
) -> tuple[Standing, ...]:
    """Return where each roll-out of a plan stands, its gates asked where they have a say."""
    found = []
    steps = by_database(plan.steps)
    seen = {there.key: there for there in observed.databases if there.key in steps}
    for database in desired.databases:
        there = seen.get(database.key)
        if there is None:
            continue
        mine = steps[database.key]
        now = standing(database, mine, there.rollout, world.clock.now())
        if now and now.asks:
            now = judged(now, ask(world, database, there), database, mine)
        if now:
            found.append(now)
    return tuple(found)


def ask(world: World, database: Database, there: ObservedDatabase) -> Iterator[Answer]:
    """Yield what each gate is answered: SQL at every canary, PromQL at Prometheus."""
    canary = database.rollout.canary
    for gate in canary.gates if canary else ():
        if gate.language is GateLanguage.PROMQL:
            yield _ask_prometheus(world, gate)
            continue
        for name in canary.shards if canary else ():
            shard = next((s for s in there.shards if s.name == name), None)
            yield _ask_shard(world, database.key, gate, name, shard)


def _ask_prometheus(world: World, gate: Gate) -> Answer:
    if world.gauge is None:
        return Answer(gate, PROMETHEUS, problem=NO_GAUGE)
    try:
        return Answer(gate, PROMETHEUS, world.gauge.measure(gate.text))
    except ReconcilerError as error:
        return Answer(gate, PROMETHEUS, problem=f"{error.code} {error.problem}")


def _ask_shard(
    world: World, key: DatabaseKey, gate: Gate, name: str, shard: ObservedShard | None
) -> Answer:
    primary = primary_of(shard.platform, shard.patroni) if shard else None
    if shard is None or primary is None:
        return Answer(gate, name, problem="it has no primary")
    platform = world.eyes.platform
    try:
        login = login_of(platform, shard.platform)
        owner = platform.credential(shard.key, owner_role(key.name))
        value = world.eyes.postgres.measure(login, primary, key.name, owner, gate.text)
    except ReconcilerError as error:
        return Answer(gate, name, problem=f"{error.code} {error.problem}")
    return Answer(gate, name, (value,))


def remedy_of(database: DatabaseKey) -> str:
    """Return what a person may do about a roll-out that a gate stopped."""
    return (
        f"revert or change the spec, or `shardwright rollout retry {database}` (or `promote`) once "
        "it was looked at"
    )


@dataclass(slots=True)
class Roll:
    """The roll-outs of one apply: noted at its begin and end, and asked for in between."""

    world: World
    outlook: Outlook
    _lease: Lease | None = None
    _records: dict[DatabaseKey, RolloutRecord | None] = field(default_factory=dict)
    _steps: dict[DatabaseKey, list[Step]] = field(default_factory=dict)

    def is_noted(self) -> bool:
        """Tell whether etcd holds already how far each is."""
        return all(one.record == self._seen(one.database) for one in self.outlook.standings)

    def _seen(self, key: DatabaseKey) -> RolloutRecord | None:
        there = self.outlook.observed.database(key)
        return there.rollout if there else None

    def begin(self, lease: Lease) -> None:
        """Note how far each is. Raises ConflictingWrite when it moved since it was looked at."""
        self._lease, self._steps = lease, by_database(self.outlook.plan.steps)
        for one in self.outlook.standings:
            self._records[one.database] = self._seen(one.database)
            self._note(one.database, one.record)

    def ask(self, step: Step, done: Iterable[str]) -> None:
        """Ask the gates once more before another shard gets the change.

        Raises RolloutStopped, noted for whoever comes later, and GateSilent.
        """
        key = step.database
        there = self.outlook.observed.database(key)
        if step.wave is not Wave.REST or there is None:
            return
        database, ended = self._database(key), set(done)
        left = [s for s in self._steps[key] if s.id not in ended]
        now = standing(database, left, self._records.get(key), self.world.clock.now())
        if now is None or not now.asks:
            return
        now = judged(now, ask(self.world, database, there), database, left)
        if now.phase is Phase.STOPPED:
            self._note(key, now.record)
            raise RolloutStopped(f"roll-out of {key}", now.text, remedy=remedy_of(key))
        if now.phase is Phase.UNKNOWN:
            raise GateSilent(f"roll-out of {key}", now.text)

    def end(self, done: Iterable[str]) -> None:
        """Let the change bake from now on where all canaries have it."""
        ended = set(done)
        for one in self.outlook.standings:
            first = {s.id for s in self._steps[one.database] if s.wave is Wave.CANARY}
            if one.phase is Phase.CANARY and first <= ended:
                self._note(
                    one.database, begun(self._database(one.database), self.world.clock.now())
                )

    def _database(self, key: DatabaseKey) -> Database:
        return next(d for d in self.outlook.loaded.desired.databases if d.key == key)

    def _note(self, key: DatabaseKey, record: RolloutRecord | None) -> None:
        assert self._lease is not None  # noqa: S101  begin() came first
        store, clock = self.world.eyes.store, self.world.clock
        before = self._records.get(key)
        self._records[key] = note(
            store, self._lease, self.world.actor, key, before, record, clock.now()
        )


def note(
    store: Store, lease: Lease, actor: str, database: DatabaseKey,
    before: RolloutRecord | None, after: RolloutRecord | None, now: datetime,
) -> RolloutRecord | None:  # fmt: skip
    """Let etcd hold ``after`` instead of ``before``, and return it as it is there.

    Raises ConflictingWrite when etcd holds a third.
    """
    version = before.version if before else 0
    if before == (replace(after, version=version) if after else None):
        return before
    value = encode_rollout(after) if after else None
    what, text = _told(after)
    deed = Deed(now, actor, what, "done", text, str(database))
    written = write_audited(store, lease, {rollout_key(database): (value, version)}, deed)
    return replace(after, version=written) if after else None


def _told(record: RolloutRecord | None) -> tuple[str, str]:
    if record is None:
        return "rollout begins", "the canaries get a change"
    if record.promoted:
        return "rollout promote", "it goes on, whatever its gates say"
    if record.stopped:
        return "rollout stops", record.stopped
    return "rollout bakes", f"the canaries have the change since {record.since}"


def order(world: World, database: DatabaseKey, *, promote: bool) -> RolloutRecord:
    """Let a roll-out bake again, or go on whatever its gates say. Raises NothingToOrder."""
    store, now, key = world.eyes.store, world.clock.now(), rollout_key(database)
    item = store.read(key).get(key)
    before = decode_rollout(key, item.value, item.version) if item else None
    if before is None or before.promoted or not (promote or before.stopped):
        raise NothingToOrder(
            f"database {database}",
            "no roll-out of it waits" if before is None or before.promoted else "it is not stopped",
            remedy=f"shardwright status {database.name} tells what it does",
        )
    since = now.isoformat(timespec="seconds")
    after = replace(before, stopped="", promoted=promote, since=before.since if promote else since)
    with ordering(store, world.actor) as lease:
        note(store, lease, world.actor, database, before, after, now)
    return after
