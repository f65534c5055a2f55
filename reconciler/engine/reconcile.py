"""One round for one database: look, act, and say what came of it and when to look again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from reconciler.engine import loop, orders
from reconciler.engine.events import ApplyEvent, StepFailed, Watcher
from reconciler.engine.orders import Approval
from reconciler.engine.readiness import of_database
from reconciler.engine.rollouts import Roll, remedy_of
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.observed import ObservedState
from reconciler.model.status import Readiness
from reconciler.plan.actions import Asked
from reconciler.plan.canary import Phase
from reconciler.policy.rules import Outcome

if TYPE_CHECKING:
    from reconciler.engine.leadership import Tenure
    from reconciler.engine.sight import Sight
    from reconciler.engine.world import Outlook, World
    from reconciler.policy.rules import PolicySet
    from reconciler.spec.loaded import Loaded


class RoundBroken(ReconcilerError):
    """A round of the daemon ended with a bug of ours. It is tried again, later and later."""

    code = "DM205"


UP_TO_DATE = "UpToDate"
NOTHING_TO_DO = "nothing to do"


class Again(Enum):
    """When a database is looked at again."""

    NOW = "at once"
    BACKOFF = "after its back-off"
    SOON = "when what it waits for may have come"
    ROUTINE = "at the next routine look"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a round found: the fields of ``model.status.Status``, and when to look again."""

    ready: bool | None
    reconciling: bool
    stalled: bool
    reason: str
    message: str
    again: Again
    until: str = ""
    approval: str = ""
    applied: bool = False
    error: ReconcilerError | None = None
    serving: Readiness | None = None


@dataclass(slots=True)
class _Failures:
    """Passes events on, and keeps the first failure of a step."""

    watcher: Watcher
    first: ReconcilerError | None = None

    def __call__(self, event: ApplyEvent) -> None:
        if isinstance(event, StepFailed) and self.first is None:
            self.first = event.error
        self.watcher(event)


def reconcile(
    world: World,
    loaded: Loaded,
    key: DatabaseKey,
    policies: PolicySet,
    tenure: Tenure,
    watcher: Watcher,
    stop: threading.Event,
    sight: Sight | None = None,
) -> Conclusion:
    """Bring one database to what its spec asks for, as far as that is possible now.

    ``sight`` is a shared look that may show that nothing is to be done; what is, is looked at
    again. Raises FencedOff when the lease is lost; every other error is a conclusion.
    """
    try:
        if sight is not None:
            seen = replace(world, eyes=replace(world.eyes, sight=sight))
            _, standing = _look(seen, loaded, key, policies, tenure)
            if standing is not None:
                return standing
        outlook, standing = _look(world, loaded, key, policies, tenure)
        if standing is not None:
            return standing
        failures = _Failures(watcher)
        ended = loop.act(world, outlook, failures, stop, tenure=tenure)
    except FencedOff:
        raise
    except ReconcilerError as error:
        return failed(error)
    except Exception as error:  # the status must say so, and the log has it all
        broken = RoundBroken(f"database {key}", f"{type(error).__name__}: {error}")
        broken.__cause__ = error
        return failed(broken)
    if ended.interrupted:  # a step that stopped at a safe point counts as failed, and is not
        return Conclusion(False, True, False, "Interrupted", "stopped at a safe point", Again.NOW)
    if failures.first:
        return failed(failures.first)
    return Conclusion(
        None, True, False, "Applied", f"{len(ended.done)} steps applied", Again.NOW, applied=True
    )


def _look(
    world: World, loaded: Loaded, key: DatabaseKey, policies: PolicySet, tenure: Tenure
) -> tuple[Outlook, Conclusion | None]:
    """Look, and say why nothing is to be applied; how far a roll-out is that waits is noted."""
    outlook = loop.look(world, loaded, policies, frozenset({key}), reports=True)
    standing = judge(outlook) or rolling(outlook)
    roll = Roll(world, outlook)
    if standing is not None and not roll.is_noted():
        if world.eyes.sight is not None:
            return outlook, None  # what is written rests on a look of its own
        roll.begin(tenure.lease)
    standing = standing or _unapproved(world, outlook, key)
    return outlook, standing and with_serving(standing, outlook.observed, key)


def with_serving(
    conclusion: Conclusion, observed: ObservedState, key: DatabaseKey
) -> Conclusion:  # fmt: skip
    """Return a conclusion with what the look says of the shards; sick ones are seen again soon."""
    database = next((d for d in observed.databases if d.key == key), None)
    serving = of_database(database) if database else None
    is_sick = serving is not None and serving.ready != "True" and conclusion.reason == UP_TO_DATE
    return replace(conclusion, serving=serving, again=Again.SOON if is_sick else conclusion.again)


def judge(outlook: Outlook) -> Conclusion | None:
    """Say why nothing is to be applied; None when there is something. Pure."""
    plan = outlook.plan
    for unseen in outlook.observed.unseen:
        if unseen.system == "etcd":
            message = f"etcd does not answer: {unseen.reason}"
            return Conclusion(None, True, False, "EtcdSilent", message, Again.BACKOFF)
    if plan.refusals:
        first = plan.refusals[0]
        more = f" (and {len(plan.refusals) - 1} more)" if len(plan.refusals) > 1 else ""
        text = f"{first.kind.code} {first.problem}{more}; try: {first.remedy}"
        return Conclusion(False, False, True, "Refused", text, Again.ROUTINE)
    if plan.steps:
        return _held(outlook)
    for still in plan.standstills:
        if still.unseen:
            message = f"{still.subject}: {still.reason}"
            return Conclusion(None, True, False, "NotSeen", message, Again.SOON)
    if plan.standstills:
        return _standing(outlook)
    if outlook.left:
        remedy = "driftPolicy: correct, or stop the daemon and apply"
        text = f"left alone (driftPolicy: report): {'; '.join(outlook.left)}; try: {remedy}"
        return Conclusion(True, False, False, "Drifted", text, Again.ROUTINE)
    return Conclusion(True, False, False, UP_TO_DATE, NOTHING_TO_DO, Again.ROUTINE)


def _standing(outlook: Outlook) -> Conclusion:
    """Say what keeps all that differs from being done; what a person holds back comes last."""
    still = min(outlook.plan.standstills, key=lambda still: still.held)
    message = f"{still.subject}: {still.reason}"
    if still.held:
        return Conclusion(False, False, True, "MoveHeld", message, Again.ROUTINE)
    reason = "Suspended" if still.reason.startswith("suspended") else "Waiting"
    seen = outlook.observed.database(still.database)
    if seen and seen.suspended:  # by command, not by its spec
        message += f"; try: shardwright resume {still.database}"
    return Conclusion(None, reason == "Waiting", False, reason, message, Again.ROUTINE)


def rolling(outlook: Outlook) -> Conclusion | None:
    """Say what a roll-out waits for; None when anything can be done now. Pure."""
    if not outlook.standings or outlook.ready:
        return None
    found = outlook.standings[0]
    match found.phase:
        case Phase.STOPPED:
            text = f"{found.text}; try: {remedy_of(found.database)}"
            return Conclusion(False, False, True, "RolloutStopped", text, Again.ROUTINE)
        case Phase.UNKNOWN:
            return Conclusion(False, True, False, "GateSilent", found.text, Again.SOON)
        case Phase.BAKING:
            return Conclusion(
                False, True, False, "Baking", found.text, Again.SOON, until=found.until
            )
        case Phase.CANARY | Phase.GOING:
            return None
        case _:
            assert_never(found.phase)


def _held(outlook: Outlook) -> Conclusion | None:
    """Return what a policy says against the plan, deny before hold."""
    for outcome, reason in ((Outcome.DENY, "PolicyDenied"), (Outcome.HOLD, "PolicyHeld")):
        found = [f for f in outlook.verdict.findings if f.outcome is outcome]
        if found:
            text = "; ".join(f"{f.policy}/{f.rule}: {f.text}" for f in found)
            until = found[0].until.isoformat(timespec="seconds") if found[0].until else ""
            denied = outcome is Outcome.DENY
            again = Again.ROUTINE if denied else Again.SOON
            return Conclusion(False, not denied, denied, reason, text, again, until)
    return None


def _unapproved(world: World, outlook: Outlook, key: DatabaseKey) -> Conclusion | None:
    """Return what is said of a plan that waits for a person; note an approval that is taken up."""
    wanted = dict(outlook.plan.asked).get(key)
    if wanted is None:
        return None
    store, sight, now = world.eyes.store, world.eyes.sight, world.clock.now()
    if sight is not None:
        given = orders.decode_approval(sight.records_of(key).get(orders.approval_key(key)))
    else:
        given = orders.approval_of(store, key)
    documents = outlook.loaded.documents
    if documents and wanted.id in documents.approved and (given is None or given.id != wanted.id):
        given = orders.approval(wanted.id, f"commit {outlook.plan.revision.short}", now)
    standing = approved_or_not(key, wanted, given, now)
    taken_up = standing is None and sight is None  # with a shared look, it is looked at again
    if taken_up and given is not None and not wanted.marks <= given.marks:
        orders.approve(store, key, replace(given, marks=wanted.marks))
    return standing


def approved_or_not(
    key: DatabaseKey, wanted: Asked, given: Approval | None, now: datetime
) -> Conclusion | None:
    """Say what a plan waits for; None when all that needs it is approved. Pure."""
    if wanted.never:
        text = (
            f"autoApply says never: {'; '.join(wanted.never)}; apply it by hand, the daemon stopped"
        )
        return Conclusion(False, False, True, "NeverApplied", text, Again.ROUTINE)
    covers = given is not None and (given.id == wanted.id or wanted.marks <= given.marks)
    if given is not None and covers and now.isoformat() < given.until:
        return None
    over = f"; {given.id} of {given.actor.partition(' ')[0]} " if given else ""
    if given:
        over += f"ran out at {given.until}" if covers else "is of another plan"
    text = f"{wanted.id} waits: {'; '.join(wanted.titles)}{over}; try: shardwright approve {key}"
    return Conclusion(False, True, False, "ApprovalNeeded", text, Again.ROUTINE, approval=wanted.id)


def failed(error: ReconcilerError) -> Conclusion:
    """Return the conclusion from an error: tried again after a back-off, whatever it was."""
    message = f"{error.code} {error.subject}: {error.problem}"
    if error.remedy:
        message += f"; try: {error.remedy}"
    return Conclusion(
        False, True, not error.transient, type(error).__name__, message, Again.BACKOFF, error=error
    )
