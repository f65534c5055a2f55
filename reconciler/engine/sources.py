"""What the daemon's sources ask for, taken together: the last good state of each, and why not more.

A revision is taken whole or not at all. One with an error is quarantined: the last good one stays
in force, the problem is kept with its file and line, and the next revision is tried afresh. A
source that cannot be reached changes nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler import spec
from reconciler.engine.loop import compiled
from reconciler.model.desired import Place, Revision
from reconciler.model.errors import ProblemsFound, ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.policy.rules import PolicySet, compile_policies, policy_document
from reconciler.spec.documents import Documents
from reconciler.spec.loaded import Loaded, PlacedPolicy


class DatabaseInTwoSources(ReconcilerError):
    """Two sources of the daemon describe a database of one name.

    Neither is followed for that database, because each would undo what the other asks for; what
    runs goes on running. All other databases of both sources are followed.
    """

    code = "SO201"


class PolicyInTwoSources(ReconcilerError):
    """Two sources of the daemon hold a policy of one name.

    Policies of all sources speak of the databases of all sources, so that a name must mean one
    policy. The last good policies stay in force until one of the two is renamed.
    """

    code = "SO202"


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source: its last good state, and what became of the last attempt.

    ``attempted`` is the revision that was tried last, empty before the first; ``problems`` say why
    it is not in force; ``unreachable`` why nothing newer could be read.
    """

    name: str
    good: Loaded | None = None
    attempted: str = ""
    problems: tuple[ReconcilerError, ...] = ()
    unreachable: ReconcilerError | None = None

    @property
    def revision(self) -> str:
        """The revision in force, empty when there is none yet."""
        return str(self.good.desired.revision) if self.good else ""

    @property
    def answered(self) -> bool:
        """Whether the source was ever read, with whatever result."""
        return bool(self.attempted)

    @property
    def summary(self) -> str:
        """Say in a line what is in force, and what keeps a newer revision out."""
        if not self.answered:
            found = "not read yet"
        else:
            found = f"{Revision(self.revision).short} in force" if self.good else "none in force"
        found += f", {Revision(self.attempted).short} quarantined" if self.problems else ""
        return found + (f", unreachable: {self.unreachable.code}" if self.unreachable else "")

    @property
    def doubt(self) -> str:
        """Why it is not known what the source holds now, empty when it is."""
        if self.unreachable:
            return f"source {self.name} cannot be read: {self.unreachable.code}"
        if self.problems:
            return f"the newest revision of source {self.name} is quarantined"
        return "" if self.good else f"source {self.name} was not read yet"


def take(state: SourceState, documents: Documents) -> SourceState:
    """Return the state after a revision was read: in force when all of it is right."""
    attempted = str(documents.revision)
    try:
        loaded = spec.read(documents, state.good)
        compiled(loaded)
    except ProblemsFound as found:
        return replace(state, attempted=attempted, problems=tuple(found.problems), unreachable=None)
    return SourceState(state.name, loaded, attempted)


def take_failure(state: SourceState, error: ReconcilerError) -> SourceState:
    """Return the state after a source could not be read; what is in force stays."""
    return replace(state, unreachable=error)


def accepted(states: Iterable[SourceState], before: Mapping[str, str]) -> dict[str, str]:
    """Return what is in force of each source; where nothing is yet, what was before."""
    found = {state.name: state.revision or before.get(state.name, "") for state in states}
    return {name: revision for name, revision in found.items() if revision}


def restored(state: SourceState, documents: Documents) -> SourceState:
    """Return the state after what was in force was read again; as it was if that is not right."""
    after = take(state, documents)
    return state if after.problems else after


def pause_s(interval_s: float, failures: int, longest_s: float) -> float:
    """Return the seconds until the next look, after so many that failed in a row."""
    if not failures:
        return interval_s
    return min(interval_s * 2.0 ** min(failures - 1, 30), max(interval_s, longest_s))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What all sources ask for, database by database.

    ``sources``: each source without its databases, by its name in etcd's records: what a database
    is held against that left its source. ``doubts`` say which sources may hold more than is known:
    until there are none, what no source holds is not known to be gone.
    """

    databases: Mapping[DatabaseKey, Loaded]
    clashes: Mapping[DatabaseKey, ReconcilerError]
    sources: Mapping[str, Loaded]
    policies: PolicySet
    problems: tuple[ReconcilerError, ...] = ()
    doubts: tuple[str, ...] = ()

    def left_since(self, before: Wanted) -> frozenset[DatabaseKey]:
        """Return the databases that a source held before, and none does now."""
        return frozenset(before.databases.keys() - self.databases.keys() - self.clashes.keys())


NOTHING = Wanted({}, {}, {}, PolicySet())


def join(states: Iterable[SourceState], before: Wanted = NOTHING) -> Wanted:
    """Take the sources together; the policies of ``before`` stay where theirs contradict."""
    states = tuple(states)
    good = [state.good for state in states if state.good]
    databases: dict[DatabaseKey, Loaded] = {}
    clashes: dict[DatabaseKey, ReconcilerError] = {}
    for loaded in good:
        for database in loaded.desired.databases:
            other = databases.get(database.key)
            if other:
                clashes[database.key] = _in_two(database.key, other, loaded, database.place)
                continue
            alone = replace(loaded.desired, databases=(database,))
            databases[database.key] = replace(loaded, desired=alone)
    for key in clashes:
        del databases[key]
    sources = {
        loaded.desired.source: replace(loaded, desired=replace(loaded.desired, databases=()))
        for loaded in good
    }
    try:
        policies = _policies(good)
        problems: tuple[ReconcilerError, ...] = ()
    except ProblemsFound as found:
        policies, problems = before.policies, tuple(found.problems)
    doubts = tuple(state.doubt for state in states if state.doubt)
    return Wanted(databases, clashes, sources, policies, problems, doubts)


def _in_two(key: DatabaseKey, first: Loaded, second: Loaded, place: Place) -> DatabaseInTwoSources:
    return DatabaseInTwoSources(
        f"database {key}",
        f"it is described in {first.desired.source} and in {second.desired.source}",
        remedy="remove it from one of the two",
        where=second.locate(place),
    )


def _policies(good: list[Loaded]) -> PolicySet:
    """Compile the policies of all sources as one set. Raises ProblemsFound."""
    named: dict[str, tuple[PlacedPolicy, Loaded]] = {}
    for loaded in good:
        for placed in loaded.policies:
            name = placed.manifest.metadata.name
            if name in named:
                first = named[name][1]
                raise ProblemsFound(
                    (
                        PolicyInTwoSources(
                            f"policy {name}",
                            f"it is in {first.desired.source} and in {loaded.desired.source}",
                            remedy="rename one of the two",
                            where=loaded.locate(placed.place),
                        ),
                    )
                )
            named[name] = (placed, loaded)
    return compile_policies(
        tuple(policy_document(placed.manifest, placed.place) for placed, _ in named.values())
    )


def changed(before: Wanted, after: Wanted) -> tuple[DatabaseKey, ...]:
    """Return the databases whose spec, source or clash differs; all of them with new policies."""
    keys = before.databases.keys() | after.databases.keys()
    keys |= before.clashes.keys() | after.clashes.keys()
    if before.policies.documents != after.policies.documents:
        return tuple(sorted(keys))
    return tuple(sorted(key for key in keys if _mark(before, key) != _mark(after, key)))


def _mark(wanted: Wanted, key: DatabaseKey) -> object:
    loaded = wanted.databases.get(key)
    if loaded is None:
        return str(wanted.clashes.get(key, ""))
    return loaded.desired.source, loaded.desired.databases
