"""Whether shards and databases serve, and why not, from what was seen. Pure."""

from __future__ import annotations

from reconciler.model.observed import (
    ObservedDatabase,
    ObservedMember,
    ObservedShard,
    ObservedState,
    PatroniView,
    Unseen,
)
from reconciler.model.routing import RoutingMap
from reconciler.model.status import Readiness


def of_shard(shard: ObservedShard, etcd: Unseen | None = None) -> Readiness:
    """Say whether a shard serves with all its members.

    ``etcd`` tells that etcd is silent: then no Patroni can lead, and whether anybody serves is not
    known.
    """
    if shard.platform.stopped:
        return Readiness("False", "stopped on purpose")
    if not any(member.running for member in shard.platform.members):
        return Readiness("False", "no member runs")
    if etcd is not None:
        return Readiness("Unknown", f"etcd: {etcd.reason}")
    view = shard.patroni
    if isinstance(view, Unseen):
        return Readiness("Unknown", f"patroni: {view.reason}")
    if view.leader is None:
        return Readiness("False", "no member leads")
    if absent := _absent(shard, view):
        return Readiness("False", absent)
    if sick := [member for member in view.members if not member.healthy]:
        return Readiness("False", "; ".join(f"{m.name} is {m.state}" for m in sick))
    if isinstance(shard.catalog, Unseen):
        return Readiness("Unknown", f"postgres: {shard.catalog.reason}")
    return Readiness("True", _notes(view))


def _absent(shard: ObservedShard, view: PatroniView) -> str:
    seen = {member.name for member in view.members}
    gone = [member.name for member in shard.platform.members if member.name not in seen]
    return f"{', '.join(gone)} did not answer" if gone else ""


def _notes(view: PatroniView) -> str:
    notes = ["patroni is paused"] if view.paused else []
    pending = sorted({name for member in view.members for name in member.pending_restart})
    notes += [f"restart pending: {', '.join(pending)}"] if pending else []
    return "; ".join(notes)


def is_kept(database: ObservedDatabase, shard: ObservedShard) -> bool:
    """Tell whether only a shard's data is left: it was stopped on purpose, and owns no key."""
    routing = database.routing
    if not isinstance(routing, RoutingMap):
        return False
    return shard.platform.stopped and all(o.scope != shard.key.scope for o in routing.owners)


def is_deleted(database: ObservedDatabase) -> bool:
    """Tell whether only a database's data is left: its spec went with ``deletion: keepData``."""
    stopped = bool(database.shards) and all(one.platform.stopped for one in database.shards)
    return stopped and database.record is None


def of_database(database: ObservedDatabase) -> Readiness:
    """Say whether every shard of a database serves and its routing map is there.

    A shard that left the specs, and of which only the data is kept, is not one that has to serve.
    """
    if isinstance(database.routing, Unseen):
        return Readiness("Unknown", f"etcd: {database.routing.reason}")
    if is_deleted(database):
        return Readiness("False", "deleted, its data kept")
    serving = [shard for shard in database.shards if not is_kept(database, shard)]
    shards = [(shard, of_shard(shard)) for shard in serving]
    for wanted in ("False", "Unknown"):
        found = [
            f"{shard.name or shard.key.scope}: {state.reason}"
            for shard, state in shards
            if state.ready == wanted
        ]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return Readiness(wanted, found[0] + more)
    if database.routing is None:
        return Readiness("False", "no routing map yet")
    return Readiness("True", "; ".join({state.reason for _, state in shards if state.reason}))


def not_serving(state: ObservedState) -> tuple[str, ...]:
    """Return the shards that do not serve with all their members, and why."""
    found = []
    for database in state.databases:
        for shard in database.shards:
            answer = of_shard(shard)
            if answer.ready != "True" and not shard.platform.stopped:
                name = f"{database.key}/{shard.name}" if shard.name else str(shard.key)
                found.append(f"{name}: {answer.reason}")
    return tuple(found)


def role_word(member: ObservedMember) -> str:
    """Return ``primary``, ``standby``, or ``sync standby``."""
    return f"sync {member.role.value}" if member.synchronous else member.role.value
