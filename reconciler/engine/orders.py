"""What people order beside the specs: a database left alone for a while, a plan approved.

::

    /shardwright/v1/databases/<namespace>/<name>/suspended   by whom, since when, why
    /shardwright/v1/databases/<namespace>/<name>/approval    which plan, by whom, until when

Both are written under a short lease of their own, as they must work while a daemon leads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.engine.audit import Deed, write_audited
from reconciler.engine.ports import Store
from reconciler.engine.records import ROOT, database_prefix
from reconciler.model.access import Lease, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey
from reconciler.model.records import BROKEN, dump_record

_LEASE = ROOT + "ordering"
_LEASE_S = 5
HOURS = 24.0
"""How long an approval holds when nobody says."""


class NothingToApprove(ReconcilerError):
    """The daemon waits for no approval of this database.

    It asks for one when a plan holds a step whose class is `approval` in the spec's `autoApply`.
    """

    code = "DM203"


class ApprovalStale(ReconcilerError):
    """What was to be approved is not what waits any more: the spec or the steps are others now."""

    code = "DM204"


@dataclass(frozen=True, slots=True)
class Suspension:
    """Who suspended a database, since when (ISO 8601 UTC), and why."""

    actor: str
    since: str
    reason: str

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"suspended by {self.actor.partition(' ')[0]} since {self.since}{why}"


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved what needs it of a plan: its id, and until when (ISO 8601 UTC).

    ``marks`` are the steps that the id stood for when the daemon took it up, empty before: what is
    left of them may be gone on with.
    """

    id: str
    actor: str
    at: str
    until: str
    marks: frozenset[str] = frozenset()


def suspension_key(database: DatabaseKey) -> str:
    """Return where a database's suspension is."""
    return database_prefix(database) + "suspended"


def approval_key(database: DatabaseKey) -> str:
    """Return where the approval of a database's plan is."""
    return database_prefix(database) + "approval"


def suspend(store: Store, actor: str, database: DatabaseKey, reason: str, now: datetime) -> None:
    """Leave a database alone until it is resumed; a second one replaces the reason."""
    since = now.isoformat(timespec="seconds")
    record = {"actor": actor, "since": since, "reason": reason}
    deed = Deed(now, actor, "suspend", "ordered", reason, str(database))
    _write(store, deed, suspension_key(database), dump_record(record))


def resume(store: Store, actor: str, database: DatabaseKey, now: datetime) -> bool:
    """End a suspension; False when there was none."""
    deed = Deed(now, actor, "resume", "ordered", database=str(database))
    return _remove(store, deed, suspension_key(database))


def approval(id_: str, actor: str, now: datetime, hours: float = HOURS) -> Approval:
    """Return an approval that holds from now on."""
    until = (now + timedelta(hours=hours)).isoformat(timespec="seconds")
    return Approval(id_, actor, now.isoformat(timespec="seconds"), until)


def approve(store: Store, database: DatabaseKey, approval: Approval) -> None:
    """Approve; it replaces an earlier approval of the database."""
    record = {
        "id": approval.id, "actor": approval.actor, "at": approval.at, "until": approval.until,
        "marks": sorted(approval.marks),
    }  # fmt: skip
    deed = Deed(
        datetime.fromisoformat(approval.at), approval.actor, "approve", "ordered",
        f"{approval.id} until {approval.until}", str(database), plan=approval.id,
    )  # fmt: skip
    _write(store, deed, approval_key(database), dump_record(record))


def withdraw(store: Store, actor: str, database: DatabaseKey, now: datetime) -> bool:
    """Take an approval back; False when there was none."""
    deed = Deed(now, actor, "withdraw approval", "ordered", database=str(database))
    return _remove(store, deed, approval_key(database))


def decode_suspension(item: Versioned) -> Suspension:
    """Read a suspension; one that cannot be read suspends all the same."""
    try:
        data = json.loads(item.value)
        return Suspension(str(data["actor"]), str(data["since"]), str(data["reason"]))
    except BROKEN:
        return Suspension("somebody", "an unknown time", "its record cannot be read")


def approval_of(store: Store, database: DatabaseKey) -> Approval | None:
    """Return the approval of a database, None without one that can be read."""
    key = approval_key(database)
    return decode_approval(store.read(key).get(key))


def decode_approval(item: Versioned | None) -> Approval | None:
    """Read an approval; None when there is none that can be read."""
    if item is None:
        return None
    try:
        data = json.loads(item.value)
        return Approval(
            str(data["id"]), str(data["actor"]), str(data["at"]), str(data["until"]),
            frozenset(data["marks"]),
        )  # fmt: skip
    except BROKEN:
        return None


@contextmanager
def ordering(store: Store, actor: str) -> Iterator[Lease]:
    """Hold the short lease of one order. Raises LeaseHeld."""
    lease = store.acquire(_LEASE, actor, _LEASE_S)
    try:
        yield lease
    finally:
        store.release(lease)


def _write(store: Store, deed: Deed, key: str, value: bytes | None) -> None:
    with ordering(store, deed.actor) as lease:
        write_audited(store, lease, {key: (value, None)}, deed)


def _remove(store: Store, deed: Deed, key: str) -> bool:
    if key not in store.read(key):
        return False
    _write(store, deed, key, None)
    return True
