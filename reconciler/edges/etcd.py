"""etcd, where Shardwright keeps its records: reads at one revision, writes under a lease.

Every write is one transaction that compares first: the mod revision of each record it rests on, and
the *create* revision of the lease's key. That revision is the fencing token; etcd makes it, so it
grows with each holder, and a former holder's write can never pass, however late it arrives.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reconciler.edges.etcd_gateway import (
    EtcdTimeouts,
    Gateway,
    HistoryCompacted,
    LeaseGone,
    base64_text,
    prefix_end,
    refuse,
)
from reconciler.model.access import ConflictingWrite, FencedOff, Lease, LeaseHeld, Versioned
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.names import FencingToken
from reconciler.model.platform import TlsFiles

PAGE_KEYS = 500
"""Keys in one answer; with etcd's limit of 1.5 MiB a value, what bounds an answer's size."""
READ_KEYS_MAX = 100_000
"""More keys than this under one prefix are not ours to have made."""
READ_TRIES = 3
"""How often a read of several pages begins anew because its revision was compacted meanwhile."""
WRITE_CHANGES_MAX = 120
"""etcd takes 128 operations a transaction (``--max-txn-ops``)."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """One comparison of a transaction, and how to read it back when it failed."""

    key: str
    version: int


class StoreReadsOnly(ReconcilerError):
    """A command that only looks tried to write to etcd. It is a bug of ours; nothing was sent."""

    code = "ET120"


class EtcdStore:
    """The port ``Store`` on etcd's JSON gateway. Safe to share between threads.

    ``reads_only``: nothing but a range is ever asked of etcd; a write is refused before it is sent.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        tls: TlsFiles | None = None,
        timeouts: EtcdTimeouts = EtcdTimeouts(),  # noqa: B008 (frozen)
        *,
        login: EtcdLogin | None = None,
        reads_only: bool = False,
    ) -> None:
        self._reads_only = reads_only
        self._etcd = Gateway(tuple(e.rstrip("/") for e in endpoints), tls, timeouts, login)

    def read(self, prefix: str) -> dict[str, Versioned]:
        """Return all keys under a prefix as of one revision, in order.

        Pages after the first name the first one's revision, so that a write in between is not half
        seen; when that was compacted, all is read anew, a few times. Raises StoreUnreachable,
        StoreSilent, HistoryCompacted.
        """
        for _ in range(READ_TRIES - 1):
            try:
                return self._read(prefix)
            except HistoryCompacted:
                continue
        return self._read(prefix)

    def _read(self, prefix: str) -> dict[str, Versioned]:
        found: dict[str, Versioned] = {}
        start, end = prefix.encode() or b"\0", prefix_end(prefix.encode())
        request: dict[str, object] = {"range_end": base64_text(end), "limit": str(PAGE_KEYS)}
        while True:
            answer = self._call("/v3/kv/range", {**request, "key": base64_text(start)})
            pairs = answer.get("kvs", ())
            found.update(_versioned(pair) for pair in pairs)
            if not answer.get("more") or not pairs:
                return found
            if len(found) > READ_KEYS_MAX:
                refuse(self._etcd, f"more than {READ_KEYS_MAX} keys are under {prefix}")
            start = base64.b64decode(pairs[-1]["key"]) + b"\0"
            request.setdefault("revision", answer["header"]["revision"])

    def write(self, changes: dict[str, tuple[bytes | None, int | None]], lease: Lease) -> int:
        """Write all or nothing, in one transaction, under a lease; see the port.

        Raises ConflictingWrite, FencedOff, WriteOutcomeUnknown, StoreUnreachable, StoreFull.
        """
        if len(changes) > WRITE_CHANGES_MAX:
            refuse(self._etcd, f"{len(changes)} changes at once; at most {WRITE_CHANGES_MAX}")
        expected = [
            _Expected(key, version) for key, (_, version) in changes.items() if version is not None
        ]
        body = {
            "compare": [_held(lease), *(_unchanged(e) for e in expected)],
            "success": [_operation(key, value) for key, (value, _) in changes.items()],
            "failure": [_look(lease.key), *(_look(e.key) for e in expected)],
        }
        answer = self._call("/v3/kv/txn", body, repeatable=False)
        if answer.get("succeeded"):
            return int(answer["header"]["revision"])
        looks = [response["response_range"] for response in answer["responses"]]
        self._check_held(lease, looks[0])
        for e, look in zip(expected, looks[1:], strict=True):
            _check_unchanged(e, look)
        raise ConflictingWrite("etcd", "a record changed back and forth while it was written")

    def acquire(self, key: str, owner: str, ttl_s: int) -> Lease:
        """Take the lease at ``key``; it frees itself ``ttl_s`` after the last ``keep_alive``.

        etcd rounds very short times up to its own minimum (1.5 election time-outs: 2 s by default).
        Raises LeaseHeld, naming the owner and since when.
        """
        lease_id = int(self._call("/v3/lease/grant", {"TTL": str(ttl_s)})["ID"])
        since = datetime.now(UTC).isoformat(timespec="seconds")
        value = json.dumps({"owner": owner, "since": since}).encode()
        put = {"key": base64_text(key), "value": base64_text(value), "lease": str(lease_id)}
        look = {"request_range": {"key": base64_text(key)}}
        # Repeatable: a second attempt finds the first one's key with our lease on it.
        body = {
            "compare": [_unchanged(_Expected(key, 0))],
            "success": [{"request_put": put}, look],
            "failure": [look],
        }
        try:
            answer = self._call("/v3/kv/txn", body)
        except LeaseGone:
            raise _fenced_off(Lease(key, lease_id, FencingToken(0))) from None
        kvs = answer["responses"][-1]["response_range"].get("kvs", ())
        if kvs and int(kvs[0].get("lease", 0)) == lease_id:
            return Lease(key, lease_id, FencingToken(int(kvs[0]["create_revision"])))
        self._revoke(lease_id)
        raise _lease_held(key, kvs)

    def keep_alive(self, lease: Lease) -> None:
        """Renew. Raises FencedOff when the lease has run out or its key was deleted."""
        answer = self._call("/v3/lease/keepalive", {"ID": str(lease.lease_id)})
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise _fenced_off(lease)
        self._check_held(lease, self._call("/v3/kv/range", {"key": base64_text(lease.key)}))

    def release(self, lease: Lease) -> None:
        """Give it up; nothing happens when it has run out."""
        self._revoke(lease.lease_id)

    def _revoke(self, lease_id: int) -> None:
        try:
            self._call("/v3/lease/revoke", {"ID": str(lease_id)})
        except LeaseGone:
            return

    def _check_held(self, lease: Lease, look: dict[str, Any]) -> None:
        kvs = look.get("kvs", ())
        if not kvs or int(kvs[0]["create_revision"]) != lease.token:
            raise _fenced_off(lease)

    def _call(self, path: str, body: dict[str, Any], *, repeatable: bool = True) -> dict[str, Any]:
        if self._reads_only and path != "/v3/kv/range":
            raise StoreReadsOnly(path, "this command only looks, and this would write")
        return self._etcd.call(path, body, repeatable=repeatable)


def _versioned(pair: dict[str, str]) -> tuple[str, Versioned]:
    key = base64.b64decode(pair["key"]).decode(errors="replace")
    return key, Versioned(base64.b64decode(pair.get("value", "")), int(pair["mod_revision"]))


def _held(lease: Lease) -> dict[str, str]:
    return {
        "key": base64_text(lease.key),
        "target": "CREATE",
        "result": "EQUAL",
        "create_revision": str(lease.token),
    }


def _unchanged(expected: _Expected) -> dict[str, str]:
    """Version 0 is etcd's own word for a key that is absent."""
    return {
        "key": base64_text(expected.key),
        "target": "MOD",
        "result": "EQUAL",
        "mod_revision": str(expected.version),
    }


def _operation(key: str, value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"request_delete_range": {"key": base64_text(key)}}
    return {"request_put": {"key": base64_text(key), "value": base64_text(value)}}


def _look(key: str) -> dict[str, Any]:
    return {"request_range": {"key": base64_text(key), "keys_only": True}}


def _check_unchanged(expected: _Expected, look: dict[str, Any]) -> None:
    kvs = look.get("kvs", ())
    seen = int(kvs[0]["mod_revision"]) if kvs else 0
    if seen == expected.version:
        return
    was = f"version {expected.version}" if expected.version else "absent"
    now = f"at version {seen}" if seen else "absent"
    raise ConflictingWrite(
        f"etcd {expected.key}",
        f"somebody else changed it: it was {was} when read and is {now} now",
        remedy="plan again; the plan then rests on what is there now",
    )


def _fenced_off(lease: Lease) -> FencedOff:
    return FencedOff(
        f"lease {lease.key}",
        f"it ran out (token {lease.token}); nothing of this write has happened",
        remedy="run apply again: it resumes from its journal",
    )


def _lease_held(key: str, kvs: list[dict[str, str]]) -> LeaseHeld:
    who = "somebody who has just let go"
    if kvs:
        try:
            holder = json.loads(base64.b64decode(kvs[0].get("value", "")))
            who = f"{holder['owner']}, since {holder['since']}"
        except (ValueError, KeyError, TypeError):
            who = "an unknown owner"
    return LeaseHeld(
        f"lease {key}",
        f"held by {who}",
        remedy="wait for it to end; if that process is dead, its lease ends by itself soon",
    )
