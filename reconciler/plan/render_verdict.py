"""The sentences around a plan: what it was made from, what it amounts to, how long it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reconciler.model.names import DatabaseKey
from reconciler.plan import actions as act
from reconciler.plan.actions import Risk, Step
from reconciler.plan.render_report import PlanReport, counted, duration, listed, total_seconds


def revision_line(report: PlanReport) -> str:
    """Return ``main@sha1:4f2a9c1, last applied 9be01d7``."""
    last = f"last applied {report.last_applied}" if report.last_applied else "nothing applied yet"
    return f"{report.plan.revision.short}, {last}"


def observed(report: PlanReport) -> str:
    """Return ``observed: etcd ok · patroni 4/4 · postgres 3/4``."""
    parts = []
    for system, answered, asked in report.answered:
        if asked == 1:
            parts.append(f"{system} {'ok' if answered else 'unseen'}")
        elif asked:
            parts.append(f"{system} {answered}/{asked}")
    return f"observed: {' · '.join(parts)}" if parts else ""


def verdict(report: PlanReport) -> str:
    """Return the plan in one line."""
    plan = report.plan
    if report.undecided:
        things = counted(len(report.unseen), "part")
        return f"Unknown whether there is something to do: {things} did not answer."
    if report.nothing_to_do:
        return _at_rest(report)
    text = changes_line(report)
    if report.plan.refusals and book_keeping(report):
        text = ""  # notes of our own about other databases are no news beside a refusal
    sentences = [text[:1].upper() + text[1:] + "." if text else ""]
    if any(step.visible for step in plan.steps):
        sentences.append(f"Risk: {plan.risk.label}.")
    if drifted := sum(step.visible and step.drift for step in plan.steps):
        verb = "corrects" if drifted == 1 else "correct"
        sentences.append(f"{counted(drifted, 'step')} {verb} drift.")
    sentences += _obstacles(report)
    return "  ".join(sentence for sentence in sentences if sentence)


def _at_rest(report: PlanReport) -> str:
    """Return what is said where nothing is to be done: a suspended spec is not what runs."""
    plan = report.plan
    suspended = {s.database for s in plan.standstills if s.reason.startswith("suspended")}
    wanted = {database.key for database in report.databases if database.place}
    if suspended and suspended >= wanted:
        return f"suspended: left alone ({listed(str(key) for key in sorted(suspended))})."
    if suspended:
        names = listed(str(key) for key in sorted(suspended))
        return f"nothing to do: {plan.revision.short} is what runs, but for {names}: suspended."
    rest = f"; {counted(len(plan.standstills), 'thing')} left alone" if plan.standstills else ""
    if report.base:
        text = f"{plan.revision.short} asks for nothing that {report.base} does not"
        return f"nothing to do: {text}{rest}."
    return f"nothing to do: {plan.revision.short} is what runs{rest}."


def _obstacles(report: PlanReport) -> list[str]:
    found = []
    if refused := {refusal.database for refusal in report.plan.refusals}:
        names = ", ".join(str(key) for key in sorted(refused))
        found.append(f"Refused: nothing of {names} is applied.")
    outcomes = [finding.outcome for finding in report.findings]
    if "deny" in outcomes:
        found.append("Denied by policy.")
    elif "hold" in outcomes:
        found.append("Held by policy.")
    return found


def changes_line(report: PlanReport) -> str:
    """Return ``2 shards to add, 1 range to move, nothing to destroy``."""
    visible = [step for step in report.plan.steps if step.visible]
    if not visible:
        return book_keeping(report) or "nothing can be done now"
    found = [text for count, text in _counts(report, visible) if count]
    destroyed = _destroyed(visible)
    if destroyed:
        return ", ".join([destroyed, *found])
    return ", ".join([*(found or [counted(len(visible), "step")]), "nothing to destroy"])


def _counts(report: PlanReport, steps: list[Step]) -> Iterable[tuple[int, str]]:
    starts = [s for s in steps if isinstance(s.action, act.StartShard)]
    added = sum(_is_new(report, step) for step in starts)
    yield added, f"{counted(added, 'shard')} to add"
    started = len(starts) - added
    yield started, f"{counted(started, 'shard')} to start"
    for kind, noun, verb in (
        (act.MoveKeyRange, "range", "to move"),
        (act.AddMember, "instance", "to add"),
        (act.RemoveMember, "instance", "to remove"),
        (act.RestartMembers, "shard", "to restart"),
        (act.Configure, "shard", "to configure"),
        (act.SetPasswords, "shard", "to give new passwords"),
        (act.StopShard, "shard", "to stop, its data kept"),
    ):
        count = sum(isinstance(step.action, kind) for step in steps)
        yield count, f"{counted(count, noun)} {verb}"
    files = {
        (s.database, s.action.file.name) for s in steps if isinstance(s.action, act.RunSchemaFile)
    }
    yield len(files), f"{counted(len(files), 'schema file')} to apply"


def _is_new(report: PlanReport, step: Step) -> bool:
    action = step.action
    if not isinstance(action, act.StartShard) or action.kept:
        return False
    return step.shard not in dict(report.database(step.database).before)


def _destroyed(steps: list[Step]) -> str:
    lost = [step for step in steps if step.risk is Risk.DATA_LOSS]
    count = sum(isinstance(step.action, act.DestroyShard) for step in lost) or len(lost)
    return f"{counted(count, 'shard')} to destroy" if count else ""


def book_keeping(report: PlanReport) -> str:
    """Return what a plan without a visible step still does."""
    steps = report.plan.steps
    if not steps or any(step.visible for step in steps):
        return ""
    if all(isinstance(step.action, act.WriteRecord) for step in steps):
        return "nothing to do but to note the new revision"
    return "nothing to do but to bring our own records up to date"


def timing(report: PlanReport) -> str:
    """Return how long all of it takes and what that rests on, "" when nothing is known."""
    steps = report.plan.steps
    seconds = total_seconds(steps, report.parallel)
    if not seconds or book_keeping(report):
        return ""
    bases = dict.fromkeys(_basis(step) for step in steps if step.estimate.seconds is not None)
    rests = ", ".join(sorted(filter(None, bases), key=lambda basis: basis != _MEASURED))
    rests = f" ({rests})" if rests else ""
    unknown = sum(step.visible for step in steps if step.estimate.seconds is None)
    if unknown:
        verb = "has" if unknown == 1 else "have"
        rest = f"{counted(unknown, 'step')} {verb} no estimate yet"
        if seconds < 1:  # what is known of it says nothing of the whole
            return f"{rest}."
        return f"At least about {duration(seconds)}{rests}; {rest}."
    return f"About {duration(seconds)} in all{rests}."


_MEASURED = "measured here"


def _basis(step: Step) -> str:
    """Return in a phrase what an estimate rests on."""
    basis = step.estimate.basis
    if basis.startswith("median of "):
        return _MEASURED
    return f"moves {basis}" if isinstance(step.action, act.MoveKeyRange) and basis else basis


def policies_line(report: PlanReport) -> str:
    """Return ``policies: 6 passed, 1 warning``, "" when there are none."""
    if not report.rules_passed and not report.findings:
        return ""
    count = Counter(found.outcome for found in report.findings)
    parts = [f"{report.rules_passed} passed"]
    parts += [f"{count['deny']} denied"] if count["deny"] else []
    parts += [f"{count['hold']} held"] if count["hold"] else []
    parts += [counted(count["warn"], "warning")] if count["warn"] else []
    return f"policies: {', '.join(parts)}"


def affected(report: PlanReport) -> tuple[DatabaseKey, ...]:
    """Return the databases that a plan has steps for."""
    return tuple(dict.fromkeys(step.database for step in report.plan.steps))
