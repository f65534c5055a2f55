"""Several sources taken together: whole revisions only, and one name in one source."""

from __future__ import annotations

from dataclasses import replace

from reconciler.engine.sources import (
    SourceState,
    accepted,
    changed,
    join,
    pause_s,
    restored,
    take,
    take_failure,
)
from reconciler.model.desired import Revision
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.spec.documents import Documents, SourceFile
from tests.cli.calls import SHOP

POLICY = """\
apiVersion: shardwright.dev/v1alpha1
kind: Policy
metadata: {name: stays}
spec:
  rules: [{name: r, at: [spec], require: "RULE", otherwise: warn, message: none}]
"""
NOTHING_SQL = SHOP.replace("  schema: {files: [schema/*.sql]}\n", "")


class Away(ReconcilerError):
    """Only for these tests."""

    code = "XX901"


def documents(source: str, revision: str, *texts: str) -> Documents:
    files = tuple(SourceFile(f"{n}.yaml", text.encode()) for n, text in enumerate(texts))
    return Documents(source, Revision(revision), files)


def key(name: str) -> DatabaseKey:
    return DatabaseKey(Namespace("default"), DatabaseName(name))


def named(name: str) -> str:
    return NOTHING_SQL.replace("name: shop", f"name: {name}")


def test_a_revision_with_a_mistake_leaves_the_last_good_one_in_force() -> None:
    good = take(SourceState("a"), documents("a", "one", named("shop")))
    bad = take(
        good, documents("a", "two", named("shop"), named("more").replace("shards:", "shard:"))
    )
    assert bad.revision == "one"
    assert bad.attempted == "two"
    assert {p.where.file for p in bad.problems if p.where} == {"1.yaml"}
    mended = take(bad, documents("a", "three", named("shop")))
    assert (mended.revision, mended.problems) == ("three", ())


def test_a_policy_that_does_not_compile_quarantines_its_revision() -> None:
    good = take(SourceState("a"), documents("a", "one", POLICY.replace("RULE", "true")))
    bad = take(good, documents("a", "two", POLICY.replace("RULE", "1 + true")))
    assert (good.problems, bad.revision) == ((), "one")
    assert bad.problems
    assert bad.summary == "one in force, two quarantined"


def test_a_source_that_is_away_changes_nothing() -> None:
    good = take(SourceState("a"), documents("a", "one", named("shop")))
    away = take_failure(good, Away("a", "does not answer"))
    assert away.revision == "one"
    assert changed(join([good]), join([away])) == ()
    never = take_failure(SourceState("a"), Away("a", "does not answer"))
    assert [one.summary for one in (good, away, never)] == [
        "one in force",
        f"one in force, unreachable: {Away.code}",
        f"not read yet, unreachable: {Away.code}",
    ]


def test_until_every_source_is_known_it_is_said_why_what_none_holds_may_not_be_gone() -> None:
    good = take(SourceState("a"), documents("a", "one", named("shop")))
    assert join([good]).doubts == ()
    bad = take(good, documents("a", "two", named("shop").replace("shards:", "shard:")))
    away = take_failure(good, Away("a", "does not answer"))
    assert join([SourceState("b"), bad, away, good]).doubts == (
        "source b was not read yet",
        "the newest revision of source a is quarantined",
        "source a cannot be read: XX901",
    )


def test_a_database_leaves_when_no_source_holds_it_any_more() -> None:
    one = take(SourceState("a"), documents("a", "1", named("shop"), named("mine")))
    two = take(SourceState("b"), documents("b", "1", named("shop")))
    gone = take(one, documents("a", "2", named("yours")))
    assert join([gone]).left_since(join([one])) == {key("shop"), key("mine")}
    assert join([gone, two]).left_since(join([one])) == {key("mine")}
    assert join([one, two]).left_since(join([one])) == frozenset(), "a clash is not gone"


def test_a_database_in_two_sources_is_followed_in_neither_and_both_are_named() -> None:
    one = take(SourceState("a"), documents("a", "1", named("shop"), named("mine")))
    two = take(SourceState("b"), documents("b", "1", named("shop"), named("yours")))
    wanted = join([one, two])
    assert set(wanted.databases) == {key("mine"), key("yours")}
    assert "described in a and in b" in str(wanted.clashes[key("shop")])
    alone = join([one])
    assert changed(wanted, alone) == (key("shop"), key("yours"))


def test_policies_of_one_name_in_two_sources_leave_the_last_good_ones_in_force() -> None:
    rule = POLICY.replace("RULE", "true")
    one = take(SourceState("a"), documents("a", "1", named("shop"), rule))
    before = join([one])
    two = take(SourceState("b"), documents("b", "1", rule))
    wanted = join([one, two], before)
    assert wanted.policies is before.policies
    assert "is in a and in b" in str(wanted.problems[0])


def test_only_what_changed_is_asked_for_and_everything_when_a_policy_did() -> None:
    one = take(SourceState("a"), documents("a", "1", named("shop"), named("mine")))
    edited = named("mine").replace("work_mem: 16MB", "work_mem: 17MB")
    two = take(one, documents("a", "2", named("shop"), edited))
    assert changed(join([one]), join([two])) == (key("mine"),)
    rule = POLICY.replace("RULE", "true")
    three = take(two, documents("a", "3", named("shop"), edited, rule))
    assert changed(join([two]), join([three])) == (key("mine"), key("shop"))
    assert replace(three) == three


def test_what_was_in_force_before_counts_until_something_is() -> None:
    new, good = SourceState("a"), take(SourceState("b"), documents("b", "2", named("shop")))
    before = {"a": "1", "b": "1", "left": "1"}
    assert accepted([new, good], before) == {"a": "1", "b": "2"}
    assert accepted([new], {}) == {}


def test_what_was_in_force_is_taken_up_again_only_when_it_is_still_right() -> None:
    new = SourceState("a")
    assert restored(new, documents("a", "1", named("shop"))).revision == "1"
    assert restored(new, documents("a", "1", named("shop").replace("shards:", "shard:"))) is new


def test_a_source_that_fails_is_asked_less_and_less_often_up_to_a_bound() -> None:
    assert [pause_s(60, failures, 300) for failures in range(5)] == [60, 60, 120, 240, 300]
    assert pause_s(600, 9, 300) == 600, "never more often than it says"
    assert pause_s(30, 9, 0) == 30
    assert pause_s(1, 10_000, 300) == 300
