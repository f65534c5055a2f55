"""Appliers that end in the middle, at every place where they write to etcd."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from reconciler.engine.ports import Store
from reconciler.engine.records import OPERATIONS
from reconciler.model.access import Lease, Versioned

Changes = dict[str, tuple[bytes | None, int | None]]


class CutOff(BaseException):
    """The end of an applier that no ``except Exception`` stops, as with kill -9."""


@dataclass
class CuttingStore:
    """The real store, that cuts its applier off once ``before`` or ``after`` each kind of write.

    ``met`` are the cuts made so far, by this store and by those of earlier appliers. After a cut
    nothing of this applier reaches etcd any more; only its lease is given back, so that the next
    one need not wait for it to run out.
    """

    real: Store
    when: str
    met: set[str] = field(default_factory=set)
    is_cut: bool = False

    def read(self, prefix: str) -> dict[str, Versioned]:
        self._alive()
        return self.real.read(prefix)

    def write(self, changes: Changes, lease: Lease) -> int:
        self._alive()
        self._cut("before", _kind(changes))
        version = self.real.write(changes, lease)
        self._cut("after", _kind(changes))
        return version

    def acquire(self, key: str, owner: str, ttl_s: int) -> Lease:
        return self.real.acquire(key, owner, ttl_s)

    def keep_alive(self, lease: Lease) -> None:
        self.real.keep_alive(lease)

    def release(self, lease: Lease) -> None:
        self.real.release(lease)

    def _cut(self, when: str, point: str) -> None:
        if when == self.when and point not in self.met:
            self.met.add(point)
            self.is_cut = True
        self._alive()

    def _alive(self) -> None:
        if self.is_cut:
            raise CutOff


def _kind(changes: Changes) -> str:
    """Name a write by what it says, the same for each attempt at the same step."""
    key, (value, _) = next(iter(changes.items()))
    place = re.sub(rf"{OPERATIONS}[^/]+/", "", key)
    if value is None:
        return f"removing {re.sub('[0-9]+', 'N', place)}"
    data = json.loads(value)
    if place.startswith("step/"):
        return f"{data['state']} {data['id']}"
    if place == "head":
        return f"head {data['result'].partition(' ')[0]}"
    return place
