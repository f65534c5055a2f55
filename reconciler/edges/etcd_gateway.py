"""etcd's v3 JSON gateway over urllib3: one call, several endpoints, typed failures.

Not etcd3gw: it speaks to one endpoint, takes one time-out for connecting and reading together, and
folds etcd's gRPC codes into HTTP's, so that *no leader* (nothing happened) and *request timed out*
(may have happened) cannot be told apart. For a write that is the whole question.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import (
    AUTHENTICATE,
    EtcdLogin,
    asks_for_login,
    is_forbidden,
    needs_no_login,
)
from reconciler.model.platform import TlsFiles

if TYPE_CHECKING:
    import urllib3

_NOT_FOUND, _EXHAUSTED, _OUT_OF_RANGE, _UNAVAILABLE = 5, 8, 11, 14
_DEADLINE = 4
"""gRPC status codes as the gateway reports them in ``code``."""
_CONNECTIONS_MAX = 8


class StoreUnreachable(ReconcilerError):
    """No etcd endpoint accepted a connection.

    Shardwright keeps its routing maps, journals and leases in etcd. Without it nothing can be
    planned or applied; the databases themselves go on, as long as Patroni's etcd answers.
    """

    code = "ET101"
    transient = True


class StoreSilent(ReconcilerError):
    """Etcd took a request and did not answer it in time, or has no leader.

    A member without a quorum, a slow disk or an overloaded machine. Reads change nothing and are
    simply tried again.
    """

    code = "ET102"
    transient = True


class WriteOutcomeUnknown(ReconcilerError):
    """A write was sent to etcd and no answer came back: it may have happened.

    Never repeated blindly. The next look at etcd shows which of the two is true, because every
    write is a compare-and-set and happens whole or not at all.
    """

    code = "ET103"
    transient = True


class StoreFull(ReconcilerError):
    """Etcd refuses writes because its database has reached its quota (NOSPACE).

    It stays so until history is compacted, the members are defragmented and the alarm is disarmed.
    """

    code = "ET104"


class StoreRefused(ReconcilerError):
    """Etcd understood the request and refused it."""

    code = "ET105"


class StoreCertificateRefused(ReconcilerError):
    """The TLS handshake with etcd failed: one side does not trust the other's certificate.

    The client's certificate must be signed by the authority that etcd trusts, and etcd's own must
    name the address that was asked.
    """

    code = "ET106"


class HistoryCompacted(ReconcilerError):
    """Etcd compacted the revision that was being read, page by page.

    Compaction runs in the background; reading once more starts at a newer revision.
    """

    code = "ET107"
    transient = True


class StoreLoginRefused(ReconcilerError):
    """Etcd has users, and did not take this call's: no login, no password, or a wrong one.

    On the local platform each user's password is a file of the home, and `platform up` sets up
    users and passwords again. Elsewhere SHARDWRIGHT_ETCD_USER and SHARDWRIGHT_ETCD_PASSWORD_FILE
    name the login.
    """

    code = "ET108"


class StoreForbidden(ReconcilerError):
    """Etcd knows the user, and does not let it do this.

    Commands that only look use a user of etcd that may only read; a router may write its own
    record and nothing else.
    """

    code = "ET109"


@dataclass(frozen=True, slots=True)
class EtcdTimeouts:
    """Bounds on one attempt at one endpoint, in seconds."""

    connect_s: float = 1.0
    read_s: float = 5.0


class LeaseGone(Exception):
    """Etcd does not know the lease: it has run out or was revoked. Never leaves the edge."""


class _LoginAsked(Exception):
    """Etcd wants a token, or a newer one; what it refused so has not happened."""


class _NoUsers(Exception):
    """This etcd knows no users, so nobody can log in, and nobody needs to."""


@dataclass(slots=True)
class Gateway:
    """Calls etcd; starts at the endpoint that answered last, and not at one that fell silent.

    With a ``login`` it gets a token before the first call, and another one when etcd asks for it:
    tokens run out, and die with a change of etcd's users. Safe to share between threads.
    """

    endpoints: tuple[str, ...]
    tls: TlsFiles | None
    timeouts: EtcdTimeouts
    login: EtcdLogin | None = None
    _token: str | None = field(default=None, repr=False)
    _pool: urllib3.PoolManager | None = field(default=None, repr=False)
    _first: int = 0

    @property
    def subject(self) -> str:
        """How errors name this etcd."""
        return f"etcd {', '.join(self.endpoints)}"

    def call(self, path: str, body: Mapping[str, object], *, repeatable: bool) -> dict[str, Any]:
        """Post to the first endpoint that answers and return its JSON.

        A request that is not ``repeatable`` moves on to the next endpoint only when the last one
        surely did nothing. Raises the errors of this module.
        """
        token = self._new_token(None) if self._token is None else self._token
        try:
            return self._ask(path, body, token, repeatable)
        except _LoginAsked:
            token = self._new_token(token)
        try:
            return self._ask(path, body, token, repeatable)
        except _LoginAsked as asked:
            raise self._login_refused(str(asked)) from None

    def _new_token(self, stale: str | None) -> str:
        """Log in, unless another thread has done so meanwhile; empty where there is no need.

        Two at once are no harm; one that waited for another's login would wait for a silent etcd
        twice.
        """
        if self.login is None:
            return ""
        if self._token in (None, stale):
            self._token = self._log_in(self.login)
        return self._token or ""

    def _log_in(self, login: EtcdLogin) -> str:
        try:
            password = Path(login.password_file).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""  # etcd itself says whether it asks for one
        except OSError as error:
            raise self._login_refused(f"its password file: {error.strerror}") from None
        body = {"name": login.user, "password": password}
        try:
            return str(self._ask(AUTHENTICATE, body, "", repeatable=True)["token"])
        except _NoUsers:
            return ""

    def _ask(
        self, path: str, body: Mapping[str, object], token: str, repeatable: bool
    ) -> dict[str, Any]:
        from urllib3 import exceptions as http

        payload = json.dumps(body).encode()
        count = len(self.endpoints)
        failure: ReconcilerError = StoreUnreachable(self.subject, "no endpoint is configured")
        order = [(self._first + i) % count for i in range(count)]  # a silent one changes _first
        for index in order:
            try:
                status, text = self._post(self.endpoints[index] + path, payload, token)
            except (http.NewConnectionError, http.ConnectTimeoutError) as error:
                failure = self._unreachable(error)
                continue
            except http.SSLError as error:
                failure = self._certificate_refused(error)
                continue
            except (http.HTTPError, OSError) as error:
                if missing := _missing_file(error):
                    failure = self._certificate_refused(missing)
                    continue
                failure = self._silent(type(error).__name__, repeatable)
                self._first = (index + 1) % count  # a write ends here; the next one asks elsewhere
            else:
                self._first = index
                answer = _json(text) if status == 200 else None
                if answer is not None:
                    return answer
                failure = self._refused(status, text, token, repeatable)
            if not failure.transient or isinstance(failure, WriteOutcomeUnknown | HistoryCompacted):
                break
        raise failure

    def _post(self, url: str, payload: bytes, token: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = token
        response = self._connections().request("POST", url, body=payload, headers=headers)
        return response.status, response.data

    def _connections(self) -> urllib3.PoolManager:
        """Made at the first call: urllib3 is not paid for by commands that never reach etcd."""
        if self._pool is None:
            import urllib3

            files: dict[str, Any] = {}
            if self.tls is not None:
                files = {
                    "ca_certs": self.tls.ca,
                    "cert_file": self.tls.cert,
                    "key_file": self.tls.key,
                    "cert_reqs": "CERT_REQUIRED",
                }
            self._pool = urllib3.PoolManager(
                maxsize=_CONNECTIONS_MAX,
                retries=False,
                timeout=urllib3.Timeout(connect=self.timeouts.connect_s, read=self.timeouts.read_s),
                **files,
            )
        return self._pool

    def _unreachable(self, error: Exception) -> ReconcilerError:
        reason = "timed out" if "timed out" in str(error) else "no connection"
        return StoreUnreachable(
            self.subject,
            f"{reason} within {self.timeouts.connect_s:g} s",
            remedy="shardwright platform status; on the local platform: shardwright platform up",
        )

    def _certificate_refused(self, error: Exception) -> ReconcilerError:
        return StoreCertificateRefused(
            self.subject,
            f"TLS handshake failed: {error}",
            remedy="check the client certificate, its authority, and the name in etcd's own",
        )

    def _silent(self, reason: str, repeatable: bool) -> ReconcilerError:
        remedy = "shardwright platform status; look at etcd's own log"
        if repeatable:
            limit = f"no answer within {self.timeouts.read_s:g} s ({reason})"
            return StoreSilent(self.subject, limit, remedy=remedy)
        return WriteOutcomeUnknown(
            self.subject,
            f"a write was sent and not answered ({reason}); it may have happened",
            remedy="run the same command again: it reads first and goes on from what it finds",
        )

    def _login_refused(self, message: str) -> ReconcilerError:
        if self.login is None:
            problem, cure = f"it asks for a login, and none is set ({message})", "name a login"
        else:
            problem = f"user {self.login.user}: {message}"
            cure = f"put the user's password in {self.login.password_file}"
        return StoreLoginRefused(
            self.subject, problem, remedy=f"{cure}; on the local platform: shardwright platform up"
        )

    def _forbidden(self, message: str) -> ReconcilerError:
        return StoreForbidden(
            self.subject,
            f"user {self.login.user if self.login else '-'}: {message}",
            remedy="shardwright explain ET109; see SHARDWRIGHT_ETCD_USER",
        )

    def _refused(self, status: int, text: bytes, token: str, repeatable: bool) -> ReconcilerError:
        code, message = _grpc_status(text, status)
        if asks_for_login(message, token):
            raise _LoginAsked(message)
        if needs_no_login(message):
            raise _NoUsers(message)
        if "authentication failed" in message:
            return self._login_refused(message)
        if is_forbidden(message):
            return self._forbidden(message)
        if code == _NOT_FOUND and "lease" in message:
            raise LeaseGone(message)
        if code == _EXHAUSTED and "space" in message:
            return StoreFull(
                self.subject,
                message,
                remedy="etcdctl compact, etcdctl defrag, then etcdctl alarm disarm",
            )
        if code == _OUT_OF_RANGE and "compacted" in message:
            return HistoryCompacted(self.subject, message)
        if "no leader" in message or ("leader changed" in message and repeatable):
            return StoreSilent(
                self.subject, message, remedy="wait for an election; check that a quorum runs"
            )
        if code in (_UNAVAILABLE, _DEADLINE) or status in (200, 502, 503, 504):
            return self._silent(message, repeatable)
        return StoreRefused(self.subject, message, remedy="shardwright explain ET105")


def _missing_file(error: Exception) -> FileNotFoundError | None:
    """Return what kept a connection from being made at all: a file of ours that is not there."""
    return next((one for one in error.args if isinstance(one, FileNotFoundError)), None)


def _json(text: bytes) -> dict[str, Any] | None:
    """Return an answer, None when something on the way answered in etcd's place."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _grpc_status(text: bytes, status: int) -> tuple[int, str]:
    try:
        answer = json.loads(text)
        return int(answer.get("code", 0)), str(answer.get("message") or answer.get("error"))
    except (ValueError, AttributeError, TypeError):
        return 0, f"HTTP {status}: {text[:200].decode(errors='replace')}"


def base64_text(value: str | bytes) -> str:
    """Return the gateway's form of a key or value."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with ``prefix`` (etcd's range_end)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def refuse(gateway: Gateway, problem: str, remedy: str = "") -> NoReturn:
    """Raise StoreRefused for something that need not be sent to be known as wrong."""
    raise StoreRefused(gateway.subject, problem, remedy=remedy)
