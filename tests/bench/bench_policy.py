"""1,000 rules on a database and a plan of 1,000 shards, beside the same predicates in plain Python.

.venv/bin/python tests/bench/bench_policy.py [rules] [shards]
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from reconciler.policy.check import Subject, check
from reconciler.policy.expressions import Stage
from reconciler.policy.facts import (
    DatabaseFacts,
    FleetFacts,
    PlanFacts,
    ShardFacts,
    StepFacts,
    with_shard_counts,
)
from reconciler.policy.rules import PolicyDocument, PolicySet, Rule, compile_policies

GIB = 1024**3
NOW = datetime(2026, 1, 14, 12, tzinfo=UTC)


def rules(count: int) -> tuple[PolicyDocument, ...]:
    """Rules that walk over all shards or steps, each with numbers of its own."""
    written = []
    for n in range(count):
        require = (
            f"database.shards.all(s, s.instances >= 2 && s.storage < {n + 100} * GiB)"
            if n % 2
            else f"plan.steps.all(s, s.risk <= RESTART && s.shard != 'x{n}')"
        )
        written.append(Rule(f"r{n}", (Stage.PLAN,), require, "message", "plan.restarts > 0"))
    return (PolicyDocument("bench", tuple(written)),)


def facts(count: int) -> tuple[DatabaseFacts, PlanFacts]:
    """A database of ``count`` shards, each of which restarts."""
    shards = tuple(ShardFacts(f"s{n}", instances=3) for n in range(count))
    steps = tuple(StepFacts(f"shop-s{n}/restart", "RestartMembers", 2) for n in range(count))
    database = with_shard_counts(DatabaseFacts(shards=shards))
    return database, PlanFacts(restarts=count, risk=2, steps=steps)


def plainly(count: int, database: DatabaseFacts, plan: PlanFacts) -> int:
    """The same predicates in Python: the yardstick."""
    passed = 0
    for n in range(count):
        if n % 2:
            limit = (n + 100) * GIB
            passed += all(s.instances >= 2 and s.storage < limit for s in database.shards)
        else:
            name = f"x{n}"
            passed += all(s.risk <= 2 and s.shard != name for s in plan.steps)
    return passed


def timed(what: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds of the best of three runs, and the result."""
    best, result = float("inf"), None
    for _ in range(3):
        start = time.perf_counter()
        result = what()
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    """Print one line for each measure."""
    count, shards = (int(a) for a in (sys.argv[1:] + ["1000", "1000"][len(sys.argv) - 1 :]))
    database, plan = facts(shards)
    documents = rules(count)
    start = time.perf_counter()
    compile_policies(documents[:1] and (PolicyDocument("one", documents[0].rules[:1]),))
    imported = time.perf_counter() - start
    library = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    compiling, policies = timed(lambda: compile_policies(documents))
    assert isinstance(policies, PolicySet)
    subject = Subject(database, plan)
    checking, verdict = timed(lambda: check(policies, Stage.PLAN, (subject,), NOW, FleetFacts()))
    yardstick, passed = timed(lambda: plainly(count, database, plan))
    assert getattr(verdict, "passed", None) == passed == count, (verdict, passed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"import CEL and compile the first rule  {imported * 1000:8.1f} ms")
    print(f"compile {count:,} rules                  {compiling * 1000:8.1f} ms")
    print(f"check {count:,} rules × {shards:,} shards      {checking * 1000:8.1f} ms")
    print(f"the same in plain Python               {yardstick * 1000:8.1f} ms")
    print(f"CEL / Python {checking / yardstick:.2f}; all together", end=" ")
    print(f"{imported + compiling + checking:.2f} s of 2 s; {peak} MiB")
    print(f"plain Python, in all {yardstick:.3f} s; with the facts and one rule {library} MiB")


if __name__ == "__main__":
    main()
