"""A shard of real members under real supervisors, and a writer that keeps what was acknowledged."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from reconciler.edges.local import death, lifecycle, member
from reconciler.edges.local.home import ShardRecord, open_home, read_record
from reconciler.edges.local.member import Member, members_of
from reconciler.edges.local.platform import LocalPlatform
from reconciler.edges.local.process_identity import ProcessIdentity, read_identity, send_signal
from reconciler.edges.local.supervisor_etcd import LeaseUnreachable
from reconciler.edges.local.supervisor_etcd import Scope as ScopeKeys
from reconciler.edges.local.supervisor_files import read_member
from reconciler.edges.local.tls import client_context
from tests.local_home import DEADLINE_S, blueprint, connect, members, wait_for

#: Far beyond every deadline here: what happens sooner cannot come from a lease that ran out.
LONG_TTL_S = 900


class FailoverShard:
    """One shard in a home of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lifecycle.up(root)
        self.platform = LocalPlatform(root)
        self.blueprint = blueprint("shop-s0")
        self.platform.ensure_members(self.blueprint, (0, 1))
        self.await_ready()

    # -- what is there

    def members(self) -> dict[str, Member]:
        home = open_home(self.root)
        record = read_record(home.shard_record(self.blueprint.key), ShardRecord)
        assert record is not None
        return {str(m.name): m for m in members_of(home, record)}

    def folder(self, name: str) -> Path:
        return self.members()[name].folder

    def keys(self) -> ScopeKeys:
        """What etcd says; a busy or just restarted one is asked again."""
        return wait_for(self._ask_etcd, "etcd answers")

    def _ask_etcd(self) -> ScopeKeys | None:
        try:
            return read_member(next(iter(self.members().values())).folder).store.read()
        except LeaseUnreachable:
            return None

    def leader(self) -> str:
        holder = self.keys().view.leader
        return holder.member if holder else ""

    def standby(self) -> str:
        return next(name for name in self.members() if name != self.leader())

    def timeline(self) -> int:
        with self.connect() as session:
            row = session.execute("select timeline_id from pg_control_checkpoint()").fetchone()
            assert row is not None
            return int(row[0])

    def is_ready(self) -> bool:
        """One leads, all others are synchronous or stream, and all say so to etcd."""
        view = self.keys().view
        members = self.members()
        return (
            view.leader is not None
            and view.sync_leader == view.leader.member
            and bool(view.sync_standbys)
            and set(view.running) == set(members)
            and self._streaming() == len(members) - 1
        )

    def is_replayed(self) -> bool:
        """The standbys show all that is committed: a commit waits for their disk, not for that."""
        with self.connect() as session:
            row = session.execute(
                "select bool_and(replay_lsn >= pg_current_wal_flush_lsn())"
                " from pg_stat_replication where state = 'streaming'"
            ).fetchone()
        return bool(row and row[0])

    def _streaming(self) -> int:
        try:
            with self.connect() as session:
                row = session.execute(
                    "select count(*) from pg_stat_replication where state = 'streaming'"
                    " and application_name <> 'pg_basebackup'"
                ).fetchone()
                return int(row[0]) if row else 0
        except psycopg.OperationalError:
            return 0

    def await_ready(self) -> None:
        wait_for(self.is_ready, "a leader with a streaming standby")

    def process(self, name: str, part: str) -> ProcessIdentity | None:
        """``supervisor``, ``patroni`` or ``postgres``."""
        folder = self.folder(name)
        if part == "postgres":
            found = death.find_postmaster(folder / "data")
            return found.process if found else None
        return read_identity(folder / f"{part}.json")

    def log(self, name: str) -> str:
        return (self.folder(name) / "supervisor.log").read_text()

    # -- what is done to it

    def kill(self, name: str, *parts: str) -> None:
        """Kill these parts with -9, as near to at once as can be; backends too."""
        processes = [p for part in parts if (p := self.process(name, part))]
        if "postgres" in parts:
            processes += list(death.children_of(processes[-1].pid))
        for process in processes:
            send_signal(process, signal.SIGKILL)

    def stop_supervisor(self, name: str) -> None:
        """Stop a member on purpose, as ``platform down`` does."""
        member.stop([self.members()[name]])

    def configure(self, **changes: object) -> None:
        """Change Patroni's dynamic configuration, through whichever member answers."""
        name = self.keys().view.running[-1]
        self.patroni(name, "PATCH", "/config", changes)

    def use_long_ttl(self) -> None:
        """Make the lease outlast every deadline, so that only its revocation ends it."""
        self.configure(ttl=LONG_TTL_S)
        wait_for(lambda: self._lease_ttl() > LONG_TTL_S / 2, "a leader lease with the long ttl")
        self.await_ready()

    def _lease_ttl(self) -> int:
        holder = self.keys().view.leader
        store = read_member(next(iter(self.members().values())).folder).store
        if holder is None:
            return 0
        answer = store._call("/v3/lease/timetolive", {"ID": str(holder.lease)})
        return int(answer.get("grantedTTL", 0))

    def switch_over(self, *, to: str) -> None:
        """Order a switchover; returns when Patroni says that it is done."""
        leader = self.leader()
        self.patroni(leader, "POST", "/switchover", {"leader": leader, "candidate": to})

    def patroni(self, name: str, method: str, path: str, body: dict[str, Any]) -> None:
        login = self.platform.credential(self.blueprint.key, "patroni_api")
        token = base64.b64encode(f"{login.role}:{login.password}".encode()).decode()
        endpoint = self.members()[name].endpoint
        connection = http.client.HTTPSConnection(
            endpoint.host,
            endpoint.patroni_port,
            timeout=DEADLINE_S,
            context=client_context(open_home(self.root)),
        )
        with contextlib.closing(connection):
            headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text}"

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to whoever takes writes."""
        key = self.blueprint.key
        endpoints = [m.endpoint for m in members(self.platform, key)]
        return connect(
            self.platform,
            key,
            endpoints[0],
            host=",".join(e.host for e in endpoints),
            port=",".join(str(e.postgres_port) for e in endpoints),
            target_session_attrs="read-write",
        )


class Writer(threading.Thread):
    """Inserts ever higher numbers, reconnects when it must, keeps the acknowledged ones."""

    def __init__(self, shard: FailoverShard) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[tuple[int, float]] = []
        self._shard = shard
        self._over = threading.Event()
        self._next = 0
        with shard.connect() as session:
            session.execute("drop table if exists written")
            session.execute("create table written (number bigint primary key)")

    def __enter__(self) -> Writer:
        self.start()
        self.await_writes()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(psycopg.Error), self._shard.connect() as session:
                self._write(session)
            self._over.wait(0.02)

    def _write(self, session: psycopg.Connection[tuple[Any, ...]]) -> None:
        while not self._over.is_set():
            self._next += 1
            session.execute("insert into written values (%s)", (self._next,))
            self.acknowledged.append((self._next, time.monotonic()))
            time.sleep(0.001)

    def await_writes(self, count: int = 200) -> None:
        """Wait until so many more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= goal, f"{count} more acknowledged writes")

    @property
    def gap_s(self) -> float:
        """The longest pause between two acknowledged writes."""
        times = [at for _, at in self.acknowledged]
        return max(b - a for a, b in itertools.pairwise(times))

    def lost(self) -> set[int]:
        """Return the acknowledged numbers that are not in the table."""
        with self._shard.connect() as session:
            there = {row[0] for row in session.execute("select number from written")}
        return {number for number, _ in self.acknowledged} - there
