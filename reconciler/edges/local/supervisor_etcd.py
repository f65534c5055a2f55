"""What a supervisor asks of etcd and Patroni: read one scope, give up one leader lease.

On the standard library alone (etcd's JSON gateway over ``http.client``): there is a supervisor for
every member, and each library it loads is paid for that often.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import AUTHENTICATE, EtcdLogin, asks_for_login, needs_no_login
from reconciler.workflow.failover import (
    GiveUpLease,
    LeaderKey,
    ScopeView,
    Switchover,
    Unseen,
)

_ANSWER_BYTES_MAX = 8 * 1024 * 1024
#: States in which a member's PostgreSQL runs (Patroni's PostgresqlState.RUNNING; older: streaming).
_RUNNING = ("running", "streaming")


class LeaseUnreachable(ReconcilerError):
    """Etcd or a Patroni did not answer the supervisor in time.

    The supervisor gives a dead primary's lease up only when it has read and changed the leader key.
    Without an answer nothing is given up: Patroni fails over when its ttl has run out.
    """

    code = "LP140"
    transient = True


class _LoginAsked(LeaseUnreachable):
    """Etcd wants a token, or a newer one; what it refused so has not happened."""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """How to reach etcd: endpoints (tried in turn), a client's certificate files, and a login."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    login: EtcdLogin | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What etcd holds about one scope: the view to decide on, and the members' REST addresses."""

    view: ScopeView
    api_urls: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class ScopeStore:
    """Reads and gives up one Patroni scope's leader key. ``prefix`` ends before the scope."""

    access: EtcdAccess
    prefix: str
    scope: str
    timeout_s: float = 1.0
    _token: str | None = field(default=None, repr=False)
    _tls: ssl.SSLContext | None = field(default=None, repr=False)

    def read(self) -> Scope:
        """Read the whole scope in one linearizable request.

        Raises LeaseUnreachable when no endpoint answers.
        """
        root = f"{self.prefix}/{self.scope}/"
        answer = self._call("/v3/kv/range", {"key": _b64(root), "range_end": _b64(_end(root))})
        pairs = {_text(kv["key"]).removeprefix(root): kv for kv in answer.get("kvs", ())}
        return _decode_scope(pairs)

    def give_up(self, order: GiveUpLease) -> bool:
        """Delete the leader key if it is still as ordered, then end its lease if so ordered.

        One transaction compares and deletes; etcd has no conditional revoke, and an unconditional
        one could take a lease that a restarted Patroni has renewed. Deleting is also what Patroni
        does when it releases the key (``Etcd3._delete_leader``). Return False when the key or
        ``/sync`` has changed. Raises LeaseUnreachable.
        """
        leader = _b64(f"{self.prefix}/{self.scope}/leader")
        sync = _b64(f"{self.prefix}/{self.scope}/sync")
        compare = [
            {"key": leader, "target": "VALUE", "value": _b64(order.member)},
            {"key": leader, "target": "LEASE", "lease": str(order.lease)},
            {"key": sync, "target": "MOD", "mod_revision": str(order.sync_revision)},
        ]
        success = [{"request_delete_range": {"key": leader}}]
        answer = self._call("/v3/kv/txn", {"compare": compare, "success": success})
        if not answer.get("succeeded"):
            return False
        if order.revoke:
            self._end_lease(order.lease)
        return True

    def _end_lease(self, lease: int) -> None:
        """Remove the dead member's other keys too; that the leader key is gone is what counts."""
        try:
            self._call("/v3/lease/revoke", {"ID": str(lease)})
        except LeaseUnreachable:
            return

    def received(self, api_url: str) -> int:
        """Ask a standby's Patroni up to where it holds the WAL; 0 when it does not say.

        The same numbers as Patroni's own leader race compares (``_MemberStatus``).
        """
        try:
            _, answer = self._request("GET", f"{api_url.rstrip('/')}", "", None)
        except (OSError, http.client.HTTPException, ValueError):
            return 0
        wal = answer.get("xlog")
        if not isinstance(wal, dict) or wal.get("location"):
            return 0
        return max(int(wal.get("received_location") or 0), int(wal.get("replayed_location") or 0))

    def is_kept(self, api_url: str) -> bool:
        """Ask a Patroni whether its loop runs and has seen etcd; False when it does not say."""
        try:
            _, answer = self._request("GET", f"{api_url}/patroni", "", None)
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return bool(answer.get("dcs_last_seen"))

    def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask as the login's user, with another token once when etcd asks for one."""
        if self._token is None:
            self._log_in()
        try:
            return self._ask(path, body)
        except _LoginAsked:
            self._log_in()
        return self._ask(path, body)

    def _log_in(self) -> None:
        self._token = ""
        if self.access.login is None:
            return
        try:
            password = Path(self.access.login.password_file).read_text(encoding="utf-8").strip()
            body = {"name": self.access.login.user, "password": password}
            self._token = str(self._ask(AUTHENTICATE, body)["token"])
        except OSError:
            return  # etcd itself says whether it asks for a login
        except LeaseUnreachable as error:
            if not needs_no_login(error.problem):
                self._token = None
                raise

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        problem, token = "no endpoints", self._token or ""
        for endpoint in self.access.endpoints:
            try:
                status, answer = self._request("POST", endpoint, path, body, token)
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return answer
            message = str(answer.get("error") or answer.get("message"))
            if asks_for_login(message, token):
                raise _LoginAsked("etcd", message, remedy="run `shardwright platform up`")
            problem = f"status {status}: {message}"
        raise LeaseUnreachable("etcd", problem, remedy="look at the platform's etcd log")

    def _request(
        self, method: str, base: str, path: str, body: Mapping[str, Any] | None, token: str = ""
    ) -> tuple[int, dict[str, Any]]:
        url = urlsplit(base)
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(
                url.hostname or "", url.port, timeout=self.timeout_s, context=self._context()
            )
        else:
            connection = http.client.HTTPConnection(
                url.hostname or "", url.port, timeout=self.timeout_s
            )
        try:
            text = None if body is None else json.dumps(body)
            headers = {"Authorization": token} if token else {}
            connection.request(method, url.path + path or "/", text, headers)
            response = connection.getresponse()
            answer = json.loads(response.read(_ANSWER_BYTES_MAX))
        except OSError:
            self._tls = None  # certificates may have been rotated: read anew by the next request
            raise
        finally:
            connection.close()
        return response.status, answer if isinstance(answer, dict) else {}

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self.access.ca or None)
            if self.access.cert:
                self._tls.load_cert_chain(self.access.cert, self.access.key)
        return self._tls


def _decode_scope(pairs: Mapping[str, Mapping[str, Any]]) -> Scope:
    """Turn Patroni's keys into a view. What is not as Patroni writes it counts as not there."""
    leader = pairs.get("leader")
    sync = _json(pairs.get("sync"))
    members = {
        name.removeprefix("members/"): _json(kv)
        for name, kv in pairs.items()
        if name.startswith("members/")
    }
    standbys = str(sync.get("sync_standby") or "").split(",")
    view = ScopeView(
        leader=(leader and LeaderKey(_text(leader["value"]), int(leader.get("lease", 0)))) or None,
        sync_leader=str(sync.get("leader") or ""),
        sync_standbys=tuple(sorted(name.strip() for name in standbys if name.strip())),
        sync_revision=int((pairs.get("sync") or {}).get("mod_revision", 0)),
        running=tuple(sorted(n for n, m in members.items() if m.get("state") in _RUNNING)),
        switchover=_switchover(_json(pairs.get("failover"))),
        paused=bool(_json(pairs.get("config")).get("pause")),
    )
    urls = {name: str(member.get("api_url") or "") for name, member in members.items()}
    return Scope(view, tuple(sorted((name, url) for name, url in urls.items() if url)))


def _switchover(value: Mapping[str, Any]) -> Switchover | None:
    """Read ``/failover``; one that is scheduled for later is no reason for a shutdown now."""
    if not value.get("leader") or value.get("scheduled_at"):
        return None
    return Switchover(str(value["leader"]), str(value.get("member") or ""))


def read_view(store: ScopeStore) -> ScopeView | Unseen:
    """Read a scope's view; a silent etcd is a value, not an error."""
    try:
        return store.read().view
    except LeaseUnreachable as error:
        return Unseen(error.problem)


def _json(kv: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        value = json.loads(_text(kv["value"])) if kv else {}
    except (ValueError, KeyError):
        return {}
    return value if isinstance(value, dict) else {}


def _end(prefix: str) -> str:
    """Return the first key after all that start with ``prefix`` (which ends in a slash)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()
