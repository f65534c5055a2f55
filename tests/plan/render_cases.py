"""Plans made by hand, for the golden texts of every form of output."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.diff.changes import Refusal, Remark, Standstill
from reconciler.model.desired import Deletion, Place, Revision, SchemaFile
from reconciler.model.errors import ReconcilerError
from reconciler.model.keyspace import KeySet, parse_key_set
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    MemberName,
    Namespace,
    Scope,
    ScopeKey,
    ShardName,
)
from reconciler.model.observed import Unseen
from reconciler.model.platform import ShardBlueprint
from reconciler.plan import actions as act
from reconciler.plan.actions import Action, Estimate, Plan, Risk, Step
from reconciler.plan.render_report import PlanReport, ShownDatabase, ShownFinding

DEFAULT = Namespace("default")
SHOP = DatabaseKey(DEFAULT, DatabaseName("shop"))
CRM = DatabaseKey(Namespace("sales"), DatabaseName("crm"))
REVISION = Revision("main@sha1:4f2a9c1b1d2e3f405162738495a6b7c8d9e0f102")
DIGEST = "0123456789abcdef" * 4


class CannotShrink(ReconcilerError):
    """A stand-in for an error that only tests know."""

    code = "TE901"


def locate(place: Place) -> str:
    """Stand in for the shell: the index in the path is the line."""
    numbers = [part for part in place.path if isinstance(part, int)]
    return f"{place.file}:{numbers[-1]}" if numbers else place.file


def at(line: int, file: str = "specs/shop.yaml") -> Place:
    return Place(file, 0, ("line", line))


def scope(shard: str, database: DatabaseKey = SHOP) -> ScopeKey:
    return ScopeKey(database.namespace, Scope(f"{database.name}-{shard}"))


def blueprint(shard: str) -> ShardBlueprint:
    return ShardBlueprint(DEFAULT, SHOP.name, Scope(f"shop-{shard}"), "16", 2, True)


def step(
    action: Action, shard: str, title: str, risk: Risk = Risk.ONLINE, *,
    reason: str = "", line: int = 24, seconds: float | None = None, basis: str = "",
    after: tuple[str, ...] = (), database: DatabaseKey = SHOP, visible: bool = True,
) -> Step:  # fmt: skip
    kind = type(action).__name__.lower()
    name = f"{database.name}-{shard}" if shard else database.name
    return Step(
        f"{name}/{kind}", database, action, after, risk, title, reason,
        ShardName(shard) if shard else None, at(line) if line else None,
        Estimate(seconds, basis), visible,
    )  # fmt: skip


def provision(shard: str, line: int = 24) -> Step:
    return step(
        act.StartShard(blueprint(shard), ShardName(shard), (0, 1)), shard,
        "provision {shard}: 2 instances, PostgreSQL 16, 10Gi",
        line=line, seconds=25.0, basis="3 provisions measured on this platform",
    )  # fmt: skip


def keys(text: str) -> KeySet:
    return parse_key_set(text)


def split() -> PlanReport:
    """The transcript of specs.md."""
    move = act.MoveKeyRange(
        SHOP, ShardName("s0"), ShardName("s2"), scope("s0"), scope("s2"), keys("40-80"),
        (("customers", 200 << 20, 500_000), ("orders", 1 << 30, 2_000_000),
         ("order_lines", 950 << 20, 3_000_000)), 100, 86_400,
    )  # fmt: skip
    steps = (
        provision("s2"),
        step(move, "s0", "move", Risk.DATA_MOVE, seconds=40.0, after=("shop-s2/startshard",),
             basis="60 MiB/s, this system's last copy"),
        step(act.WriteRecord(SHOP, DIGEST, Deletion.PROTECTED), "", "note what was applied",
             visible=False),
    )  # fmt: skip
    remark = "orders_audit has no shard key and is not declared a reference table"
    return PlanReport(
        Plan("specs", REVISION, steps, remarks=(Remark(SHOP, remark, at(14)),), digest=DIGEST),
        locate,
        (
            ShownDatabase(
                SHOP, Place("specs/shop.yaml"),
                before=((ShardName("s0"), keys("-80")), (ShardName("s1"), keys("80-"))),
                after=(
                    (ShardName("s0"), keys("-40")), (ShardName("s1"), keys("80-")),
                    (ShardName("s2"), keys("40-80")),
                ),
            ),
        ),
        last_applied="9be01d7",
        answered=(("etcd", 1, 1), ("patroni", 4, 4), ("postgres", 4, 4)),
        findings=(
            ShownFinding("warn", "availability", "instances",
                         "two instances cannot survive a failure during maintenance",
                         at(9, "policies/availability.yaml")),
        ),
        rules_passed=6,
        saved_as="plan-4f2a9c1.json",
    )  # fmt: skip


def empty() -> PlanReport:
    """Nothing to do."""
    return PlanReport(
        Plan("specs", REVISION, (), digest=DIGEST), locate, last_applied="4f2a9c1",
        answered=(("etcd", 1, 1), ("patroni", 4, 4), ("postgres", 4, 4)), rules_passed=7,
    )  # fmt: skip


def first(shards: int = 512) -> PlanReport:
    """A new database of many shards: folded."""
    file = SchemaFile("schema/001_tables.sql", DIGEST, "create table t ()")
    names = [f"s{i}" for i in range(shards)]
    steps = [provision(name, line=20 + i) for i, name in enumerate(names)]
    for i, name in enumerate(names):
        setup = act.SetUpDatabase(scope(name), SHOP, 1)
        steps += [
            step(setup, name, "create database shop on {shard}", line=0, seconds=0.4,
                 after=(f"shop-{name}/startshard",), basis="a guess; nothing measured yet"),
            step(act.RunSchemaFile(scope(name), SHOP, file), name,
                 "apply schema/001_tables.sql on {shard}", line=12),
        ]  # fmt: skip
        assert i < shards
    return PlanReport(
        Plan("specs", REVISION, tuple(steps), digest=DIGEST), locate,
        (ShownDatabase(SHOP, Place("specs/shop.yaml")),),
        answered=(("etcd", 1, 1),), rules_passed=7, not_applied=("resources.cpu", "storage.class"),
    )  # fmt: skip


def troubled() -> PlanReport:
    """Refused, unseen, denied, held, and something destroyed."""
    reason = "no answer within 2 s"
    steps = (
        step(act.DestroyShard(scope("s3", CRM), 5 << 30), "s3",
             "destroy {shard} and its 5 GiB of data", Risk.DATA_LOSS, database=CRM, line=31,
             reason="crm has left the specs with deletion: destroy"),
        step(act.Configure(scope("s1", CRM), (("work_mem", "16MB"),), True), "s1",
             "set work_mem on {shard}: 4MB → 16MB", database=CRM, line=7),
        step(act.Configure(scope("s2", CRM), (("work_mem", "16MB"),), True), "s2",
             "set work_mem on {shard}: 4MB → 16MB", database=CRM, line=7),
        step(act.RestartMembers(scope("s1", CRM), ("max_connections",)), "s1",
             "restart {shard} for max_connections, standby first", Risk.RESTART, database=CRM,
             line=8, seconds=6),
        step(act.RemoveMember(scope("s1", CRM), MemberName("crm-s1-2")), "s1",
             "remove crm-s1-2", Risk.FAILOVER, database=CRM, line=9),
    )  # fmt: skip
    return PlanReport(
        Plan(
            "specs", Revision(REVISION.text, uncommitted=True), steps,
            refusals=(
                Refusal(SHOP, CannotShrink, "shard s0", "storage.size cannot become smaller: "
                        "10Gi → 5Gi", "add a shard of 5Gi and move the keys to it", at(17)),
            ),
            standstills=(
                *(Standstill(SHOP, f"shop-s{i} postgres", reason) for i in range(1, 6)),
                Standstill(SHOP, "shop-s7", "suspended by its spec"),
            ),
            digest=DIGEST,
        ),
        locate,
        (
            ShownDatabase(SHOP, Place("specs/shop.yaml")),
            ShownDatabase(CRM, Place("specs/crm.yaml")),
        ),
        last_applied="9be01d7",
        answered=(("etcd", 1, 1), ("patroni", 9, 9), ("postgres", 4, 9)),
        unseen=(Unseen("postgres", "shop-s1", reason), Unseen("patroni", "shop-s2", reason)),
        findings=(
            ShownFinding("deny", "no-destroy", "keep", "data is destroyed only by a person",
                         at(4, "policies/no-destroy.yaml"), "sales/crm"),
            ShownFinding("hold", "windows", "by-night", "restarts run between 22:00 and 05:00",
                         at(12, "policies/windows.yaml"), "sales/crm"),
        ),
        rules_passed=5,
    )  # fmt: skip


CASES: dict[str, Callable[[], PlanReport]] = {
    "split": split, "empty": empty, "first": first, "troubled": troubled,
}  # fmt: skip
