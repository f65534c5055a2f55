"""The router's own record in etcd: that it lives, and which epoch it serves.

A move waits until every registered router has acknowledged its epoch before it prunes rows. The
record hangs on a lease, so that a router that died is not waited for. Not being registered stops
nothing: the guards in the shards refuse what a stale router writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler.edges.etcd_gateway import EtcdTimeouts, Gateway, LeaseGone, base64_text
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.names import DatabaseKey
from reconciler.model.platform import TlsFiles
from reconciler.model.records import routers_key

log = logging.getLogger(__name__)

LEASE_S = 6
"""How long a dead router is waited for; etcd's own minimum is 2."""


@dataclass(slots=True)
class Registration:
    """Keeps the record in a thread of its own; ``acknowledge`` may be called from any thread."""

    endpoints: tuple[str, ...]
    tls: TlsFiles | None
    database: DatabaseKey
    router: str
    address: str
    login: EtcdLogin | None = None
    _epoch: int = 0
    _lease: int = 0
    _written: int = -1
    _changed: threading.Event = field(default_factory=threading.Event)
    _stopped: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._keep, name="router-lease", daemon=True)
        self._thread.start()

    def acknowledge(self, epoch: int) -> None:
        """Say that statements are sent by this epoch's map from now on."""
        self._epoch = epoch
        self._changed.set()

    def stop(self) -> None:
        """Take the record away."""
        self._stopped = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(LEASE_S)

    def _keep(self) -> None:
        etcd = Gateway(self.endpoints, self.tls, EtcdTimeouts(), self.login)
        while not self._stopped:
            try:
                self._turn(etcd)
            except LeaseGone:
                self._lease, self._written = 0, -1
                continue
            except ReconcilerError as problem:
                self._lease, self._written = 0, -1
                log.warning("not registered: %s", problem.problem)
            self._changed.wait(LEASE_S / 3)
            self._changed.clear()
        if self._lease:
            with contextlib.suppress(ReconcilerError, LeaseGone):
                etcd.call("/v3/lease/revoke", {"ID": str(self._lease)}, repeatable=True)

    def _turn(self, etcd: Gateway) -> None:
        if self._lease:
            body = {"ID": str(self._lease)}
            answer = etcd.call("/v3/lease/keepalive", body, repeatable=True)
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                raise LeaseGone
        else:
            answer = etcd.call("/v3/lease/grant", {"TTL": str(LEASE_S)}, repeatable=True)
            self._lease, self._written = int(answer["ID"]), -1
        epoch = self._epoch
        if epoch and epoch != self._written:
            record = {
                "epoch": epoch,
                "address": self.address,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            key = routers_key(self.database, self.router)
            put = {"key": base64_text(key), "value": base64_text(json.dumps(record))}
            etcd.call("/v3/kv/put", {**put, "lease": str(self._lease)}, repeatable=True)
            self._written = epoch
