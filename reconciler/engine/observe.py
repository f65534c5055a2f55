"""Ask everything at once, each with a deadline, and say what did not answer.

A shard costs two questions: Patroni of all its members, then the catalogs of its primary. Both are
asked of all shards in parallel; a silent one costs its own deadline and nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reconciler.engine.operations import Operations, read_operations
from reconciler.engine.orders import decode_suspension
from reconciler.engine.ports import Clock, Patroni, Platform, Postgres, Store
from reconciler.engine.records import (
    DATABASES,
    OPERATIONS,
    PLANS,
    ROOT,
    database_of_key,
    database_prefix,
    decode_hold,
    decode_move,
    decode_record,
    decode_rollout,
    decode_routing,
    hold_of_key,
    move_of_key,
)
from reconciler.engine.sight import Sight
from reconciler.model.access import Login, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, MoveHold
from reconciler.model.names import DatabaseKey, Scope, ShardName
from reconciler.model.observed import (
    Catalog,
    ObservedDatabase,
    ObservedShard,
    ObservedState,
    PatroniView,
    Unseen,
)
from reconciler.model.platform import Endpoint, PlatformShard
from reconciler.model.rollouts import RolloutRecord
from reconciler.model.routing import AppliedRecord, RoutingMap


@dataclass(frozen=True, slots=True)
class Eyes:
    """The edges that observing needs, and how many shards it asks at once.

    ``sight``: what was seen of all databases already, where only some are observed.
    """

    platform: Platform
    store: Store
    patroni: Patroni
    postgres: Postgres
    clock: Clock
    parallel: int
    sight: Sight | None = None


@dataclass(frozen=True, slots=True)
class _Records:
    """What etcd holds: per database its map and record, each possibly unseen."""

    routing: dict[DatabaseKey, RoutingMap | Unseen]
    records: dict[DatabaseKey, AppliedRecord | Unseen]
    moves: dict[DatabaseKey, list[Move]]
    suspended: dict[DatabaseKey, str]
    rollouts: dict[DatabaseKey, RolloutRecord]
    holds: dict[DatabaseKey, list[MoveHold]]
    operations: Operations
    used_plans: frozenset[str]
    unseen: Unseen | None


def observe(
    eyes: Eyes, wanted: Iterable[DatabaseKey] = (), only: frozenset[DatabaseKey] | None = None
) -> ObservedState:
    """Return all that is there, or ``only`` these databases, and ``wanted`` even where nothing is.

    Never raises for something that does not answer: that is a value.
    """
    shards = _shards(eyes, only)
    records, seen = _ask(eyes, shards, only)
    shards_of: dict[DatabaseKey, list[ObservedShard]] = {}
    for shard in seen:
        key = DatabaseKey(shard.key.namespace, shard.platform.database)
        shards_of.setdefault(key, []).append(shard)
    keys = shards_of.keys() | records.routing.keys() | records.records.keys()
    keys |= records.moves.keys() | set(wanted)
    databases = tuple(_database(key, records, shards_of.get(key, [])) for key in sorted(keys))
    return ObservedState(
        databases=databases,
        unseen=_all_unseen(records, seen),
        answered=_answered(records, seen),
        not_applied=eyes.platform.not_applied,
        operation=records.operations.running,
        looked_at=eyes.clock.now().isoformat(timespec="milliseconds"),
        durations=records.operations.durations,
        used_plans=records.used_plans,
    )


def _shards(eyes: Eyes, only: frozenset[DatabaseKey] | None) -> tuple[PlatformShard, ...]:
    if only is None:
        return eyes.platform.observe()
    if eyes.sight is not None:
        return tuple(s for key in sorted(only) for s in eyes.sight.shards.get(key, ()))
    shards = eyes.platform.observe()
    return tuple(s for s in shards if DatabaseKey(s.key.namespace, s.database) in only)


def _ask(
    eyes: Eyes, shards: tuple[PlatformShard, ...], only: frozenset[DatabaseKey] | None
) -> tuple[_Records, tuple[ObservedShard, ...]]:
    """Ask etcd and all shards at once; without shards there is nothing to do beside etcd."""
    if not shards:
        return _records(eyes, only), ()
    with ThreadPoolExecutor(max_workers=eyes.parallel) as pool:
        asked = pool.submit(_records, eyes, only)
        seen = tuple(pool.map(lambda shard: _shard(eyes, shard), shards))
        return asked.result(), seen


def _records(eyes: Eyes, only: frozenset[DatabaseKey] | None) -> _Records:
    try:
        found, operations = _found(eyes, only)
    except ReconcilerError as error:
        unseen = Unseen("etcd", "records", _why(error))
        return _Records({}, {}, {}, {}, {}, {}, Operations(), frozenset(), unseen)
    routing: dict[DatabaseKey, RoutingMap | Unseen] = {}
    records: dict[DatabaseKey, AppliedRecord | Unseen] = {}
    suspended: dict[DatabaseKey, str] = {}
    for key, item in found.items():
        owner = database_of_key(key) if key.startswith(DATABASES) else None
        match owner:
            case (database, "routing"):
                routing[database] = _routing(key, item)
            case (database, "record"):
                records[database] = _record(key, item, database)
            case (database, "suspended"):
                suspended[database] = str(decode_suspension(item))
            case _:
                pass
    moves, broken = _moves(found)
    routing |= broken
    holds, unread = _holds(found)
    routing |= unread
    rollouts, unknown = _rollouts(found)
    records |= unknown
    used = frozenset(key.removeprefix(PLANS) for key in found if key.startswith(PLANS))
    return _Records(routing, records, moves, suspended, rollouts, holds, operations, used, None)


def _found(
    eyes: Eyes, only: frozenset[DatabaseKey] | None
) -> tuple[dict[str, Versioned], Operations]:
    """Return records and operations: all, or those of some databases."""
    if only is None:
        found = eyes.store.read(ROOT)
        return found, read_operations(found)
    if eyes.sight is not None:
        parts = [eyes.sight.records_of(key) for key in only]
        operations = eyes.sight.operations_of(only)
    else:
        # Another database's apply may run beside this one.
        ran = read_operations(eyes.store.read(OPERATIONS)).all
        operations = Operations(tuple(o for o in ran if only & set(o.databases)))
        parts = [eyes.store.read(database_prefix(key)) for key in only]
    return {name: item for part in parts for name, item in part.items()}, operations


def _moves(
    found: dict[str, Versioned],
) -> tuple[dict[DatabaseKey, list[Move]], dict[DatabaseKey, RoutingMap | Unseen]]:
    """Return the moves of each database; where one cannot be read, nobody knows who owns what."""
    moves: dict[DatabaseKey, list[Move]] = {}
    broken: dict[DatabaseKey, RoutingMap | Unseen] = {}
    for key, item in found.items():
        owner = move_of_key(key)
        if owner is None:
            continue
        try:
            moves.setdefault(owner[0], []).append(decode_move(key, item.value, item.version))
        except ReconcilerError as error:
            broken[owner[0]] = Unseen("etcd", key, _why(error))
    for started in moves.values():
        started.sort(key=lambda move: (move.started_at, move.id))
    return moves, broken


def _holds(
    found: dict[str, Versioned],
) -> tuple[dict[DatabaseKey, list[MoveHold]], dict[DatabaseKey, RoutingMap | Unseen]]:
    """Return what a person took back of each database; where that cannot be read, nothing moves."""
    holds: dict[DatabaseKey, list[MoveHold]] = {}
    broken: dict[DatabaseKey, RoutingMap | Unseen] = {}
    for key, item in sorted(found.items()):
        owner = hold_of_key(key)
        if owner is None:
            continue
        try:
            holds.setdefault(owner[0], []).append(decode_hold(key, item.value))
        except ReconcilerError as error:
            broken[owner[0]] = Unseen("etcd", key, _why(error))
    return holds, broken


def _routing(key: str, item: Versioned) -> RoutingMap | Unseen:
    try:
        return decode_routing(key, item.value, item.version)
    except ReconcilerError as error:
        return Unseen("etcd", key, _why(error))


def _record(key: str, item: Versioned, database: DatabaseKey) -> AppliedRecord | Unseen:
    try:
        return decode_record(key, item.value, database, item.version)
    except ReconcilerError as error:
        return Unseen("etcd", key, _why(error))


def _rollouts(
    found: dict[str, Versioned],
) -> tuple[dict[DatabaseKey, RolloutRecord], dict[DatabaseKey, AppliedRecord | Unseen]]:
    """Return how far roll-outs are; where that cannot be read, nobody knows what was applied."""
    rollouts: dict[DatabaseKey, RolloutRecord] = {}
    broken: dict[DatabaseKey, AppliedRecord | Unseen] = {}
    for key, item in found.items():
        match database_of_key(key) if key.startswith(DATABASES) else None:
            case (database, "rollout"):
                try:
                    rollouts[database] = decode_rollout(key, item.value, item.version)
                except ReconcilerError as error:
                    broken[database] = Unseen("etcd", key, _why(error))
            case _:
                pass
    return rollouts, broken


def _why(error: ReconcilerError) -> str:
    return f"{error.code} {error.problem}"


def login_of(platform: Platform, shard: PlatformShard) -> Login:
    """Return how to reach a shard. Raises what the platform raises when it lost a secret."""
    return Login(
        key=shard.key,
        members=shard.members,
        superuser=platform.credential(shard.key, "superuser"),
        patroni_api=platform.credential(shard.key, "patroni_api"),
        tls=platform.client_tls(),
    )


def _shard(eyes: Eyes, shard: PlatformShard) -> ObservedShard:
    if shard.stopped:
        stopped = Unseen("patroni", shard.key.scope, "stopped on purpose")
        return ObservedShard(shard.key, shard, stopped, stopped)
    if shard.unreadable:
        unknown = Unseen(eyes.platform.name, str(shard.key), shard.unreadable)
        return ObservedShard(shard.key, shard, unknown, unknown)
    try:
        login = login_of(eyes.platform, shard)
        view: PatroniView | Unseen = eyes.patroni.view(login)
    except ReconcilerError as error:
        silent = Unseen("patroni", str(shard.key), _why(error))
        return ObservedShard(shard.key, shard, silent, Unseen("postgres", str(shard.key), "no way"))
    return ObservedShard(shard.key, shard, view, _catalog(eyes, login, shard, view))


def primary_of(shard: PlatformShard, view: PatroniView | Unseen) -> Endpoint | None:
    """Return where the primary listens, or None while there is none."""
    if isinstance(view, Unseen) or view.leader is None:
        return None
    return next((m.endpoint for m in shard.members if m.name == view.leader), None)


def _catalog(
    eyes: Eyes, login: Login, shard: PlatformShard, view: PatroniView | Unseen
) -> Catalog | Unseen:
    primary = primary_of(shard, view)
    if primary is None:
        return Unseen("postgres", str(shard.key), "no primary")
    try:
        return eyes.postgres.catalog(login, primary, shard.database)
    except ReconcilerError as error:
        return Unseen("postgres", str(shard.key), _why(error))


def _database(key: DatabaseKey, records: _Records, seen: list[ObservedShard]) -> ObservedDatabase:
    routing = records.unseen or records.routing.get(key)
    names: dict[Scope, ShardName] = {}
    if isinstance(routing, RoutingMap):
        names = {owner.scope: owner.shard for owner in routing.owners}
    mine = tuple(
        ObservedShard(s.key, s.platform, s.patroni, s.catalog, names.get(s.key.scope)) for s in seen
    )
    record = records.unseen or records.records.get(key)
    return ObservedDatabase(
        key,
        routing,
        record,
        mine,
        tuple(records.moves.get(key, ())),
        suspended=records.suspended.get(key, ""),
        rollout=records.rollouts.get(key),
        holds=tuple(records.holds.get(key, ())),
    )


def _all_unseen(records: _Records, seen: tuple[ObservedShard, ...]) -> tuple[Unseen, ...]:
    found = [records.unseen] if records.unseen else []
    for mapping in (records.routing, records.records):
        found += [item for item in mapping.values() if isinstance(item, Unseen)]
    for shard in seen:
        if shard.platform.stopped:
            continue
        if isinstance(shard.patroni, Unseen):
            found.append(shard.patroni)
            continue
        found += shard.patroni.unseen_members
        if isinstance(shard.catalog, Unseen):
            found.append(shard.catalog)
    return tuple(found)


def _answered(
    records: _Records, seen: tuple[ObservedShard, ...]
) -> tuple[tuple[str, int, int], ...]:
    """Return (system, answered, asked): etcd, Patroni by member, PostgreSQL by shard."""
    asked = [shard for shard in seen if not shard.platform.stopped]
    members = sum(len(shard.platform.members) for shard in asked)
    spoke = sum(len(s.patroni.members) for s in asked if isinstance(s.patroni, PatroniView))
    read = sum(not isinstance(shard.catalog, Unseen) for shard in asked)
    return (
        ("etcd", int(records.unseen is None), 1),
        ("patroni", spoke, members),
        ("postgres", read, len(asked)),
    )
