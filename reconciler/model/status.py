"""What the daemon says of a database: conditions in kstatus' sense, and when it looks again."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model.names import DatabaseKey


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether something serves: ``ready`` is True, False, or Unknown when it did not answer.

    ``reason`` says why, or what else is to be known of what serves.
    """

    ready: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The daemon's word of one database after a round; ``engine.conditions`` says it to people.

    ``ready``: True, False, or None while nobody knows. ``reconciling``: the daemon works on it, or
    will by itself. ``stalled``: only a person or a commit helps. ``reason`` is CamelCase and for
    machines, ``message`` for people. ``since`` is when these last changed, ``until`` when a hold is
    expected to end (ISO 8601 UTC, empty if unknown).
    ``approval`` is the id of what waits for one. ``handled`` echoes the last request to
    reconcile. ``failures``: rounds that failed in a row. ``serving``: what its last look at the
    shards says, None before one.
    """

    database: DatabaseKey
    ready: bool | None
    reconciling: bool
    stalled: bool
    reason: str
    message: str
    source: str = ""
    attempted: str = ""
    applied: str = ""
    since: str = ""
    until: str = ""
    approval: str = ""
    handled: str = ""
    failures: int = 0
    serving: Readiness | None = None
