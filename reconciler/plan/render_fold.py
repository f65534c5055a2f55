"""From steps to the rows that people read: folded over equal shards, grouped, sorted by risk.

A row stands for one step on one shard or for the same step on thousands; moves of keys that belong
together, with the shards made and retired for them, become one row with rows under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reconciler.diff.changes import Refusal, Remark, Standstill
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.model.observed import Unseen
from reconciler.plan import actions as act
from reconciler.plan.actions import MoveKeyRange, Risk, Step
from reconciler.plan.render_moves import describe_moves, move_notes, move_title
from reconciler.plan.render_report import PlanReport, duration, listed

NAMES_MAX = 3
"""Up to this many shards are named one by one."""


class Mark(StrEnum):
    """The sign before a row."""

    ADD = "+"
    CHANGE = "~"
    REMOVE = "-"
    MOVE = ">"
    ATTENTION = "!"
    STILL = "·"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a plan, with what is said under it."""

    mark: Mark
    text: str
    estimate: str = ""
    place: str = ""
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    risk: Risk = Risk.ONLINE


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one database, worst risk first."""

    key: DatabaseKey
    place: str
    rows: tuple[Row, ...]
    risk: Risk


MARKS: Mapping[type[act.Action], Mark] = {
    act.StartShard: Mark.ADD,
    act.AddMember: Mark.ADD,
    act.SwitchOver: Mark.CHANGE,
    act.RemoveMember: Mark.REMOVE,
    act.Configure: Mark.CHANGE,
    act.RestartMembers: Mark.CHANGE,
    act.SetUpDatabase: Mark.ADD,
    act.RunSchemaFile: Mark.ADD,
    act.InstallGuards: Mark.CHANGE,
    act.SetPasswords: Mark.CHANGE,
    act.WriteRouting: Mark.CHANGE,
    act.MoveKeyRange: Mark.MOVE,
    act.CloseMove: Mark.MOVE,
    act.StopShard: Mark.REMOVE,
    act.DestroyShard: Mark.REMOVE,
    act.RemoveRouting: Mark.REMOVE,
    act.RemoveRecord: Mark.REMOVE,
    act.WriteRecord: Mark.CHANGE,
}


@dataclass(slots=True)
class _Gathered:
    """All that a plan says of one database, still unfolded."""

    steps: list[Step] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    standstills: list[Standstill] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def sections(report: PlanReport) -> tuple[Section, ...]:
    """Return the databases that have something to say: refused ones, then worst risk first."""
    by_key: dict[DatabaseKey, _Gathered] = {}
    for step in report.plan.steps:
        by_key.setdefault(step.database, _Gathered()).steps.append(step)
    for refusal in report.plan.refusals:
        by_key.setdefault(refusal.database, _Gathered()).refusals.append(refusal)
    for standstill in report.plan.standstills:
        by_key.setdefault(standstill.database, _Gathered()).standstills.append(standstill)
    for remark in report.plan.remarks:
        by_key.setdefault(remark.database, _Gathered()).remarks.append(remark)
    made = [(gathered, _section(report, key, gathered)) for key, gathered in by_key.items()]
    made.sort(key=lambda pair: (not pair[0].refusals, -pair[1].risk, pair[1].key))
    return tuple(section for _, section in made if section.rows)


def _section(report: PlanReport, key: DatabaseKey, gathered: _Gathered) -> Section:
    visible = [step for step in gathered.steps if step.visible]
    rows = (
        *_refusal_rows(report, gathered.refusals),
        *_step_rows(report, key, visible),
        *(
            Row(Mark.ATTENTION, remark.text, place=report.place(remark.place))
            for remark in gathered.remarks
        ),
        *_standstill_rows(gathered.standstills),
    )
    return Section(
        key,
        report.place(report.database(key).place),
        rows,
        max((step.risk for step in gathered.steps), default=Risk.ONLINE),
    )


def _refusal_rows(report: PlanReport, refusals: list[Refusal]) -> Iterable[Row]:
    """Fold what is refused of several shards for the same reason."""
    equal: dict[tuple[object, ...], list[Refusal]] = {}
    for refusal in refusals:
        what = (refusal.kind, refusal.problem, refusal.remedy)
        equal.setdefault(what, []).append(refusal)
    for same in equal.values():
        first, subjects = same[0], [refusal.subject for refusal in same]
        notes = (f"try: {first.remedy}",) if first.remedy else ()
        text = f"{first.kind.code} {_subjects(subjects)}: {first.problem}"
        yield Row(Mark.ATTENTION, text, place=report.place(first.place), notes=notes)


def _subjects(subjects: list[str]) -> str:
    """Return ``shard s0``, ``shards s0, s1 and s2``."""
    names = [subject.removeprefix("shard ") for subject in subjects]
    if len(subjects) == 1 or not all(subject.startswith("shard ") for subject in subjects):
        return _names(subjects)
    return f"shards {_names(sorted(names, key=_natural))}"


def _standstill_rows(standstills: list[Standstill]) -> Iterable[Row]:
    """Fold what is left alone for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for standstill in standstills:
        by_reason.setdefault(standstill.reason, []).append(standstill.subject)
    for reason, subjects in by_reason.items():
        yield Row(Mark.STILL, f"left alone: {_names(subjects)}: {reason}")


def unseen_lines(unseen: Iterable[Unseen]) -> Iterable[str]:
    """Fold what did not answer for the same reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in unseen:
        by_reason.setdefault((one.system, one.reason), []).append(one.subject)
    for (system, reason), subjects in by_reason.items():
        yield f"unseen: {system} {_names(subjects)}: {reason}"


def _step_rows(report: PlanReport, key: DatabaseKey, steps: list[Step]) -> list[Row]:
    groups = _move_groups(steps)
    grouped: dict[ShardName, int] = {
        shard: index for index, shards in enumerate(groups) for shard in shards
    }
    members: list[list[Step]] = [[] for _ in groups]
    loose: list[Step] = []
    for step in steps:
        index = _group_of(step, grouped)
        (loose if index is None else members[index]).append(step)
    rows = [_move_row(report, key, inside) for inside in members]
    rows += _folded(report, loose)
    return sorted(rows, key=lambda row: -row.risk)  # stable: within a risk, the plan's own order


def _group_of(step: Step, grouped: Mapping[ShardName, int]) -> int | None:
    match step.action:
        case MoveKeyRange(source=source):
            return grouped[source]
        case act.StartShard() | act.StopShard() | act.DestroyShard() if step.shard:
            return grouped.get(step.shard)
        case _:
            return None


def _move_groups(steps: list[Step]) -> list[set[ShardName]]:
    """Return the sets of shards between which keys move, directly or through one another."""
    leader: dict[ShardName, ShardName] = {}

    def find(shard: ShardName) -> ShardName:
        while leader.setdefault(shard, shard) != shard:
            leader[shard] = leader[leader[shard]]
            shard = leader[shard]
        return shard

    for step in steps:
        if isinstance(step.action, MoveKeyRange):
            leader[find(step.action.source)] = find(step.action.target)
    groups: dict[ShardName, set[ShardName]] = {}
    for shard in leader:
        groups.setdefault(find(shard), set()).add(shard)
    return list(groups.values())


def _move_row(report: PlanReport, key: DatabaseKey, steps: list[Step]) -> Row:
    moves = [step for step in steps if isinstance(step.action, MoveKeyRange)]
    known = report.database(key)
    text = describe_moves([s.action for s in moves if isinstance(s.action, MoveKeyRange)], known)
    under = _folded(report, steps)
    shown = tuple(replace(row, place="") for row in under)
    place = next((report.place(step.place) for step in moves if step.place), "")
    return Row(Mark.CHANGE, text, place=place, rows=shown, risk=max(step.risk for step in steps))


def _folded(report: PlanReport, steps: list[Step]) -> list[Row]:
    """Return one row for equal steps, in the order of the first of each."""
    equal: dict[tuple[object, ...], list[Step]] = {}
    for step in steps:
        equal.setdefault(_sameness(step), []).append(step)
    return [_row(report, same) for same in equal.values()]


def _sameness(step: Step) -> tuple[object, ...]:
    if isinstance(step.action, MoveKeyRange):
        return (step.id,)  # each move is shown with its own keys, tables and sizes
    return (type(step.action), step.title, step.risk, step.drift)


def _reasons(same: list[Step]) -> tuple[str, ...]:
    """Return the reason if all share one, the reasons by shard if they are few, else none."""
    reasons = {step.reason for step in same}
    if len(reasons) == 1:
        return tuple(reason for reason in reasons if reason)
    if len(same) > NAMES_MAX:
        return ()
    ordered = sorted(same, key=lambda step: _natural(str(step.shard)))
    return ("; ".join(f"{step.shard or step.database}: {step.reason}" for step in ordered),)


def _row(report: PlanReport, same: list[Step]) -> Row:
    first = same[0]
    place = next((report.place(step.place) for step in same if step.place), "")
    estimate = _estimate(same)
    notes = _reasons(same)
    if isinstance(first.action, MoveKeyRange):
        text, notes = move_title(first.action), move_notes(first.action)
    else:
        text = _title(same)
    if first.drift:
        text += ", drift"
    return Row(MARKS[type(first.action)], text, estimate, place, notes, risk=first.risk)


def _title(same: list[Step]) -> str:
    title = same[0].title
    names = sorted({str(step.shard or step.database) for step in same}, key=_natural)
    if "{shard}" not in title:
        return title if len(same) == 1 else f"{title} × {len(same)}"
    return title.replace("{shard}", _names(names, " shards"))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ``s2`` before ``s10``."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name) if p]


def _names(names: list[str], noun: str = "") -> str:
    """Name up to three one by one, else the first, the last and how many."""
    if len(names) <= NAMES_MAX:
        return listed(names)
    return f"{names[0]} … {names[-1]} (× {len(names)}{noun})"


def _estimate(same: list[Step]) -> str:
    known = [step.estimate.seconds for step in same if step.estimate.seconds is not None]
    if not known:
        return ""
    return f"about {duration(max(known))}{' each' if len(same) > 1 else ''}"
