"""What a rendering of a plan is made from, and the words for amounts and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from reconciler.model.desired import Place
from reconciler.model.keyspace import KeySet
from reconciler.model.names import DatabaseKey, ShardName
from reconciler.model.observed import Unseen
from reconciler.plan.actions import Plan, Step

Owners = tuple[tuple[ShardName, KeySet], ...]
"""Shards and the keys that each owns."""

PARALLEL_DEFAULT = 4


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """A policy's finding as a plan shows it; ``outcome`` is deny, hold or warn."""

    outcome: str
    policy: str
    rule: str
    message: str
    place: Place | None = None
    database: str = ""


@dataclass(frozen=True, slots=True)
class ShownDatabase:
    """Where a database is written, and who owns its keys before and after the plan."""

    key: DatabaseKey
    place: Place | None = None
    before: Owners = ()
    after: Owners = ()
    keys_before: dict[ShardName, KeySet] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    keys_after: dict[ShardName, KeySet] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self.keys_before.update(self.before)
        self.keys_after.update(self.after)


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan and everything that is said around it.

    ``locate`` turns a place into ``file:line`` for people; only what is shown is looked up.
    ``last_applied`` is a short revision, "" when nothing was applied yet. ``answered`` counts per
    system (answered, asked). ``parallel`` is how many steps run at once, for the total time.
    ``base``: what a proposal is held against, "" for a plan of all. ``asides``: what else is to be
    known, where nothing is told beside it.
    """

    plan: Plan
    locate: Callable[[Place], str]
    databases: tuple[ShownDatabase, ...] = ()
    last_applied: str = ""
    answered: tuple[tuple[str, int, int], ...] = ()
    unseen: tuple[Unseen, ...] = ()
    not_applied: tuple[str, ...] = ()
    findings: tuple[ShownFinding, ...] = ()
    rules_passed: int = 0
    saved_as: str = ""
    parallel: int = PARALLEL_DEFAULT
    base: str = ""
    asides: tuple[str, ...] = ()
    _by_key: dict[DatabaseKey, ShownDatabase] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self._by_key.update((database.key, database) for database in self.databases)

    def database(self, key: DatabaseKey) -> ShownDatabase:
        """Return what is known of a database beside its steps."""
        return self._by_key.get(key) or ShownDatabase(key)

    def place(self, place: Place | None) -> str:
        """Return ``file:line``, "" for nothing."""
        return self.locate(place) if place else ""

    @property
    def nothing_to_do(self) -> bool:
        """Whether there is no step, and nothing stands in the way of one either."""
        plan = self.plan
        return not (plan.steps or plan.refusals or self.blocking or self.undecided)

    @property
    def undecided(self) -> bool:
        """Whether there is no step because something did not answer: unknown is not fine.

        Without etcd nobody knows which databases there are, so that no spec asks for any says
        nothing.
        """
        silent = any(still.unseen for still in self.plan.standstills)
        return not self.plan.steps and (silent or any(u.system == "etcd" for u in self.unseen))

    @property
    def blocking(self) -> tuple[ShownFinding, ...]:
        """The findings that keep the plan from being applied: denials and holds."""
        return tuple(found for found in self.findings if found.outcome in ("deny", "hold"))


def amount(count: int) -> str:
    """Return a large number for people: ``5.5 M``, ``12 k``, ``731``."""
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if count >= limit:
            scale = 1_000 if unit == "k" else limit
            return f"{_digits(count / scale)} {unit}"
    return str(count)


def size(count: int) -> str:
    """Return a number of bytes in binary units: ``2.1 GiB``."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{_digits(value)} {unit}"
        value /= 1024
    return f"{_digits(value)} TiB"


def rate(bytes_per_s: float) -> str:
    """Return a speed for people: ``62 MB/s``, ``340 kB/s``."""
    if bytes_per_s < 999_500:
        return f"{bytes_per_s / 1e3:.0f} kB/s"
    return f"{bytes_per_s / 1e6:.0f} MB/s"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 99.95 and round(value, 1) % 1 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return a time for people: ``25 ms``, ``40 s``, ``3 min``, ``24 h``."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 100:
        return f"{round(seconds)} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 100 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 shard`` or ``3 shards``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def listed(words: Iterable[str]) -> str:
    """Return ``a``, ``a and b``, ``a, b and c``."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def total_seconds(steps: Iterable[Step], parallel: int) -> float | None:
    """Return about how long the steps take, or None when no step says.

    The longer of the longest chain and of all work shared by ``parallel`` hands: no schedule is
    faster. Steps come in an order in which they may run.
    """
    ends: dict[str, float] = {}
    work, known = 0.0, False
    for step in steps:
        seconds = step.estimate.seconds or 0.0
        known = known or step.estimate.seconds is not None
        work += seconds
        ends[step.id] = seconds + max((ends.get(before, 0.0) for before in step.after), default=0.0)
    return max(max(ends.values()), work / max(parallel, 1)) if known else None
