"""The daemon's own records in etcd: status of databases and sources, and requests to look now.

/shardwright/v1/status/<namespace>/<database>      conditions of one database
/shardwright/v1/daemon                             who leads, and what its sources say
/shardwright/v1/requests/<namespace>/<database>    "reconcile now", by a person
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from reconciler.engine.ports import Store
from reconciler.engine.reconcile import UP_TO_DATE, Again, Conclusion
from reconciler.engine.records import ROOT
from reconciler.engine.sources import SourceState
from reconciler.model.access import Lease, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace
from reconciler.model.records import BROKEN, dump_record, unreadable
from reconciler.model.status import Readiness, Status

STATUS = ROOT + "status/"
DAEMON = ROOT + "daemon"
REQUESTS = ROOT + "requests/"
_REQUEST_LEASE = ROOT + "requesting"
_LEASE_S = 5
PROBLEMS_KEPT = 20
"""Problems of a quarantined revision that its record names; the log has all of them."""


class NotFollowed(ReconcilerError):
    """A database is none of those that the daemon follows."""

    code = "DM201"


class NotAnswered(ReconcilerError):
    """The daemon did not look at a database in the time that was given to it.

    Perhaps none runs, or it works on that database now; the request stays until it is answered.
    """

    code = "DM202"
    transient = True


def status_key(database: DatabaseKey) -> str:
    """Return where a database's status is."""
    return f"{STATUS}{database.namespace}/{database.name}"


def database_of(key: str, prefix: str) -> DatabaseKey | None:
    """Return the database that a key under a prefix belongs to."""
    parts = key.removeprefix(prefix).split("/")
    if not key.startswith(prefix) or len(parts) != 2:
        return None
    return DatabaseKey(Namespace(parts[0]), DatabaseName(parts[1]))


def concluded(
    before: Status, conclusion: Conclusion, *, source: str, revision: str, handled: str,
    failures: int, now: datetime,
) -> Status:  # fmt: skip
    """Return the status after a round; ``since`` moves only when a condition does."""
    after = Status(
        database=before.database,
        ready=conclusion.ready,
        reconciling=conclusion.reconciling,
        stalled=conclusion.stalled,
        reason=conclusion.reason,
        message=conclusion.message,
        source=source,
        attempted=revision,
        applied=revision if _is_applied(conclusion) else before.applied,
        until=conclusion.until,
        approval=conclusion.approval,
        handled=handled or before.handled,
        failures=failures if conclusion.again is Again.BACKOFF else 0,
        serving=conclusion.serving or before.serving,
    )
    same = _conditions(before) == _conditions(after)
    since = before.since if same else now.isoformat(timespec="seconds")
    return replace(after, since=since)


def _is_applied(conclusion: Conclusion) -> bool:
    return conclusion.applied or conclusion.reason == UP_TO_DATE


def _conditions(status: Status) -> tuple[object, ...]:
    serves = status.serving.ready if status.serving else ""
    return status.ready, status.reconciling, status.stalled, status.reason, serves


def encode_status(status: Status) -> bytes:
    """Return a status as its record."""
    return dump_record(
        {
            "ready": status.ready,
            "reconciling": status.reconciling,
            "stalled": status.stalled,
            "reason": status.reason,
            "message": status.message,
            "source": status.source,
            "lastAttemptedRevision": status.attempted,
            "lastAppliedRevision": status.applied,
            "since": status.since,
            "until": status.until,
            "approval": status.approval,
            "lastHandledReconcileAt": status.handled,
            "failures": status.failures,
            "serving": status.serving and [status.serving.ready, status.serving.reason],
        }
    )


def read_statuses(found: dict[str, Versioned]) -> dict[DatabaseKey, Status]:
    """Read every status under STATUS; one that cannot be read is left out, it is made again."""
    statuses: dict[DatabaseKey, Status] = {}
    for key, item in found.items():
        database = database_of(key, STATUS)
        if database is None:
            continue
        try:
            statuses[database] = _status(database, json.loads(item.value))
        except BROKEN:
            continue
    return statuses


def _status(database: DatabaseKey, data: dict[str, Any]) -> Status:
    return Status(
        database=database,
        ready=data["ready"],
        reconciling=bool(data["reconciling"]),
        stalled=bool(data["stalled"]),
        reason=str(data["reason"]),
        message=str(data["message"]),
        source=str(data["source"]),
        attempted=str(data["lastAttemptedRevision"]),
        applied=str(data["lastAppliedRevision"]),
        since=str(data["since"]),
        until=str(data["until"]),
        approval=str(data.get("approval", "")),
        handled=str(data["lastHandledReconcileAt"]),
        failures=int(data["failures"]),
        serving=Readiness(*map(str, data["serving"])) if data.get("serving") else None,
    )


def encode_daemon(
    actor: str,
    since: str,
    states: tuple[SourceState, ...],
    accepted: Mapping[str, str],
    at: str,
    mistakes: tuple[ReconcilerError, ...] = (),
) -> bytes:
    """Return the daemon's own record: who it is, what its sources say, and what was in force.

    ``since`` is when it began to lead, ``at`` when it says so. ``accepted`` is the revision that
    was in force last, by the source's name. ``mistakes`` keep its newest configuration out.
    """
    sources = [
        {
            "name": state.name,
            "revision": state.revision,
            "attempted": state.attempted,
            "problems": [_told(problem) for problem in state.problems[:PROBLEMS_KEPT]],
            "problemCount": len(state.problems),
            "unreachable": _told(state.unreachable) if state.unreachable else "",
            "accepted": accepted.get(state.name, ""),
        }
        for state in states
    ]
    mine = {"actor": actor, "since": since, "at": at}
    told = [_told(one) for one in mistakes[:PROBLEMS_KEPT]]
    return dump_record({**mine, "sources": sources, "configuration": told})


def read_accepted(found: Mapping[str, Versioned]) -> dict[str, str]:
    """Return the revision of each source that the daemon who led last had in force.

    Empty when none has led yet. Raises RecordUnreadable.
    """
    item = found.get(DAEMON)
    if item is None:
        return {}
    try:
        sources = json.loads(item.value)["sources"]
        told = {str(one["name"]): str(one.get("accepted") or one["revision"]) for one in sources}
    except BROKEN as problem:
        raise unreadable(DAEMON, problem) from problem
    return {name: revision for name, revision in told.items() if revision}


def _told(error: ReconcilerError) -> str:
    place = f"{error.where} " if error.where else ""
    remedy = f"; try: {error.remedy}" if error.remedy else ""
    return f"{error.code} {place}{error.subject}: {error.problem}{remedy}"


def request(store: Store, actor: str, database: DatabaseKey, now: datetime) -> str:
    """Ask the daemon to look at a database now; returns the mark that its status will echo."""
    mark = now.isoformat(timespec="milliseconds")
    lease = store.acquire(_REQUEST_LEASE, actor, _LEASE_S)
    try:
        key = f"{REQUESTS}{database.namespace}/{database.name}"
        store.write({key: (dump_record({"at": mark, "actor": actor}), None)}, lease)
    finally:
        store.release(lease)
    return mark


def requests(store: Store) -> dict[DatabaseKey, tuple[str, int]]:
    """Return the marks of all open requests and their versions."""
    found: dict[DatabaseKey, tuple[str, int]] = {}
    for key, item in store.read(REQUESTS).items():
        database = database_of(key, REQUESTS)
        try:
            mark = str(json.loads(item.value)["at"])
        except BROKEN:
            mark = "unreadable"
        if database:
            found[database] = (mark, item.version)
    return found


def write_status(
    store: Store, lease: Lease, database: DatabaseKey, status: Status | None, answered: int = 0
) -> None:
    """Write a status (None: it is gone); a request at version ``answered`` ends in the same write.

    Not compared with what is there: only who leads writes here, which the lease makes sure of.
    """
    value = encode_status(status) if status else None
    changes: dict[str, tuple[bytes | None, int | None]] = {status_key(database): (value, None)}
    if answered:
        changes[f"{REQUESTS}{database.namespace}/{database.name}"] = (None, answered)
    store.write(changes, lease)
