"""Apply a plan to what was observed, in memory: the proof that it leaves no difference.

Each action's effect on the model is written down here once. A plan is proven when ``diff`` finds no
change between the specs and the model after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from reconciler.diff.changes import Change
from reconciler.diff.diff import diff
from reconciler.model.access import OWN_SCHEMA_VERSION
from reconciler.model.desired import Database, DesiredState
from reconciler.model.names import (
    DatabaseKey,
    MemberName,
    ScopeKey,
    app_role,
    member_name,
    owner_role,
)
from reconciler.model.observed import (
    AppliedFile,
    Catalog,
    ObservedDatabase,
    ObservedGuard,
    ObservedMember,
    ObservedShard,
    ObservedState,
    ObservedTable,
    PatroniView,
    Role,
    Unseen,
)
from reconciler.model.platform import (
    Endpoint,
    PlatformMember,
    PlatformShard,
    ShardBlueprint,
    effective_parameters,
)
from reconciler.model.routing import AppliedRecord, RoutingMap
from reconciler.plan.actions import (
    Action,
    AddMember,
    CloseMove,
    Configure,
    DestroyShard,
    InstallGuards,
    MoveKeyRange,
    Plan,
    RemoveMember,
    RemoveRecord,
    RemoveRouting,
    RestartMembers,
    RunSchemaFile,
    SetPasswords,
    SetUpDatabase,
    StartShard,
    StopShard,
    SwitchOver,
    WriteRecord,
    WriteRouting,
)
from reconciler.plan.simulate_moves import close_move, move_keys, without_idle_owners

_NEW = Endpoint("new", 0, 0)
"""Stands for the endpoint of a member that does not exist yet."""


def what_remains(desired: DesiredState, observed: ObservedState, plan: Plan) -> tuple[Change, ...]:
    """Return the changes that are left after the plan in the model: none, for a proven plan.

    Databases with a refusal or something unseen are left out: their plan is not meant to be whole.
    """
    after = simulate(desired, observed, plan)
    open_ = {r.database for r in plan.refusals} | {s.database for s in plan.standstills}
    return tuple(
        change for change in diff(desired, after).changes if _database_of(change) not in open_
    )


def _database_of(change: Change) -> DatabaseKey:
    owner = change.database
    return owner.key if isinstance(owner, Database) else owner


def simulate(desired: DesiredState, observed: ObservedState, plan: Plan) -> ObservedState:
    """Return the observed state as it will be after all steps of the plan."""
    world = {database.key: database for database in observed.databases}
    specs = {database.key: database for database in desired.databases}
    for step in plan.steps:
        there = world.get(step.database) or ObservedDatabase(step.database, None, None)
        after = _perform(there, step.action, specs.get(step.database), plan, observed.looked_at)
        if after is None:
            world.pop(step.database, None)
        else:
            world[step.database] = after
    moved = {s.database for s in plan.steps if isinstance(s.action, MoveKeyRange | CloseMove)}
    return replace(
        observed,
        databases=tuple(
            without_idle_owners(world[key]) if key in moved else world[key] for key in sorted(world)
        ),
    )


def _perform(  # noqa: C901  a dispatch table
    there: ObservedDatabase, action: Action, spec: Database | None, plan: Plan, now: str
) -> ObservedDatabase | None:
    match action:
        case StartShard():
            return _start(there, action)
        case AddMember():
            return _add_member(there, action)
        case RemoveMember() | SwitchOver() | Configure() | RestartMembers():
            return _change(there, action.scope, lambda shard: _in_patroni(shard, action))
        case SetUpDatabase() | SetPasswords() | RunSchemaFile() | InstallGuards():
            return _change(there, action.scope, lambda shard: _in_postgres(shard, action, spec))
        case WriteRouting():
            return replace(there, routing=_filled(action.map, there))
        case RemoveRouting():
            return replace(there, routing=None)
        case MoveKeyRange():
            return move_keys(there, action, now)
        case CloseMove():
            return close_move(there, action, now)
        case StopShard():
            return _change(there, action.scope, _stopped)
        case DestroyShard():
            return replace(there, shards=tuple(s for s in there.shards if s.key != action.scope))
        case RemoveRecord():
            return replace(there, record=None) if there.shards else None
        case WriteRecord():
            record = AppliedRecord(
                action.database, plan.source, plan.revision.text, action.digest, action.deletion,
                "", file=action.file, parts=action.parts,
            )  # fmt: skip
            holds = tuple(hold for hold in there.holds if hold.id not in action.released)
            return replace(there, record=record, holds=holds)
        case _:
            assert_never(action)


def _change(
    there: ObservedDatabase, scope: ScopeKey, how: Callable[[ObservedShard], ObservedShard]
) -> ObservedDatabase:
    return replace(there, shards=tuple(how(s) if s.key == scope else s for s in there.shards))


def _stopped(shard: ObservedShard) -> ObservedShard:
    return replace(shard, platform=replace(shard.platform, stopped=True))


def _start(there: ObservedDatabase, action: StartShard) -> ObservedDatabase:
    key = action.blueprint.key
    shard = there.shard(key)
    if shard is None or (isinstance(shard.catalog, Unseen) and not shard.platform.stopped):
        others = (one for one in there.shards if one.key != key)
        shards = (*others, _fresh(action.blueprint, action.ordinals))
        return replace(there, shards=tuple(sorted(shards, key=lambda shard: shard.key)))
    names = {member_name(key.scope, n) for n in action.ordinals}

    def started(shard: ObservedShard) -> ObservedShard:
        members = tuple(
            replace(m, running=True) if m.name in names else m for m in shard.platform.members
        )
        return replace(shard, platform=replace(shard.platform, members=members, stopped=False))

    return _change(there, key, started)


def _fresh(blueprint: ShardBlueprint, ordinals: tuple[int, ...]) -> ObservedShard:
    names = [member_name(blueprint.scope, n) for n in ordinals]
    platform = PlatformShard(
        blueprint.key,
        blueprint.database,
        blueprint.version,
        tuple(PlatformMember(name, _NEW, running=True) for name in names),
        blueprint.synchronous,
        blueprint.resources,
    )
    patroni = PatroniView(
        names[0],
        tuple(_member(name, leads=name == names[0]) for name in names),
        effective_parameters(blueprint.parameters, blueprint.version),
        blueprint.synchronous,
    )
    return ObservedShard(
        blueprint.key, platform, patroni, Catalog(int(blueprint.version), database_present=False)
    )


def _member(name: MemberName, *, leads: bool = False) -> ObservedMember:
    role, state = (Role.PRIMARY, "running") if leads else (Role.STANDBY, "streaming")
    return ObservedMember(name, _NEW, role, state)


def _add_member(there: ObservedDatabase, action: AddMember) -> ObservedDatabase:
    def added(shard: ObservedShard) -> ObservedShard:
        member = PlatformMember(action.member, _NEW, running=True)
        platform = replace(shard.platform, members=(*shard.platform.members, member))
        patroni = shard.patroni
        if isinstance(patroni, PatroniView):
            patroni = replace(patroni, members=(*patroni.members, _member(action.member)))
        return replace(shard, platform=platform, patroni=patroni)

    return _change(there, action.blueprint.key, added)


def _in_patroni(
    shard: ObservedShard, action: RemoveMember | SwitchOver | Configure | RestartMembers
) -> ObservedShard:
    view = shard.patroni
    if not isinstance(view, PatroniView):
        return shard
    match action:
        case Configure():
            view = replace(view, parameters=action.parameters, synchronous=action.synchronous)
        case RestartMembers():
            members = tuple(replace(m, pending_restart=()) for m in view.members)
            view = replace(view, members=members)
        case SwitchOver():
            staying = [m.name for m in view.members if m.name not in action.away_from]
            leads = view.leader if view.leader not in action.away_from else staying[0]
            view = replace(view, leader=leads)
        case RemoveMember():
            assert view.leader != action.member, "a leader is never removed"  # noqa: S101
            staying_there = [m for m in shard.platform.members if m.name != action.member]
            shard = replace(shard, platform=replace(shard.platform, members=tuple(staying_there)))
            view = replace(view, members=tuple(m for m in view.members if m.name != action.member))
        case _:
            assert_never(action)
    return replace(shard, patroni=view)


def _in_postgres(
    shard: ObservedShard,
    action: SetUpDatabase | SetPasswords | RunSchemaFile | InstallGuards,
    spec: Database | None,
) -> ObservedShard:
    catalog = shard.catalog
    if not isinstance(catalog, Catalog):
        return shard
    match action:
        case SetUpDatabase():
            name = action.database.name
            catalog = replace(
                catalog,
                database_present=True,
                installed=OWN_SCHEMA_VERSION,
                roles=tuple(sorted({*catalog.roles, owner_role(name), app_role(name)})),
                password_generation=catalog.password_generation or action.password_generation,
            )
        case SetPasswords():
            catalog = replace(catalog, password_generation=action.generation)
            shard = replace(shard, platform=replace(shard.platform, staged=()))
        case RunSchemaFile():
            done = AppliedFile(action.file.name, action.file.sha256)
            catalog = replace(catalog, history=(*catalog.history, done))
            if spec and len(catalog.history) == len(spec.schema):
                catalog = replace(catalog, tables=_tables_of(spec, catalog))
        case InstallGuards():
            catalog = replace(catalog, guards=_guards_of(action))
        case _:
            assert_never(action)
    return replace(shard, catalog=catalog)


def _tables_of(spec: Database, catalog: Catalog) -> tuple[ObservedTable, ...]:
    """Return the tables after the last schema file, trusting it to have made the spec's."""
    there = {table.name: table for table in catalog.tables}
    types = {"int": "integer"}
    key_type = types.get(spec.sharding.key_type, str(spec.sharding.key_type))
    for table in spec.sharding.tables:
        there.setdefault(table.name, ObservedTable(table.name, 0, 0, ((table.key, key_type),)))
    return tuple(there[name] for name in sorted(there))


def _guards_of(action: InstallGuards) -> tuple[ObservedGuard, ...]:
    """Return the guards that the action names; it takes all others away."""
    return tuple(
        ObservedGuard(table.name, table.key, action.keys, action.epoch)
        for table in sorted(action.tables, key=lambda table: table.name)
    )


def _filled(routing: RoutingMap, there: ObservedDatabase) -> RoutingMap:
    """Return the map with the endpoints that the platform has, as the engine will write it."""
    where = {m.name: m.endpoint for s in there.shards for m in s.platform.members}
    owners = tuple(
        replace(
            owner,
            members=tuple(replace(m, endpoint=where.get(m.name, _NEW)) for m in owner.members),
        )
        for owner in routing.owners
    )
    return replace(routing, owners=owners)
