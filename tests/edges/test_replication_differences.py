"""What schema files bring beside tables, compared between two real servers: in a plan, at a cut."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.edges.replication_schema import Schema, differences, read_schema
from reconciler.model.moves import Obstacle, Side, Wish
from reconciler.model.platform import TlsFiles
from reconciler.spec.objects import unmade_objects
from reconciler.workflow import reshard_acts as acts
from reconciler.workflow.phase import Wait
from reconciler.workflow.reshard import decide
from tests.edges.replication_world import MoveWorld, Pair, running_pair
from tests.edges.servers import postgres_binaries
from tests.edges.shard import schema_file
from tests.edges.test_replication_schema import EVERYTHING, VERSIONS, brings, full_world, run


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[Pair]:
    binaries = postgres_binaries()[request.param]
    with running_pair(binaries, home / f"differences-{request.param}", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    return full_world(pair)


ONE_SIDED = {
    "CREATE VIEW spare AS SELECT 1": "view public.spare is only at {}",
    "CREATE OR REPLACE VIEW rich AS SELECT id, balance FROM accounts WHERE balance > 1": (
        "view public.rich is not the same at s0 and s1"
    ),
    "ALTER VIEW rich SET (security_barrier)": "view public.rich is not the same at s0 and s1",
    "CREATE INDEX known_too ON known (id)": (
        "materialized view public.known is not the same at s0 and s1"
    ),
    "DROP MATERIALIZED VIEW never": "materialized view public.never is only at {other}",
    "CREATE OR REPLACE FUNCTION larger(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS"
    " 'SELECT $1'": "function public.larger(bigint,bigint) is not the same at s0 and s1",
    "CREATE PROCEDURE tidy() LANGUAGE sql AS 'SELECT 1'": "procedure public.tidy() is only at {}",
    "DROP AGGREGATE largest(bigint)": "aggregate public.largest(bigint) is only at {other}",
    "ALTER TYPE mood ADD VALUE 'odd'": "type public.mood is not the same at s0 and s1",
    "ALTER DOMAIN amount ADD CHECK (value < 999999999)": (
        "type public.amount is not the same at s0 and s1"
    ),
    "CREATE POLICY nobody ON entries USING (false)": (
        "policy nobody on public.entries is only at {}"
    ),
    "ALTER POLICY everyone ON accounts USING (id > 1)": (
        "policy everyone on public.accounts is not the same at s0 and s1"
    ),
    "ALTER TABLE entries ENABLE ROW LEVEL SECURITY": "row security of public.entries is only at {}",
    "ALTER TABLE accounts DISABLE ROW LEVEL SECURITY": (
        "row security of public.accounts is only at {other}"
    ),
    "ALTER TABLE accounts FORCE ROW LEVEL SECURITY": (
        "row security of the owner of public.accounts is only at {}"
    ),
    "GRANT SELECT ON accounts TO PUBLIC": "grant SELECT on public.accounts to PUBLIC is only at {}",
    "REVOKE SELECT ON rich FROM PUBLIC": "grant SELECT on public.rich to PUBLIC is only at {other}",
    "GRANT USAGE ON SEQUENCE tickets TO PUBLIC": (
        "grant USAGE on public.tickets to PUBLIC is only at {}"
    ),
    "REVOKE UPDATE (note) ON accounts FROM PUBLIC": (
        "grant UPDATE on public.accounts.note to PUBLIC is only at {other}"
    ),
    "REVOKE EXECUTE ON FUNCTION stamp() FROM PUBLIC": (
        "grant EXECUTE on public.stamp() to PUBLIC is only at {other}"
    ),
    "COMMENT ON TABLE accounts IS 'whose'": (
        "comment on table public.accounts is not the same at s0 and s1"
    ),
    "COMMENT ON COLUMN accounts.note IS NULL": (
        "comment on table column public.accounts.note is only at {other}"
    ),
    "COMMENT ON CONSTRAINT accounts_pkey ON accounts IS 'one'": (
        "comment on table constraint accounts_pkey on public.accounts is only at {}"
    ),
    "COMMENT ON FUNCTION stamp() IS 'loud'": "comment on function public.stamp() is only at {}",
    "ALTER TABLE entries DISABLE TRIGGER stamped": (
        "trigger stamped on public.entries is only at {}"
    ),
    "CREATE RULE quiet AS ON DELETE TO rich DO INSTEAD NOTHING": (
        "rule quiet on public.rich is only at {}"
    ),
}


def read_both(world: MoveWorld, changed: psycopg.Connection[Any], side: Side) -> list[str]:
    """Compare as the move's look does, with one side seen in a transaction that is not over."""
    tables = [table.name for table in world.move.tables]
    other = world.target if side is Side.SOURCE else world.source
    with other.connect() as still:
        for connection in (changed, still):
            connection.execute("SET search_path = pg_catalog")
        here, there = read_schema(changed, tables), read_schema(still, tables)
    pair = (here, there) if side is Side.SOURCE else (there, here)
    return differences(*pair, ("s0", "s1"))


@pytest.mark.parametrize("side", Side)
def test_what_only_one_side_has_is_an_obstacle_to_the_cut(world: MoveWorld, side: Side) -> None:
    shard, name, other = world.source, "s0", "s1"
    if side is Side.TARGET:
        shard, name, other = world.target, "s1", "s0"
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert world.view().obstacles == ()

    for statement, said in ONE_SIDED.items():
        with shard.connect() as changed:
            changed.execute("BEGIN")
            changed.execute(statement)
            found = read_both(world, changed, side)
            assert found == [said.format(name, other=other)], statement
            changed.rollback()


def test_owners_memberships_and_extensions_are_compared(pair: Pair, world: MoveWorld) -> None:
    owner, app = world.source.owner.role, world.source.app.role
    extension = "pg_trgm" if brings(pair, "pg_trgm") else "vector"
    membership = f"membership of {app} in {owner}"
    for statement, said in {
        f"ALTER TYPE mood OWNER TO {app}": "ownership of public.mood is not the same at s0 and s1",
        f"GRANT {owner} TO {app}": f"{membership} is only at s0",
        f"CREATE EXTENSION {extension}": f"extension {extension} is only at s0",
    }.items():
        with world.source.connect() as changed:
            changed.execute("BEGIN")
            changed.execute(statement)
            assert read_both(world, changed, Side.SOURCE) == [said]
            changed.rollback()
    for shard in (world.source, world.target):
        run(shard, f"GRANT {owner} TO {app}", f"CREATE EXTENSION {extension}")
    with world.source.connect() as changed:
        changed.execute("BEGIN")
        changed.execute("UPDATE pg_extension SET extversion = '0' WHERE extname <> 'plpgsql'")
        changed.execute(f"GRANT {owner} TO {app} WITH ADMIN OPTION")
        found = read_both(world, changed, Side.SOURCE)
        changed.rollback()
    assert f"extension {extension} is not the same at s0 and s1" in found
    assert f"{membership} is not the same at s0 and s1" in found


def test_a_difference_is_an_obstacle_before_anything_begins(world: MoveWorld) -> None:
    run(world.source, "CREATE VIEW spare AS SELECT 1", "COMMENT ON TABLE accounts IS 'whose'")

    assert world.mover.preflight(world.move, *world.seats) == (
        Obstacle(
            "",
            "comment on table public.accounts is not the same at s0 and s1",
            "bring both shards to the same by a schema file",
        ),
        Obstacle(
            "",
            "view public.spare is only at s0",
            "bring it to both shards by a schema file, or drop it",
        ),
    )


def test_a_plan_tells_some_of_many_differences(world: MoveWorld) -> None:
    functions = (f"CREATE FUNCTION f{i}() RETURNS int LANGUAGE sql AS 'TABLE t'" for i in range(25))
    run(world.source, "CREATE TABLE t AS SELECT 1", *functions)

    told = world.mover.preflight(world.move, *world.seats)

    assert len(told) == 21
    assert told[-1].reason == "5 more differences of their schemas"


def test_what_a_schema_file_makes_by_its_name_is_known_of_a_shard(world: MoveWorld) -> None:
    run(world.source, 'CREATE VIEW "Odd (one)" AS SELECT 1')

    objects = world.mover.schema_objects(world.move, world.seats[0])

    made = {str(found) for found in objects}
    assert {
        'view public."Odd (one)"',
        "aggregate public.largest(bigint)",
        "function public.stamp()",
        "materialized view public.known",
        "type public.mood",
        "view public.rich",
    } <= made
    assert not {found.kind for found in objects} & {"grant", "comment", "ownership", "policy"}
    assert [o.reason for o in unmade_objects([schema_file(EVERYTHING)], objects, "s0", "s1")] == [
        'view public."Odd (one)" is at s0, and no schema file makes it, so s1 would not have it'
    ]


def test_a_cut_waits_for_a_difference_and_goes_on_without_it(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    run(world.source, "GRANT DELETE ON entries TO PUBLIC")

    decision = decide(world.move, world.view(), datetime.now(UTC))
    assert decision == Wait("no cut while: grant DELETE on public.entries to PUBLIC is only at s0")

    run(world.target, "GRANT DELETE ON entries TO PUBLIC")
    world.go()
    assert world.done.count("Cut") == 1


def test_a_rollback_waits_for_a_difference_too(world: MoveWorld) -> None:
    world.go()
    run(world.target, "CREATE VIEW spare AS SELECT 1")
    assert world.view().obstacles == (), "until it matters"

    world.wish(Wish.ROLLBACK)

    assert world.view().obstacles == ("view public.spare is only at s1",)


def test_many_differences_are_counted(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.Cut))
    run(
        world.source,
        *(f"CREATE FUNCTION f{i}() RETURNS int LANGUAGE sql AS 'SELECT 1'" for i in range(5)),
    )

    found = world.view().obstacles

    assert found[:3] == tuple(f"function public.f{i}() is only at s0" for i in range(3))
    assert found[3:] == ("2 more differences of their schemas",)


def test_between_major_versions_definitions_are_not_compared() -> None:
    view, comment = ("view", "public.v"), ("comment", "on table public.t")
    old = Schema(15, {view: ("a", ""), comment: ("a", "")})
    new = Schema(16, {view: ("b", ""), comment: ("a", "")})
    assert differences(old, new, ("s0", "s1")) == []
    assert differences(old, Schema(16, {comment: ("b", "")}), ("s0", "s1")) == [
        "comment on table public.t is not the same at s0 and s1",
        "view public.v is only at s0",
    ]
