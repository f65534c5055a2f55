"""From changes to a plan: the steps of all changes, linked into one order.

Within a shard, steps follow their rank. Over shards:

- a restart, and a schema file on shards in use, goes one shard at a time, so that a mistake stops
  at the first;
- the routing map is written when every shard that it names is ready for it, and only then may
  keys move, members leave and shards retire;
- the record of what was applied is written last of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from reconciler.diff.changes import AddShard, Change, Difference, RenameShard
from reconciler.diff.origin import Origin, origins
from reconciler.model.desired import DesiredState
from reconciler.model.names import DatabaseKey, ScopeKey
from reconciler.model.observed import ObservedState
from reconciler.model.routing import RoutingMap
from reconciler.plan.actions import Plan, RestartMembers, Step
from reconciler.plan.approval import remarks
from reconciler.plan.estimate import estimate, measured
from reconciler.plan.fingerprint import digest_of, fingerprints
from reconciler.plan.graph import order
from reconciler.plan.ranks import Rank, Ranked, context_of
from reconciler.plan.steps import steps_of


def make_plan(desired: DesiredState, observed: ObservedState, difference: Difference) -> Plan:
    """Return the plan that acts on ``difference``.

    The same inputs give the same plan, digest included: nothing in it depends on when it was made.
    """
    maps = {d.key: d.routing for d in observed.databases if isinstance(d.routing, RoutingMap)}
    context = context_of(desired.databases, maps)
    ranked = [
        replace(r, step=replace(r.step, drift=True)) if origin is Origin.DRIFT else r
        for change, origin in origins(difference.changes, desired, observed)
        for r in steps_of(change, context)
    ]
    new = {c.scope for c in difference.changes if isinstance(c, AddShard)}
    linked = _link(_merge(_tell_renames(ranked, difference.changes)), new)
    known = measured(observed.durations)
    steps = tuple(
        replace(linked[id_], estimate=estimate(linked[id_].action, known))
        for id_ in order({id_: step.after for id_, step in linked.items()})
    )
    saw = fingerprints(desired, observed)
    return Plan(
        source=desired.source,
        revision=desired.revision,
        steps=steps,
        refusals=difference.refusals,
        standstills=difference.standstills,
        remarks=(*difference.remarks, *remarks(desired, steps)),
        saw=saw,
        digest=digest_of(desired.revision, steps, saw),
    )


def _tell_renames(ranked: list[Ranked], changes: Iterable[Change]) -> list[Ranked]:
    """Let the step that writes the routing map say which shards it renames."""
    renamed: dict[DatabaseKey, list[RenameShard]] = defaultdict(list)
    for change in changes:
        if isinstance(change, RenameShard):
            renamed[change.database].append(change)
    told: list[Ranked] = []
    for item in ranked:
        names = renamed.get(item.step.database, [])
        if item.rank is Rank.ROUTING and names:
            what = ", ".join(f"{change.before} to {change.after}" for change in names)
            step = replace(
                item.step,
                title=f"rename shard {what}; data and keys stay where they are",
                reason="moved",
                place=names[0].place,
                visible=True,
            )
            item = replace(item, step=step)
        told.append(item)
    return told


def _merge(ranked: Iterable[Ranked]) -> list[Ranked]:
    """Make one step of two restarts of a shard: for new parameters and for those that wait."""
    merged: dict[str, Ranked] = {}
    for item in ranked:
        other = merged.get(item.step.id)
        if other is None:
            merged[item.step.id] = item
            continue
        mine, earlier = item.step.action, other.step.action
        if isinstance(mine, RestartMembers) and isinstance(earlier, RestartMembers):
            names = tuple(sorted({*mine.parameters, *earlier.parameters}))
            action = RestartMembers(mine.scope, names)
            step = replace(other.step, action=action, reason=f"{', '.join(names)} need it")
            merged[item.step.id] = replace(other, step=step)
    return list(merged.values())


def _link(ranked: list[Ranked], new: set[ScopeKey]) -> dict[str, Step]:
    """Return the steps by id, each with the ids of those it waits for."""
    by_database: dict[DatabaseKey, list[Ranked]] = defaultdict(list)
    for item in ranked:
        by_database[item.step.database].append(item)
    linked: dict[str, Step] = {}
    for items in by_database.values():
        for step in _link_database(sorted(items, key=lambda item: item.rank), new):
            linked[step.id] = step
    return linked


def _link_database(items: list[Ranked], new: set[ScopeKey]) -> Iterable[Step]:
    """Yield one database's steps with their links; ``items`` are sorted by rank.

    A step waits for the one before it in its lane, for the routing map when it stands behind it,
    and for its turn among shards. A step of the database itself waits for the ends of all lanes
    that went on since the last such step, which is waited for too.
    """
    ends: dict[ScopeKey | None, str] = {}
    went_on: dict[ScopeKey | None, str] = {}
    turn: dict[Rank, str] = {}
    for item in items:
        waits = {ends[item.lane]} if item.lane in ends else set()
        if item.lane is None:
            waits.update(went_on.values())
            went_on = {}
        elif item.rank > Rank.ROUTING and None in ends:
            waits.add(ends[None])
        one_by_one = item.rank is Rank.RESTART or (
            item.rank is Rank.SCHEMA and item.lane not in new
        )
        if one_by_one and item.rank in turn:
            waits.add(turn[item.rank])
        if one_by_one:
            turn[item.rank] = item.step.id
        ends[item.lane] = went_on[item.lane] = item.step.id
        yield replace(item.step, after=tuple(sorted(waits - {item.step.id})))
