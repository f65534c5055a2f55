"""The daemon's tenure as the one applier: it holds the applier's lease for as long as it leads.

So leadership *is* the lease that every apply needs, with the fencing token that etcd, PostgreSQL
and the platform check: a leader that was stopped and continued cannot write any more, and a person
who types ``shardwright apply`` meanwhile is told who leads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from reconciler.engine.ports import Store
from reconciler.engine.records import APPLIER
from reconciler.model.access import Lease, LeaseHeld


@dataclass(frozen=True, slots=True)
class Tenure:
    """A held lease. Applies under it run side by side, each with an id of its own."""

    lease: Lease
    _count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def numbered(self, id_: str) -> str:
        """Return an operation's id that no other operation of this tenure has."""
        return f"{id_}-{next(self._count)}"

    def is_own(self, id_: str) -> bool:
        """Whether an operation's id was made in this tenure: its number follows our token."""
        return f"-{self.lease.token}-" in id_


def stand(store: Store, actor: str, ttl_s: int) -> Tenure | str:
    """Try to lead: return the tenure, or who leads instead. Raises what the store raises."""
    try:
        return Tenure(store.acquire(APPLIER, actor, ttl_s))
    except LeaseHeld as held:
        return held.problem
