"""Steps on one shard: its members, its configuration, what its database holds."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.diff.changes import (
    AddShard,
    ApplySchema,
    ChangeGuards,
    ChangeParameters,
    PrepareDatabase,
    ResizeShard,
    RestartPending,
    RotatePasswords,
    StartMembers,
)
from reconciler.model.keyspace import KeySet
from reconciler.model.names import (
    Epoch,
    MemberName,
    member_ordinal,
)
from reconciler.model.platform import effective_parameters
from reconciler.plan.actions import (
    AddMember,
    Configure,
    InstallGuards,
    RemoveMember,
    RestartMembers,
    Risk,
    RunSchemaFile,
    SetPasswords,
    SetUpDatabase,
    StartShard,
    Step,
    SwitchOver,
)
from reconciler.plan.ranks import Context, Rank, Ranked


def add_shard(change: AddShard, context: Context) -> Iterator[Ranked]:
    """Start a new shard and set it up, or start one whose data was kept."""
    database, shard, scope = change.database, change.shard, change.scope
    verb = "start" if change.kept else "provision"
    step = Step(
        f"{scope}/start",
        database.key,
        StartShard(
            database.blueprint(shard, scope.scope),
            shard.name,
            tuple(range(shard.instances)),
            change.kept,
        ),
        (),
        Risk.ONLINE,
        f"{verb} {{shard}}: {count(shard.instances, 'instance')}, PostgreSQL {database.version}, "
        f"{shard.resources.storage_size}",
        "its data was kept" if change.kept else f"keys {shard.keys}",
        shard.name,
        shard.place,
    )
    yield Ranked(step, Rank.START, scope)
    if change.kept:
        return
    missing = PrepareDatabase(database.key, shard.name, scope, ())
    yield prepare(missing, context)
    schema = ApplySchema(database.key, shard.name, scope, database.schema, shard.place)
    yield from apply_schema(schema)
    routing = context.routing.get(database.key)
    keys = KeySet() if routing else shard.keys  # a later shard owns nothing until a move gives it
    epoch = routing.epoch if routing else Epoch(1)
    guards = ChangeGuards(database.key, shard.name, scope, database.sharding.tables, keys, epoch)
    yield install_guards(guards, context)


def start_members(change: StartMembers, context: Context) -> Ranked:
    """Start the members whose processes are gone."""
    blueprint = context.blueprint(change.database, change.shard, change.scope)
    ordinals = tuple(member_ordinal(m) for m in change.members)
    step = Step(
        f"{change.scope}/start",
        change.database,
        StartShard(blueprint, change.shard, ordinals),
        (),
        Risk.ONLINE,
        f"start {members(change.members)} of {{shard}}",
        "the processes are gone",
        change.shard,
    )
    return Ranked(step, Rank.START, change.scope)


def resize(change: ResizeShard, context: Context) -> Iterator[Ranked]:
    """Add members; or switch over away from those that leave, then remove them, last one first."""
    blueprint = context.blueprint(change.database, change.shard, change.scope)
    why = f"instances {change.before} → {change.after}"
    for member in change.add:
        step = Step(
            f"{change.scope}/add-{member_ordinal(member)}",
            change.database,
            AddMember(blueprint, member),
            (),
            Risk.ONLINE,
            f"add member {member_ordinal(member)} to {{shard}}",
            why,
            change.shard,
            change.place,
        )
        yield Ranked(step, Rank.ADD, change.scope)
    if change.remove:
        leads = change.leader in change.remove
        step = Step(
            f"{change.scope}/switchover",
            change.database,
            SwitchOver(change.scope, change.remove),
            (),
            Risk.FAILOVER if leads else Risk.ONLINE,
            f"switch {{shard}} over, away from {members(change.remove)}",
            "the primary is never removed",
            change.shard,
            change.place,
            visible=leads,
        )
        yield Ranked(step, Rank.SHRINK, change.scope)
    for member in reversed(change.remove):
        step = Step(
            f"{change.scope}/remove-{member_ordinal(member)}",
            change.database,
            RemoveMember(change.scope, member),
            (),
            Risk.ONLINE,
            f"remove member {member_ordinal(member)} of {{shard}}, with its copy of the data",
            why,
            change.shard,
            change.place,
        )
        yield Ranked(step, Rank.SHRINK, change.scope)


def configure(change: ChangeParameters, context: Context) -> Iterator[Ranked]:
    """Bring parameters and replication mode into force, with a restart where one is needed."""
    database = context.databases[change.database]
    what = [f"{n} {old or 'unset'} → {new or 'unset'}" for n, old, new in change.parameters]
    if change.synchronous:
        what.append(f"replication {' → '.join(_mode(sync) for sync in change.synchronous)}")
    step = Step(
        f"{change.scope}/configure",
        change.database,
        Configure(
            change.scope,
            effective_parameters(database.parameters, database.version),
            context.shards[change.database, change.shard].synchronous,
        ),
        (),
        Risk.ONLINE,
        f"configure {{shard}}: {', '.join(what)}",
        "in force after a restart" if change.restart else "in force after a reload",
        change.shard,
        change.place,
    )
    yield Ranked(step, Rank.CONFIGURE, change.scope)
    if change.restart:
        yield restart(change, change.restart, context)


def _mode(synchronous: bool) -> str:
    return "synchronous" if synchronous else "asynchronous"


def restart(
    change: ChangeParameters | RestartPending, names: tuple[str, ...], context: Context
) -> Ranked:
    """Restart a shard for the parameters named."""
    alone = context.shards[change.database, change.shard].instances == 1
    step = Step(
        f"{change.scope}/restart",
        change.database,
        RestartMembers(change.scope, names),
        (),
        Risk.RESTART,
        "restart {shard}, down meanwhile: one instance has no standby to switch over to"
        if alone
        else "restart {shard}: standbys first, then a switchover, then the former primary",
        f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'} it",
        change.shard,
    )
    return Ranked(step, Rank.RESTART, change.scope)


def prepare(change: PrepareDatabase, context: Context) -> Ranked:
    """Make roles, database and guard functions."""
    generation = context.databases[change.database].password_generation
    step = Step(
        f"{change.scope}/setup",
        change.database,
        SetUpDatabase(change.scope, change.database, generation),
        (),
        Risk.ONLINE,
        "set up roles, database and guard functions on {shard}",
        f"missing: {', '.join(change.missing)}" if change.missing else "a new shard",
        change.shard,
        visible=bool(change.missing),
    )
    return Ranked(step, Rank.SETUP, change.scope)


def rotate_passwords(change: RotatePasswords) -> Ranked:
    """Rotate the passwords of the owner and the application role."""
    step = Step(
        f"{change.scope}/passwords",
        change.database,
        SetPasswords(change.scope, change.database, change.after),
        (),
        Risk.ONLINE,
        "rotate the owner's and the application's passwords on {shard}",
        f"generation {change.before} → {change.after}",
        change.shard,
        change.place,
    )
    return Ranked(step, Rank.PASSWORDS, change.scope)


def apply_schema(change: ApplySchema) -> Iterator[Ranked]:
    """Run each schema file, in order."""
    for file in change.files:
        how = "one transaction" if file.transactional else "outside a transaction"
        step = Step(
            f"{change.scope}/schema/{file.name}",
            change.database,
            RunSchemaFile(change.scope, change.database, file),
            (),
            Risk.ONLINE,
            f"apply {file.name} to {{shard}}",
            f"sha256 {file.sha256[:7]}, {how}",
            change.shard,
            change.place,
        )
        yield Ranked(step, Rank.SCHEMA, change.scope)


def install_guards(change: ChangeGuards, context: Context) -> Ranked:
    """Make the tables refuse keys that the shard does not own."""
    key_type = context.databases[change.database].sharding.key_type
    tables = change.tables
    title = f"guard {count(len(tables), 'table')} of {{shard}}"  # equal titles fold over shards
    reason = f"accepts keys {change.keys} and refuses all others"
    if change.dropped:
        title = (
            f"stop guarding {', '.join(change.dropped)} on {{shard}}: "
            "its rows may then be written on any shard"
        )
        reason = "not in sharding.tables any more"
    step = Step(
        f"{change.scope}/guards",
        change.database,
        InstallGuards(change.scope, change.database, key_type, tables, change.keys, change.epoch),
        (),
        Risk.DATA_MOVE if change.dropped else Risk.ONLINE,  # rows can end up on any shard
        title,
        reason,
        change.shard,
    )
    return Ranked(step, Rank.GUARDS, change.scope)


def count(number: int, noun: str) -> str:
    """Return ``1 table``, ``3 tables``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def members(names: tuple[MemberName, ...]) -> str:
    """Return ``member 2``, ``members 1 and 2``."""
    ordinals = [str(member_ordinal(name)) for name in names]
    if len(ordinals) == 1:
        return f"member {ordinals[0]}"
    return f"members {', '.join(ordinals[:-1])} and {ordinals[-1]}"
