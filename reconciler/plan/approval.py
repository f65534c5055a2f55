"""What of a plan waits for a person, and what a person then approves. Pure.

An approval binds to what a step does and to the spec that asks for it, not to what was seen when it
was asked for: the same steps of the same spec may be begun again after a failover or a crash, and
the id is the same in a pull request, on a screen and in the daemon. Any other step needs its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from reconciler.diff.changes import Remark
from reconciler.model.desired import AutoApply, Database, DesiredState, DriftPolicy, Mode
from reconciler.model.names import DatabaseKey
from reconciler.plan.actions import Asked, CloseMove, Risk, Step, by_database
from reconciler.plan.fingerprint import meaning_of
from reconciler.spec.documents import APPROVAL_TRAILER


def class_of(step: Step) -> str:
    """Return under which word of ``autoApply`` a step falls.

    To end a move is part of the move that was approved, whichever way it ends.
    """
    if isinstance(step.action, CloseMove):
        return "online"
    match step.risk:
        case Risk.ONLINE:
            return "online"
        case Risk.FAILOVER | Risk.RESTART:
            return "restart"
        case Risk.DATA_MOVE:
            return "move"
        case Risk.DATA_LOSS:
            return "destroy"


def asked(database: Database | None, steps: tuple[Step, ...]) -> Asked | None:
    """Return what waits for a person, None when nothing does.

    ``database`` None: its spec is gone, and the default holds for the steps that delete it.
    """
    auto = database.auto_apply if database else AutoApply()
    digest = database.digest if database else ""
    waiting = [step for step in steps if auto.mode(class_of(step)) is not Mode.YES]
    if not waiting:
        return None
    marks = frozenset(_mark(digest, step) for step in waiting)
    whole = hashlib.sha256("\n".join(sorted(marks)).encode()).hexdigest()
    never = tuple(s.text for s in waiting if auto.mode(class_of(s)) is Mode.NEVER)
    shown = [step for step in waiting if step.visible] or waiting
    titles = tuple(f"{s.text} ({s.risk.label})" for s in shown)
    return Asked(f"ap-{whole[:12]}", marks, titles, never)


def _mark(digest: str, step: Step) -> str:
    text = repr((digest, step.id, repr(meaning_of(step.action))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def asked_of(desired: DesiredState, steps: tuple[Step, ...]) -> dict[DatabaseKey, Asked]:
    """Return what waits for a person, of each database of which something does."""
    wanted = {database.key: database for database in desired.databases}
    reporting = _reporting(desired)
    steps = tuple(s for s in steps if not (s.drift and s.database in reporting))
    found = {key: asked(wanted.get(key), tuple(mine)) for key, mine in by_database(steps).items()}
    return {key: waits for key, waits in found.items() if waits}


def _reporting(desired: DesiredState) -> frozenset[DatabaseKey]:
    """Return the databases whose drift the daemon leaves alone."""
    return frozenset(d.key for d in desired.databases if d.drift_policy is DriftPolicy.REPORT)


def remarks(
    desired: DesiredState, waiting: Iterable[tuple[DatabaseKey, Asked]], steps: tuple[Step, ...]
) -> tuple[Remark, ...]:
    """Return what a plan says of what the daemon will want an approval for, or never do."""
    places = {database.key: database.place for database in desired.databases}
    found = []
    for key, waits in waiting:
        text = _never(waits) if waits.never else _asks(key, waits)
        place = places[key].at("spec", "autoApply") if key in places else None
        found.append(Remark(key, text, place))
    drifted = sorted({s.database for s in steps if s.drift} & _reporting(desired))
    told = (Remark(key, REPORTED, places[key].at("spec", "driftPolicy")) for key in drifted)
    return (*found, *told)


REPORTED = "the daemon leaves drift alone (driftPolicy: report); apply by hand corrects it"
"""What a plan says of drift that is only reported."""


def _never(waits: Asked) -> str:
    return f"the daemon never does this ({waits.never[0]}): apply it by hand"


def _asks(key: DatabaseKey, waits: Asked) -> str:
    more = len(waits.titles) - 1
    what = waits.titles[0] + (f" and {more} more" if more > 0 else "")
    return (
        f"the daemon asks before it does this: {what}. Approve: `shardwright approve {key.name}"
        f" --plan {waits.id}`, or `{APPROVAL_TRAILER}: {waits.id}` in the commit"
    )
