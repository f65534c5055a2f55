"""Logins, TLS, cancel, lost connections, the router's end."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from reconciler.router.pool import PoolLimits
from reconciler.router.scram import make_verifier
from reconciler.router.users import UsersUnreadable, read_users
from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at, running
from tests.sdk.scene import Scene

INSERT = "INSERT INTO entry (k, id) VALUES (%s, %s)"


@pytest.mark.parametrize("changes", [{"password": "wrong"}, {"user": "nobody"}])
def test_a_wrong_login_is_refused_alike(router: RunningRouter, changes: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed") as no:
        router.connect(**changes)
    assert "wrong" not in str(no.value)


def test_another_database_is_refused(router: RunningRouter) -> None:
    with pytest.raises(psycopg.OperationalError, match="the router serves database"):
        router.connect(dbname="other")


def test_a_users_file_takes_passwords_and_verifiers(scene: Scene, tmp_path: Path) -> None:
    with scene.shards[0].connect() as admin:
        admin.execute("SET password_encryption = 'scram-sha-256'")
        admin.execute("DROP ROLE IF EXISTS verified")
        admin.execute("CREATE ROLE verified LOGIN PASSWORD 'se\"cret'")
        row = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'verified'")
        ((verifier,),) = row.fetchall()
    file = tmp_path / "users"
    file.write_text(f'; who may log in\n"verified" "{verifier}"\n"plain" "se""cret"\n')
    with running(scene, users=lambda: read_users(file)) as router:
        for user in ("verified", "plain"):
            with router.connect(user=user, password='se"cret') as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
        file.write_text('"later" "x"\n')
        router.reload()
        wait_for(lambda: _may_log_in(router, "later", "x"), "the new user")
        assert not _may_log_in(router, "plain", 'se"cret')


def _may_log_in(router: RunningRouter, user: str, password: str) -> bool:
    try:
        router.connect(user=user, password=password).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_bad_users_file_is_told_without_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text('"fine" "x"\n"broken" geheim\n')
    with pytest.raises(UsersUnreadable) as told:
        read_users(file)
    assert ":2" in str(told.value)
    assert "geheim" not in str(told.value)


def test_clients_may_use_tls_and_may_have_to(scene: Scene) -> None:
    files = {"cert": scene.tls.cert, "key": scene.tls.key}
    with running(scene, **files, tls_required=True) as router:
        with router.connect(sslmode="verify-full", sslrootcert=scene.tls.ca) as client:
            assert client.pgconn.ssl_in_use
            client.execute(INSERT, [key_at(1), "x"])
            client.execute(INSERT, [key_at(0), "y" * 100_000])
        with pytest.raises(psycopg.OperationalError, match="TLS connections only"):
            router.connect(sslmode="disable")


def test_bytes_sent_before_tls_are_never_trusted(scene: Scene) -> None:
    with (
        running(scene, cert=scene.tls.cert, key=scene.tls.key) as router,
        socket.create_connection(("127.0.0.1", router.port), 10) as raw,
    ):
        raw.sendall(struct.pack("!ii", 8, 80877103) + b"smuggled")
        assert raw.recv(100)[:1] == b"E"


@pytest.mark.parametrize(
    "packet",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"\x7f\xff\xff\xff\0\3\0\0",
        b"\0\0\0\x08\0\2\0\0",
    ],
)
def test_what_is_no_start_up_is_refused(router: RunningRouter, packet: bytes) -> None:
    with socket.create_connection(("127.0.0.1", router.port), 10) as raw:
        raw.sendall(packet)
        assert raw.recv(1000)[:1] == b"E"
        assert raw.recv(1000) == b""
    router.connect().close()


def test_a_statement_is_cancelled_where_it_runs(router: RunningRouter, scene: Scene) -> None:
    with router.connect() as client:
        _once_asleep(scene, client.cancel_safe)
        with pytest.raises(errors.QueryCanceled):
            client.execute("SELECT pg_sleep(60)")
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_connection_lost_in_a_statement_is_an_unknown_outcome(
    router: RunningRouter, scene: Scene
) -> None:
    with router.connect() as client:
        _once_asleep(scene, lambda: _terminate(scene))
        with pytest.raises(psycopg.OperationalError) as lost:
            client.execute(f"/* shard: s0 */ SELECT pg_sleep(60), {key_at(0)}".encode())
        assert lost.value.sqlstate == "08007"
        client.execute(INSERT, [key_at(0), "x"])
    assert len(scene.rows(0)) == 1


@pytest.mark.parametrize("prepare", [False, True])
def test_a_transaction_whose_shard_went_away_is_told_before_anything_else(
    router: RunningRouter, scene: Scene, prepare: bool
) -> None:
    with router.connect() as client:
        for then in ("SELECT 1", "COMMIT", "ROLLBACK"):
            client.execute("BEGIN")
            client.execute(INSERT, [key_at(0), "x"], prepare=prepare)
            _terminate(scene)
            wait_for(lambda: router.process.lost_between(), "the loss")
            if then == "ROLLBACK":
                assert client.execute(then, prepare=prepare).statusmessage == then
                continue
            with pytest.raises(psycopg.OperationalError, match="rolled back") as lost:
                client.execute(then.encode(), prepare=prepare)
            assert lost.value.sqlstate == "08006"
            if client.info.transaction_status.name == "INERROR":
                with pytest.raises(errors.InFailedSqlTransaction):
                    client.execute("SELECT 1")
                client.execute("ROLLBACK")
            else:
                assert then == "COMMIT"
        client.execute(INSERT, [key_at(0), "z"])
    assert [ident for _, ident in scene.rows(0)] == ["z"]


def _once_asleep(scene: Scene, act: Callable[[], None]) -> None:
    text = (
        "SELECT 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep.60' AND state = 'active'"
        " AND pid <> pg_backend_pid()"
    )

    def work() -> None:
        wait_for(lambda: any(shard.rows(text) for shard in scene.shards), "a sleeping statement")
        act()

    threading.Thread(target=work).start()


def _terminate(scene: Scene) -> None:
    with scene.shards[0].connect_to_maintenance() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [scene.map.database.name],
        )


def test_clients_wait_for_a_session_in_turn(scene: Scene) -> None:
    with running(scene, pools=PoolLimits(backends_max=2, wait_s=60)) as router:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                with router.connect() as client:
                    for turn in range(10):
                        client.execute(INSERT, [key_at(0), f"{number}-{turn}"])
            except psycopg.Error as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
    assert len(scene.rows(0)) == 120


def test_a_full_pool_ends_in_a_clear_refusal(scene: Scene) -> None:
    limits = PoolLimits(backends_max=1, wait_s=0.2)
    with (
        running(scene, pools=limits) as router,
        router.connect() as one,
        router.connect() as other,
    ):
        one.execute(INSERT, [key_at(0), "x"])
        with pytest.raises(psycopg.OperationalError, match="in use") as refused:
            other.execute(INSERT, [key_at(0), "y"])
        assert refused.value.sqlstate == "53300"


def test_sessions_of_many_clients_are_kept_for_a_while(scene: Scene) -> None:
    with running(scene, pools=PoolLimits(backends_max=8, idle_max=2, idle_s=2.0)) as router:
        clients = [router.connect() for _ in range(8)]
        for client in clients:
            client.execute(INSERT, [key_at(1), f"{id(client)}"])
        for client in clients:
            client.close()
        opened = _sessions(scene)
        wait_for(lambda: router.process.idle_backends() >= 8, "all of them, idle")
        with router.connect() as again:
            again.execute(INSERT, [key_at(1), "again"])
            assert _sessions(scene) == opened
        wait_for(lambda: len(_sessions(scene)) <= 2, "the end of those that are too many")
        left = _sessions(scene)
        clients = [router.connect() for _ in range(8)]
        for client in clients:  # the closed ones count no more
            client.execute(INSERT, [key_at(1), f"{id(client)} later"])
        assert len(left) == 2
        assert left < _sessions(scene)
        for client in clients:
            client.close()
    assert len(scene.rows(1)) == 17


def _sessions(scene: Scene) -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'shardwright router'"
    return {pid for (pid,) in scene.shards[1].rows(f"{query} AND datname = current_database()")}


def test_a_router_that_stops_lets_transactions_end(scene: Scene) -> None:
    with running(scene, drain_s=60) as router:
        idle, busy = router.connect(), router.connect()
        busy.execute("BEGIN")
        busy.execute(INSERT, [key_at(0), "x"])
        router.stop()
        wait_for(lambda: not _still_there(idle), "the idle client's end")
        busy.execute(INSERT, [key_at(0), "y"])
        busy.execute("COMMIT")
        wait_for(lambda: not _still_there(busy), "the busy client's end")
    assert len(scene.rows(0)) == 2


def _still_there(client: psycopg.Connection[object]) -> bool:
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_big_answer_waits_for_a_slow_reader(router: RunningRouter) -> None:
    with (
        router.connect() as client,
        client.cursor().copy(
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO STDOUT"
        ) as copy,
    ):
        next(iter(copy))
        time.sleep(1)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        assert resident < 1_000_000_000
        assert sum(1 for _ in copy) > 0


def test_a_password_is_in_no_repr(scene: Scene) -> None:
    with running(scene) as router:
        assert "the router's own" not in repr(router.config)
    assert "stored_key" not in repr(make_verifier("x"))
