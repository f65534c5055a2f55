"""What Patroni's REST API says, as our own values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model.access import Login
from reconciler.model.names import MemberName
from reconciler.model.observed import ObservedMember, PatroniView, Role, Unseen
from reconciler.model.platform import PlatformMember

_COMPARED = frozenset(
    {
        "max_connections", "max_locks_per_transaction", "max_prepared_transactions",
        "max_wal_senders", "max_worker_processes",
    }
)  # fmt: skip
"""A standby needs at least its primary's values ("Administrator's Overview" of hot standby);
Patroni starts it with the primary's while the configuration says less
(``ConfigHandler.effective_configuration``)."""


def view_of(
    login: Login,
    own: list[Mapping[str, Any] | Unseen],
    cluster: Mapping[str, Any],
    config: Mapping[str, Any],
) -> PatroniView:
    """Return a shard by its members' own words, ``/cluster`` and ``/config``."""
    primary_at = max((_location(word) for word in own if not isinstance(word, Unseen)), default=0)
    members = tuple(
        observed_member(member, word, primary_at or None)
        for member, word in zip(login.members, own, strict=True)
        if not isinstance(word, Unseen)
    )
    return PatroniView(
        leader=_leader(cluster, members),
        members=members,
        parameters=parameters_of(config),
        synchronous=_as_text(config.get("synchronous_mode", False)) not in ("off", "false"),
        paused=bool(cluster.get("pause")),
        unseen_members=tuple(word for word in own if isinstance(word, Unseen)),
    )


def _leader(cluster: Mapping[str, Any], members: tuple[ObservedMember, ...]) -> MemberName | None:
    """Return etcd's leader, unless that member itself says that it is none (yet, or any more)."""
    for word in cluster.get("members", ()):
        if word.get("role") in ("leader", "standby_leader"):
            name = MemberName(word["name"])
            itself = next((m for m in members if m.name == name), None)
            return name if itself is None or itself.role is Role.PRIMARY else None
    return None


def observed_member(
    member: PlatformMember, word: Mapping[str, Any], primary_at: int | None
) -> ObservedMember:
    """Return a member by its own word; ``primary_at`` is the primary's WAL position, if known."""
    role = Role.PRIMARY if word.get("role") in ("primary", "master") else Role.STANDBY
    received = (word.get("xlog") or {}).get("received_location")
    lag = None
    if role is Role.STANDBY and received is not None and primary_at is not None:
        lag = max(0, primary_at - int(received))
    return ObservedMember(
        name=member.name,
        endpoint=member.endpoint,
        role=role,
        state=str(word.get("replication_state") or word.get("state", "unknown")),
        timeline=word.get("timeline"),
        lag_bytes=lag,
        synchronous=bool(word.get("sync_standby") or word.get("quorum_standby")),
        pending_restart=pending(word),
        lowered=_lowered(word),
    )


def _location(word: Mapping[str, Any]) -> int:
    """Return a primary's own WAL position; 0 from a standby."""
    return int((word.get("xlog") or {}).get("location") or 0)


def pending(word: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parameters that wait for a restart of this member."""
    return tuple(sorted(word.get("pending_restart_reason") or ()))


def _lowered(word: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the pending ones of ``_COMPARED`` whose new value is below the present one."""
    reasons = (word.get("pending_restart_reason") or {}).items()
    return tuple(sorted(name for name, why in reasons if name in _COMPARED and _is_less(why)))


def _is_less(why: object) -> bool:
    try:
        return isinstance(why, Mapping) and int(why["new_value"]) < int(why["old_value"])
    except (KeyError, TypeError, ValueError):
        return False


def parameters_of(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return ``postgresql.parameters`` of the dynamic configuration, as text."""
    parameters = (config.get("postgresql") or {}).get("parameters") or {}
    return tuple(sorted((name, _as_text(value)) for name, value in parameters.items()))


def _as_text(value: object) -> str:
    """Write a value as specs do: Patroni's YAML and JSON come back typed."""
    match value:
        case bool():
            return "on" if value else "off"
        case _:
            return str(value)
