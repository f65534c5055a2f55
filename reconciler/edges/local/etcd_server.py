"""The home's one etcd: start, readiness, stop, and the few calls of its JSON gateway needed here.

TLS with client certificates on loopback only, and a login for everybody (``etcd_users``), because
the gateway does not tell certificates apart. A single node has no rival, so elections are tuned to
be quick. History is compacted by the hour and the quota is modest: the keys are small records.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from reconciler.edges.local import etcd_keeper, etcd_users, tls
from reconciler.edges.local.binaries import EtcdBinary
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import Home, HomeRecord
from reconciler.edges.local.ports import LOOPBACK, require_free
from reconciler.edges.local.process_identity import (
    ProcessIdentity,
    send_signal,
    wait_until_gone,
)
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import AUTHENTICATE, asks_for_login

OK = http.client.OK
QUOTA_BYTES = 256 << 20
ROOM_BYTES = 256 << 20
"""Free space needed for a first start: etcd reserves two log segments of 64 MiB at once."""
READY_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02
_LOG_TAIL_BYTES = 8192


class EtcdNotUp(ReconcilerError):
    """The home's etcd does not answer.

    etcd holds Patroni's leases, the routing maps and the journal. Without it nothing is changed.
    Primaries go on while all members of their shard see one another. A keeper starts an etcd that
    dies again at once; after a reboot, or `platform down`, `platform up` does.
    """

    code = "LP123"
    transient = True


def log_path(home: Home) -> Path:
    """Return etcd's log file."""
    return home.etcd / etcd_keeper.LOG


def running(home: Home) -> ProcessIdentity | None:
    """Return the identity of the running etcd; None when it does not run."""
    return etcd_keeper.running(home.etcd)


def remembered(record: HomeRecord, binary: EtcdBinary) -> HomeRecord:
    """Return the record with the etcd that runs from now on, noting which one it replaces."""
    replaced = record.etcd_replaced
    if record.etcd_version not in ("", binary.version_text):
        replaced = f"{record.etcd_version} ({record.etcd_path or 'its path is not known'})"
    return dataclasses.replace(
        record,
        etcd_version=binary.version_text,
        etcd_path=binary.path,
        etcd_replaced=replaced,
    )


def serving_version(home: Home, ports: HomeRecord) -> str:
    """Ask the etcd that runs which release it is. Raises EtcdNotUp."""
    status, answer = ask(home, ports, "/version", None)
    if status != OK:
        raise _refused(home, status, answer)
    return str(json.loads(answer)["etcdserver"])


def start(
    home: Home, ports: HomeRecord, binary: EtcdBinary, lock: int, environment: Mapping[str, str]
) -> None:
    """Start etcd unless it runs, wait until it answers, and have it kept running from then on.

    One that was started before etcd had users is started again: its tokens would be simple ones.
    Raises PortTaken, EtcdNotUp, NotStarted.
    """
    home.etcd.mkdir(mode=0o700, exist_ok=True)
    if (now := running(home)) and not _gives_our_tokens(now):
        stop(home)
    etcd_keeper.write_command(home.etcd, command(home, ports, binary))
    if running(home) is None:
        etcd_keeper.end_keeper(home.etcd)  # one starts it at a time, and says why it does not run
    if running(home) is None:
        require_free(ports.etcd_client_port, "etcd clients")
        require_free(ports.etcd_peer_port, "etcd peers")
        etcd_keeper.start_etcd(home.etcd, lock, environment)
    _wait_until_ready(home, ports)
    etcd_keeper.start_keeper(home.etcd, lock, environment)


def _gives_our_tokens(etcd: ProcessIdentity) -> bool:
    try:
        return b"\0--auth-token=jwt" in Path(f"/proc/{etcd.pid}/cmdline").read_bytes()
    except OSError:
        return False


def command(home: Home, ports: HomeRecord, binary: EtcdBinary) -> list[str]:
    """Return etcd's command line."""
    files = tls.server_files(home)
    client = f"https://{LOOPBACK}:{ports.etcd_client_port}"
    peer = f"https://{LOOPBACK}:{ports.etcd_peer_port}"
    options = [
        "--name=shardwright",
        f"--data-dir={home.etcd / 'data'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=shardwright={peer}",
        "--client-cert-auth",
        f"--trusted-ca-file={files.ca}",
        f"--cert-file={files.cert}",
        f"--key-file={files.key}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={files.ca}",
        f"--peer-cert-file={files.cert}",
        f"--peer-key-file={files.key}",
        f"--auth-token=jwt,priv-key={etcd_users.token_key(home)},sign-method=HS256,"
        f"ttl={etcd_users.TOKEN_TTL}",
        f"--bcrypt-cost={etcd_users.BCRYPT_COST}",
        f"--quota-backend-bytes={QUOTA_BYTES}",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
    ]
    if binary.version < (3, 6, 0):  # a feature gate since 3.6
        options.append("--experimental-initial-corrupt-check")
    return [binary.path, *options]


def stop(home: Home) -> None:
    """Stop etcd and its keeper, and wait until both have ended; killed when they do not react."""
    etcd_keeper.end_keeper(home.etcd)
    identity = running(home)
    if identity is None:
        return
    send_signal(identity, signal.SIGTERM)
    if wait_until_gone([identity], STOP_TIMEOUT_S):
        send_signal(identity, signal.SIGKILL)
        wait_until_gone([identity], STOP_TIMEOUT_S)


def delete_patronis(home: Home, ports: HomeRecord, key: str, *, prefix: bool = False) -> None:
    """Delete a key of Patroni's, or all that begin with it. Raises EtcdNotUp."""
    body = {"key": _encode(key), **({"range_end": _encode(_prefix_end(key))} if prefix else {})}
    _as_patroni(home, ports, "/v3/kv/deleterange", body)


def put_patronis(home: Home, ports: HomeRecord, key: str, value: str) -> None:
    """Write a key of Patroni's. Raises EtcdNotUp."""
    _as_patroni(home, ports, "/v3/kv/put", {"key": _encode(key), "value": _encode(value)})


def _as_patroni(home: Home, ports: HomeRecord, path: str, body: Mapping[str, object]) -> None:
    status, answer = ask(home, ports, path, body, EtcdUser.PATRONI)
    if status != OK:
        raise _refused(home, status, answer)


def _prefix_end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def ask(
    home: Home,
    ports: HomeRecord,
    path: str,
    body: Mapping[str, object] | None,
    user: EtcdUser | None = None,
) -> tuple[int, bytes]:
    """Call etcd's gateway once, as ``user``; return status and answer. Raises EtcdNotUp."""
    headers = {} if user is None else _authorization(home, ports, user)
    connection = http.client.HTTPSConnection(
        LOOPBACK,
        ports.etcd_client_port,
        timeout=CALL_TIMEOUT_S,
        context=tls.client_context(home),
    )
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as problem:
        raise _not_up(home, f"{type(problem).__name__}: {problem}") from problem
    finally:
        connection.close()


def _authorization(home: Home, ports: HomeRecord, user: EtcdUser) -> dict[str, str]:
    """Return a header with a new token; none when it is refused, and the call says what that is."""
    named = {"name": user, "password": etcd_users.credential(home, user).password}
    status, answer = ask(home, ports, AUTHENTICATE, named)
    return {"Authorization": json.loads(answer)["token"]} if status == OK else {}


def _wait_until_ready(home: Home, ports: HomeRecord) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            # A read that needs the quorum: answered only once etcd has elected itself. Whether the
            # reader may is asked only then.
            key = {"key": _encode("/shardwright/ready")}
            status, answer = ask(home, ports, "/v3/kv/range", key)
            if status == OK or asks_for_login(answer.decode(errors="replace"), ""):
                return
            raise _refused(home, status, answer)
        except EtcdNotUp:
            if running(home) is None or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _refused(home: Home, status: int, answer: bytes) -> EtcdNotUp:
    return _not_up(home, f"status {status}: {answer[:200].decode(errors='replace')}")


def _not_up(home: Home, problem: str) -> EtcdNotUp:
    state = problem if running(home) else "it does not run" + _last_line(log_path(home))
    return EtcdNotUp(
        "etcd", state, remedy=f"start it: shardwright platform up; its log: {log_path(home)}"
    )


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return f"; its last words: {lines[-1][:400]}" if lines else ""
