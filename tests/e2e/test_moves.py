"""Keys move between live shards while a ledger is written: nothing is lost, nothing is doubled."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
import pytest

from reconciler.demo.shards import connect
from reconciler.edges.postgres_session import PostgresTimeouts
from reconciler.edges.replication import LogicalMover
from reconciler.edges.replication_ends import open_session, server
from reconciler.engine.events import StepFailed, StepWaits
from reconciler.engine.observe import login_of, primary_of
from reconciler.engine.problems import PlanStale
from reconciler.engine.records import moves_key
from reconciler.engine.wishes import moves_under_way, record_wish
from reconciler.model.access import Seat
from reconciler.model.hashing import position_of_key
from reconciler.model.moves import Wish
from reconciler.model.routing import RoutingMap
from reconciler.wiring import SystemClock
from tests.cli.calls import SHARDWRIGHT
from tests.e2e.scene import TWO, Scene, key_of, spec_text
from tests.local_home import DEADLINE_S, wait_for

pytestmark = pytest.mark.platform

CUSTOMERS = 60
SPLIT = ('{name: s0, keys: ["-40"]}', TWO[1], '{name: s2, keys: ["40-80"]}')


@dataclass
class Ledger:
    """Writes orders of many customers, each at the owner that the map names, and remembers them.

    A refusal (PS001) is tried again at whoever owns the key by then; a write whose outcome is
    unknown is neither counted nor repeated. ``stale`` never reads the map again.
    """

    scene: Scene
    name: str
    stale: bool = False
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    unknown: set[tuple[int, int]] = field(default_factory=set)
    refused: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _sessions: dict[str, psycopg.Connection] = field(default_factory=dict)

    def __enter__(self) -> Ledger:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        for session in self._sessions.values():
            session.close()

    def _run(self) -> None:
        world = self.scene.world()
        routing = self.scene.routing(self.name)
        order = 2_000_000 if self.stale else 1_000_000
        while not self._stop.is_set():
            order += 1
            customer = 1 + order % CUSTOMERS
            while not self._stop.is_set():
                try:
                    self._write(world, routing, customer, order)
                    self.acknowledged.add((customer, order))
                    break
                except psycopg.errors.Error as error:
                    if error.sqlstate != "PS001":
                        self.unknown.add((customer, order))
                        self._sessions.clear()
                        break
                    self.refused += 1
                    if self.stale:
                        break
                    routing = self.scene.routing(self.name)

    def _write(self, world: object, routing: RoutingMap, customer: int, order: int) -> None:
        owner = routing.owner_of(position_of_key("bigint", str(customer)))
        assert owner is not None
        session = self._sessions.get(owner.scope)
        if session is None or session.closed:
            session = connect(world, routing, owner)  # type: ignore[arg-type]
            session.autocommit = True
            self._sessions[owner.scope] = session
        session.execute("INSERT INTO orders VALUES (%s, %s)", [customer, order])


def rows(scene: Scene, name: str) -> list[tuple[int, int]]:
    """Return every order at the shard that owns it by the map, duplicates and all."""
    world, routing = scene.world(), scene.routing(name)
    found: list[tuple[int, int]] = []
    for owner in routing.owners:
        with connect(world, routing, owner) as session:
            for customer, order in session.execute("SELECT customer_id, id FROM orders"):
                if position_of_key("bigint", str(customer)) in owner.keys:
                    found.append((customer, order))
    return found


def assert_whole(scene: Scene, name: str, *ledgers: Ledger) -> None:
    found = rows(scene, name)
    assert len(found) == len(set(found)), "a row is at two owners"
    for ledger in ledgers:
        assert ledger.acknowledged, "the ledger wrote nothing"
        assert ledger.acknowledged <= set(found), "an acknowledged write is gone"
    known = set().union(*(one.acknowledged | one.unknown for one in ledgers))
    assert set(found) <= known


def leftovers(scene: Scene, name: str) -> list[str]:
    """Return every object of a move on any shard of a database."""
    mover = scene.world().mover
    assert isinstance(mover, LogicalMover)
    found: list[str] = []
    for shard in scene.seen(name).shards:
        if not shard.platform.stopped:
            found += map(str, mover.sweep(seat_of(scene, shard.key.scope, name)))
    return found


def seat_of(scene: Scene, scope: str, name: str = "mv") -> Seat:
    """Return how to reach the primary of a shard, as the superuser."""
    platform = scene.world().eyes.platform
    (shard,) = (s for s in scene.seen(name).shards if s.key.scope == scope)
    primary = primary_of(shard.platform, shard.patroni)
    assert primary is not None
    return Seat(login_of(platform, shard.platform), primary, key_of(name).name)


def apply_all(scene: Scene) -> None:
    """Apply until nothing is left to do: what ends a move is planned when the move has ended."""
    for _ in range(60):
        plan = scene.look().plan
        if plan.steps:
            with suppress(PlanStale):  # a shard that the killed apply started is still coming up
                ended = scene.apply()
                assert not ended.failed, [e for e in scene.events if isinstance(e, StepFailed)]
        elif not [s for s in plan.standstills if s.database.name in scene.names]:
            return
        else:
            time.sleep(0.5)  # a member that was killed, or starts, is not seen yet
    raise AssertionError(f"still to do: {scene.look().plan}")


@pytest.fixture
def shop(scene: Scene) -> Scene:
    """Two shards with customers, each at its owner."""
    scene.write("mv", spec_text("mv", *TWO, reference="[]"))
    scene.applied()
    world, routing = scene.world(), scene.routing("mv")
    for owner in routing.owners:
        with connect(world, routing, owner) as session:
            for customer in range(1, CUSTOMERS + 1):
                if position_of_key("bigint", str(customer)) in owner.keys:
                    session.execute("INSERT INTO customers VALUES (%s, 'x')", [customer])
    return scene


def killed_after(scene: Scene, seconds: float) -> None:
    """Begin an apply and kill it: the number of seconds only chooses where it is hit."""
    running = subprocess.Popen(
        [*SHARDWRIGHT, "apply", "-f", "specs", "--yes"],
        cwd=scene.folder,
        env=scene.call.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def retile(scene: Scene, *shards: str) -> None:
    patient = "  resharding: {pauseMax: 5s}\n"
    scene.write("mv", spec_text("mv", *shards, reference="[]", more=patient))


def end_window(scene: Scene) -> None:
    for move in moves_under_way(scene.world().eyes.store):
        record_wish(scene.world(), move.id, Wish.FINISH)


def test_a_split_to_two_shards_one_back_then_a_merge_lose_no_write(shop: Scene) -> None:
    """Neither of a client that reads the map nor of a stale one."""
    with Ledger(shop, "mv") as ledger, Ledger(shop, "mv", stale=True) as stale:
        retile(shop, '{name: s0, keys: ["-20"]}', *SPLIT[1:], '{name: s3, keys: ["20-40"]}')
        apply_all(shop)
        both = {str(move.keys) for move in moves_under_way(shop.world().eyes.store)}
        retile(shop, *SPLIT)  # one of the two goes back while the other soaks
        apply_all(shop)
        split = shop.routing("mv")
        end_window(shop)
        apply_all(shop)
        retile(shop, *TWO)
        apply_all(shop)
        end_window(shop)
        apply_all(shop)

    assert both == {"20-40", "40-80"}, "both soak on one shard"
    assert {o.shard: str(o.keys) for o in split.owners} == {"s0": "-40", "s1": "80-", "s2": "40-80"}
    assert {o.shard: str(o.keys) for o in shop.routing("mv").owners} == {"s0": "-80", "s1": "80-"}
    assert stale.refused, "the stale client was never refused"
    assert_whole(shop, "mv", ledger, stale)
    assert leftovers(shop, "mv") == []
    assert shop.steps() == []


def test_a_reverted_commit_takes_a_split_back_with_all_that_was_written_since(
    shop: Scene,
) -> None:
    with Ledger(shop, "mv") as ledger:
        retile(shop, *SPLIT)
        apply_all(shop)
        assert_only_orphans_are_swept(shop)
        before = len(ledger.acknowledged)
        while len(ledger.acknowledged) < before + 200:
            pass
        retile(shop, *TWO)
        apply_all(shop)

    assert {o.shard: str(o.keys) for o in shop.routing("mv").owners if o.keys} == {
        "s0": "-80",
        "s1": "80-",
    }
    assert_whole(shop, "mv", ledger)
    assert moves_under_way(shop.world().eyes.store) == ()
    assert leftovers(shop, "mv") == []


def assert_only_orphans_are_swept(shop: Scene) -> None:
    """Leave things of a move that has no record beside one that soaks; only they go."""
    world, soaking = shop.world(), leftovers(shop, "mv")
    assert soaking != []
    with open_session(server(seat_of(shop, "mv-s0"), PostgresTimeouts())) as session:
        session.execute("CREATE PUBLICATION shardwright_m00000001_fwd")
        session.execute(
            "SELECT pg_create_logical_replication_slot('shardwright_m00000001_fwd_x', 'pgoutput')"
        )
    key = moves_key(key_of("mv"), "m00000001/progress")
    lease = world.eyes.store.acquire("/shardwright/test", "test", 60)
    world.eyes.store.write({key: (b"{}", None)}, lease)
    world.eyes.store.release(lease)

    checks = shop.call("doctor", "-o", "json").json["checks"]
    told = [check["fact"] for check in checks if check["name"] == "moves"]
    swept = shop.call("operation", "sweep", "--yes").told()

    assert [text.partition(" is left over: ")[0] for text in told] == [
        "mv-s0: publication shardwright_m00000001_fwd",
        "mv-s0: slot shardwright_m00000001_fwd_x",
        f"etcd: key {key}",
    ]
    assert all("there is no record of move m00000001" in text for text in told)
    for scope in ("mv-s0", "mv-s1"):  # also where nothing was left: the other side of the move
        with open_session(server(seat_of(shop, scope), PostgresTimeouts())) as session:
            ((token,),) = session.execute("SELECT token FROM shardwright.fencing").fetchall()
        assert swept.count(f"no applier before fencing token {token} ") == 3
    assert leftovers(shop, "mv") == soaking
    assert key not in world.eyes.store.read(key)


@dataclass
class AheadClock(SystemClock):
    """The real one, and what it is ahead of the time."""

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


WINDOW = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {{name: window}}
spec:
  rules:
    - name: at-night
      at: [apply]
      when: step.phase == "cut"
      require: now >= timestamp("{opens:%Y-%m-%dT%H:%M:%SZ}")
      otherwise: hold
      message: keys change hands at night
"""


def test_a_move_waits_for_the_window_of_its_cut_and_goes_on_in_it(shop: Scene) -> None:
    clock = AheadClock()
    opens = clock.now() + timedelta(hours=1)
    (shop.specs / "window.yaml").write_text(WINDOW.format(opens=opens))
    retile(shop, *SPLIT)
    world, before = shop.world(clock=clock), shop.routing("mv").epoch

    def held() -> bool:
        said = "policy window/at-night: keys change hands at night"
        return any(isinstance(e, StepWaits) and said in e.reason for e in list(shop.events))

    with Ledger(shop, "mv") as ledger:
        applying = threading.Thread(target=shop.apply, args=(world,), daemon=True)
        applying.start()
        wait_for(lambda: held() or None, "the cut to be held")
        written = len(ledger.acknowledged)
        wait_for(lambda: len(ledger.acknowledged) > written + 50 or None, "writes go on")
        assert shop.routing("mv").epoch == before
        assert ledger.refused == 0, "no fence stands while a cut is held"
        assert "keys change hands at night" in shop.call("get", "moves").told()
        clock.ahead = timedelta(hours=2)
        applying.join(DEADLINE_S)

    assert {o.shard: str(o.keys) for o in shop.routing("mv").owners} == {
        "s0": "-40", "s1": "80-", "s2": "40-80",
    }  # fmt: skip
    assert_whole(shop, "mv", ledger)


@pytest.mark.parametrize("seconds", [3.0, 4.0, 5.0, 6.0])
def test_an_apply_killed_in_a_move_is_gone_on_with(shop: Scene, seconds: float) -> None:
    retile(shop, *SPLIT)
    with Ledger(shop, "mv") as ledger:
        killed_after(shop, seconds)
        apply_all(shop)

    owned = {o.shard: str(o.keys) for o in shop.routing("mv").owners}
    assert owned == {"s0": "-40", "s1": "80-", "s2": "40-80"}
    assert_whole(shop, "mv", ledger)


def test_a_move_that_the_spec_no_longer_wants_is_aborted(shop: Scene) -> None:
    retile(shop, *SPLIT)
    with Ledger(shop, "mv") as ledger:
        killed_after(shop, 4.0)
        retile(shop, *TWO)
        apply_all(shop)

    assert {o.shard: str(o.keys) for o in shop.routing("mv").owners if o.keys} == {
        "s0": "-80",
        "s1": "80-",
    }
    assert_whole(shop, "mv", ledger)
    assert leftovers(shop, "mv") == []


def test_what_would_make_a_move_fail_is_in_the_plan_before_anything_is_started(shop: Scene) -> None:
    with open_session(server(seat_of(shop, "mv-s0"), PostgresTimeouts())) as session:
        session.execute("ALTER TABLE public.orders SET UNLOGGED")
        session.execute("CREATE VIEW public.by_hand AS SELECT 1 AS one")
    retile(shop, *SPLIT)

    refused = shop.look().plan.refusals

    assert [(r.kind.code, r.problem) for r in refused] == [
        ("PL116", "public.orders: it is unlogged, so it is not replicated"),
        (
            "PL116",
            "view public.by_hand is at s0, and no schema file makes it, so s2 would not have it",
        ),
    ]
    assert refused[0].remedy == "ALTER TABLE … SET LOGGED"
    told = shop.call("get", "mv", "-f", "specs").told()
    assert "Stalled=True" in told
    assert "it is unlogged" in told
    assert {shard.key.scope for shard in shop.seen("mv").shards} == {"mv-s0", "mv-s1"}


def test_a_merge_of_shards_that_differ_is_refused_in_the_plan(shop: Scene) -> None:
    with open_session(server(seat_of(shop, "mv-s1"), PostgresTimeouts())) as session:
        session.execute("CREATE VIEW public.by_hand AS SELECT 1 AS one")
        session.execute("COMMENT ON TABLE public.orders IS 'by hand'")
    retile(shop, '{name: s0, keys: ["-"]}')

    assert [(r.kind.code, r.problem, r.remedy) for r in shop.look().plan.refusals] == [
        (
            "PL116",
            "comment on table public.orders is only at s1",
            "bring it to both shards by a schema file, or drop it",
        ),
        (
            "PL116",
            "view public.by_hand is only at s1",
            "bring it to both shards by a schema file, or drop it",
        ),
    ]
