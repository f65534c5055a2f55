"""From changes to a plan: the steps of all changes, linked into one order.

Within a shard, steps follow their rank. Over shards:

- a schema file on shards in use goes one shard at a time, and so does a restart unless the spec
  lets more restart at once, so that a mistake stops at the first; canaries have the first turns;
- the routing map is written when every shard that it names is ready for it, and only then may
  keys move, members leave and shards retire;
- the record of what was applied is written last of all.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import replace

from reconciler.diff.changes import AddShard, Change, Difference, Remark, RenameShard
from reconciler.diff.origin import Origin, origins
from reconciler.model.desired import DesiredState
from reconciler.model.names import DatabaseKey, ScopeKey
from reconciler.model.observed import ObservedState
from reconciler.model.routing import RoutingMap
from reconciler.plan.actions import Estimate, Plan, RestartMembers, Step, Wave, by_database
from reconciler.plan.approval import asked_of, remarks
from reconciler.plan.canary import remark, wave_of
from reconciler.plan.estimate import estimate, measured
from reconciler.plan.fingerprint import digest_of, fingerprints
from reconciler.plan.graph import order
from reconciler.plan.ranks import Context, Rank, Ranked, context_of
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
    ranked = [_in_its_wave(item, context, new) for item in ranked]
    linked = _link(_merge(_tell_renames(ranked, difference.changes)), new, context)
    known = measured(observed.durations)
    ids = order({id_: step.after for id_, step in linked.items()})
    steps = tuple(_estimated(linked[id_], estimate(linked[id_].action, known)) for id_ in ids)
    saw = fingerprints(desired, observed)
    asked = tuple(asked_of(desired, steps).items())
    return Plan(
        source=desired.source,
        revision=desired.revision,
        steps=steps,
        refusals=difference.refusals,
        standstills=difference.standstills,
        remarks=(*difference.remarks, *remarks(desired, asked, steps), *_rollouts(desired, steps)),
        saw=saw,
        digest=digest_of(desired.revision, steps, saw),
        asked=asked,
    )


def _estimated(step: Step, found: Estimate) -> Step:
    return step if found == step.estimate else replace(step, estimate=found)


def _in_its_wave(item: Ranked, context: Context, new: set[ScopeKey]) -> Ranked:
    """Let the step say whether it goes to a canary, or after it; a repair waits for nobody."""
    step, database = item.step, context.databases.get(item.step.database)
    if database is None or step.drift:
        return item
    wave = wave_of(step.action, step.shard, database.rollout.canary, item.lane in new)
    return item if wave is step.wave else replace(item, step=replace(step, wave=wave))


def _rollouts(desired: DesiredState, steps: tuple[Step, ...]) -> list[Remark]:
    mine = by_database(steps)
    found = (remark(d, mine[d.key]) for d in desired.databases if d.key in mine)
    return [one for one in found if one]


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


def _link(ranked: list[Ranked], new: set[ScopeKey], context: Context) -> dict[str, Step]:
    """Return the steps by id, each with the ids of those it waits for."""
    lists: dict[DatabaseKey, list[Ranked]] = defaultdict(list)
    for item in ranked:
        lists[item.step.database].append(item)
    linked: dict[str, Step] = {}
    for key, items in lists.items():
        database = context.databases.get(key)
        at_once = database.rollout.restarts_max if database else 1
        items.sort(key=lambda item: (item.rank, item.step.wave is Wave.REST))
        for step in _link_database(items, new, at_once):
            linked[step.id] = step
    return linked


def _link_database(items: list[Ranked], new: set[ScopeKey], restarts_max: int) -> Iterable[Step]:
    """Yield one database's steps with their links; ``items`` are sorted by rank.

    A step waits for the one before it in its lane, for the routing map when it stands behind it,
    and for its turn among shards. A step of the database itself waits for the ends of all lanes
    that went on since the last such step, which is waited for too.
    """
    ends: dict[ScopeKey | None, str] = {}
    went_on: dict[ScopeKey | None, str] = {}
    turns = {
        Rank.RESTART: deque[str](maxlen=restarts_max),
        Rank.SCHEMA: deque[str](maxlen=1),
    }
    for item in items:
        waits = {ends[item.lane]} if item.lane in ends else set()
        if item.lane is None:
            waits.update(went_on.values())
            went_on = {}
        elif item.rank > Rank.ROUTING and None in ends:
            waits.add(ends[None])
        turn = turns.get(item.rank)
        if turn is not None and (item.rank is Rank.RESTART or item.lane not in new):
            if len(turn) == turn.maxlen:
                waits.add(turn[0])
            turn.append(item.step.id)
        ends[item.lane] = went_on[item.lane] = item.step.id
        yield replace(item.step, after=tuple(sorted(waits - {item.step.id})))
