"""A real local platform for tests: a home of its own, real servers, torn down by process id.

Other suites import ``fresh_home`` (or the ``home`` fixtures of ``tests/platform/conftest.py``).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from reconciler.edges.local import lifecycle
from reconciler.edges.local.home import MARKER, open_home
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.local.process_identity import identity_of, send_signal
from reconciler.edges.local.tls import client_context
from reconciler.model.names import DatabaseName, Namespace, Scope, ScopeKey
from reconciler.model.platform import Endpoint, PlatformMember, ShardBlueprint

DEADLINE_S = 120.0
Seen = TypeVar("Seen")


@contextlib.contextmanager
def fresh_home() -> Iterator[Path]:
    """Give a home's path in a short folder; at the end nothing of it runs or is left."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    root = folder / "home"
    try:
        yield root
    finally:
        try:
            if (root / MARKER).exists():
                lifecycle.destroy(root)
            left = processes_in(folder)
            for pid in left:
                if identity := identity_of(pid):
                    send_signal(identity, signal.SIGKILL)
            assert not left, f"still running: {left}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def processes_in(folder: Path) -> dict[int, str]:
    """Return the processes whose working directory is inside ``folder``, with their commands."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{name}/cwd")).is_relative_to(folder):
                command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # a zombie has none
                    found[int(name)] = command
    return found


def wait_for(look: Callable[[], Seen | None], what: str, deadline_s: float = DEADLINE_S) -> Seen:
    """Look again and again until something is seen; fails after a generous deadline."""
    end = time.monotonic() + deadline_s
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if seen := look():
                return seen
        except (OSError, http.client.HTTPException, psycopg.Error) as problem:
            last = problem
        time.sleep(0.1)
    raise AssertionError(f"not seen in {deadline_s:.0f} s: {what}; last problem: {last}")


def blueprint(scope: str, version: str = "16", instances: int = 2) -> ShardBlueprint:
    """Return a synchronous shard of database ``shop``."""
    return ShardBlueprint(
        Namespace("default"), DatabaseName("shop"), Scope(scope), version, instances, True
    )


def patroni(
    root: Path, endpoint: Endpoint, path: str, method: str = "GET", login: str = ""
) -> tuple[int, Any]:
    """Call Patroni's REST API with the client certificate; ``login`` is a Basic header's value."""
    context = client_context(open_home(root))
    connection = http.client.HTTPSConnection(
        endpoint.host, endpoint.patroni_port, timeout=5, context=context
    )
    try:
        headers = {"Authorization": f"Basic {login}"} if login else {}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if text.startswith("{") else text
    finally:
        connection.close()


def members(platform: LocalPlatform, key: ScopeKey) -> tuple[PlatformMember, ...]:
    """Return a shard's members as the platform sees them."""
    return next(shard.members for shard in platform.observe() if shard.key == key)


def roles(root: Path, key: ScopeKey) -> dict[str, str]:
    """Return role by member as Patroni sees it; only members that run or stream."""
    first = members(LocalPlatform(root), key)[0]
    _, cluster = patroni(root, first.endpoint, "/cluster")
    healthy = ("running", "streaming")
    return {m["name"]: m["role"] for m in cluster["members"] if m["state"] in healthy}


def wait_until_whole(root: Path, key: ScopeKey) -> dict[str, str]:
    """Wait until a shard has a leader and all its other members are synchronous or stream."""
    count = len(members(LocalPlatform(root), key))
    wanted = ["leader"] if count == 1 else ["leader", "sync_standby"]

    def look() -> dict[str, str] | None:
        found = roles(root, key)
        whole = len(found) == count and set(wanted) <= set(found.values())
        return found if whole else None

    return wait_for(look, f"{key} whole")


def member_with_role(root: Path, key: ScopeKey, role: str) -> PlatformMember:
    """Return the member that has this role now."""
    found = wait_until_whole(root, key)
    return next(m for m in members(LocalPlatform(root), key) if found.get(m.name) == role)


def connect(
    platform: LocalPlatform, key: ScopeKey, endpoint: Endpoint, **changes: Any
) -> psycopg.Connection[Any]:
    """Connect as superuser, with TLS where PostgreSQL was built with it."""
    login = platform.credential(key, "superuser")
    options: dict[str, Any] = {
        "host": endpoint.host,
        "port": endpoint.postgres_port,
        "user": login.role,
        "password": login.password,
        "dbname": "postgres",
        "connect_timeout": 5,
        "sslmode": "verify-full" if endpoint.postgres_tls else "disable",
        "sslrootcert": platform.client_tls().ca,
        "autocommit": True,
    }
    return psycopg.connect(**{**options, **changes})
