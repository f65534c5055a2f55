"""One derivation of Ready, Reconciling and Stalled, from whatever each command knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.diff.changes import Refusal
from reconciler.diff.refusals import SchemaFileChanged
from reconciler.engine.conditions import Condition, Facts, conditions_of
from reconciler.engine.known import Known
from reconciler.engine.operations import Operation, Operations, StepRecord
from reconciler.engine.reconcile import Again, Conclusion, with_serving
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.observed import ObservedDatabase
from reconciler.model.rollouts import RolloutRecord
from reconciler.model.status import Readiness, Status
from tests.worlds import NOTHING

SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
SHOP_EU = DatabaseKey(Namespace("default"), DatabaseName("shop-eu"))
SERVES, DOWN = Readiness("True"), Readiness("False", "s0: no member leads")
SINCE = "2026-11-26T12:00:00+00:00"
UP = Status(SHOP, True, False, False, "UpToDate", "nothing to do", since=SINCE)
HELD = Status(SHOP, False, True, False, "ApprovalNeeded", "ap-1 waits", since=SINCE)
BROKEN = Status(SHOP, False, True, True, "FileBroken", "PG104 s0: no such table", since=SINCE)
ASIDE = Status(SHOP, None, False, False, "Suspended", "shop: suspended by kim", since=SINCE)
BLIND = Status(SHOP, None, True, False, "EtcdSilent", "etcd does not answer", since=SINCE)
ALL_SAID = [UP, HELD, BROKEN, ASIDE, BLIND]
WAITING = StepRecord(
    "shop-s0/move/40-80/shop-s2", "move 40-80 from s0 to s2", "MoveKeyRange", "begun", "",
    waits="catching up, 31 MB behind", waits_since="2026-01-01T10:00:03.000+00:00",
)  # fmt: skip
REFUSAL = Refusal(SHOP, SchemaFileChanged, "shard s0", "has applied it", "put it back")


def applied(result: str, *failed: tuple[str, str]) -> Operation:
    steps = tuple(StepRecord(i, "", "", "failed", "", 0.0, error) for i, error in failed)
    return Operation("op-1", "s", "r", (SHOP, SHOP_EU), "p", "kim", "then", result, steps=steps)


RUNNING = replace(applied("running"), planned=3, steps=(WAITING,))


def words(facts: Facts) -> list[str]:
    return [f"{one.type}={one.status} {one.reason}" for one in conditions_of(facts)]


def message(facts: Facts, kind: str) -> str:
    return next(one.message for one in conditions_of(facts) if one.type == kind)


@pytest.mark.parametrize("told", ALL_SAID)
@pytest.mark.parametrize("last", [None, RUNNING, applied("failed", ("shop-s0/x", "LP104 busy"))])
@pytest.mark.parametrize("serving", [SERVES, DOWN, Readiness("Unknown", "patroni: silent")])
def test_who_looks_and_who_only_reads_the_daemons_word_say_the_same(
    told: Status, last: Operation | None, serving: Readiness
) -> None:
    """`get` looks at the shards, `status` knows what the daemon saw when it looked."""
    known = Known(Operations((last,) if last else ()), {SHOP: replace(told, serving=serving)},
                  {"actor": "me", "sources": []}, "me")  # fmt: skip
    read = known.facts(SHOP, lambda _: False)
    suspended = "suspended by kim" if told is ASIDE else ""
    looked = replace(read, serving=serving, suspended=suspended)
    assert conditions_of(read) == conditions_of(looked)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(SHOP, SERVES), ["Ready=True Serving"]),
        (Facts(SHOP, SERVES, told=UP), ["Ready=True UpToDate"]),
        (Facts(SHOP, DOWN, told=UP), ["Ready=False NotServing"]),
        (Facts(SHOP, SERVES, told=HELD), ["Ready=False ApprovalNeeded",
                                          "Reconciling=True ApprovalNeeded"]),
        (Facts(SHOP, DOWN, told=HELD), ["Ready=False NotServing",
                                        "Reconciling=True ApprovalNeeded"]),
        (Facts(SHOP, SERVES, told=BROKEN), ["Ready=False FileBroken",
                                            "Reconciling=True FileBroken",
                                            "Stalled=True FileBroken"]),
        (Facts(SHOP, SERVES, told=BROKEN, last=RUNNING), ["Ready=False Applying",
                                                          "Reconciling=True Applying"]),
        (Facts(SHOP, DOWN, told=ASIDE), ["Ready=Unknown Suspended"]),
        (Facts(SHOP, DOWN, suspended="by its spec"), ["Ready=Unknown Suspended"]),
        (Facts(SHOP, SERVES, told=BLIND), ["Ready=Unknown EtcdSilent",
                                           "Reconciling=True EtcdSilent"]),
        (Facts(SHOP, SERVES, rollout=RolloutRecord("c", SINCE)), ["Ready=False RollingOut",
                                                                  "Reconciling=True RollingOut"]),
        (Facts(SHOP, SERVES, rollout=RolloutRecord("c", SINCE, "a gate")),
         ["Ready=False RolloutStopped", "Stalled=True RolloutStopped"]),
        (Facts(SHOP), ["Ready=Unknown NotSeen"]),
        (Facts(SHOP, gone="said 3 d ago"), ["Ready=Unknown DaemonGone"]),
    ],
)  # fmt: skip
def test_what_is_known_becomes_these_conditions(facts: Facts, expected: list[str]) -> None:
    assert words(facts) == expected


def test_the_word_of_a_daemon_that_does_not_lead_any_more_is_not_taken() -> None:
    daemon = {"actor": "me", "sources": []}
    for applier in ("", "another"):
        facts = Known(Operations(), {SHOP: HELD}, daemon, applier).facts(SHOP, lambda _: False)
        assert words(facts) == ["Ready=Unknown NotSeen"]


def test_an_apply_under_way_is_reconciling_and_says_what_it_waits_for() -> None:
    told = message(Facts(SHOP, SERVES, last=RUNNING), "Reconciling")
    assert told == (
        "op-1, 0 of 3 steps done; move 40-80 from s0 to s2: catching up, 31 MB behind, "
        "since 10:00:03Z"
    )
    bounded = replace(WAITING, waits_until="2026-01-01T10:03:03.000+00:00")
    facts = Facts(SHOP, SERVES, last=replace(RUNNING, steps=(bounded,)))
    assert message(facts, "Reconciling").endswith("since 10:00:03Z, until 10:03:03Z at most")


def test_what_does_not_go_on_by_itself_is_stalled_and_says_why() -> None:
    failed = applied("failed", ("shop-s0/startshard", "LP104 home: busy"))
    assert message(Facts(SHOP, SERVES, last=failed), "Stalled") == "op-1 failed: LP104 home: busy"
    cut_off = Facts(SHOP, SERVES, last=applied("running"), cut_off=True)
    assert message(cut_off, "Stalled").startswith("op-1 was killed before its end")
    assert words(Facts(SHOP, SERVES, last=applied("done"))) == ["Ready=True Serving"]
    refused = Facts(SHOP, SERVES, last=applied("done"), refusals=(REFUSAL, REFUSAL))
    assert message(refused, "Stalled") == "PL104 shard s0: has applied it (and 1 more)"


def test_a_failure_is_the_databases_whose_step_it_was() -> None:
    bad = applied("failed", ("shop-eu-s0/startshard", "LP104 home: busy"))
    assert words(Facts(SHOP_EU, SERVES, last=bad))[1:] == ["Stalled=True ApplyFailed"]
    assert words(Facts(SHOP, SERVES, last=bad)) == ["Ready=True Serving"]


def test_an_apply_that_its_user_stopped_in_a_step_leaves_its_database_unfinished() -> None:
    stopped = applied("interrupted", ("shop-s0/move", "AP109 move m1: stopped before the cut"))
    assert words(Facts(SHOP, SERVES, last=stopped)) == [
        "Ready=False Interrupted", "Stalled=True Interrupted",
    ]  # fmt: skip
    told = message(Facts(SHOP, SERVES, last=stopped), "Stalled")
    assert told.startswith("op-1 was stopped; the next apply goes on from what is there: AP109")
    assert words(Facts(SHOP_EU, SERVES, last=stopped)) == ["Ready=True Serving"]
    assert words(Facts(SHOP, SERVES, last=applied("interrupted"))) == ["Ready=True Serving"]


def test_of_applies_the_last_one_counts_and_a_dead_applier_is_cut_off() -> None:
    bad, good = applied("failed", ("shop-s0/x", "LP104 busy")), applied("done")
    assert Known(Operations((bad, good))).facts(SHOP, lambda _: True).last is good
    running = Known(Operations((applied("running"),)))
    assert running.facts(SHOP, lambda actor: actor == "kim").cut_off
    assert not running.facts(SHOP, lambda _: False).cut_off


def test_a_condition_says_since_when() -> None:
    assert conditions_of(Facts(SHOP, SERVES, told=UP)) == (
        Condition("Ready", "True", "UpToDate", "nothing to do", SINCE),
    )


def test_a_round_notes_what_it_saw_of_the_shards_and_looks_at_sick_ones_soon() -> None:
    up = Conclusion(True, False, False, "UpToDate", "nothing to do", Again.ROUTINE)
    there = replace(NOTHING, databases=(ObservedDatabase(SHOP, None, None, ()),))
    sick = with_serving(up, there, SHOP)
    assert (sick.serving, sick.again) == (Readiness("False", "no routing map yet"), Again.SOON)
    assert with_serving(up, replace(there, databases=()), SHOP) == up
    held = replace(up, reason="Suspended")
    assert with_serving(held, there, SHOP).again is Again.ROUTINE
