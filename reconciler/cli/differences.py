"""Changes as fields with a value before and after. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from reconciler.diff import changes as ch
from reconciler.model.desired import Place
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.model.routing import RoutingMap


@dataclass(frozen=True, slots=True)
class Difference:
    """One field; ``before`` or ``after`` None: it is not there."""

    database: str
    shard: str
    field: str
    before: str | None
    after: str | None
    place: Place | None = None

    @property
    def subject(self) -> str:
        """``shop/s0``, or ``shop`` for what is the database's own."""
        return f"{self.database}/{self.shard}" if self.shard else self.database


def differences_of(changes: Iterable[ch.Change]) -> tuple[Difference, ...]:
    """Return the fields that differ, those of one shard together."""
    found = [one for change in changes for one in _of(change)]
    order = {subject: n for n, subject in enumerate(dict.fromkeys(d.subject for d in found))}
    return tuple(sorted(found, key=lambda d: order[d.subject]))


def _of(change: ch.Change) -> Iterator[Difference]:
    match change:
        case (
            ch.AddShard() | ch.RetireShard() | ch.DeleteDatabase() | ch.RenameShard()
            | ch.MoveKeys() | ch.EndMove() | ch.PublishRouting() | ch.RecordApplied()
        ):  # fmt: skip
            yield from _of_database(change)
        case (
            ch.StartMembers() | ch.ResizeShard() | ch.ChangeParameters() | ch.RestartPending()
            | ch.PrepareDatabase() | ch.ApplySchema() | ch.ChangeGuards() | ch.RotatePasswords()
        ):  # fmt: skip
            yield from _of_shard(change)
        case _:
            assert_never(change)


_OfDatabase = (
    ch.AddShard
    | ch.RetireShard
    | ch.DeleteDatabase
    | ch.RenameShard
    | ch.MoveKeys
    | ch.EndMove
    | ch.PublishRouting
    | ch.RecordApplied
)
_OfShard = (
    ch.StartMembers
    | ch.ResizeShard
    | ch.ChangeParameters
    | ch.RestartPending
    | ch.PrepareDatabase
    | ch.ApplySchema
    | ch.ChangeGuards
    | ch.RotatePasswords
)


def _of_database(change: _OfDatabase) -> Iterator[Difference]:
    match change:
        case ch.AddShard(database, shard):
            told = f"{shard.instances} instances, PostgreSQL {database.version}, keys {shard.keys}"
            was = "stopped, its data kept" if change.kept else None
            yield _field(database.key, shard.name, "shard", was, told, shard.place)
        case ch.RetireShard(database_key, name, scope, deletion):
            yield _field(database_key, name or ShardName(scope.scope), "shard", str(scope), None)
            yield _field(database_key, name or ShardName(scope.scope), "data", None, deletion.value)
        case ch.DeleteDatabase(database_key, scopes, deletion):
            shards = f"{len(scopes)} shards, deletion: {deletion.value}"
            yield _field(database_key, None, "database", shards, None)
        case ch.RenameShard(database_key, _, former, name, place):
            yield _field(database_key, name, "name", former, name, place)
        case ch.MoveKeys():
            keys = f"keys {change.keys}"
            source, target = f"shard {change.source}", f"shard {change.target}"
            yield _field(change.database, None, keys, source, target, change.place)
        case ch.EndMove(database_key, move, how, _, place):
            keys = f"move of {move.keys}, {move.source} to {move.target}"
            yield _field(database_key, None, keys, move.stage.value, how.value, place)
        case ch.PublishRouting(database_key, before_map, after_map):
            before, after = _told(before_map), _told(after_map)
            if before == after:
                before, after = None, "endpoints, names or tables of the map are out of date"
            yield _field(database_key, None, "routing", before, after)
        case ch.RecordApplied():
            return  # book-keeping, no field of anything
        case _:
            assert_never(change)


def _told(routing: RoutingMap | None) -> str | None:
    if routing is None:
        return None
    owners = ", ".join(f"{owner.shard} {owner.keys}" for owner in routing.owners[:8])
    more = f" and {len(routing.owners) - 8} more" if len(routing.owners) > 8 else ""
    return f"epoch {routing.epoch}: {owners}{more}"


def _of_shard(change: _OfShard) -> Iterator[Difference]:
    key, shard = change.database, change.shard
    match change:
        case ch.StartMembers():
            yield _field(key, shard, "running", None, ", ".join(change.members))
        case ch.ResizeShard():
            yield _field(
                key, shard, "instances", str(change.before), str(change.after), change.place
            )
        case ch.ChangeParameters():
            yield from _parameters(change)
        case ch.RestartPending():
            names = ", ".join(change.parameters)
            yield _field(
                key, shard, "pending restart", f"{', '.join(change.members)}: {names}", None
            )
        case ch.PrepareDatabase():
            yield _field(key, shard, "set up", None, ", ".join(change.missing) or "database")
        case ch.ApplySchema():
            for file in change.files:
                told = f"{file.name} ({file.sha256[:12]})"
                yield _field(key, shard, "schema", None, told, change.place)
        case ch.ChangeGuards():
            tables = ", ".join(table.name for table in change.tables)
            yield _field(key, shard, "guards", None, f"{tables}: {change.keys}")
        case ch.RotatePasswords():
            before, after = str(change.before), str(change.after)
            yield _field(key, shard, "passwords.generation", before, after, change.place)
        case _:
            assert_never(change)


def _parameters(change: ch.ChangeParameters) -> Iterator[Difference]:
    for name, before, after in change.parameters:
        field = f"parameters.{name}"
        yield _field(change.database, change.shard, field, before, after, change.place)
    if change.synchronous:
        before, after = (str(value).lower() for value in change.synchronous)
        yield _field(change.database, change.shard, "synchronous", before, after, change.place)


def _field(
    key: DatabaseKey,
    shard: ShardName | None,
    field: str,
    before: str | None,
    after: str | None,
    place: Place | None = None,
) -> Difference:
    return Difference(str(key), shard or "", field, before, after, place)
