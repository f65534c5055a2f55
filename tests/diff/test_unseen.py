"""Unknown is not empty: whatever is not seen, no change comes of it, and none touches it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.diff.changes import (
    Change,
    DeleteDatabase,
    MoveKeys,
    PublishRouting,
    RecordApplied,
    StartMembers,
)
from reconciler.diff.diff import diff
from reconciler.model.desired import Database
from reconciler.model.names import ScopeKey
from reconciler.model.observed import ObservedShard, ObservedState, Unseen
from tests.plan.test_proof import databases
from tests.worlds import after, desired

ETCD = Unseen("etcd", "records", "no answer")
PATRONI = Unseen("patroni", "a shard", "no answer")
CATALOG = Unseen("postgres", "a shard", "no answer")


def cuts(state: ObservedState) -> Iterator[tuple[ScopeKey | None, ObservedState]]:
    """Every world in which one thing more did not answer, with the shard that it is of."""
    for d, there in enumerate(state.databases):
        for blind in (replace(there, routing=ETCD), replace(there, record=ETCD)):
            yield None, _with(state, d, blind)
        for s, shard in enumerate(there.shards):
            for dark in (
                replace(shard, patroni=PATRONI, catalog=CATALOG),
                replace(shard, catalog=CATALOG),
            ):
                shards = (*there.shards[:s], dark, *there.shards[s + 1 :])
                yield shard.key, _with(state, d, replace(there, shards=shards))


def _with(state: ObservedState, index: int, database: object) -> ObservedState:
    databases = (*state.databases[:index], database, *state.databases[index + 1 :])
    return replace(state, databases=databases)  # type: ignore[arg-type]


def touches(change: Change, scope: ScopeKey) -> bool:
    """Whether a change does something to a shard, apart from starting processes that are gone."""
    match change:
        case StartMembers() | PublishRouting() | RecordApplied():
            return False
        case MoveKeys():
            return scope in (change.source_scope, change.target_scope)
        case DeleteDatabase():
            return scope in [leaver.scope for leaver in change.shards]
        case _:
            return getattr(change, "scope", None) == scope


@settings(max_examples=200)
@given(databases(), databases(), st.booleans())
def test_what_is_not_seen_never_adds_a_change(a: Database, b: Database, gone: bool) -> None:
    observed = after(desired(a))
    state = desired(revision="r2") if gone else desired(b, revision="r2")
    changes = set(diff(state, observed).changes)

    for _, cut in cuts(observed):
        assert set(diff(state, cut).changes) <= changes


@settings(max_examples=200)
@given(databases(), databases(), st.booleans())
def test_no_change_touches_a_shard_that_cannot_be_looked_into(
    a: Database, b: Database, gone: bool
) -> None:
    observed = after(desired(a))
    state = desired(revision="r2") if gone else desired(b, revision="r2")

    for scope, cut in cuts(observed):
        if scope is not None and not _shard(observed, scope).platform.stopped:
            found = [c for c in diff(state, cut).changes if touches(c, scope)]
            assert all(_by_patroni(c, cut, scope) for c in found)


def _shard(state: ObservedState, scope: ScopeKey) -> ObservedShard:
    (shard,) = (s for d in state.databases for s in d.shards if s.key == scope)
    return shard


def _by_patroni(change: Change, state: ObservedState, scope: ScopeKey) -> bool:
    """Whether a change is Patroni's alone, and Patroni answered: a catalog is not asked for it."""
    kinds = ("ResizeShard", "ChangeParameters", "RestartPending", "RenameShard")
    named = type(change).__name__
    seen = not isinstance(_shard(state, scope).patroni, Unseen)
    return named == "RenameShard" or (named in kinds and seen)


@settings(max_examples=100)
@given(databases(), databases())
def test_silence_is_always_said(a: Database, b: Database) -> None:
    """Where a cut took a change away, a standstill says that something was not seen."""
    observed = after(desired(a))
    state = desired(b, revision="r2")
    changes = set(diff(state, observed).changes)

    for _, cut in cuts(observed):
        found = diff(state, cut)
        if set(found.changes) != changes:
            assert any(still.unseen for still in found.standstills)
