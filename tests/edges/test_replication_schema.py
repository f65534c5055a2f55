"""What schema files bring beside tables, through moves between two real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.postgres_session import LockNotObtained, PostgresTimeouts
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_matviews import ViewNotRefreshed
from reconciler.model.access import FencedOff
from reconciler.model.moves import Side, Wish
from reconciler.model.names import FencingToken
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import (
    Ledger,
    MoveWorld,
    Pair,
    in_keys,
    load_accounts,
    make_world,
    running_pair,
    seat,
)
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN, TestShard, new_shard

VERSIONS = [name for name in sorted(postgres_binaries()) if name != "wheel-18"]

EVERYTHING = """
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN amount AS bigint CHECK (value >= 0);
CREATE TABLE accounts (
  id bigint PRIMARY KEY, balance amount NOT NULL DEFAULT 0, note text, mood mood DEFAULT 'sad',
  tag citext DEFAULT 'Tag',
  doubled bigint GENERATED ALWAYS AS (balance * 2) STORED);
CREATE TABLE entries (
  account_id bigint NOT NULL REFERENCES accounts (id), id bigint GENERATED ALWAYS AS IDENTITY,
  mark text NOT NULL, stamp text, PRIMARY KEY (account_id, id));
CREATE SEQUENCE tickets OWNED BY accounts.note;

CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN NEW.stamp := upper(NEW.mark); RETURN NEW; END$$;
CREATE TRIGGER stamped BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE FUNCTION larger(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
  'SELECT greatest($1, $2)';
CREATE AGGREGATE largest(bigint) (SFUNC = larger, STYPE = bigint);
-- It finds its table by the path, as applications let theirs do.
CREATE FUNCTION accounts_here() RETURNS bigint LANGUAGE plpgsql AS
  $$BEGIN RETURN (SELECT count(*) FROM accounts); END$$;
CREATE MATERIALIZED VIEW by_path AS SELECT accounts_here() AS number;

CREATE VIEW rich AS SELECT id, balance FROM accounts WHERE balance > 0;
CREATE MATERIALIZED VIEW known AS SELECT id FROM accounts;
CREATE UNIQUE INDEX known_id ON known (id);
CREATE MATERIALIZED VIEW never AS SELECT id FROM accounts WITH NO DATA;

-- "first" is made before what it reads, through a view, is put in its place.
CREATE VIEW between_them AS SELECT 0::bigint AS number;
CREATE MATERIALIZED VIEW first AS SELECT number FROM between_them;
CREATE MATERIALIZED VIEW second AS SELECT count(*) AS number FROM accounts;
CREATE OR REPLACE VIEW between_them AS SELECT number FROM second;

ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY everyone ON accounts USING (id > 0) WITH CHECK (id > 0);
GRANT SELECT ON rich, known TO PUBLIC;
GRANT UPDATE (note) ON accounts TO PUBLIC;
COMMENT ON TABLE accounts IS 'who';
COMMENT ON COLUMN accounts.note IS 'anything';
COMMENT ON VIEW rich IS 'who has something';
COMMENT ON POLICY everyone ON accounts IS 'all that there are';
"""
WITHOUT_CITEXT = EVERYTHING.replace("EXISTS citext", "EXISTS plpgsql").replace(
    "tag citext", "tag text"
)
FILLED = ("known", "second", "first", "by_path")


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, home: Path, tls: TlsFiles) -> Iterator[Pair]:
    binaries = postgres_binaries()[request.param]
    with running_pair(binaries, home / f"schema-{request.param}", tls) as servers:
        yield servers


@pytest.fixture
def world(pair: Pair) -> MoveWorld:
    return full_world(pair)


def brings(pair: Pair, extension: str) -> bool:
    """Tell whether this build has it: the wheels have none that an owner may create but plpgsql."""
    query = "SELECT FROM pg_available_extensions WHERE name = %s"
    with new_shard(pair.source).connect_to_maintenance() as connection:
        return connection.execute(query, [extension]).fetchone() is not None


def full_world(
    pair: Pair, keys: str = "80-", source_keys: str = "-", target_keys: str = "none"
) -> MoveWorld:
    schema = EVERYTHING if brings(pair, "citext") else WITHOUT_CITEXT
    world = make_world(pair, schema, keys=keys, source_keys=source_keys, target_keys=target_keys)
    load_accounts(world, 200)
    for shard in (world.source, world.target):
        run(shard, *(f"REFRESH MATERIALIZED VIEW {name}" for name in FILLED))
    return world


def run(shard: TestShard, *statements: str) -> None:
    with shard.connect() as connection:
        for statement in statements:
            connection.execute(statement)


def shown(shard: TestShard) -> tuple[set[int], int, int]:
    """Return what the materialized views show: the ids, their number, and that at one remove."""
    ids = {id_ for (id_,) in shard.rows("SELECT id FROM known")}
    return ids, shard.rows("SELECT number FROM second")[0][0], *shard.rows("TABLE first")[0]


def there(world: MoveWorld) -> tuple[set[int], set[int]]:
    moved = {i for i in range(1, 201) if in_keys(world.move.keys, i)}
    return set(range(1, 201)) - moved, moved


def test_a_shard_with_everything_that_schema_files_bring_is_split(world: MoveWorld) -> None:
    stays, moved = there(world)

    with Ledger(world, 200) as ledger:
        world.go(until=lambda act: isinstance(act, acts.Cut))
        assert world.view().obstacles == ()
        world.go()
        ledger.wait_for(100)
        world.finish()

    ledger.check()
    world.nothing_left()
    assert shown(world.target) == (moved, len(moved), len(moved))
    assert shown(world.source) == (stays, len(stays), len(stays))
    for shard in (world.source, world.target):
        assert shard.rows("SELECT relispopulated FROM pg_class WHERE relname = 'never'") == [
            (False,)
        ]
        assert shard.rows("SELECT FROM entries WHERE stamp <> upper(mark)") == []
        assert shard.rows("SELECT FROM accounts WHERE doubled <> balance * 2") == []


def test_a_rolled_back_move_leaves_no_view_that_shows_what_went(pair: Pair) -> None:
    world = full_world(pair, keys="80-c0", source_keys="-c0", target_keys="c0-")
    here, added = ({i for (i,) in s.rows("SELECT id FROM accounts")} for s in two(world))

    world.go()
    assert shown(world.target)[0] > added
    world.wish(Wish.ROLLBACK)
    world.go()

    assert world.done[-1] == "EndMove"
    assert shown(world.target) == (added, len(added), len(added))
    assert shown(world.source) == (here, len(here), len(here))


def two(world: MoveWorld) -> tuple[TestShard, TestShard]:
    return world.source, world.target


def test_an_aborted_move_leaves_no_view_that_shows_the_copy(pair: Pair) -> None:
    world = full_world(pair, keys="80-c0", source_keys="-c0", target_keys="c0-")
    before = shown(world.target)
    world.go(until=lambda act: isinstance(act, acts.Cut))
    assert shown(world.target) != before

    world.wish(Wish.ABORT)
    world.go()

    assert shown(world.target) == before
    world.nothing_left()


def test_views_are_refreshed_in_order_once_a_copy_and_before_the_cut(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.RefreshViews))
    assert "Verify" in world.done
    assert shown(world.target) == (set(), 0, 0)

    world.twice = True
    world.go()

    assert world.done.count("RefreshViews") == 1
    assert world.done.index("RefreshViews") < world.done.index("Cut")


def test_readers_are_not_locked_out_where_an_index_allows_it(world: MoveWorld) -> None:
    world.mover = impatient()
    for shard in (world.source, world.target):  # these two have no index that would allow it
        run(shard, "DROP MATERIALIZED VIEW second CASCADE", "DROP MATERIALIZED VIEW by_path")
    world.go()
    world.mover.clean(world.move, *world.seats, TOKEN)

    with world.source.connect() as reader, reader.transaction():
        reader.execute("SELECT FROM known")  # read until its transaction ends
        world.mover.prune(world.move, Side.SOURCE, *world.seats, TOKEN, lambda: False)

    assert {i for (i,) in world.source.rows("SELECT id FROM known")} == there(world)[0]


def impatient() -> LogicalMover:
    return LogicalMover(timeouts=PostgresTimeouts(lock_ms=200))


@pytest.mark.parametrize("swept", [False, True])
def test_what_a_prune_that_was_cut_short_did_not_refresh_is_owed(
    world: MoveWorld, swept: bool
) -> None:
    stays, moved = there(world)
    world.mover = impatient()
    world.go()
    world.mover.clean(world.move, *world.seats, TOKEN)
    with world.source.connect() as holder, holder.transaction():
        holder.execute("SELECT FROM second")  # no unique index: it cannot be refreshed beside
        with pytest.raises(LockNotObtained):
            world.mover.prune(world.move, Side.SOURCE, *world.seats, TOKEN, lambda: False)
    assert world.source.rows("SELECT count(*) FROM accounts") == [(len(stays),)]
    assert shown(world.source) == (stays, len(stays | moved), len(stays | moved))
    assert not world.view().pruned
    assert world.mover.sweep(seat(world.source)) != ()

    if swept:
        world.mover.remove(world.move.id, seat(world.source), TOKEN)
    else:
        world.finish()

    assert shown(world.source) == (stays, len(stays), len(stays))
    assert world.mover.sweep(seat(world.source)) == ()


def test_a_view_that_cannot_be_refreshed_keeps_the_keys_where_they_are(pair: Pair) -> None:
    schema = "CREATE TABLE t (id bigint PRIMARY KEY, v int);"
    schema += "CREATE MATERIALIZED VIEW odd AS SELECT 10 / v AS tenth FROM t"
    world = make_world(pair, schema, (("public.t", "id"),))
    run(world.source, "INSERT INTO t SELECT i, 0 FROM generate_series(1, 20) i")

    with pytest.raises(ViewNotRefreshed, match=r"MV213 .*public\.odd: division by zero"):
        world.go()
    assert world.view().opened == ()

    run(world.source, "UPDATE t SET v = 5")
    world.go()
    assert set(world.target.rows("SELECT tenth FROM odd")) == {(2,)}


def test_a_superseded_applier_refreshes_nothing(world: MoveWorld) -> None:
    world.go(until=lambda act: isinstance(act, acts.RefreshViews))
    with pytest.raises(FencedOff):
        world.mover.refresh_views(world.move, *world.seats, FencingToken(TOKEN - 1))
    assert shown(world.target) == (set(), 0, 0)
