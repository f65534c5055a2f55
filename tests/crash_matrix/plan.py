"""What a seed means: a way for keys to go, one fault, and where it strikes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

TILINGS = {
    "two": ('{name: s0, keys: ["-80"]}', '{name: s1, keys: ["80-"]}'),
    "border": ('{name: s0, keys: ["-40"]}', '{name: s1, keys: ["40-"]}'),
    "split": (
        '{name: s0, keys: ["-40"]}', '{name: s1, keys: ["80-"]}', '{name: s2, keys: ["40-80"]}',
    ),
}  # fmt: skip


class Course(StrEnum):
    """What becomes of the move."""

    FORWARD = "forward"
    BACK = "back"
    """The spec is reverted once the target serves."""
    ABORT = "abort"
    """The applier is killed before the cut, then the spec is reverted."""


class Fault(StrEnum):
    """What breaks, once."""

    APPLIER = "kill applier"
    SOURCE = "kill source"
    TARGET = "kill target"
    ETCD = "kill etcd"
    ROUTER = "kill router"
    CLIENTS = "cut clients"
    AT_SOURCE = "cut source"
    AT_TARGET = "cut target"
    SWITCH_SOURCE = "switch source"
    SWITCH_TARGET = "switch target"


@dataclass(frozen=True, slots=True)
class Way:
    """From one tiling to another, and whose keys go where."""

    name: str
    before: str
    after: str
    source: str
    target: str


WAYS = (
    Way("rebalance", "two", "border", "s0", "s1"),
    Way("rebalance home", "border", "two", "s1", "s0"),
    Way("split", "two", "split", "s0", "s2"),
    Way("merge", "split", "two", "s2", "s0"),
)
_FORTH, _HOME, _SPLIT, _MERGE = WAYS
_ROUND = (
    (_FORTH, Course.FORWARD), (_HOME, Course.BACK), (_HOME, Course.ABORT), (_HOME, Course.FORWARD),
    (_FORTH, Course.BACK), (_FORTH, Course.ABORT), (_FORTH, Course.FORWARD),
    (_HOME, Course.FORWARD), (_SPLIT, Course.BACK), (_SPLIT, Course.FORWARD),
    (_MERGE, Course.BACK), (_MERGE, Course.ABORT), (_MERGE, Course.FORWARD),
)  # fmt: skip
"""What consecutive seeds do, each beginning at the tiling where the one before ended. Splits start
servers and take longest, so there are few."""

_BEFORE_CUT = (
    "line begun MoveKeyRange", "stage before", "prepare_target", "hold", "publish", "copy",
    "build_indexes", "subscribe", "verify", "divide_sequences", "arm", "refuse_stale",
)  # fmt: skip
_CUT = ("cut", "cut", "cut", "map", "stage switched", "reverse", "verify_cut")
_END = ("line begun CloseMove", "clean", "prune", "stage ended", "end")
_BACK = ("verify_back", "roll_back_cut", "roll_back_cut", "map", "stage back", *_END)
_PLACES = {
    Course.FORWARD: (*_BEFORE_CUT, *_CUT, *_END),
    Course.BACK: (*_CUT, *_BACK),
    Course.ABORT: _END,
}
PHYSICAL_SHARE = 0.5
"""Of the splits, those that make the new shard by a physical copy."""
_DURING_S = {"cut": 0.03, "roll_back_cut": 0.03}


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault, at which place: before it, after it, or so long into it."""

    fault: Fault
    when: str
    act: str
    delay_s: float = 0.0

    def __str__(self) -> str:
        when = f"{self.delay_s * 1000:.0f} ms into" if self.when == "during" else self.when
        return f"{self.fault} {when} {self.act}"

    @property
    def gate(self) -> str:
        """The place at which the apply is held."""
        return f"{'after' if self.when == 'after' else 'before'} {self.act}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. ``first`` is the kill that an abort begins with; ``revive_s`` when the dead rise.

    ``copy`` brings the rows to a new shard; one that is there gets them by our own copier.
    """

    seed: int
    way: Way
    course: Course
    strike: Strike
    revive_s: float
    isolation: int
    first: Strike | None = None
    copy: str = "own"

    @property
    def what(self) -> str:
        """The way, and how the rows come where it is not by our own copier."""
        return self.way.name if self.copy == "own" else f"{self.way.name} by bytes"


def make_trial(seed: int) -> Trial:
    """Return what a seed means; the same for ever."""
    rng = Random(seed)  # noqa: S311  a seed has to say the same for ever
    way, course = _ROUND[seed % len(_ROUND)]
    fault = rng.choice([Fault.APPLIER] * 4 + list(Fault))
    strike = _strike(rng, fault, _PLACES[course])
    first = _strike(rng, Fault.APPLIER, _BEFORE_CUT) if course is Course.ABORT else None
    revive_s, isolation = rng.uniform(0.5, 3.0), rng.randint(2, 4)
    copy = "physical" if way is _SPLIT and rng.random() < PHYSICAL_SHARE else "own"
    return Trial(seed, way, course, strike, revive_s, isolation, first, copy)


def _strike(rng: Random, fault: Fault, places: tuple[str, ...]) -> Strike:
    act = rng.choice(places)
    when = rng.choice(("before", "after", "during"))
    if when != "during":
        return Strike(fault, when, act)
    return Strike(fault, when, act, round(rng.uniform(0, _DURING_S.get(act, 0.4)), 4))
