"""What a plan has to know before it begins a move of keys: whether the two shards allow it.

Asked only where the difference holds a move that has not begun; all else costs nothing. The source
is always asked; the target, and how the two fit, when it is there with all schema files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from reconciler.diff.changes import Difference, MoveKeys
from reconciler.diff.diff import diff
from reconciler.diff.origin import without_reported
from reconciler.engine.observe import Eyes, login_of, observe, primary_of
from reconciler.engine.ports import Mover
from reconciler.model.access import Seat
from reconciler.model.desired import Database, DesiredState
from reconciler.model.errors import ReconcilerError
from reconciler.model.moves import Move, Preflight, SeedFacts, bytes_of
from reconciler.model.names import DatabaseKey, ScopeKey
from reconciler.model.observed import Catalog, ObservedDatabase, ObservedState, Unseen
from reconciler.model.routing import RoutingMap
from reconciler.plan.copying import NOT_ASKED, choose_copy, in_the_way, may_be_physical
from reconciler.plan.moves import begin_move
from reconciler.plan.planner import make_plan
from reconciler.plan.steps_database import move_action
from reconciler.spec.objects import unmade_objects


def observe_and_diff(
    eyes: Eyes,
    mover: Mover,
    desired: DesiredState,
    only: frozenset[DatabaseKey] | None = None,
) -> tuple[ObservedState, Difference]:
    """Return what is there (of ``only`` these), what differs, and what is in the way of moves."""
    observed = observe(eyes, (database.key for database in desired.databases), only)
    difference = diff(desired, observed)
    begun = {(m.source_scope, m.target_scope, m.keys) for d in observed.databases for m in d.moves}
    fresh = [
        change
        for change in difference.changes
        if isinstance(change, MoveKeys)
        and (change.source_scope, change.target_scope, change.keys) not in begun
    ]
    if not fresh:
        return observed, difference
    wanted = {database.key: database for database in desired.databases}
    with ThreadPoolExecutor(eyes.parallel) as pool:
        there = {seen.key: seen for seen in observed.databases}
        found = pool.map(
            lambda c: _preflight(eyes, mover, there[c.database], wanted[c.database], c), fresh
        )
        told: dict[DatabaseKey, list[Preflight]] = {}
        for change, preflight in zip(fresh, found, strict=True):
            told.setdefault(change.database, []).append(preflight)
    databases = tuple(
        replace(seen, preflights=tuple(told.get(seen.key, ()))) for seen in observed.databases
    )
    observed = replace(observed, databases=databases)
    return observed, diff(desired, observed)


def leave_reported(
    desired: DesiredState, observed: ObservedState, difference: Difference
) -> tuple[Difference, tuple[str, ...]]:
    """Return the difference without drift that is only to be reported, and that drift in words."""
    kept, left = without_reported(difference, desired, observed)
    if not left:
        return difference, ()
    plan = make_plan(desired, observed, replace(difference, changes=left))
    return kept, tuple(step.text for step in plan.steps if step.visible)


def _preflight(
    eyes: Eyes, mover: Mover, there: ObservedDatabase, database: Database, change: MoveKeys
) -> Preflight:
    assert isinstance(there.routing, RoutingMap)  # noqa: S101  it says whose keys move
    move = begin_move(move_action(change), there.routing, "")
    where = (change.source_scope, change.target_scope, change.keys)
    try:
        source = _seat(eyes, there, change.source_scope)
        if source is None:
            silent = Unseen("postgres", str(change.source_scope), "not to be looked into")
            return Preflight(*where, silent)
        whole = all(_has_schema(there, scope, database) for scope in where[:2])
        target = _seat(eyes, there, change.target_scope) if whole else None
        wish, facts = database.resharding.copy, NOT_ASKED
        if may_be_physical(wish):
            facts = _seed_facts(mover, there, database, change, (move, source, target))
        copying = choose_copy(wish, bytes_of(change.tables), facts)
        move = replace(move, copy=copying.driver)
        obstacles = (*in_the_way(copying, facts), *mover.preflight(move, source, target))
        if _is_new(there, change.target_scope):
            made = mover.schema_objects(move, source)
            obstacles += unmade_objects(database.schema, made, change.source, change.target)
        blocks = () if obstacles else mover.number_blocks(move, source, target)
        return Preflight(*where, obstacles, blocks, copying)
    except ReconcilerError as error:
        unseen = Unseen("postgres", error.subject, f"{error.code} {error.problem}")
        return Preflight(*where, unseen)


def _is_new(there: ObservedDatabase, scope: ScopeKey) -> bool:
    """Whether a shard has nothing yet but what its schema files will make."""
    shard = there.shard(scope)
    return shard is None or (isinstance(shard.catalog, Catalog) and not shard.catalog.history)


def _seed_facts(
    mover: Mover,
    there: ObservedDatabase,
    database: Database,
    change: MoveKeys,
    ends: tuple[Move, Seat, Seat | None],
) -> SeedFacts:
    """Return what the mover tells of a physical copy; it cannot be of another major version."""
    facts = mover.seed_facts(*ends)
    source, target = there.shard(change.source_scope), there.shard(change.target_scope)
    runs = source.platform.version if source else ""
    wanted = target.platform.version if target else database.version
    if runs != wanted:
        odd = f"{change.source} runs PostgreSQL {runs}, {change.target} {wanted}"
        return replace(facts, hindrances=(*facts.hindrances, odd))
    return facts


def _has_schema(there: ObservedDatabase, scope: ScopeKey, database: Database) -> bool:
    shard = there.shard(scope)
    if shard is None or not isinstance(shard.catalog, Catalog):
        return False
    return {f.name for f in shard.catalog.history} >= {f.name for f in database.schema}


def _seat(eyes: Eyes, there: ObservedDatabase, scope: ScopeKey) -> Seat | None:
    """Return how to reach a shard that was looked into, None for one that was not."""
    shard = there.shard(scope)
    if shard is None or not isinstance(shard.catalog, Catalog):
        return None
    primary = primary_of(shard.platform, shard.patroni)
    if primary is None or not shard.catalog.database_present:
        return None
    return Seat(login_of(eyes.platform, shard.platform), primary, there.key.name)
