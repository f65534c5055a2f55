"""One request to one member's Patroni: TLS both ways, basic authentication, a deadline."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reconciler.model.access import Login
from reconciler.model.errors import ReconcilerError
from reconciler.model.platform import PlatformMember, TlsFiles

if TYPE_CHECKING:
    import urllib3

_CONNECT_S = 1.0
_LEAST_S = 0.05
_CONNECTIONS_MAX = 4
_POOLS_MAX = 256


class PatroniUnreachable(ReconcilerError):
    """No member's Patroni answered, so the shard's state is unknown.

    Patroni runs every member and answers also when its PostgreSQL is down. Silence of all of them
    means that their host, network or platform is down, or their etcd. Nothing is changed on such a
    shard.
    """

    code = "PA101"
    transient = True


class PatroniRefused(ReconcilerError):
    """Patroni refused the client certificate or the password of its REST API."""

    code = "PA102"


class NoAnswer(Exception):
    """One member did not answer, and why. Never leaves the edge."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """On one line, bounded: it is shown to people."""
        return " ".join(self.body.decode(errors="replace").split())[:300]

    def json(self) -> Any:
        """Raises NoAnswer when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise NoAnswer(f"no JSON: {self.text[:80]}") from None


@dataclass(slots=True)
class PatroniHttp:
    """Keeps connections open, by client certificate."""

    _pools: dict[TlsFiles, urllib3.PoolManager] = field(default_factory=dict, repr=False)

    def ask(
        self,
        login: Login,
        member: PlatformMember,
        method: str,
        path: str,
        until: float,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Return the answer, whatever its status. ``until`` is on the monotonic clock.

        Raises NoAnswer, and PatroniRefused when the login is refused.
        """
        import urllib3

        left = max(_LEAST_S, until - time.monotonic())
        name, password = login.patroni_api.role, login.patroni_api.password
        token = base64.b64encode(f"{name}:{password}".encode()).decode()
        host = f"https://{member.endpoint.host}:{member.endpoint.patroni_port}"
        try:
            response = self._pool(login.tls).request(
                method,
                host + path,
                body=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
                timeout=urllib3.Timeout(connect=min(_CONNECT_S, left), read=left),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NoAnswer(_reason(error)) from None
        if response.status in (401, 403):
            raise PatroniRefused(
                f"shard {login.key} member {member.name}",
                f"{method} {path} as {name}: HTTP {response.status}",
                remedy="the platform's stored password of Patroni's API differs from the member's",
            )
        return Answer(response.status, response.data)

    def _pool(self, tls: TlsFiles) -> urllib3.PoolManager:
        if tls not in self._pools:
            import urllib3

            self._pools[tls] = urllib3.PoolManager(
                num_pools=_POOLS_MAX,
                maxsize=_CONNECTIONS_MAX,
                retries=False,
                cert_reqs="CERT_REQUIRED",
                ca_certs=tls.ca,
                cert_file=tls.cert,
                key_file=tls.key,
            )
        return self._pools[tls]


def _reason(error: Exception) -> str:
    from urllib3 import exceptions as http

    match error:
        case http.ConnectTimeoutError() | http.ReadTimeoutError():
            return "no answer in time"
        case http.NewConnectionError():
            return "no connection"
        case http.SSLError():
            return f"TLS handshake failed: {error}"
    return f"connection broke ({type(error).__name__})"
