"""One function per action, and the table that finds it.

Each can run twice and changes nothing the second time. Each looks at what is there when it runs,
not at what the plan saw: between the two, a failover may have moved the primary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from reconciler.engine.hands import (
    Hands,
    Wait,
    login_to,
    primary_at,
    shard_of,
    until,
    wait_healthy,
)
from reconciler.engine.move_acts import Crew
from reconciler.engine.moves import begin, drive, wish_for
from reconciler.engine.observe import login_of
from reconciler.engine.problems import (
    LeaderNotRemoved,
    NotHealthyInTime,
    StoppedByUser,
)
from reconciler.engine.records import (
    decode_record,
    decode_routing,
    encode_record,
    encode_routing,
    hold_key,
    logbook_key,
    record_key,
    rollout_key,
    routing_key,
)
from reconciler.engine.wishes import moves_under_way, refuse_busy
from reconciler.model.access import Guarding
from reconciler.model.moves import Move as KeyMove
from reconciler.model.names import DatabaseKey, MemberName, ScopeKey, app_role, owner_role
from reconciler.model.observed import PatroniView
from reconciler.model.platform import PlatformShard
from reconciler.model.routing import AppliedRecord, RoutingMap
from reconciler.plan.actions import (
    Action,
    AddMember,
    CloseMove,
    Configure,
    DestroyShard,
    InstallGuards,
    MoveKeyRange,
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
from reconciler.plan.moves import begin_move
from reconciler.workflow.rollout import (
    Finished,
    Hold,
    Lead,
    Move,
    Restart,
    decide_restart,
    decide_secured,
    decide_switch,
)


def perform(hands: Hands, action: Action, wait: Wait) -> None:  # noqa: C901  the dispatch table
    """Do one action. Raises a ReconcilerError when it cannot be done, or not now."""
    hands.store.keep_alive(hands.lease)  # Patroni knows no fencing token: see _roll
    match action:
        case StartShard():
            _start_shard(hands, action, wait)
        case AddMember():
            hands.platform.ensure_members(
                action.blueprint, (int(action.member.rpartition("-")[2]),)
            )
            wait_healthy(hands, action.blueprint.key, (action.member,), wait)
        case SwitchOver():
            _switch_over(hands, action, wait)
        case RemoveMember():
            _remove_member(hands, action)
        case Configure():
            login = login_to(hands, action.scope)
            hands.patroni.configure(login, action.parameters, action.synchronous)
        case RestartMembers():
            _roll(hands, action.scope, decide_restart, wait)
        case SetUpDatabase():
            _set_up(hands, action, wait)
        case RunSchemaFile():
            _run_schema_file(hands, action, wait)
        case InstallGuards():
            _install_guards(hands, action, wait)
        case SetPasswords():
            _set_passwords(hands, action, wait)
        case WriteRouting():
            _write_routing(hands, action)
        case StopShard():
            hands.platform.stop_shard(action.scope)
        case DestroyShard():
            hands.platform.destroy_shard(action.scope)
        case RemoveRouting():
            _remove(hands, routing_key(action.database), action.version)
        case RemoveRecord():
            _remove(hands, record_key(action.database), action.version)
            _forget_moves(hands, action.database)
        case WriteRecord():
            _write_record(hands, action)
        case MoveKeyRange():
            _move_keys(hands, action, wait)
        case CloseMove():
            crew = _crew(hands, wait)
            wish_for(crew, action.move, action.how)
            drive(crew, action.move)
        case _:
            assert_never(action)


def _forget_moves(hands: Hands, database: DatabaseKey) -> None:
    """Remove the logbooks of a database's moves, of which few are kept, its holds, its roll-out."""
    kinds = (logbook_key(database), hold_key(database), rollout_key(database))
    found = [key for kind in kinds for key in hands.store.read(kind)]
    if found:
        hands.store.write(dict.fromkeys(found, (None, None)), hands.lease)


def _start_shard(hands: Hands, action: StartShard, wait: Wait) -> None:
    key = action.blueprint.key
    if action.kept:
        hands.platform.start_shard(key)
    hands.platform.ensure_members(action.blueprint, action.ordinals)
    names = tuple(MemberName(f"{key.scope}-{n}") for n in action.ordinals)
    wait_healthy(hands, key, names, wait)


def _roll(hands: Hands, key: ScopeKey, decide: Callable[[PatroniView], Move], wait: Wait) -> None:
    """Follow the decisions of a rollout until it is finished.

    Patroni's API cannot be fenced, so the lease is asked for right before each order; what an
    applier that was stopped in between still orders is a restart or switchover that Patroni allows.
    """
    while True:
        move = until(hands, key, lambda: _next_move(hands, key, decide), wait)
        hands.store.keep_alive(hands.lease)
        match move:
            case Finished():
                until(hands, key, lambda: _next_move(hands, key, decide_secured), wait)
                return
            case Restart(member):
                wait(f"restarting {member}")
                hands.patroni.restart(login_to(hands, key), member)
            case Lead(leader, candidate):
                wait(f"switching over from {leader} to {candidate}")
                hands.patroni.switch_over(login_to(hands, key), leader, candidate)
        if hands.stop.is_set():
            raise StoppedByUser(str(key), "stopped between two members")


def _next_move(
    hands: Hands, key: ScopeKey, decide: Callable[[PatroniView], Move]
) -> Restart | Lead | Finished | Hold:
    return decide(hands.patroni.view(login_to(hands, key)))


def _switch_over(hands: Hands, action: SwitchOver, wait: Wait) -> None:
    _roll(hands, action.scope, lambda view: decide_switch(view, action.away_from), wait)


def _remove_member(hands: Hands, action: RemoveMember) -> None:
    shard = shard_of(hands, action.scope)
    if shard is None or all(m.name != action.member for m in shard.members):
        return
    view = hands.patroni.view(login_of(hands.platform, shard))
    if view.leader in (None, action.member):
        raise LeaderNotRemoved(
            action.member,
            "it leads now" if view.leader else "nobody leads now, so it may be the next primary",
            remedy="plan again: the plan switches over first",
        )
    hands.platform.remove_member(action.scope, action.member)


def _crew(hands: Hands, wait: Wait) -> Crew:
    return Crew(
        platform=hands.platform,
        store=hands.store,
        patroni=hands.patroni,
        mover=hands.mover,
        clock=hands.clock,
        lease=hands.lease,
        wait=wait,
        stopping=hands.stop.is_set,
        held=hands.held,
        does=hands.does,
    )


def _move_keys(hands: Hands, action: MoveKeyRange, wait: Wait) -> None:
    """Begin a move, or go on with it; nothing is left to do when the map says so already."""
    key = routing_key(action.database)
    found = hands.store.read(key).get(key)
    if found is None:
        raise NotHealthyInTime(f"database {action.database}", "it has no routing map: plan again")
    routing = decode_routing(key, found.value, found.version)
    crew = _crew(hands, wait)
    under_way = next((m for m in moves_under_way(hands.store) if _is_of(m, action)), None)
    if under_way is None:
        owner = next((o for o in routing.owners if o.scope == action.source_scope.scope), None)
        if owner is None or not (owner.keys & action.keys):
            return
        refuse_busy(hands.store, action)
        now = hands.clock.now().isoformat(timespec="milliseconds")
        under_way = begin_move(action, routing, now)
        begin(crew, under_way)
    drive(crew, under_way)


def _is_of(move: KeyMove, action: MoveKeyRange) -> bool:
    return (
        move.database == action.database
        and move.keys == action.keys
        and (move.source_scope, move.target_scope) == (action.source_scope, action.target_scope)
    )


def _set_up(hands: Hands, action: SetUpDatabase, wait: Wait) -> None:
    name = action.database.name
    roles = tuple(
        hands.platform.ensure_credential(action.scope, role)
        for role in (owner_role(name), app_role(name))
    )
    login, primary = primary_at(hands, action.scope, wait)
    hands.postgres.set_up(
        login, primary, name, roles, hands.lease.token, action.password_generation
    )


def _run_schema_file(hands: Hands, action: RunSchemaFile, wait: Wait) -> None:
    name = action.database.name
    owner = hands.platform.credential(action.scope, owner_role(name))
    login, primary = primary_at(hands, action.scope, wait)
    hands.postgres.apply_schema(login, primary, name, owner, action.file, hands.lease.token)


def _install_guards(hands: Hands, action: InstallGuards, wait: Wait) -> None:
    guarding = Guarding(action.key_type, action.tables, action.keys, action.epoch)
    login, primary = primary_at(hands, action.scope, wait)
    hands.postgres.install_guards(login, primary, action.database.name, guarding, hands.lease.token)


def _set_passwords(hands: Hands, action: SetPasswords, wait: Wait) -> None:
    """Stage, set, promote; a crash between any two is healed by doing it again.

    Staged passwords stay until they are promoted, so a second run sets the same ones. When the
    generation is noted and nothing is staged, all of it was done before.
    """
    name = action.database.name
    roles = (owner_role(name), app_role(name))
    login, primary = primary_at(hands, action.scope, wait)
    shard = shard_of(hands, action.scope)
    noted = hands.postgres.catalog(login, primary, name).password_generation
    if noted >= action.generation and not (shard and shard.staged):
        return
    staged = tuple(hands.platform.stage_credential(action.scope, role) for role in roles)
    hands.postgres.rotate_passwords(
        login, primary, name, staged, action.generation, hands.lease.token
    )
    for role in roles:
        hands.platform.promote_credential(action.scope, role)


def _write_routing(hands: Hands, action: WriteRouting) -> None:
    """Publish the map with today's endpoints, unless the record says the same already."""
    key = routing_key(action.map.database)
    wanted = _with_endpoints(action.map, hands.platform.observe())
    there = hands.store.read(key).get(key)
    if there is not None:
        seen = decode_routing(key, there.value, there.version)
        if replace(seen, version=0) == replace(wanted, version=0):
            return
    hands.store.write({key: (encode_routing(wanted), action.map.version)}, hands.lease)


def _with_endpoints(routing: RoutingMap, shards: tuple[PlatformShard, ...]) -> RoutingMap:
    where = {
        (shard.key, member.name): member.endpoint for shard in shards for member in shard.members
    }
    owners = tuple(
        replace(
            owner,
            members=tuple(
                replace(m, endpoint=where[place])
                for m in owner.members
                if (place := (ScopeKey(routing.database.namespace, owner.scope), m.name)) in where
            ),
        )
        for owner in routing.owners
    )
    return replace(routing, owners=owners)


def _remove(hands: Hands, key: str, version: int) -> None:
    """Delete a record as it was seen; nothing is left to do when it is gone."""
    if key in hands.store.read(key):
        hands.store.write({key: (None, version)}, hands.lease)


def _write_record(hands: Hands, action: WriteRecord) -> None:
    key = record_key(action.database)
    record = AppliedRecord(
        database=action.database,
        source=hands.source,
        revision=hands.revision,
        digest=action.digest,
        deletion=action.deletion,
        applied_at=hands.clock.now().isoformat(timespec="milliseconds"),
        file=action.file,
        parts=action.parts,
    )
    if _same_record(hands, key, action.database, record) and not action.released:
        return
    changes: dict[str, tuple[bytes | None, int | None]] = {
        key: (encode_record(record), action.version)
    }
    if rollout_key(action.database) in hands.store.read(rollout_key(action.database)):
        changes[rollout_key(action.database)] = (None, None)  # every shard has it by now
    changes |= {hold_key(action.database, id_): (None, None) for id_ in action.released}
    hands.store.write(changes, hands.lease)


def _same_record(hands: Hands, key: str, database: DatabaseKey, record: AppliedRecord) -> bool:
    there = hands.store.read(key).get(key)
    if there is None:
        return False
    seen = decode_record(key, there.value, database, there.version)
    return replace(seen, version=0, applied_at="") == replace(record, applied_at="")
