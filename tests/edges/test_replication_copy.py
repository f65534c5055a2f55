"""What keeps a copy between two real servers fast, as far as it can be told without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.edges.replication_copy import refuse_after_failover
from reconciler.edges.replication_ends import NotReady
from reconciler.edges.replication_streams import is_unread
from reconciler.model.platform import TlsFiles
from reconciler.workflow import reshard_acts as acts
from tests.edges.replication_world import MoveWorld, Pair, load_accounts, make_world, running_pair
from tests.edges.servers import postgres_binaries
from tests.edges.shard import TOKEN
from tests.local_home import wait_for

SCHEMA = """
CREATE TABLE accounts (id bigint PRIMARY KEY, note text);
CREATE TABLE entries (account_id bigint, id bigint, kind text, PRIMARY KEY (account_id, id));
CREATE INDEX accounts_note ON accounts (note);
CREATE INDEX entries_kind ON entries (kind);
CREATE INDEX entries_whole ON entries (kind, account_id, id);
"""
TABLES = (("public.accounts", "id"), ("public.entries", "account_id"))


@pytest.fixture(scope="module")
def pair(home: Path, tls: TlsFiles) -> Iterator[Pair]:
    with running_pair(postgres_binaries()["wheel-16"], home / "copying", tls) as servers:
        yield servers


def scans(world: MoveWorld) -> dict[str, int]:
    query = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'public'"
    return dict(world.source.rows(query))


def test_a_chunk_is_read_by_its_pages_and_not_by_a_scan_of_the_table(pair: Pair) -> None:
    world = make_world(pair)
    load_accounts(world, 5000)

    world.go(until=lambda act: isinstance(act, acts.Copy))
    before = scans(world)
    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))

    assert len({progress.bytes_done for progress in world.copied}) > 3
    assert scans(world) == before


def test_what_takes_longest_to_build_is_not_begun_last(pair: Pair) -> None:
    world = make_world(pair, SCHEMA, TABLES)
    with world.source.connect() as connection:
        connection.execute(
            "INSERT INTO entries SELECT i, i, 'kind' FROM generate_series(1, 4000) i;"
            "INSERT INTO accounts SELECT i, 'note' FROM generate_series(1, 200) i"
        )

    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))

    noted = world.target.rows(
        "SELECT split_part(split_part(definition, 'INDEX ', 2), ' ON ', 1)"
        " FROM shardwright.move_ddl WHERE kind = 'index' ORDER BY ordinal"
    )
    assert [name for (name,) in noted] == [
        "entries_whole", "entries_pkey", "entries_kind", "accounts_pkey", "accounts_note",
    ]  # fmt: skip


def test_a_physical_copy_without_a_marker_is_gone_on_with_until_its_slot_was_read(
    pair: Pair,
) -> None:
    """A standby of the target that was promoted may lack the marker, and rows since confirmed."""
    world = make_world(pair)
    load_accounts(world, 10)
    world.go(until=lambda act: isinstance(act, acts.Subscribe))
    with world.target.connect() as connection:
        connection.execute("UPDATE shardwright.moved SET seeded = slot, slot = ''")
    (slot,) = world.target.rows("SELECT seeded FROM shardwright.moved")[0]
    ends = world.mover._ends(world.move, *world.seats, TOKEN)
    assert is_unread(ends, slot)

    with world.target.connect() as connection:
        connection.execute("UPDATE shardwright.moved SET slot = seeded")
    world.mover.subscribe(world.move, *world.seats, TOKEN)
    with world.source.connect() as connection:
        connection.execute("UPDATE accounts SET balance = balance + 1")
    wait_for(lambda: not is_unread(ends, slot), "what came since is confirmed")

    assert not is_unread(ends, "no_such_slot")


def test_a_physical_copy_that_proved_unequal_is_not_taken_for_whole_again(pair: Pair) -> None:
    """Its slot may have outlived a failover of the source, so that alone it says nothing."""
    world = make_world(pair)
    load_accounts(world, 10)
    world.go(until=lambda act: isinstance(act, acts.BuildIndexes))
    (slot,) = world.target.rows("SELECT slot FROM shardwright.moved")[0]
    with world.target.connect() as connection:
        connection.execute("UPDATE shardwright.moved SET seeded = slot, source_timeline = '0'")

    with pytest.raises(NotReady, match="starts over"):
        refuse_after_failover(world.mover._ends(world.move, *world.seats, TOKEN))

    assert slot
    assert world.target.rows("SELECT slot, seeded FROM shardwright.moved") == [("", "")]
