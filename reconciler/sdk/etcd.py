"""etcd's JSON gateway, as little of it as a reader of one key needs: a read, and a watch.

On the standard library's http.client, so that an application has to install psycopg and nothing
else. Not shared with ``edges.etcd_gateway``, which also writes and therefore has to tell failures
apart; for a reader all of them mean the same: try again, and go on with what is known.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.model.etcd_login import AUTHENTICATE, EtcdLogin, asks_for_login, needs_no_login
from reconciler.model.platform import TlsFiles
from reconciler.sdk.config import Limits
from reconciler.sdk.errors import ConfigInvalid

ANSWER_BYTES_MAX = 4 << 20
"""etcd's own limit on a value is 1.5 MiB, which base64 makes 2."""
_REFUSAL_BYTES_MAX = 1 << 16


class EtcdAway(Exception):
    """No endpoint answered as it should. Never leaves the client; it only makes it try again."""


class _LoginAsked(EtcdAway):
    """Etcd wants a token, or a newer one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A key as etcd answered: which etcd, at which revision; None for a key that is not there."""

    cluster: str
    revision: int
    value: bytes | None
    version: int = 0
    """The key's mod revision."""


class EtcdReader:
    """Reads one key; begins at the endpoint that answered last. Used by one thread at a time.

    With a ``login``, a read gets a new token when etcd asks for one. A watch that etcd ends for
    want of one is followed by a read, as any gap is.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        tls: TlsFiles | None,
        limits: Limits,
        login: EtcdLogin | None = None,
    ) -> None:
        self._endpoints, self._limits, self._login = endpoints, limits, login
        self._token: str | None = None
        self._tls, self._context, self._failed = tls, _context(tls), False
        self._first = 0
        self._watching: socket.socket | None = None

    def read(self, key: str) -> Stored:
        """Return the key, linearizably. Raises EtcdAway."""
        if self._token is None:
            self._log_in()
        try:
            return self._read(key)
        except _LoginAsked:
            self._log_in()
            return self._read(key)

    def _log_in(self) -> None:
        """Take a token for the login, if there is one and etcd knows users. Raises EtcdAway."""
        self._token = ""
        if self._login is None:
            return
        try:
            password = Path(self._login.password_file).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return  # etcd itself says whether it asks for one
        except OSError as error:
            raise EtcdAway(f"the password of etcd's user: {error.strerror}") from None
        body = {"name": self._login.user, "password": password}
        try:
            with self._post(AUTHENTICATE, body, self._limits.etcd_read_s) as answer:
                self._token = str(_decoded(answer.read(ANSWER_BYTES_MAX))["token"])
        except EtcdAway as problem:
            if not needs_no_login(str(problem)):
                self._token = None
                raise

    def _read(self, key: str) -> Stored:
        with self._post("/v3/kv/range", {"key": _base64(key)}, self._limits.etcd_read_s) as answer:
            body = _decoded(answer.read(ANSWER_BYTES_MAX))
            header = body["header"]
            cluster, revision = str(header["cluster_id"]), int(header["revision"])
            for pair in body.get("kvs", ()):
                return _stored(cluster, revision, pair)
            return Stored(cluster, revision, None)

    def watch(self, key: str, after: Stored) -> Iterator[Stored]:
        """Yield the key's later values; ends after ``resync_s`` seconds of silence.

        Raises EtcdAway also when etcd has compacted the revision to begin at; then read again.
        """
        request = {"key": _base64(key), "start_revision": str(after.revision + 1)}
        with self._post("/v3/watch", {"create_request": request}, self._limits.resync_s) as answer:
            while True:
                try:
                    line = answer.readline(ANSWER_BYTES_MAX)
                except TimeoutError:
                    return
                yield from _watched(line, after.cluster)

    def interrupt(self) -> None:
        """End a call that another thread waits in."""
        with suppress(OSError, TypeError):
            # Not SSLSocket's own shutdown, which drops the session under the reader's hands.
            socket.socket.shutdown(self._watching, socket.SHUT_RDWR)  # type: ignore[arg-type]

    @contextmanager
    def _post(
        self, path: str, body: dict[str, Any], read_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connected()
        try:
            if connection.sock is not None:
                connection.sock.settimeout(read_s)
            headers = {"Content-Type": "application/json"}
            if self._token:
                headers["Authorization"] = self._token
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refusal(answer.status, answer.read(_REFUSAL_BYTES_MAX), self._token or "")
            yield answer
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
            self._first, self._failed = (self._first + 1) % len(self._endpoints), True
            raise EtcdAway(f"etcd: {type(error).__name__}: {error}") from None
        finally:
            self._watching = None
            connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        """Return a connection to the first endpoint that accepts one. Raises EtcdAway."""
        reason: Exception = EtcdAway("no endpoint")
        for turn in range(len(self._endpoints)):
            index = (self._first + turn) % len(self._endpoints)
            try:
                connection = self._connect(self._endpoints[index])
            except OSError as error:
                reason, self._failed = error, True
            else:
                self._first, self._watching = index, connection.sock
                return connection
        raise EtcdAway(f"no etcd endpoint accepts a connection: {reason}")

    def _connect(self, endpoint: str) -> http.client.HTTPConnection:
        parts = urlsplit(endpoint)
        host, timeout_s = parts.hostname or "", self._limits.etcd_connect_s
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            if self._failed:
                self._renew()
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        connection.connect()
        return connection

    def _renew(self) -> None:
        """Read the certificates anew: that they were rotated may be why a call failed."""
        with suppress(ConfigInvalid):  # half written; the next call reads them
            self._context, self._failed = _context(self._tls), False


def _context(tls: TlsFiles | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls else None)
        if tls and tls.cert:
            context.load_cert_chain(tls.cert, tls.key or None)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigInvalid("config tls", f"cannot be read: {reason}") from None
    return context


def _refusal(status: int, text: bytes, token: str) -> EtcdAway:
    try:
        found = json.loads(text)
        message = str(found.get("message") or found.get("error"))
    except (ValueError, AttributeError):
        message = ""
    told = f"etcd answered {status}: {message}" if message else f"etcd answered {status}"
    return _LoginAsked(told) if asks_for_login(message, token) else EtcdAway(told)


def _watched(line: bytes, cluster: str) -> Iterator[Stored]:
    """Yield the values in one message of a watch. Raises EtcdAway at its end."""
    if not line.strip():
        raise EtcdAway("the watch ended")
    result = _decoded(line).get("result") or {}
    if result.get("canceled") or "compact_revision" in result or "header" not in result:
        raise EtcdAway("the watch was cancelled")
    revision = int(result["header"]["revision"])
    for event in result.get("events", ()):
        if event.get("type") != "DELETE":
            yield _stored(cluster, revision, event["kv"])


def _stored(cluster: str, revision: int, pair: dict[str, str]) -> Stored:
    value = base64.b64decode(pair["value"])
    return Stored(cluster, revision, value, int(pair["mod_revision"]))


def _decoded(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise EtcdAway("etcd's answer is no object")
    return found


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
