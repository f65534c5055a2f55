"""What rules say of databases, plans and steps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from reconciler.model.desired import Deletion, Place
from reconciler.plan.actions import MoveKeyRange, Risk, StartShard
from reconciler.policy.check import (
    Finding,
    Subject,
    Verdict,
    check,
    check_plan,
    check_spec,
    check_step,
    prepare_plan_check,
)
from reconciler.policy.expressions import Stage
from reconciler.policy.facts import (
    DatabaseFacts,
    FleetFacts,
    MoveFacts,
    PlanFacts,
    ShardFacts,
    StepFacts,
    total,
)
from reconciler.policy.plan_facts import describe_step, describe_steps, view_plan
from reconciler.policy.rules import Outcome, PolicySet, compile_policies
from reconciler.policy.windows import SEARCHES_MAX, Windows
from tests.policy.plans import planned
from tests.policy.written import HEAD, NOON, documents, policies, rule
from tests.worlds import NOTHING, after, database, desired, shard

GIB = 1024**3
NIGHT = "now.getHours('Europe/Paris') >= 22 || now.getHours('Europe/Paris') < 5"
BIG = PlanFacts(moves=(MoveFacts("s0", "s2", bytes=11 * GIB),), bytes_moved=11 * GIB)


def ask(
    required: str,
    *,
    when: str = "",
    plan: PlanFacts | None = None,
    facts: DatabaseFacts | None = None,
    now: datetime = NOON,
    otherwise: str = "deny",
) -> Verdict:
    """Hold one rule against a database and a plan."""
    found = policies(rule(f'"{required}"', at="plan", when=when, otherwise=otherwise))
    subject = Subject(facts or DatabaseFacts(), plan or PlanFacts())
    return check(found, Stage.PLAN, (subject,), now, FleetFacts())


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_rule_that_is_not_fulfilled_has_its_outcome(outcome: Outcome) -> None:
    verdict = ask("database.name == 'other'", otherwise=outcome)
    (finding,) = verdict.findings
    assert (finding.policy, finding.rule, finding.outcome) == ("moves", "r", outcome)
    assert (finding.reason, finding.text, finding.until) == ("not fulfilled", "not so", None)
    assert finding.place == Place("policies/p0.yaml", 0, ("spec", "rules", 0))
    assert verdict.worst is outcome
    assert verdict.passed == 0


def test_a_rule_that_is_fulfilled_has_passed() -> None:
    verdict = ask("database.name == 'shop'")
    assert (verdict.findings, verdict.passed, verdict.worst) == ((), 1, None)


def test_a_rule_speaks_only_when_its_condition_is_true() -> None:
    assert ask("false", when="plan.restarts > 0").passed == 1
    assert ask("false", when="plan.restarts > 0", plan=PlanFacts(restarts=1)).passed == 0


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        ("database.labels.team == 'x'", 'Key not found in map : "team"'),
        ("database.shards[3].name == 'x'", "Index error: index=3 size=0"),
        ("1 / plan.restarts == 1", "divide by zero"),
        ("quantity(database.name) > 1", "'shop' is not a size such as 10Gi"),
        ("dyn(database).nme == 'x'", "no_such_field : nme"),
        (
            "plan.bytesMoved < GiB",
            "it compares a value that is not known (null), such as a size that was not seen",
        ),
    ],
)
def test_a_rule_that_fails_at_run_time_is_not_fulfilled(required: str, reason: str) -> None:
    (finding,) = ask(required, plan=PlanFacts(bytes_moved=None)).findings
    assert finding.failed
    assert finding.reason == f"failed at run time: {reason}"
    assert finding.text == f"not so (failed at run time: {reason})"


def test_a_condition_that_fails_at_run_time_does_not_let_the_rule_pass() -> None:
    (finding,) = ask("true", when="database.labels.team == 'x'").findings
    assert finding.reason == 'failed at run time: Key not found in map : "team"'


def test_a_walk_over_too_many_elements_is_a_failure_and_not_a_pass() -> None:
    many = DatabaseFacts(shards=tuple(ShardFacts(f"s{n}") for n in range(20_000)))
    (finding,) = ask("database.shards.all(s, s.instances > 1)", facts=many).findings
    assert finding.reason.endswith(
        "more than 10,000 elements; use a count such as plan.shardsChanged"
    )


def test_a_rule_may_ask_for_what_is_not_known() -> None:
    assert ask("plan.bytesMoved == null", plan=PlanFacts(bytes_moved=None)).passed == 1
    assert ask("plan.bytesMoved == null").findings


@pytest.mark.parametrize(
    "true",
    [
        "quantity('10Gi') == 10 * GiB && KiB * KiB == MiB && MiB * MiB == TiB",
        "plan.risk >= DATA_MOVE && plan.risk < DATA_LOSS && ONLINE < FAILOVER && RESTART == 2",
        "database.pauseMax == duration('100ms') && database.rollbackWindow <= duration('24h')",
        "database.namespace == 'default' && database.major == 16 && !database.removed",
        "database.shards.filter(s, s.storage > GiB).map(s, s.name.upperAscii()).join('+') == 'S0'",
        "database.shards.exists_one(s, s.cpu == 0.5 && s.memory == null && s.share == 1.0)",
        "now < timestamp('2026-01-14T12:00:01Z') && now >= timestamp('2026-01-14T12:00:00Z')",
        "fleet.restarts == 0 && size(plan.steps) == 0",
    ],
)
def test_what_rules_can_say(true: str) -> None:
    facts = DatabaseFacts(shards=(ShardFacts("s0", cpu=0.5),))
    assert ask(true, facts=facts, plan=PlanFacts(risk=3)).findings == ()


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "held"),
    [
        ("2026-01-14T20:59:59+00:00", True),
        ("2026-01-14T21:00:00+00:00", False),
        ("2026-01-14T22:59:59+00:00", False),  # a second before midnight in Paris
        ("2026-01-14T23:00:00+00:00", False),
        ("2026-01-15T03:59:59+00:00", False),
        ("2026-01-15T04:00:00+00:00", True),
        ("2026-07-14T19:59:59+00:00", True),
        ("2026-07-14T20:00:00+00:00", False),
        ("2026-07-15T03:00:00+00:00", True),
        ("2026-07-14T16:00:00-04:00", False),  # the same instant, told elsewhere
        # Clocks go from 03:00 to 02:00 at 01:00 UTC, so 05:00 in Paris comes an hour later in UTC.
        ("2026-10-25T03:59:59+00:00", False),
        ("2026-10-25T04:00:00+00:00", True),
        ("2026-03-29T02:59:59+00:00", False),
        ("2026-03-29T03:00:00+00:00", True),
    ],
)
def test_a_window_in_paris_follows_paris(now: str, held: bool) -> None:
    when = "plan.moves.exists(m, m.bytes > 10 * GiB)"
    verdict = ask(NIGHT, when=when, plan=BIG, otherwise="hold", now=datetime.fromisoformat(now))
    assert bool(verdict.findings) is held


def test_a_held_rule_says_when_it_would_run() -> None:
    (finding,) = ask(NIGHT, plan=BIG, otherwise="hold").findings
    assert finding.until == datetime(2026, 1, 14, 21, tzinfo=UTC)
    assert finding.text == "not so (would run at 2026-01-14 21:00 UTC)"


def test_the_opening_is_told_to_the_minute() -> None:
    def passes(at: datetime) -> bool:
        return at >= NOON + timedelta(minutes=31)

    assert Windows().opening("true", "now > x", NOON, passes) == NOON + timedelta(minutes=31)
    late = NOON + timedelta(minutes=29, seconds=10)
    found = Windows().opening("true", "now > x", late, passes)
    assert found == NOON + timedelta(minutes=31)


def test_the_opening_is_told_in_the_zone_of_now_also_over_a_change_of_clocks() -> None:
    paris = ZoneInfo("Europe/Paris")
    now = datetime(2026, 3, 28, 23, 50, tzinfo=paris)
    (finding,) = ask("now.getHours('Europe/Paris') == 4", otherwise="hold", now=now).findings
    assert finding.until == datetime(2026, 3, 29, 2, 0, tzinfo=UTC)
    assert finding.text == "not so (would run at 2026-03-29 04:00 CEST)"


def test_a_rule_that_never_opens_within_seven_days_says_no_time() -> None:
    (finding,) = ask("now.getFullYear() == 2030", otherwise="hold").findings
    assert finding.until is None


def test_a_rule_that_does_not_look_at_the_clock_never_passes_by_waiting() -> None:
    (finding,) = ask("plan.restarts > 0", otherwise="hold").findings
    assert finding.until is None


def test_a_denied_rule_is_not_said_to_run_later() -> None:
    (finding,) = ask(NIGHT, otherwise="deny").findings
    assert finding.until is None


def test_an_opening_may_depend_on_the_database() -> None:
    found = policies(
        rule(
            "|\n        now.getHours() == (database.name == 'a' ? 13 : 14)",
            at="plan",
            otherwise="hold",
        )
    )
    subjects = tuple(Subject(DatabaseFacts(name=name), PlanFacts()) for name in ("a", "b"))
    verdict = check(found, Stage.PLAN, subjects, NOON, FleetFacts())
    hours = [f.until.hour for f in verdict.findings if f.until]
    assert hours == [13, 14]


def test_an_opening_is_not_told_for_a_rule_whose_condition_cannot_be_evaluated() -> None:
    when = "plan.moves.exists(m, m.bytes > GiB)"
    found = policies(rule(NIGHT, when=when, at="plan", otherwise="hold"))
    unseen = PlanFacts(moves=(MoveFacts(bytes=None),))
    subjects = (Subject(DatabaseFacts(name="a"), BIG), Subject(DatabaseFacts(name="b"), unseen))
    verdict = check(found, Stage.PLAN, subjects, NOON, FleetFacts())
    assert [f.until is None for f in verdict.findings] == [False, True]


def test_an_opening_in_the_hour_that_comes_twice_is_found() -> None:
    now = datetime(2026, 10, 25, 0, 50, tzinfo=ZoneInfo("Europe/Paris"))
    later = "now >= timestamp('2026-10-25T01:00:00Z')"
    (finding,) = ask(later, otherwise="hold", now=now).findings
    assert finding.until is not None  # told in UTC: times in a repeated hour equal no others
    assert finding.until.astimezone(UTC) == datetime(2026, 10, 25, 1, tzinfo=UTC)


def test_no_opening_is_searched_for_a_rule_without_a_clock() -> None:
    def passes(_: datetime) -> bool:
        raise AssertionError("searched")

    assert Windows().opening("true", "plan.restarts > 0", NOON, passes) is None


def test_searches_that_depend_on_the_database_are_bounded() -> None:
    windows, asked = Windows(), list[datetime]()

    def passes(at: datetime) -> bool:
        asked.append(at)
        return True

    for _ in range(SEARCHES_MAX * 2):
        windows.opening("true", "now > database.x", NOON, passes)
    assert SEARCHES_MAX < len(asked) <= SEARCHES_MAX * 5, "a quarter, and the minute in it"


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ask("true", now=datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_same_instant_gives_the_same_verdict_in_every_zone() -> None:
    zones = [timezone(timedelta(hours=h)) for h in (-11, 0, 13)]
    found = [ask(NIGHT, plan=BIG, now=NOON.astimezone(z)).worst for z in zones]
    assert found == [Outcome.DENY] * 3


# -- which databases, which stage ------------------------------------------------------------------


def test_a_policy_speaks_only_of_the_databases_it_matches() -> None:
    text = HEAD.replace('namespaces: ["*"]', 'namespaces: [prod, "eu-*"]')
    text = text.replace('databases: ["*"]', 'databases: ["shop*"]')
    (found,), _ = documents(text + rule("false"))
    places = "prod/shop eu-1/shop2 prod/crm test/shop default/shop"
    names = [place.split("/") for place in places.split()]
    subjects = tuple(Subject(DatabaseFacts(space, name)) for space, name in names)
    verdict = check(compile_policies((found,)), Stage.SPEC, subjects, NOON)
    assert [str(f.database) for f in verdict.findings] == ["eu-1/shop2", "prod/shop"]


def test_a_policy_that_matches_nothing_neither_passes_nor_fails() -> None:
    text = HEAD.replace('databases: ["*"]', "databases: [crm]")
    (found,), _ = documents(text + rule("false"))
    verdict = check(compile_policies((found,)), Stage.SPEC, (Subject(DatabaseFacts()),), NOON)
    assert verdict == Verdict()


def test_a_rule_is_asked_only_at_its_stages() -> None:
    found = policies(rule("false", name="a", at="spec"), rule("false", name="b", at="plan, apply"))
    state = desired(database())
    assert [f.rule for f in check_spec(found, state, NOON).findings] == ["a"]
    plan = planned(state, NOTHING)
    assert [f.rule for f in check_plan(found, state, plan, NOON).findings] == ["b"]
    assert [f.rule for f in check_step(found, state, plan, plan.steps[0], NOON).findings] == ["b"]


def test_a_verdict_without_policies_is_empty() -> None:
    state = desired(database())
    plan = planned(state, NOTHING)
    assert check_spec(PolicySet(), state, NOON) == Verdict()
    assert check_plan(PolicySet(), state, plan, NOON) == Verdict()
    assert check_step(PolicySet(), state, plan, plan.steps[0], NOON) == Verdict()


def test_findings_are_sorted_worst_first_and_rules_are_counted_once() -> None:
    found = policies(
        rule("false", name="w", otherwise="warn"),
        rule("false", name="h", otherwise="hold"),
        rule("database.name != 'b'", name="d"),
        rule("true", name="p"),
    )
    verdict = check_spec(found, desired(database(name="a"), database(name="b")), NOON)
    shown = [(f.outcome.value, str(f.database)) for f in verdict.findings]
    assert shown == [("deny", "b"), ("hold", "a"), ("hold", "b"), ("warn", "a"), ("warn", "b")]
    assert (verdict.passed, verdict.worst) == (1, Outcome.DENY)
    assert {f.about for f in verdict.findings} == {Place("specs/shop.yaml")}


def test_verdicts_of_two_stages_are_joined_without_repeating() -> None:
    found = policies(rule("false", at="spec, plan"), rule("true", at="spec, plan", name="p"))
    state = desired(database())
    spec = check_spec(found, state, NOON)
    plan = check_plan(found, state, planned(state, NOTHING), NOON)
    joined = spec.joined(plan)
    assert len(joined.findings) == 1
    assert joined.passed == 1


def test_a_plan_without_steps_is_not_held_by_a_window() -> None:
    found = policies(rule("false", at="plan", otherwise="hold"))
    state = desired(database())
    assert check_plan(found, state, planned(state, after(state)), NOON) == Verdict()


def test_a_step_is_held_by_a_rule_that_names_it() -> None:
    found = policies(rule("step.action != 'RestartMembers'", at="apply"))
    before = desired(database())
    wanted = desired(database(parameters=(("shared_buffers", "64MB"),)))
    plan = planned(wanted, after(before))
    checked = prepare_plan_check(found, wanted, plan)
    held: list[Finding] = [f for s in plan.steps for f in checked.at_step(s, NOON).findings]
    restarts = [s.id for s in plan.steps if "restart" in s.id]
    assert restarts
    assert [f.step for f in held] == restarts


def test_a_deleted_database_is_seen_as_removed() -> None:
    found = policies(
        rule("'!database.removed'", name="kept", at="plan"),
        rule("plan.destroys == 0", name="destroyed", at="plan"),
    )
    before = desired(database(deletion=Deletion.DESTROY))
    state = desired()
    plan = planned(state, after(before))
    verdict = check_plan(found, state, plan, NOON)
    assert [f.rule for f in verdict.findings] == ["destroyed", "kept"]
    assert {f.about for f in verdict.findings} == {None}


def test_a_step_has_the_facts_of_its_type() -> None:
    facts = StepFacts(action="MoveKeyRange", bytes=3)
    found = policies(rule("step.bytes > 2 && step.action == 'MoveKeyRange'", at="apply"))
    subject = Subject(DatabaseFacts(), PlanFacts(), facts)
    assert check(found, Stage.APPLY, (subject,), NOON).passed == 1


def test_a_move_is_asked_about_again_before_its_cut_and_its_prune() -> None:
    found = policies(rule("\"step.phase != 'cut'\"", at="apply", otherwise="hold"))
    before, wanted = database(), desired(database(shard("s0", "-40"), shard("s1", "40-")))
    plan = planned(wanted, after(desired(before)))
    (step,) = (s for s in plan.steps if isinstance(s.action, MoveKeyRange))
    asked = prepare_plan_check(found, wanted, plan)

    held = [asked.at_step(step, NOON, phase).findings for phase in ("", "cut", "prune")]

    assert [[f.outcome for f in findings] for findings in held] == [[], [Outcome.HOLD], []]


@pytest.mark.parametrize(
    ("shards", "how"), [(("-40", "40-"), "finish"), (("-80", "80-"), "rollback")]
)
def test_moves_that_end_are_in_the_facts_of_a_plan(shards: tuple[str, str], how: str) -> None:
    wanted = desired(database(shard("s0", "-40"), shard("s1", "40-")))
    soaking = replace(after(wanted, after(desired(database()))), looked_at="2030-01-01T00:00+00:00")
    plan = planned(desired(database(shard("s0", shards[0]), shard("s1", shards[1]))), soaking)

    (closing,) = describe_steps(2, list(plan.steps)).closings

    assert (closing.how, closing.source, closing.keys) == (how, "s0", "40-80")
    found = policies(rule("\"plan.closings.exists(c, c.how == 'finish')\"", at="plan"))
    subject = Subject(DatabaseFacts(), PlanFacts(closings=(closing,)))
    assert check(found, Stage.PLAN, (subject,), NOON).passed == (1 if how == "finish" else 0)


def test_a_new_shard_is_added_and_one_that_is_started_again_is_changed() -> None:
    state = desired(database())
    plan = planned(state, NOTHING)
    new = describe_steps(2, list(plan.steps))
    assert (new.shards_before, new.shards_added, new.shards_changed) == (0, 2, 0)
    starts = [s for s in plan.steps if isinstance(s.action, StartShard)]
    again = describe_steps(2, starts)
    assert (again.shards_before, again.shards_added, again.shards_changed) == (2, 0, 2)
    prepared = describe_steps(2, [s for s in plan.steps if s not in starts])
    assert (prepared.shards_before, prepared.shards_added) == (2, 0)


def test_the_steps_of_a_plan_are_told_in_words() -> None:
    plan = planned(desired(database()), NOTHING)
    titles = [describe_step(step).title for step in plan.steps]
    assert any("s0" in title for title in titles)
    assert not [title for title in titles if "{" in title]


def test_the_numbers_of_a_plan_are_added_up_over_its_databases() -> None:
    before = desired(database(name="a"), database(name="b"))
    parameters = (("shared_buffers", "64MB"),)
    wanted = desired(
        database(name="a", parameters=parameters), database(name="b", parameters=parameters)
    )
    view = view_plan(wanted, planned(wanted, after(before)))
    assert [part.plan.restarts for part in view.databases.values()] == [2, 2]
    fleet = view.fleet
    assert (fleet.restarts, fleet.switchovers, fleet.databases_changed) == (4, 4, 2)
    assert (fleet.shards_before, fleet.shards_after, fleet.risk) == (4, 4, int(Risk.RESTART))


def test_a_sum_with_something_unknown_in_it_is_unknown() -> None:
    assert total([1, 2]) == 3
    assert total([1, None]) is None


def test_the_shards_of_a_real_spec_are_seen() -> None:
    found = policies(
        rule("database.shardCount == 2 && database.shards[1].keys == '80-'", name="a"),
        rule("database.instancesMin == 2 && database.instancesMax == 3", name="b"),
        rule("database.shards.all(s, s.share == 0.5 && s.storage == 20 * GiB)", name="c"),
        rule("database.tables.exists(t, t.name == 'public.customers' && t.key == 'id')", name="d"),
    )
    shards = (shard("s0", "-80", 2, storage="20Gi"), shard("s1", "80-", 3, storage="20Gi"))
    assert check_spec(found, desired(database(*shards)), NOON).passed == 4
