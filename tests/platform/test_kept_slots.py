"""A slot that standbys keep, under Patroni, on PostgreSQL 17 and later."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from reconciler.edges.local import lifecycle
from reconciler.edges.local.platform import LocalPlatform
from tests.local_home import (
    blueprint,
    connect,
    member_with_role,
    processes_in,
    roles,
    wait_for,
)

pytestmark = pytest.mark.platform


def test_a_slot_that_standbys_keep_is_at_the_new_primary_after_a_failover(new_home: Path) -> None:
    lifecycle.up(new_home)
    platform, wanted = LocalPlatform(new_home), blueprint("kept", "18")
    platform.ensure_members(wanted, (0, 1))
    old = member_with_role(new_home, wanted.key, "leader")
    standby = member_with_role(new_home, wanted.key, "sync_standby")
    with connect(platform, wanted.key, old.endpoint) as primary:
        primary.execute(
            "SELECT pg_create_logical_replication_slot('m', 'pgoutput', failover => true)"
        )

        def synced() -> bool:
            primary.execute("SELECT pg_logical_emit_message(true, 'm', 'm')")
            primary.execute("SELECT pg_replication_slot_advance('m', pg_current_wal_lsn())")
            with connect(platform, wanted.key, standby.endpoint) as there:
                query = "SELECT FROM pg_replication_slots WHERE synced AND NOT temporary"
                return bool(there.execute(query).fetchall())

        wait_for(synced, "the standby has the slot")
    folder = next(p for p in new_home.rglob(old.name) if p.is_dir() and (p / "data").is_dir())
    for pid, command in processes_in(folder).items():
        if "postgres" in command:
            with contextlib.suppress(ProcessLookupError):  # it ended with its postmaster
                os.kill(pid, signal.SIGKILL)

    wait_for(lambda: roles(new_home, wanted.key).get(standby.name) == "leader", "a failover")
    with connect(platform, wanted.key, standby.endpoint) as there:
        found = there.execute("SELECT slot_name, wal_status FROM pg_replication_slots").fetchall()
    assert ("m", "lost") not in found
    assert "m" in [name for name, _ in found]
