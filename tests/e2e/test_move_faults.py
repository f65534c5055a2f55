"""What a user is told of a move that waits or fails, and that it goes on by itself."""

from __future__ import annotations

import threading
from typing import Any, NoReturn, cast

import psycopg
import pytest

from reconciler.edges import replication_cut
from reconciler.edges.postgres_session import StatementRefused
from reconciler.engine.ports import Mover
from reconciler.engine.wishes import known_moves, moves_under_way, record_wish
from reconciler.model.moves import Stage, Wish
from tests.e2e.scene import TWO, Scene, spec_text
from tests.e2e.test_move_logbook import WatchedMover
from tests.e2e.test_moves import apply_all
from tests.local_home import DEADLINE_S, connect, wait_for

pytestmark = pytest.mark.platform
MOVED = ('{name: s0, keys: ["-40"]}', '{name: s1, keys: ["40-"]}')


@pytest.fixture
def shop(scene: Scene) -> Scene:
    """Two shards, and a spec by which keys of the first shall be at the second."""
    scene.write("mf", _spec(*TWO))
    scene.applied()
    scene.sql(
        "mf", "insert into customers select k, 'x' from generate_series(1, 400) k"
        " where hashint8extended(k, 0) < 0",
    )  # fmt: skip
    scene.write("mf", _spec(*MOVED))
    return scene


def _spec(*shards: str) -> str:
    return spec_text("mf", *shards, reference="[]", more="  resharding: {pauseMax: 5s}\n")


def _fail(*_: Any) -> NoReturn:
    raise StatementRefused("shard mf-s1", "out of order (SQLSTATE XX000)")


def _owners(scene: Scene) -> dict[str, str]:
    return {str(o.shard): str(o.keys) for o in scene.routing("mf").owners}


def test_a_cut_that_fails_after_its_first_table_is_open_is_ended_by_the_same_apply(
    shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the keys of the other tables are served by nobody until somebody applies again."""
    monkeypatch.setattr(replication_cut, "_open_others", _fail)

    ended = shop.apply()

    assert (shop.failures(), ended.failed) == ([], ())
    assert _owners(shop) == {"s0": "-40", "s1": "40-"}
    (known,) = known_moves(shop.world().eyes.store)
    assert known.move.stage is Stage.SWITCHED
    lines = [(line.act, line.state) for line in known.book.lines]
    assert lines[lines.index(("Cut", "failed")) + 1] == ("FinishOpening", "done")
    shop.settle()


def test_a_cut_that_fails_before_anything_is_open_gives_the_keys_back_and_is_told(
    shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(replication_cut, "_open_first", _fail)
        shop.apply()

    assert shop.failures() == ["PG208"]
    assert _owners(shop) == {"s0": "-80", "s1": "80-"}
    moved = shop.sql(
        "mf", "select id from customers where hashint8extended(id, 0) >= -(2^62)::int8"
    )
    known = f"set shardwright.epoch = {shop.routing('mf').epoch}"
    shop.sql("mf", f"{known}; update customers set name = 'y' where id = {moved[0][0]}", role="app")
    (step,) = [s for o in shop.operations()[-1:] for s in o.steps if s.state == "failed"]
    assert step.seconds, "a step that failed took its time as well"
    assert "out of order" in shop.call("get", "mf").told()
    shop.applied()
    assert _owners(shop) == {"s0": "-40", "s1": "40-"}


def test_a_move_that_tries_again_tells_everywhere_why(shop: Scene) -> None:
    """From one attempt to the next, too: what is tried is no answer to what it waits for."""
    applying = threading.Thread(target=shop.apply, daemon=True)
    platform: Any = shop.world().eyes.platform
    with _blocker(shop, platform):
        applying.start()
        said = "not free of writers: the batch"
        wait_for(lambda: said in shop.call("get", "moves").told() or None, "the first attempt")
        for _ in range(3):
            wait_for(
                lambda: "Hold again: PG206" in shop.call("get", "moves").told() or None,
                "another attempt",
            )
            for looked in (("get", "mf"), ("get", "operations"), ("get", "moves")):
                assert said in shop.call(*looked).told(), looked
    applying.join(DEADLINE_S)

    assert not shop.failures()
    (known,) = known_moves(shop.world().eyes.store)
    assert 1 <= [line.state for line in known.book.lines].count("failed") <= 3


def _blocker(shop: Scene, platform: Any) -> psycopg.Connection[Any]:
    """Return a session with a transaction that writes."""
    there = shop.shard("mf", "s0")
    session = connect(platform, there.key, there.members[0].endpoint, dbname="mf")
    session.execute("SET application_name = 'the batch'")
    session.execute("BEGIN")
    session.execute("UPDATE customers SET name = 'z' WHERE id = (SELECT min(id) FROM customers)")
    return session


def test_a_way_back_that_does_not_go_on_is_told_before_it_fills_the_disk(shop: Scene) -> None:
    shop.applied()
    assert "warn" not in _moves_of_doctor(shop)
    shop.sql("mf", "alter table customers add column colour text", "s1")
    shop.sql(
        "mf", "insert into customers select k, 'x', 'red' from generate_series(1000, 1400) k"
        " where hashint8extended(k, 0) between -(2^62)::int8 and -1", "s1",
    )  # fmt: skip

    told = wait_for(
        lambda: t if "warn" in (t := _moves_of_doctor(shop)) else None, "doctor tells of it"
    )

    assert "s1 keeps " in told
    assert "the apply worker of s0 fails" in told
    assert "colour text is only at s1" in told
    (known,) = known_moves(shop.world().eyes.store)
    assert f"`shardwright operation finish {known.move.id}` gives the way back up" in told
    shop.sql("mf", "alter table customers add column colour text", "s0")
    wait_for(lambda: "warn" not in _moves_of_doctor(shop) or None, "it goes on")


def _moves_of_doctor(scene: Scene) -> str:
    checks = scene.call("doctor", "-o", "json").json["checks"]
    return str([check for check in checks if check["name"] == "moves"])


def test_a_spec_edited_while_its_move_is_paused_aborts_it_and_moves_what_it_says_now(
    shop: Scene,
) -> None:
    def pause(name: str) -> None:
        if name == "copy":
            (move,) = moves_under_way(shop.world().eyes.store)
            record_wish(shop.world(), move.id, Wish.PAUSE)

    mover = cast(Mover, WatchedMover(shop.world().mover, before=pause))
    shop.apply(shop.world(mover=mover))
    assert shop.failures() == ["AP207"]
    (paused,) = moves_under_way(shop.world().eyes.store)
    said = shop.call("plan", "-f", "specs", COLUMNS="200").told()
    assert f"is paused: `shardwright operation resume {paused.id}` lets it go on" in said

    shop.write("mf", _spec('{name: s0, keys: ["-20"]}', '{name: s1, keys: ["20-"]}'))
    said = shop.call("plan", "-f", "specs", COLUMNS="200").told()
    assert "abort the move of 40-80 from s0 to s1" in said
    assert "left alone: move 20-80 from s0 to s1" in said
    apply_all(shop)

    assert _owners(shop) == {"s0": "-20", "s1": "20-"}
