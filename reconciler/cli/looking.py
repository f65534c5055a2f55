"""What ``get``, ``describe`` and ``history`` look at: one observation, as plain objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from reconciler.cli.objects import (
    Object,
    database_object,
    instances_of,
    move_object,
    operation_object,
    shards_of,
)
from reconciler.cli.report import named_unseen
from reconciler.diff.changes import Refusal
from reconciler.engine.conditions import conditions_of
from reconciler.engine.foresight import observe_and_diff
from reconciler.engine.known import Known, read_known
from reconciler.engine.observe import observe
from reconciler.engine.operations import read_operations
from reconciler.engine.readiness import of_database
from reconciler.engine.records import OPERATIONS
from reconciler.engine.wishes import known_moves
from reconciler.engine.world import World
from reconciler.model.desired import DesiredState
from reconciler.model.errors import ReconcilerError
from reconciler.model.observed import ObservedDatabase, Unseen

KINDS = {
    "databases": ("databases", "database", "db", "dbs", "status"),
    "shards": ("shards", "shard"),
    "instances": ("instances", "instance", "members", "member"),
    "moves": ("moves", "move"),
    "operations": ("operations", "operation", "op", "ops"),
}
ALIASES = {alias: kind for kind, aliases in KINDS.items() for alias in aliases}


class NotFound(ReconcilerError):
    """There is nothing of this name.

    Databases are named as in their spec, with `namespace/` before it outside the default
    namespace; shards `database/shard` or by their scope; instances by their member name.
    """

    code = "CL005"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: objects by kind, and what did not answer."""

    objects: dict[str, list[Object]]
    unseen: tuple[Unseen, ...]


def look_around(
    world: World, kind: str, desired: DesiredState | None = None, *, ended: bool = False
) -> Seen:
    """Observe what a kind needs; operations and moves come from etcd alone, and need it.

    ``desired`` are the specs, as far as the caller has them: what they suspend, and what of them
    is refused, is told. ``ended`` asks for moves that have ended too.

    Raises what etcd raises, for these two; otherwise silence is a value.
    """
    if kind == "operations":
        operations = read_operations(world.eyes.store.read(OPERATIONS))
        moves = _moves(world, ended=False)
        return Seen({kind: [operation_object(one, moves) for one in reversed(operations.all)]}, ())
    if kind == "moves":
        return Seen({kind: _moves(world, ended=ended)}, ())
    state, refusals = observe(world.eyes), _refusals(world, desired)
    etcd_silent = any(unseen.system == "etcd" for unseen in state.unseen)
    known = Known() if etcd_silent else _known(world)
    by_spec = {d.key for d in desired.databases if d.suspend} if desired else set()
    suspended = dict.fromkeys(by_spec, "suspended by its spec")
    suspended |= {d.key: d.suspended for d in state.databases if d.suspended}
    databases = []
    # One that is not begun yet, because it waits, is known to the daemon alone.
    unbegun = known.statuses.keys() - {one.key for one in state.databases} if known.is_led else ()
    for database in (*state.databases, *(ObservedDatabase(k, None, None) for k in sorted(unbegun))):
        facts = replace(
            known.facts(database.key, world.is_gone),
            serving=of_database(database),
            refusals=tuple(one for one in refusals if one.database == database.key),
            rollout=database.rollout,
            suspended=suspended.get(database.key, ""),
        )
        databases.append(database_object(database, conditions_of(facts)))
    return Seen(
        {
            "databases": databases,
            "shards": list(shards_of(databases)),
            "instances": list(instances_of(databases)),
        },
        named_unseen(state),
    )


def _refusals(world: World, desired: DesiredState | None) -> tuple[Refusal, ...]:
    """Return what of the specs is refused, also for what is in the way of a move they ask for."""
    if desired is None:
        return ()
    _, difference = observe_and_diff(world.eyes, world.mover, desired)
    return difference.refusals


def _moves(world: World, *, ended: bool) -> list[Object]:
    known = known_moves(world.eyes.store)
    return [move_object(one) for one in known if ended or one.book.ended is None]


def _known(world: World) -> Known:
    try:
        return read_known(world.eyes.store, world.is_gone)
    except ReconcilerError:  # etcd fell silent since it was observed; that shows next time
        return Known()


def names_of(item: Object) -> set[str]:
    """Return every name that an object answers to, those of what it belongs to included."""
    if item["kind"] == "Operation":
        return {item["name"], item["plan"], *item["databases"]}
    prefix = "" if item["namespace"] == "default" else f"{item['namespace']}/"
    database = f"{prefix}{item.get('database', item['name'])}"
    match item["kind"]:
        case "Database":
            return {database}
        case "Move":
            return {database, f"{prefix}{item['name']}"}
        case "Shard":
            return {database, f"{database}/{item['name']}", f"{prefix}{item['scope']}"}
        case _:
            shard = f"{database}/{item['shard']}"
            return {database, shard, f"{prefix}{item['scope']}", f"{prefix}{item['name']}"}


def named(items: list[Object], name: str, kind: str) -> list[Object]:
    """Return the objects that a name means. Raises NotFound."""
    found = [item for item in items if name in names_of(item)]
    if found:
        return found
    if short := [item for item in items if item["kind"] == "Shard" and item["name"] == name]:
        if len(short) == 1:
            return short
        there = ", ".join(sorted(f"{item['database']}/{item['name']}" for item in short))
        raise NotFound(f"{kind} {name}", "several have this name", remedy=f"name one of {there}")
    raise not_found(f"{kind} {name}", name, {one for item in items for one in names_of(item)})


def not_found(subject: str, name: str, known: Iterable[str]) -> NotFound:
    """Return the error of a name that is none of those that are known."""
    there = sorted(known)
    near = get_close_matches(name, there, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"there are: {', '.join(there[:10]) or 'none'}"
    return NotFound(subject, "there is nothing of this name", remedy=remedy)


def in_namespace(items: list[Object], namespace: str) -> list[Object]:
    """Return the objects of one namespace; operations belong to none."""
    return [item for item in items if item.get("namespace", namespace) == namespace]
