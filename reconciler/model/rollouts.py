"""How far a change is that goes to some shards first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """The canaries of a database have a change; kept until all shards have it.

    ``change`` is a digest of what is rolled out; ``since``, ISO 8601 in UTC, when its canaries had
    it. ``stopped`` is why it goes no further, empty while it may; ``promoted``: a person lets it go
    on, whatever the gates say. ``version`` is etcd's, 0 for one that is not written.
    """

    change: str
    since: str
    stopped: str = ""
    promoted: bool = False
    version: int = 0
