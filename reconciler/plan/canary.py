"""A change that goes to some shards first: when the others may have it. Pure.

What goes over shards, and may hurt on any of them, is a parameter, a restart and a schema file.
Where a spec names canaries these go there first. When the canaries have them, the change bakes:
nobody else gets it until the time is over, and every gate has held. A gate that fails stops the
roll-out for good: another spec, or a person, lets it go on. A gate that cannot be asked is no gate
that held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha256

from reconciler.diff.changes import Remark
from reconciler.model.desired import Canary, Database, Gate
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.model.rollouts import RolloutRecord
from reconciler.plan.actions import Action, Configure, RestartMembers, RunSchemaFile, Step, Wave
from reconciler.plan.graph import behind
from reconciler.plan.render_report import counted, duration


class Phase(Enum):
    """How far a roll-out is."""

    CANARY = "the canaries have it"
    BAKING = "it bakes"
    UNKNOWN = "a gate cannot be asked"
    STOPPED = "a gate failed"
    GOING = "the others get it"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate was answered at ``where`` (a shard, or Prometheus).

    ``values`` are all its numbers; ``problem`` is why nothing can be said, empty when they count.
    """

    gate: Gate
    where: str
    values: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a database's roll-out stands.

    ``held`` are ids of steps that wait. ``record`` is what etcd should hold of it. ``text`` says it
    for people; ``until``, ISO 8601, is when the bake time ends.
    """

    database: DatabaseKey
    phase: Phase
    canary: Canary
    record: RolloutRecord | None
    held: frozenset[str] = frozenset()
    text: str = ""
    until: str = ""

    @property
    def asks(self) -> bool:
        """Whether gates have a say now."""
        promoted = self.record is not None and self.record.promoted
        waits = self.phase in (Phase.BAKING, Phase.GOING)
        return waits and bool(self.canary.gates) and not promoted


def wave_of(action: Action, shard: ShardName | None, canary: Canary | None, new: bool) -> Wave:
    """Return a step's wave; ``new``: its shard serves nobody yet."""
    if canary is None or shard is None or new:
        return Wave.ANY
    match action:
        case Configure() | RestartMembers() | RunSchemaFile():
            return Wave.CANARY if shard in canary.shards else Wave.REST
        case _:
            return Wave.ANY


def change_of(database: Database) -> str:
    """Return a digest of what goes over the shards of a database."""
    modes = [(shard.name, shard.synchronous) for shard in database.shards]
    files = [(file.name, file.sha256) for file in database.schema]
    text = repr((database.version, database.parameters, files, modes))
    return sha256(text.encode()).hexdigest()[:16]


def standing(
    database: Database, steps: Iterable[Step], record: RolloutRecord | None, now: datetime
) -> Standing | None:
    """Return where a roll-out stands before its gates are asked; None when there is none.

    ``steps`` are the database's. A change that the canaries have and nobody took note of bakes
    from now on: who noted it may have died.
    """
    canary, mine = database.rollout.canary, list(steps)
    rest = [step for step in mine if step.wave is Wave.REST]
    if canary is None or not rest:
        return None
    change = change_of(database)
    first = any(step.wave is Wave.CANARY for step in mine)
    noted = record if record and record.change == change else None
    if first and noted and not noted.promoted:
        noted = None  # they had it, and have it no more: what was seen of it is void
    held = frozenset(step.id for step in rest)
    names = ", ".join(canary.shards)
    going = Standing(database.key, Phase.GOING, canary, noted)
    if noted and noted.promoted:
        return replace(going, text=f"promoted; {_progress(database, mine)}")
    if noted and noted.stopped:
        return _stopped(going, noted.stopped, held, database, mine)
    if first:
        text = f"canary {names} first; then {_others(rest)}"
        return Standing(database.key, Phase.CANARY, canary, noted, held, text)
    noted = noted or begun(database, now)
    end = datetime.fromisoformat(noted.since) + timedelta(seconds=canary.bake_s)
    until = end.isoformat(timespec="seconds")
    if now < end:
        text = f"canary {names} has it since {noted.since}; {_others(rest)} not before {until}"
        return Standing(database.key, Phase.BAKING, canary, noted, held, text, until)
    text = f"canary {names} has had it since {noted.since}; {_progress(database, mine)}"
    return replace(going, record=noted, text=text)


def begun(database: Database, now: datetime) -> RolloutRecord:
    """Return the note that the canaries have the change from now on."""
    return RolloutRecord(change_of(database), now.isoformat(timespec="seconds"))


def judged(
    before: Standing, answers: Iterable[Answer], database: Database, steps: Iterable[Step]
) -> Standing:
    """Return where a roll-out stands by what its gates were answered."""
    mine = list(steps)
    held = frozenset(step.id for step in mine if step.wave is Wave.REST)
    said = tuple(answers)
    failed = next((text for one in said if (text := failure(one))), "")
    if failed and before.record:
        stopped = replace(before.record, stopped=failed)
        return _stopped(replace(before, record=stopped), failed, held, database, mine)
    silent = next((one for one in said if silence(one)), None)
    if silent is None:
        return before
    text = f"gate {silent.gate.name} says nothing at {silent.where}: {silence(silent)}"
    if before.phase is Phase.BAKING:
        return replace(before, text=f"{before.text}; {text}")
    return replace(
        before, phase=Phase.UNKNOWN, held=held, text=f"{text}; {_progress(database, mine)}"
    )


def failure(answer: Answer) -> str:
    """Return why an answer fails its gate, empty when it does not."""
    gate = answer.gate
    for value in answer.values:
        if gate.most is not None and value > gate.most:
            return f"gate {gate.name} at {answer.where}: {value:g} is above {gate.most:g}"
        if gate.least is not None and value < gate.least:
            return f"gate {gate.name} at {answer.where}: {value:g} is below {gate.least:g}"
    return ""


def silence(answer: Answer) -> str:
    """Return why an answer tells nothing, empty when it does: what is not known did not hold."""
    if answer.problem or (answer.values and not any(math.isnan(value) for value in answer.values)):
        return answer.problem
    return "a value is no number" if answer.values else "there is no value"


def without_held(steps: tuple[Step, ...], standings: Iterable[Standing]) -> tuple[Step, ...]:
    """Return the steps that may be done now: none that is held, or stands behind one."""
    held = frozenset().union(*(one.held for one in standings))
    if not held:
        return steps
    left = held | behind({step.id: step.after for step in steps}, held)
    return tuple(step for step in steps if step.id not in left)


def remark(database: Database, steps: Iterable[Step]) -> Remark | None:
    """Return what a plan says of the order over the shards, None when there is nothing to say."""
    rollout, mine = database.rollout, list(steps)
    rest = [step for step in mine if step.wave is Wave.REST]
    place = database.place.at("spec", "rollout")
    if rollout.canary is not None and rest:
        if all(step.wave is not Wave.CANARY for step in mine):
            return None  # they have it; since when is told by whoever can look
        gates = [gate.name for gate in rollout.canary.gates]
        what = f" and {_gates(gates)}" if gates else ""
        bake = duration(rollout.canary.bake_s)
        text = f"canary {', '.join(rollout.canary.shards)} first; then {bake}{what}"
        return Remark(database.key, f"{text}; then {_others(rest)}", place)
    shards = {step.shard for step in mine if step.shard}
    if rollout.shards_max is not None and len(shards) > rollout.shards_max:
        text = f"{len(shards)} shards, of which {rollout.shards_max} at once"
        return Remark(database.key, text, place)
    return None


def _gates(names: list[str]) -> str:
    return f"gate{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _stopped(
    base: Standing, why: str, held: frozenset[str], database: Database, steps: list[Step]
) -> Standing:
    text = f"{why}; {_progress(database, steps)}"
    return replace(base, phase=Phase.STOPPED, held=held, text=text)


def _others(rest: list[Step]) -> str:
    return counted(len({step.shard for step in rest}), "other shard")


def _progress(database: Database, steps: list[Step]) -> str:
    lacking = {step.shard for step in steps if step.wave is not Wave.ANY}
    whole = len(database.shards)
    return f"{whole - len(lacking)} of {whole} shards have it"
