"""A new shard as a physical copy of its source: under writers, killed, given up, refused."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from reconciler.edges import replication_seed
from reconciler.edges.local import clone, swap
from reconciler.edges.local.clone import CloneFailed, LocalClones
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.local.process_identity import ProcessIdentity, send_signal
from reconciler.edges.postgres_session import LoginRefused, PostgresTimeouts
from reconciler.edges.postgres_session import Target as Server
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import Ends, one_text, open_session, server
from reconciler.edges.replication_seed import Clones
from reconciler.engine.events import StepFailed
from reconciler.engine.wishes import moves_under_way
from reconciler.engine.world import World
from reconciler.model.desired import CopyDriver
from reconciler.model.hashing import position_of_key
from reconciler.model.names import ScopeKey
from reconciler.plan.actions import MoveKeyRange
from tests.e2e.scene import TWO, Scene, spec_text
from tests.e2e.test_moves import (
    SPLIT,
    Ledger,
    apply_all,
    assert_whole,
    end_window,
    leftovers,
    seat_of,
    shop,
)

pytestmark = pytest.mark.platform
__all__ = ["shop"]
THREE = ('{name: s0, keys: ["-20", "40-80"]}', TWO[1], '{name: s3, keys: ["20-40"]}')


def retile(scene: Scene, *shards: str, copy: str = "physical", instances: int = 1) -> None:
    limits = f"  resharding: {{pauseMax: 5s, copy: {copy}, throttle: {{latencyMax: 1000x}}}}\n"
    text = spec_text("mv", *shards, reference="[]", more=limits, instances=instances)
    scene.write("mv", text)


def owned(scene: Scene) -> dict[str, str]:
    return {o.shard: str(o.keys) for o in scene.routing("mv").owners if o.keys}


def told(scene: Scene, shard: str, query: str) -> list[object]:
    """Return the first column of what a shard answers to its superuser."""
    with open_session(server(seat_of(scene, f"mv-{shard}"), PostgresTimeouts())) as session:
        return [row[0] for row in session.execute(query).fetchall()]


def test_a_shard_is_made_by_a_copy_of_one_that_follows_another(shop: Scene) -> None:
    """The source soaks after a move of other keys, in whose way back the copy has no part."""
    with Ledger(shop, "mv") as ledger, Ledger(shop, "mv", stale=True) as stale:
        retile(shop, *THREE, copy="own")
        apply_all(shop)
        retile(shop, SPLIT[0].replace("-40", "-20"), *SPLIT[1:], THREE[2])
        planned = {step.action for step in shop.look().plan.steps}
        apply_all(shop)
        drivers = {m.target: m.copy for m in moves_under_way(shop.world().eyes.store)}
        before = len(ledger.acknowledged)
        while len(ledger.acknowledged) < before + 100:
            time.sleep(0.05)
        retile(shop, *SPLIT)  # the first move is taken back: its stream lost nothing to the copy
        apply_all(shop)

    assert [a.copying.driver for a in planned if isinstance(a, MoveKeyRange)] == [
        CopyDriver.PHYSICAL
    ]
    assert drivers == {"s3": CopyDriver.OWN, "s2": CopyDriver.PHYSICAL}
    assert owned(shop) == {"s0": "-40", "s1": "80-", "s2": "40-80"}
    assert stale.refused
    assert_whole(shop, "mv", ledger, stale)
    end_window(shop)
    apply_all(shop)
    assert leftovers(shop, "mv") == []
    assert shop.steps() == []
    assert told(shop, "s2", "SELECT subname FROM pg_subscription") == []
    assert told(shop, "s2", "SELECT pubname FROM pg_publication") == []


class Died(BaseException):
    """The applier ends here, as by kill -9: nobody cleans up."""


@dataclass
class Mortal:
    """An object whose one method, called, is the last that its caller does."""

    real: object
    last: str

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.real, name)
        if name != self.last:
            return method

        def act_and_die(*values: Any, **named: Any) -> None:
            method(*values, **named)
            raise Died

        return act_and_die


def dying(scene: Scene, *, after: str) -> World:
    """Return a world whose applier dies after a step of a physical copy."""
    world = scene.world()
    platform = cast(LocalPlatform, world.eyes.platform)
    clones = cast(Clones, Mortal(LocalClones(platform), after))
    return replace(world, mover=LogicalMover(clones=clones))


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """Let whatever puts a clone in place die after a step of it."""

    @contextmanager
    def one(step: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in ("member", "etcd_server", "shutil"):
                patch.setattr(swap, name, Mortal(getattr(swap, name), step))
            if step == "rename":
                patch.setattr(Path, "rename", Mortal(Path, "rename").rename)
            yield

    return one


def test_an_apply_that_dies_after_any_step_of_a_physical_copy_is_gone_on_with(
    shop: Scene, fatal: Callable[[str], AbstractContextManager[None]]
) -> None:
    """One move, begun by many appliers, each of which dies one step later.

    The source was a standby before, which is left in its configuration.
    """
    retile(shop, *TWO, instances=2)
    apply_all(shop)
    shop.settle_members("mv")
    world, login = shop.world(), shop.login("mv")
    world.eyes.patroni.switch_over(login, login.members[0].name, login.members[1].name)
    shop.settle_members("mv")
    retile(shop, *SPLIT, instances=2)
    with Ledger(shop, "mv") as ledger:
        for step in ("take", "serve", "close"):
            with pytest.raises(Died):
                shop.apply(dying(shop, after=step))
        for step in ("stop", "put_patronis", "rmtree", "rename"):
            with fatal(step), pytest.raises(Died):
                shop.apply()
        apply_all(shop)

    assert owned(shop) == {"s0": "-40", "s1": "80-", "s2": "40-80"}
    assert_whole(shop, "mv", ledger)
    end_window(shop)
    apply_all(shop)
    assert leftovers(shop, "mv") == []


def test_a_copy_whose_server_did_not_end_cleanly_is_made_anew(
    shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It flushes nothing by itself, so that only a clean end leaves data that can be trusted."""
    taken: list[str] = []
    flushed: list[bool] = []
    ends = iter([signal.SIGKILL])

    class Noting(LocalClones):
        def take(self, *values: Any) -> None:
            taken.append(values[3])
            super().take(*values)

        def close(self, target: ScopeKey, name: str) -> None:
            super().close(target, name)
            (log,) = shop.home.glob(f"shards/*/*/*/{name}.clone/log")
            flushed.append("syncing data to disk ... ok" in log.read_text())

    def end(process: ProcessIdentity, number: signal.Signals) -> bool:
        return send_signal(process, next(ends, number))

    monkeypatch.setattr(clone, "send_signal", end)
    world = shop.world()
    clones = Noting(cast(LocalPlatform, world.eyes.platform))
    retile(shop, *SPLIT)
    with Ledger(shop, "mv") as ledger:
        ended = shop.apply(replace(world, mover=LogicalMover(clones=clones)))

    assert not ended.failed, shop.failures()
    assert (len(taken), flushed) == (2, [True])
    assert owned(shop) == {"s0": "-40", "s1": "80-", "s2": "40-80"}
    assert_whole(shop, "mv", ledger)
    others = f"hashint8extended(id, 0) NOT BETWEEN {-(2**62)} AND -1"
    left = told(shop, "s2", f"SELECT count(*) FROM public.customers WHERE {others}")
    assert left == [0]
    end_window(shop)
    apply_all(shop)
    assert leftovers(shop, "mv") == []


def test_a_copy_ends_just_before_what_its_stream_begins_with_and_nobody_else_sees_it(
    shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that is written there comes once: with the stream."""
    world = shop.world()
    platform = cast(LocalPlatform, world.eyes.platform)
    key = next(i for i in range(1, 100) if 2**62 <= position_of_key("bigint", str(i)) < 2**63)
    order = f"FROM public.orders WHERE (customer_id, id) = ({key}, 7000000)"
    seen: list[object] = []

    def before_a_commit(source: Server) -> str:
        with open_session(source) as client, open_session(source) as other:
            client.execute(f"BEGIN; INSERT INTO public.orders VALUES ({key}, 7000000)")
            position = one_text(other, "SELECT pg_current_wal_insert_lsn()")
            client.execute("COMMIT")
        return position

    def look_and_die(ends: Ends, copy: Server, *_: object) -> None:
        with open_session(copy) as session:
            seen.append(one_text(session, f"SELECT count(*) {order}"))
        for login in platform.logins(ends.move.source_scope):
            if login.role != copy.credential.role:
                with pytest.raises(LoginRefused), open_session(replace(copy, credential=login)):
                    pass
                seen.append("refused")
        raise Died

    monkeypatch.setattr(replication_seed, "_position", before_a_commit)
    monkeypatch.setattr(replication_seed, "put_right", look_and_die)
    retile(shop, *SPLIT)
    with pytest.raises(Died):
        shop.apply(replace(world, mover=LogicalMover(clones=LocalClones(platform))))
    monkeypatch.undo()

    assert seen[0] == "0"
    assert seen[1:]
    target = seat_of(shop, "mv-s2").login.key
    with pytest.raises(CloneFailed, match="its clone is gone"):
        LocalClones(platform).put_in_place(target, "no_such_clone")
    apply_all(shop)
    assert told(shop, "s2", f"SELECT count(*) {order}") == [1]
    end_window(shop)
    apply_all(shop)
    assert leftovers(shop, "mv") == []


@pytest.mark.parametrize("step", ["serve", "put_in_place"])
def test_a_physical_copy_that_is_no_longer_wanted_leaves_nothing(shop: Scene, step: str) -> None:
    """Neither its server, nor its folder, nor a row of it."""
    retile(shop, *SPLIT)
    with pytest.raises(Died):
        shop.apply(dying(shop, after=step))
    shop.settle_members("mv")
    scope = seat_of(shop, "mv-s2").login.key
    begun = LocalClones(cast(LocalPlatform, shop.world().eyes.platform)).left(scope)
    with open_session(server(seat_of(shop, "mv-s2"), PostgresTimeouts())) as session:
        copied = session.execute("SELECT count(*) FROM public.customers").fetchall()
    retile(shop, *TWO)
    with Ledger(shop, "mv") as ledger:
        apply_all(shop)

    assert bool(begun) is (step == "serve")
    assert (copied != [(0,)]) is (step == "put_in_place")
    assert owned(shop) == {"s0": "-80", "s1": "80-"}
    assert_whole(shop, "mv", ledger)
    assert leftovers(shop, "mv") == []
    assert not list(shop.home.glob("shards/*/*/*/*.clone"))


def test_a_target_that_holds_rows_of_its_own_is_not_made_anew(shop: Scene) -> None:
    """They are of a table that no key divides, and came while the shard was copied."""
    retile(shop, *SPLIT)
    with pytest.raises(Died):
        shop.apply(dying(shop, after="take"))
    with open_session(server(seat_of(shop, "mv-s2"), PostgresTimeouts())) as session:
        session.execute("CREATE TABLE public.notes AS SELECT 1 AS id")

    ended = shop.apply()

    assert ended.failed
    assert [(e.error.code, e.error.problem) for e in shop.events if isinstance(e, StepFailed)] == [
        ("MV215", "rows of public.notes of s2 would be lost")
    ]
    assert told(shop, "s2", "SELECT id FROM public.notes") == [1]
    retile(shop, *TWO)
    apply_all(shop)
    assert leftovers(shop, "mv") == []


def test_a_copy_that_would_bring_rows_of_nobody_is_refused_or_not_chosen(shop: Scene) -> None:
    with open_session(server(seat_of(shop, "mv-s0"), PostgresTimeouts())) as session:
        session.execute("CREATE TABLE public.outbox AS SELECT 1 AS id")
    retile(shop, *SPLIT)

    refused = shop.look().plan.refusals

    assert [(r.kind.code, r.problem, r.remedy) for r in refused] == [
        (
            "PL116",
            "no physical copy: rows of public.outbox of s0 would come along, and no key says whose",
            "move with resharding.copy: auto",
        )
    ]
    retile(shop, *SPLIT, copy="auto")
    plan = shop.look().plan
    assert not plan.refusals
    (move,) = (s.action for s in plan.steps if isinstance(s.action, MoveKeyRange))
    assert move.copying.driver is CopyDriver.OWN
    assert move.copying.whole_bytes > 0
    retile(shop, *SPLIT, copy="own")
    (by_rows,) = (s.action for s in shop.look().plan.steps if isinstance(s.action, MoveKeyRange))
    assert by_rows.copying.whole_bytes == 0, "it was asked what a physical copy would bring"
