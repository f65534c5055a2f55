"""The shards of one document: names, keys, defaults, renames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec import UNSET, UnsetType

from reconciler.model.desired import Place, Shard
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import ShardName
from reconciler.model.platform import Resources
from reconciler.spec.manifest import (
    Defaults,
    Moved,
    ResourceLimits,
    ShardedDatabase,
    ShardSpec,
    Storage,
)
from reconciler.spec.problems import Problems, did_you_mean
from reconciler.spec.quantities import cpu_cores, size_bytes
from reconciler.spec.tiling import own_keys

INSTANCES_DEFAULT = 1
SYNCHRONOUS_DEFAULT = True
STORAGE_BYTES = (100 * 1024**2, 64 * 1024**4)
"""100Mi holds an empty PostgreSQL; 64Ti is beyond what one volume of any platform offers."""
MEMORY_BYTES = (64 * 1024**2, 64 * 1024**4)
CPU_CORES = (0.01, 1024.0)

_T = TypeVar("_T")


class DuplicateShard(ReconcilerError):
    """Two shards of one database have the same name.

    A shard's name is its identity: its members, data and place in the routing map hang on it.
    """

    code = "SP105"


class MovedContradiction(ReconcilerError):
    """An entry of moved does not fit the shards.

    ``from`` is a name that was given up, ``to`` the name the same shard has now. With an entry that
    does not fit, a shard with data could be taken for a new one.
    """

    code = "SP109"


class OutOfBounds(ReconcilerError):
    """A size, duration or ratio is beyond what makes sense."""

    code = "SP110"


@dataclass(frozen=True, slots=True)
class Context:
    """What resolving one document needs at hand: ``spec_place`` is that of its ``spec``."""

    database: str
    spec_place: Place
    problems: Problems

    def bounded(self, place: Place, number: float, bounds: tuple[float, float], words: str) -> None:
        """Report a number outside its bounds, which ``words`` say as the user writes them."""
        if not bounds[0] <= number <= bounds[1]:
            problem = f"{place.path[-1]} is out of bounds: it must be {words}"
            self.problems.add(place, OutOfBounds(self.database, problem))


def own_shards(manifest: ShardedDatabase, context: Context) -> tuple[Shard, ...]:
    """Return the shards by name; reports duplicates, keys that do not tile, false renames."""
    spec, place = manifest.spec, context.spec_place.at("shards")
    _report_duplicates(spec.shards, place, context)
    owned = own_keys(context.database, spec.sharding.type, spec.shards, place, context.problems)
    former = _former_names(spec.moved, [s.name for s in spec.shards], context)
    _check_resources(spec.defaults, context.spec_place.at("defaults"), context)
    shards = []
    for index, (shard, keys) in enumerate(zip(spec.shards, owned, strict=True)):
        at = place.at(index)
        _check_resources(shard, at, context)
        defaults = spec.defaults
        shards.append(
            Shard(
                name=ShardName(shard.name),
                keys=keys,
                instances=_first(shard.instances, defaults.instances, INSTANCES_DEFAULT),
                synchronous=_first(shard.synchronous, defaults.synchronous, SYNCHRONOUS_DEFAULT),
                resources=_resources(shard, defaults),
                place=at,
                moved_from=former.get(shard.name),
            )
        )
    return tuple(sorted(shards, key=lambda s: s.name))


def _first(own: _T | UnsetType, default: _T | UnsetType, otherwise: _T) -> _T:
    if own is not UNSET:
        return own
    return otherwise if default is UNSET else default


def _report_duplicates(shards: Sequence[ShardSpec], place: Place, context: Context) -> None:
    first: dict[str, int] = {}
    for index, shard in enumerate(shards):
        if shard.name in first:
            problem = f"two shards have the name {shard.name}"
            error = DuplicateShard(context.database, problem, remedy="give each its own name")
            context.problems.add(place.at(index, "name"), error)
        first.setdefault(shard.name, index)


def _former_names(
    moved: Sequence[Moved], current: list[str], context: Context
) -> dict[str, ShardName]:
    """Return each shard's former name; reports entries that do not fit."""
    found: dict[str, ShardName] = {}
    used: set[str] = set()
    for index, entry in enumerate(moved):
        place = context.spec_place.at("moved", index)
        field, problem, remedy = _contradiction(entry, current, found, used)
        if problem:
            error = MovedContradiction(context.database, problem, remedy=remedy)
            context.problems.add(place.at(field), error)
            continue
        found[entry.to] = ShardName(entry.from_)
        used.add(entry.from_)
    return found


def _contradiction(
    entry: Moved, current: list[str], found: dict[str, ShardName], used: set[str]
) -> tuple[str, str, str]:
    """Return the field, the problem and the remedy; empty texts when the entry fits."""
    if entry.from_ == entry.to:
        return "to", f"shard {entry.to} is said to be renamed to itself", "remove the entry"
    if entry.from_ in current:
        problem = f"shard {entry.from_} is said to be renamed, but is still in shards"
        return "from", problem, "rename it there, or remove the entry"
    if entry.to not in current:
        problem = f"there is no shard {entry.to} to take the name of {entry.from_}"
        return "to", problem, did_you_mean(entry.to, current) or "name a shard that is in shards"
    if entry.to in found:
        problem = f"two shards are said to be renamed to {entry.to}"
        return "to", problem, "keep one entry; a merge is written in keys, not in moved"
    if entry.from_ in used:
        problem = f"shard {entry.from_} is said to be renamed twice"
        return "from", problem, "keep one entry; a split is written in keys, not in moved"
    return "", "", ""


def _resources(shard: ShardSpec, defaults: Defaults) -> Resources:
    storage = (_part(shard.storage), _part(defaults.storage))
    limits = (_limits(shard.resources), _limits(defaults.resources))
    cpu = _first(limits[0].cpu, limits[1].cpu, "")
    return Resources(
        storage_size=_first(storage[0].size, storage[1].size, Resources().storage_size),
        storage_class=_first(storage[0].class_, storage[1].class_, ""),
        cpu=str(cpu),
        memory=_first(limits[0].memory, limits[1].memory, ""),
    )


def _part(storage: Storage | UnsetType) -> Storage:
    return Storage() if storage is UNSET else storage


def _limits(limits: ResourceLimits | UnsetType) -> ResourceLimits:
    return ResourceLimits() if limits is UNSET else limits


def _check_resources(part: Defaults | ShardSpec, place: Place, context: Context) -> None:
    size = _part(part.storage).size
    if size is not UNSET:
        at = place.at("storage", "size")
        context.bounded(at, size_bytes(size), STORAGE_BYTES, "100Mi to 64Ti")
    limits = _limits(part.resources)
    if limits.memory is not UNSET:
        at = place.at("resources", "memory")
        context.bounded(at, size_bytes(limits.memory), MEMORY_BYTES, "64Mi to 64Ti")
    if limits.cpu is not UNSET:
        at = place.at("resources", "cpu")
        context.bounded(at, cpu_cores(str(limits.cpu)), CPU_CORES, "10m to 1024")
