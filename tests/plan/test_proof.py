"""A plan, applied to the model, leaves no difference, for every pair of specs we can think of."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.diff.diff import diff
from reconciler.model.desired import Database, Deletion
from reconciler.model.keyspace import SPACE_END, KeyRange, first_overlap, gaps, key_set
from reconciler.model.observed import ObservedState
from reconciler.model.routing import RoutingMap
from reconciler.plan.planner import make_plan
from reconciler.plan.simulate import simulate, what_remains
from tests.worlds import NOTHING, after, database, desired, schema_file, shard

_NAMES = ("s0", "s1", "s2", "s3")


@st.composite
def databases(draw: st.DrawFn, name: str = "shop") -> Database:
    """Any tiling of up to four shards, with any sizes and settings."""
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4, unique=True))
    borders = draw(
        st.lists(
            st.integers(1, 15).map(lambda n: n << 60),
            min_size=len(names) - 1,
            max_size=len(names) - 1,
            unique=True,
        )
    )
    edges = [0, *sorted(borders), SPACE_END]
    shards = [
        shard(
            n,
            key_set([KeyRange(edges[i], edges[i + 1])]),
            draw(st.integers(1, 3)),
            synchronous=draw(st.booleans()),
        )
        for i, n in enumerate(names)
    ]
    count = draw(st.integers(0, 3))
    return database(
        *shards,
        name=name,
        parameters=tuple(
            sorted(
                draw(
                    st.dictionaries(
                        st.sampled_from(["work_mem", "max_connections", "shared_buffers"]),
                        st.sampled_from(["16MB", "200"]),
                    )
                ).items()
            )
        ),
        files=tuple(schema_file(f"schema/{i:03}.sql") for i in range(count)),
        deletion=draw(st.sampled_from(list(Deletion))),
        suspend=draw(st.booleans()) and draw(st.booleans()),
        password_generation=draw(st.integers(1, 3)),
    )


@given(databases())
def test_a_plan_from_nothing_leaves_no_difference(wanted: Database) -> None:
    state = desired(wanted)

    plan = make_plan(state, NOTHING, diff(state, NOTHING))

    assert what_remains(state, NOTHING, plan) == ()
    assert bool(plan.steps) != wanted.suspend


@settings(max_examples=400)
@given(databases(), databases())
def test_a_plan_from_any_spec_to_any_other_leaves_no_difference(a: Database, b: Database) -> None:
    observed = after(desired(a))
    state = desired(b, revision="r2")

    plan = make_plan(state, observed, diff(state, observed))

    assert what_remains(state, observed, plan) == ()


@given(databases())
def test_a_second_plan_has_nothing_to_do(wanted: Database) -> None:
    state = desired(wanted)
    observed = after(state)

    assert diff(state, observed).changes == ()


@given(databases(), databases("other"))
def test_a_database_that_left_the_specs_goes_as_its_deletion_says(a: Database, b: Database) -> None:
    observed = after(desired(a, b))
    state = desired(b, revision="r2")
    difference = diff(state, observed)

    plan = make_plan(state, observed, difference)

    assert what_remains(state, observed, plan) == ()
    refused = [r.kind.__name__ for r in difference.refusals if r.database == a.key]
    assert refused == (
        ["DeletionProtected"] if a.deletion is Deletion.PROTECTED and not a.suspend else []
    )


@given(databases(), databases())
def test_every_step_stands_behind_those_it_waits_for(a: Database, b: Database) -> None:
    observed = after(desired(a))
    state = desired(b)

    plan = make_plan(state, observed, diff(state, observed))

    done: set[str] = set()
    for step in plan.steps:
        assert set(step.after) <= done
        done.add(step.id)


@given(databases(), databases())
def test_the_same_look_makes_the_same_plan(a: Database, b: Database) -> None:
    observed = after(desired(a))
    state = desired(b)

    plans = [make_plan(state, observed, diff(state, observed)) for _ in range(2)]

    assert plans[0] == plans[1]


@settings(max_examples=300)
@given(databases(), databases())
def test_plan_after_plan_reaches_any_spec_and_every_key_has_one_owner(
    a: Database, b: Database
) -> None:
    """Moves that share a shard wait for one another; with time and plans, all of them end."""
    if a.suspend or b.suspend or a.password_generation > b.password_generation:
        return
    applied = {file.name for file in a.schema} - {file.name for file in b.schema}
    if applied:
        return  # a schema file that went away is refused, whatever the shards
    observed = replace(after(desired(a)), looked_at="2026-01-01T00:00:00+00:00")
    state = desired(b, revision="r2")
    for day in range(1, 40):
        difference = diff(state, observed)
        if not difference.changes and not difference.standstills and not _under_way(observed):
            break
        observed = replace(
            simulate(state, observed, make_plan(state, observed, difference)),
            looked_at=f"2026-01-{day:02}T00:00:00+00:00"
            if day < 31
            else f"2026-02-{day - 30:02}T00:00:00+00:00",
        )
        _assert_one_owner(observed)
    seen = observed.databases[0]
    assert not difference.changes
    assert isinstance(seen.routing, RoutingMap)
    names = {owner.shard: owner.keys for owner in seen.routing.owners}
    assert names == {s.name: s.keys for s in b.shards}


def _under_way(observed: ObservedState) -> bool:
    return any(seen.moves for seen in observed.databases)


def _assert_one_owner(observed: ObservedState) -> None:
    for seen in observed.databases:
        assert isinstance(seen.routing, RoutingMap)
        owned = [owner.keys for owner in seen.routing.owners]
        assert not gaps(owned)
        assert first_overlap(owned) is None
