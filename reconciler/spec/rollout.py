"""How a change goes over the shards of one document: limits, canaries, gates."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET, UnsetType

from reconciler.model.desired import Canary, Gate, GateLanguage, Place, Rollout
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import ShardName
from reconciler.spec.manifest import CanarySpec, GateSpec, ShardedDatabase
from reconciler.spec.problems import did_you_mean
from reconciler.spec.quantities import duration_ms, size_bytes
from reconciler.spec.shards import Context

BAKE_MS_MAX = 7 * 86_400_000


class CanaryContradiction(ReconcilerError):
    """The canaries of a roll-out do not fit the database's shards.

    A canary is a shard of the database, named once, and at least one shard is none: it is the one
    that waits.
    """

    code = "SP122"


class GateContradiction(ReconcilerError):
    """A gate of a roll-out cannot be asked, or has nothing to hold its answer against.

    It asks one question, in SQL or in PromQL, and its answer is held against ``min``, ``max`` or
    both. A gate's name is its own.
    """

    code = "SP123"


def own_rollout(manifest: ShardedDatabase, context: Context) -> Rollout:
    """Return the limits and canaries of a document; reports canaries and gates that do not fit."""
    spec, place = manifest.spec.rollout, context.spec_place.at("rollout")
    canary = None
    if spec.canary is not UNSET:
        canary = _canary(spec.canary, manifest, place.at("canary"), context)
    return Rollout(
        _or_none(spec.shards_max),
        None if spec.bytes_max is UNSET else size_bytes(spec.bytes_max),
        spec.restarts_max,
        canary,
    )


def _or_none(number: int | UnsetType) -> int | None:
    return None if number is UNSET else number


def _canary(spec: CanarySpec, manifest: ShardedDatabase, place: Place, context: Context) -> Canary:
    there = [shard.name for shard in manifest.spec.shards]
    for index, name in enumerate(spec.shards):
        problem, remedy = "", "name shards of the spec"
        if name not in there:
            problem, remedy = f"there is no shard {name}", did_you_mean(name, there) or remedy
        elif name in spec.shards[:index]:
            problem = f"shard {name} is named twice"
        if problem:
            error = CanaryContradiction(context.database, problem, remedy=remedy)
            context.problems.add(place.at("shards", index), error)
    if set(spec.shards) >= set(there):
        problem = "every shard is a canary, so none waits for them"
        remedy = "leave at least one shard out, or leave canary out"
        error = CanaryContradiction(context.database, problem, remedy=remedy)
        context.problems.add(place.at("shards"), error)
    bake = duration_ms(spec.bake)
    context.bounded(place.at("bake"), bake, (0, BAKE_MS_MAX), "0s to 7d")
    return Canary(
        tuple(ShardName(name) for name in spec.shards),
        bake / 1000,
        tuple(_gates(spec.gates, place.at("gates"), context)),
    )


def _gates(gates: list[GateSpec], place: Place, context: Context) -> Iterator[Gate]:
    for index, gate in enumerate(gates):
        problem = _wrong(gate, [other.name for other in gates[:index]])
        if problem:
            remedy = "write one of sql and promql, and min, max or both"
            subject = f"{context.database} gate {gate.name}"
            error = GateContradiction(subject, problem, remedy=remedy)
            context.problems.add(place.at(index), error)
            continue
        language = GateLanguage.SQL if gate.sql is not UNSET else GateLanguage.PROMQL
        text = str(gate.sql if gate.sql is not UNSET else gate.promql)
        least, most = (None if n is UNSET else float(n) for n in (gate.min, gate.max))
        yield Gate(gate.name, language, text, least, most)


def _wrong(gate: GateSpec, earlier: list[str]) -> str:
    if gate.name in earlier:
        return "two gates have this name"
    asked = [text for text in (gate.sql, gate.promql) if text is not UNSET]
    if len(asked) != 1:
        return "it asks no question" if not asked else "it asks in two languages"
    if not str(asked[0]).strip():
        return "its question is empty"
    if gate.min is UNSET and gate.max is UNSET:
        return "its answer has no bound"
    if gate.min is not UNSET and gate.max is not UNSET and gate.min > gate.max:
        return "min is above max, so that no answer fits"
    return ""
