"""What lists and watchers say, from values made by hand."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import click
import pytest

from reconciler.cli.applied import Tally
from reconciler.cli.apply import sum_of
from reconciler.cli.columns import columns_for
from reconciler.cli.confirm import NotConfirmed, confirm
from reconciler.cli.errors import tell_error
from reconciler.cli.get import Kind, kind_and_name
from reconciler.cli.looking import NotFound, named
from reconciler.cli.objects import Object, database_object, histogram, move_object, shard_object
from reconciler.cli.progress import Failures, Lines, bar_width
from reconciler.cli.report import named_unseen
from reconciler.cli.table import table
from reconciler.engine.conditions import Facts, conditions_of
from reconciler.engine.events import (
    ApplyEnded,
    ApplyStarted,
    StepDone,
    StepFailed,
    StepStarted,
    StepWaits,
)
from reconciler.engine.logbook import Copying, Line, Logbook
from reconciler.engine.problems import PlanFileBroken, StoppedByUser
from reconciler.engine.readiness import not_serving, of_database, of_shard
from reconciler.engine.saved import decode_saved
from reconciler.engine.wishes import KnownMove
from reconciler.model.desired import KeyType
from reconciler.model.errors import Position
from reconciler.model.keyspace import WHOLE, KeySet
from reconciler.model.moves import Move, Stage, Wish
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    MemberName,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
)
from reconciler.model.observed import (
    Catalog,
    ObservedDatabase,
    ObservedMember,
    ObservedShard,
    ObservedState,
    PatroniView,
    Role,
    Unseen,
)
from reconciler.model.platform import Endpoint, PlatformMember, PlatformShard, Resources
from reconciler.model.routing import RoutingMap, RoutingOwner
from reconciler.model.status import Readiness
from tests.plan import render_cases as cases
from tests.workflow.move_world import MOVE

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
KEY = ScopeKey(SHOP.namespace, Scope("shop-s0"))
AT = Endpoint("127.0.0.1", 1, 2)
SILENT = Unseen("patroni", "shop-s0", "silent")


def member(number: int, state: str = "streaming", **rest: object) -> ObservedMember:
    role = Role.STANDBY if number else Role.PRIMARY
    made = ObservedMember(MemberName(f"shop-s0-{number}"), AT, role, state)
    return dataclasses.replace(made, **rest)  # type: ignore[arg-type]


def view(*members: ObservedMember, leader: str | None = "shop-s0-0") -> PatroniView:
    return PatroniView(MemberName(leader) if leader else None, members, (), True)


def shard(
    patroni: PatroniView | Unseen, *, running: bool = True, stopped: bool = False
) -> ObservedShard:
    members = tuple(
        PlatformMember(MemberName(f"shop-s0-{number}"), AT, running) for number in (0, 1)
    )
    platform = PlatformShard(KEY, SHOP.name, "16", members, True, Resources(), stopped)
    return ObservedShard(KEY, platform, patroni, Catalog(160004, True), ShardName("s0"))


WELL = view(member(0, "running"), member(1))


@pytest.mark.parametrize(
    ("seen", "ready", "reason"),
    [
        (shard(WELL), "True", ""),
        (shard(SILENT), "Unknown", "patroni: silent"),
        (shard(SILENT, running=False), "False", "no member runs"),
        (shard(WELL, stopped=True), "False", "stopped on purpose"),
        (shard(view(member(0, "running"), member(1), leader=None)), "False", "no member leads"),
        (shard(view(member(0, "running"))), "False", "shop-s0-1 did not answer"),
        (shard(view(member(0, "running"), member(1, "starting"))), "False",
         "shop-s0-1 is starting"),
        (shard(view(member(0, "running", pending_restart=("x",)), member(1))), "True",
         "restart pending: x"),
        (dataclasses.replace(shard(WELL), catalog=Unseen("postgres", "s", "late")), "Unknown",
         "postgres: late"),
    ],
)  # fmt: skip
def test_a_shard_is_ready_only_when_all_of_it_was_seen_to_serve(
    seen: ObservedShard, ready: str, reason: str
) -> None:
    state = of_shard(seen)
    assert (state.ready, state.reason) == (ready, reason)


def test_without_etcd_a_shard_is_unknown_and_has_no_invented_name() -> None:
    silent = Unseen("etcd", "records", "ET001 silent")
    nameless = dataclasses.replace(shard(WELL), name=None)
    told = shard_object(ObservedDatabase(SHOP, silent, silent, (nameless,)), nameless)
    shown = {
        head: cell(told) for head, cell in columns_for("shards", wide=False, with_namespace=False)
    }
    assert (shown["NAME"], shown["KEYS"], shown["READY"]) == ("shop-s0", "-", "Unknown")
    assert told["keys"] is None


def test_a_database_is_as_ready_as_its_worst_shard_and_says_which() -> None:
    sick = shard(view(member(0, "running"), member(1, "starting")))
    both = ObservedDatabase(SHOP, None, None, (shard(WELL), sick))
    state = of_database(both)
    assert (state.ready, state.reason) == ("False", "s0: shop-s0-1 is starting")


def test_a_shard_that_left_the_specs_keeps_its_data_and_no_database_from_being_ready() -> None:
    key = ScopeKey(SHOP.namespace, Scope("shop-s1"))
    left = dataclasses.replace(
        shard(SILENT, running=False, stopped=True), key=key, name=None, catalog=SILENT
    )
    owner = RoutingOwner(ShardName("s0"), KEY.scope, KeySet((WHOLE,)), ())
    routing = RoutingMap(SHOP, Epoch(3), KeyType.BIGINT, (), (), (owner,))
    database = ObservedDatabase(SHOP, routing, None, (shard(WELL), left))

    assert of_database(database) == Readiness("True", "")
    told = database_object(database, conditions_of(Facts(SHOP, of_database(database))))
    cells = dict(columns_for("databases", wide=False, with_namespace=False))
    assert (cells["READY"](told), cells["SHARDS"](told)) == ("True", "1 + 1 kept")
    assert (cells["INSTANCES"](told), told["bytes"]) == ("2/2", 0)
    assert {one["state"] for one in told["shards"][1]["instances"]} == {"stopped"}
    # One that owns keys has to serve, whoever stopped it.
    theirs = dataclasses.replace(routing, owners=(dataclasses.replace(owner, scope=key.scope),))
    owning = dataclasses.replace(database, routing=theirs)
    assert of_database(owning) == Readiness("False", "shop-s1: stopped on purpose")


def test_a_database_that_was_deleted_and_its_data_kept_is_said_to_be_that() -> None:
    stopped = dataclasses.replace(shard(SILENT, running=False, stopped=True), catalog=SILENT)
    owner = RoutingOwner(ShardName("s0"), KEY.scope, KeySet((WHOLE,)), ())
    routing = RoutingMap(SHOP, Epoch(3), KeyType.BIGINT, (), (), (owner,))
    database = ObservedDatabase(SHOP, routing, None, (stopped,))
    assert of_database(database) == Readiness("False", "deleted, its data kept")


def test_a_database_without_a_map_is_not_ready() -> None:
    database = ObservedDatabase(SHOP, None, None, (shard(WELL),))
    assert of_database(database).reason == "no routing map yet"


def test_a_name_without_a_kind_is_a_database() -> None:
    kind = Kind()
    assert kind.convert("shop", None, None) == "status/shop"
    assert kind.convert("team/shop", None, None) == "status/team/shop"
    assert kind.convert("DB/shop", None, None) == "db/shop"


def test_a_shard_stopped_on_purpose_is_not_waited_for() -> None:
    databases = (ObservedDatabase(SHOP, None, None, (shard(WELL, stopped=True), shard(SILENT))),)
    assert not_serving(ObservedState(databases)) == ("shop/s0: patroni: silent",)


def test_plain_progress_repeats_a_wait_only_when_it_changes_or_lasts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = cases.split().plan
    step, now = plan.steps[0], datetime(2026, 1, 1, tzinfo=UTC)
    lines = Lines(plan)
    lines(StepStarted(now, step))
    for seconds, reason in ((0, "a"), (1, "a"), (2, "b"), (3, "b"), (9, "b")):
        lines(StepWaits(now + timedelta(seconds=seconds), step, reason))
    lines(StepWaits(now, step, "the rows are copied", works=True))
    lines(StepDone(now, step, 2.0))
    told = capsys.readouterr()
    assert told.out == ""
    said = [line.partition("  ")[2] for line in told.err.splitlines()]
    name = "shop: provision s2: 2 instances, PostgreSQL 16, 10Gi"
    assert said == [
        f"begins {name}", f"waits  {name}: a", f"waits  {name}: b", f"waits  {name}: b",
        f"does   {name}: the rows are copied", f"done   {name} (2 s) 1/3",
    ]  # fmt: skip


def test_in_a_narrow_terminal_the_reason_has_more_room_than_the_bar() -> None:
    assert [bar_width(columns) for columns in (20, 80, 120, 400)] == [6, 8, 12, 24]


def test_a_growing_amount_is_not_said_every_moment(capsys: pytest.CaptureFixture[str]) -> None:
    plan = cases.split().plan
    step, now = plan.steps[0], datetime(2026, 1, 1, tzinfo=UTC)
    lines = Lines(plan)
    for seconds, share in ((0, 30), (1, 31), (2, 32), (6, 40)):
        reason = f"copying 40-80: {share}%, 1,{share}0 rows"
        lines(StepWaits(now + timedelta(seconds=seconds), step, reason))
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["30%, 1,300 rows", "40%, 1,400 rows"]


def test_a_step_that_its_user_stopped_has_not_failed(capsys: pytest.CaptureFixture[str]) -> None:
    plan = cases.split().plan
    now = datetime.now(UTC)
    first, second = plan.steps[:2]
    tally = Tally(Lines(plan))
    tally(StepFailed(now, first, StoppedByUser("move m1", "stopped while it waited: rows")))
    tally(StepFailed(now, second, cases.CannotShrink("s0", "it cannot")))
    told = capsys.readouterr().err
    assert "stops  " in told.splitlines()[0]
    assert "AP109" not in told
    ended = ApplyEnded(now, ("x",), (first.id, second.id), ("y", "z"), True)
    assert sum_of(ended, tally.stopped) == "1 step done, 1 failed, 1 stopped, 2 not begun"


def test_an_apply_as_json_has_its_operation_and_how_each_step_ended() -> None:
    plan = cases.split().plan
    first, second, third = plan.steps[:3]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tally = Tally(lambda _: None)
    assert json.loads(tally.as_json(b"{}"))["operation"] is None
    for event in (
        ApplyStarted(now, plan, "op-1"), StepStarted(now, first), StepWaits(now, first, "x"),
        StepDone(now, first, 2.0), StepFailed(now, second, cases.CannotShrink("s0", "it cannot")),
        ApplyEnded(now, (first.id,), (second.id,), (third.id,), False),
    ):  # fmt: skip
        tally(event)
    told = json.loads(tally.as_json(b'{"id": "plan-1"}'))
    assert told["plan"] == {"id": "plan-1"}
    assert (told["operation"]["id"], told["operation"]["result"]) == ("op-1", "failed")
    steps = told["operation"]["steps"]
    assert [(step["id"], step["state"]) for step in steps] == [
        (first.id, "done"), (second.id, "failed"), (third.id, "notBegun"),
    ]  # fmt: skip
    assert steps[1]["error"]["code"] == "TE901"


BOOK = Logbook(
    (Line("Copy", "begun", "2026-01-01T00:00:00+00:00"),),
    copying=Copying(2_000_000, 8_000_000, 1000, 2_000_000, 3, "2026-01-01T00:00:01+00:00"),
)


def test_a_move_is_listed_with_its_stage_its_window_and_its_last_pause() -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    switched = (ends - timedelta(seconds=MOVE.rollback_window_s)).isoformat()
    open_ = dataclasses.replace(
        MOVE, stage=Stage.SWITCHED, switched_at=switched, pauses_ms=(41.4, 9.0)
    )
    shown = {
        head: cell(move_object(KnownMove(open_, BOOK)))
        for head, cell in columns_for("moves", wide=True, with_namespace=True)
    }
    assert (shown["STAGE"], shown["LAST PAUSE"]) == ("cut over", "41 ms")
    assert shown["NOW"] == "Copy: 25%, 1,000 rows, 2 MB/s, about 3 s left"
    slow = dataclasses.replace(BOOK.copying, bytes_per_s=340_000)  # type: ignore[type-var]
    told = move_object(KnownMove(open_, dataclasses.replace(BOOK, copying=slow)))["now"]
    assert told == "Copy: 25%, 1,000 rows, 340 kB/s, about 3 s left"
    held = dataclasses.replace(slow, slowed=True)  # type: ignore[type-var]
    told = move_object(KnownMove(open_, dataclasses.replace(BOOK, copying=held)))["now"]
    assert told.startswith("Copy: 25%, 1,000 rows, 340 kB/s (slowed: resharding.throttle), about")
    assert histogram(open_.pauses_ms)["50 ms"] == 1
    assert histogram((None, 6000.0)) == {**histogram(()), "more": 1, "unknown": 1}
    assert "in 60 min" in shown["WINDOW ENDS"]
    assert _window_of(MOVE) == "-"
    ended = dataclasses.replace(open_, stage=Stage.ENDED, wish=Wish.FINISH)
    assert _window_of(ended) == "-"
    cells = dict(columns_for("moves", wide=False, with_namespace=False))
    assert cells["WISH"](move_object(KnownMove(ended, BOOK))) == "-"


def _window_of(move: Move) -> str:
    cells = dict(columns_for("moves", wide=False, with_namespace=False))
    return cells["WINDOW ENDS"](move_object(KnownMove(move, Logbook())))


def test_a_failure_is_told_even_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    step = cases.split().plan.steps[0]
    error = cases.CannotShrink("s0", "it cannot", remedy="do not")
    Failures()(StepFailed(datetime.now(UTC), step, error))
    assert capsys.readouterr().err.splitlines() == ["TE901  s0: it cannot", "      try: do not"]


def test_without_a_terminal_only_yes_confirms() -> None:
    confirm("Really?", yes=True)
    with pytest.raises(NotConfirmed, match="no terminal"):
        confirm("Really?", yes=False)


def test_a_table_is_aligned_for_wide_characters_and_shows_no_control_characters() -> None:
    lines = table(("A", "B"), [("中文", "x"), ("a\x1b[2J", "y")]).splitlines()
    assert lines == ["A       B", "中文    x", "a\ufffd[2J   y"]


def shards(*databases: str) -> list[Object]:
    item = shard_object(ObservedDatabase(SHOP, None, None, (shard(WELL),)), shard(WELL))
    return [{**item, "database": database} for database in databases]


def test_a_shard_is_known_by_its_short_name_where_only_one_has_it() -> None:
    assert named(shards("shop"), "s0", "shard") == shards("shop")
    with pytest.raises(NotFound, match="several have this name") as told:
        named(shards("shop", "team"), "s0", "shard")
    assert "shop/s0, team/s0" in told.value.remedy


def test_a_kind_and_a_name_may_be_one_word() -> None:
    assert kind_and_name("databases/shop", None) == ("databases", "shop")
    assert kind_and_name("shard/shop/s0", None) == ("shard", "shop/s0")
    assert kind_and_name("shard", "s0") == ("shard", "s0")
    with pytest.raises(click.UsageError):
        kind_and_name("shard/s0", "s1")


def test_a_file_that_is_the_subject_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell_error(cases.CannotShrink("l.yaml", "twice", where=Position("l.yaml", 19, 3)))
    assert capsys.readouterr().err == "TE901 l.yaml:19:3  twice\n"


def test_a_file_that_is_no_plan_is_told_in_our_words() -> None:
    with pytest.raises(PlanFileBroken) as told:
        decode_saved(b"apiVersion: x", "x.plan")
    assert "Expecting" not in told.value.problem


def test_what_does_not_answer_is_called_by_the_name_that_people_give_it() -> None:
    silent = Unseen("postgres", "shop-s0", "no answer")
    etcd = Unseen("etcd", "records", "ET001 silent")
    database = ObservedDatabase(SHOP, None, None, (shard(WELL),))
    found = named_unseen(ObservedState((database,), (silent, etcd)))
    assert [one.subject for one in found] == ["shop/s0", "records"]
