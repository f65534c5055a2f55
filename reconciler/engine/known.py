"""What etcd tells of databases beside their own records: the journal, and the daemon's word."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from reconciler.engine.conditions import Facts
from reconciler.engine.operations import Operations, read_operations
from reconciler.engine.ports import Store
from reconciler.engine.records import APPLIER, OPERATIONS
from reconciler.engine.status import DAEMON, STATUS, read_statuses
from reconciler.model.access import Versioned
from reconciler.model.names import DatabaseKey
from reconciler.model.records import BROKEN
from reconciler.model.status import Status


@dataclass(frozen=True, slots=True)
class Known:
    """The applies, and what the daemon said who leads now, or led last.

    ``daemon``: its record as it is in etcd, None when none has run. ``applier``: who holds the
    applier's lease and may be alive, empty when nobody does.
    """

    operations: Operations = field(default_factory=Operations)
    statuses: Mapping[DatabaseKey, Status] = field(default_factory=dict)
    daemon: Mapping[str, Any] | None = None
    applier: str = ""

    @property
    def is_led(self) -> bool:
        """Whether the daemon that said all this still leads."""
        return self.daemon is not None and self.daemon["actor"] == self.applier

    def facts(self, key: DatabaseKey, is_gone: Callable[[str], bool]) -> Facts:
        """Return what is known of a database; the word of a daemon that is gone is not."""
        last = next((o for o in reversed(self.operations.all) if key in o.databases), None)
        told = self.statuses.get(key) if self.is_led else None
        return Facts(
            key,
            serving=told.serving if told else None,
            last=last,
            cut_off=last is not None and last.result == "running" and is_gone(last.actor),
            told=told,
        )


def read_known(store: Store, is_gone: Callable[[str], bool]) -> Known:
    """Read it; ``is_gone`` tells that a process is surely dead, whose lease may still run.

    What cannot be read is left out: it only tells. Raises what the store raises.
    """
    owner = str((_parsed(store.read(APPLIER).get(APPLIER), "owner") or {}).get("owner", ""))
    return Known(
        operations=read_operations(store.read(OPERATIONS)),
        statuses=read_statuses(store.read(STATUS)),
        daemon=_parsed(store.read(DAEMON).get(DAEMON), "actor", "sources"),
        applier="" if is_gone(owner) else owner,
    )


def _parsed(item: Versioned | None, *needed: str) -> dict[str, Any] | None:
    with suppress(*BROKEN):
        data: dict[str, Any] = json.loads(item.value) if item else {}
        return data if all(name in data for name in needed) else None
    return None
