"""Setting a shard up, its roles and passwords, and what each role may do; on real servers."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from reconciler import wiring
from reconciler.edges.postgres import PostgresSql
from reconciler.edges.postgres_session import (
    CertificateRefused,
    LockNotObtained,
    LoginRefused,
    PostgresTimeouts,
    PostgresUnreachable,
    Target,
    owner_options,
    session,
    superuser_options,
)
from reconciler.model.access import FencedOff
from reconciler.model.names import FencingToken
from reconciler.model.platform import Credential
from tests.edges.servers import SUPERUSER_PASSWORD, PostgresServer, free_port, make_certificates
from tests.edges.shard import TestShard, schema_file

ACLS = """
SELECT 'database', datacl::text, datdba::regrole::text, pg_encoding_to_char(encoding)
  FROM pg_database WHERE datname = current_database()
UNION ALL SELECT nspname, nspacl::text, nspowner::regrole::text, '' FROM pg_namespace
UNION ALL SELECT 'default', defaclacl::text, defaclobjtype::text, '' FROM pg_default_acl
UNION ALL SELECT oid::regprocedure::text, proacl::text, md5(prosrc), '' FROM pg_proc
           WHERE pronamespace = 'shardwright'::regnamespace
UNION ALL SELECT rolname, rolpassword, rolsuper::text, '' FROM pg_authid
UNION ALL SELECT 'meta', m::text, '', '' FROM shardwright.meta m
UNION ALL SELECT 'role', r::text, '', '' FROM shardwright.managed_role r
ORDER BY 1, 2, 3
"""


def test_a_set_up_shard_is_seen_as_such(shard: TestShard) -> None:
    seen = shard.catalog()

    assert seen.database_present
    assert seen.installed == 1
    assert seen.password_generation == 1
    assert seen.roles == (shard.app.role, shard.owner.role)
    assert seen.hash_ok
    assert seen.server_version >= 150000
    assert seen.bytes > 1_000_000
    assert (seen.history, seen.guards, seen.tables) == ((), (), ())


def test_a_missing_database_is_reported_and_not_an_error(bare: TestShard) -> None:
    seen = bare.catalog()

    assert not seen.database_present
    assert seen.hash_ok
    assert (seen.installed, seen.roles, seen.bytes) == (0, (), 0)


def test_a_database_without_our_schema_is_seen_as_not_installed(bare: TestShard) -> None:
    with bare.connect_to_maintenance() as connection:
        connection.execute(f"CREATE DATABASE {bare.database}")

    seen = bare.catalog()

    assert seen.database_present
    assert seen.installed == 0


def test_setting_up_twice_changes_nothing(shard: TestShard) -> None:
    before = shard.rows(ACLS)
    shard.set_up(generation=7)
    assert shard.rows(ACLS) == before


def test_a_set_up_that_died_before_its_note_is_finished_with_the_present_passwords(
    shard: TestShard,
) -> None:
    with shard.connect() as connection:
        connection.execute("UPDATE shardwright.meta SET password_generation = 0")
    again = replace(shard, app=Credential(shard.app.role, "another"))

    again.set_up(generation=2)

    again.connect(again.app).close()
    assert again.catalog().password_generation == 2


def test_a_schema_of_our_name_that_the_owner_made_is_refused(bare: TestShard) -> None:
    with bare.connect_to_maintenance() as connection:
        connection.execute(f"CREATE ROLE {bare.owner.role} LOGIN")
        connection.execute(f"CREATE DATABASE {bare.database} OWNER {bare.owner.role}")
    with bare.connect() as connection:
        connection.execute(f"CREATE SCHEMA shardwright AUTHORIZATION {bare.owner.role}")

    with pytest.raises(Exception, match=r"PG208.*not owned by a superuser.*PS003"):
        bare.set_up()


def test_the_application_writes_rows_and_cannot_touch_guards_or_tables(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigserial PRIMARY KEY, v text)"))
    shard.guard("-", ("public.t", "id"))
    allowed = (
        "INSERT INTO t (v) VALUES ('a')",
        "SELECT * FROM t",
        "UPDATE t SET v = 'b'",
        "DELETE FROM t",
        "CREATE TEMPORARY TABLE scratch (x int)",
    )
    refused = (
        "TRUNCATE t",
        'DROP TRIGGER "~shardwright_guard_i" ON t',
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t DISABLE TRIGGER USER",
        "DROP TABLE t",
        "CREATE TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "SET session_replication_role = replica",
        f"SET ROLE {shard.owner.role}",
        "SELECT * FROM shardwright.meta",
        "UPDATE shardwright.fencing SET token = 0",
        "INSERT INTO shardwright.schema_history (name, sha256, state) VALUES ('x', 'x', 'done')",
        "SELECT shardwright.check_fence(1000)",
        "SELECT shardwright.note_schema('x', 'x', 100)",
        "DROP SCHEMA shardwright CASCADE",
    )
    with shard.connect(shard.app) as connection:
        for statement in allowed:
            connection.execute(statement)
        for statement in refused:
            with pytest.raises(pg.InsufficientPrivilege):
                connection.execute(statement)


def test_the_owner_cannot_raise_the_token_or_note_files_by_itself(shard: TestShard) -> None:
    with shard.connect(shard.owner) as connection:
        for statement in (
            "SELECT shardwright.check_fence(1000)",
            "UPDATE shardwright.fencing SET token = 1000",
            "UPDATE shardwright.meta SET password_generation = 9",
            "DROP SCHEMA shardwright CASCADE",
            "SET session_replication_role = replica",
            "CREATE TABLE shardwright.mine (x int)",
        ):
            with pytest.raises(pg.InsufficientPrivilege):
                connection.execute(statement)
        with pytest.raises(psycopg.Error, match="another applier"):
            connection.execute("SELECT shardwright.begin_schema(1000)")
        with pytest.raises(psycopg.Error, match="not announced"):
            connection.execute("SELECT shardwright.note_schema('x.sql', 'x', 100)")


def test_the_owner_cannot_note_a_file_again(shard: TestShard) -> None:
    file = schema_file("CREATE TABLE t ()")
    shard.apply(file)
    with (
        shard.connect(shard.owner) as connection,
        pytest.raises(psycopg.Error, match="not announced"),
    ):
        connection.execute("SELECT shardwright.note_schema(%s, %s, 100)", [file.name, file.sha256])


def test_an_operator_that_the_owner_made_is_never_run_by_the_superuser(shard: TestShard) -> None:
    """``nspname || '.'`` would find it, were ``public`` in the search path."""
    shard.apply(
        schema_file(
            "CREATE TABLE t (id bigint);"
            "CREATE FUNCTION hijack(name, name) RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$;"
            "CREATE OPERATOR || (LEFTARG = name, RIGHTARG = name, FUNCTION = hijack)"
        )
    )
    with shard.connect() as connection:
        row = connection.execute("SELECT nspname || '.' FROM pg_namespace LIMIT 1").fetchone()
    assert row == ("mine",), "the trap itself works"

    shard.guard("-80", ("public.t", "id"))

    assert [table.name for table in shard.catalog().tables] == ["public.t"]
    assert [guard.table for guard in shard.catalog().guards] == ["public.t"]


def test_a_stranger_cannot_connect_to_the_database(shard: TestShard) -> None:
    stranger = Credential(f"{shard.database}_stranger", "x")
    with shard.connect() as connection:
        connection.execute(f"CREATE ROLE {stranger.role} LOGIN PASSWORD 'x'")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        shard.connect(stranger)


def test_rotated_passwords_replace_the_old_ones_and_twice_is_as_once(shard: TestShard) -> None:
    owner, app = (replace(role, password=f"new {role.role}") for role in shard.roles)

    for _ in range(2):
        shard.rotate(2, owner, app)

        shard.connect(owner).close()
        shard.connect(app).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            shard.connect(shard.app)
        assert shard.catalog().password_generation == 2


def test_no_password_reaches_the_servers_log(postgres: PostgresServer, shard: TestShard) -> None:
    shard.rotate(2, *(replace(role, password=f"rotated-{role.role}") for role in shard.roles))

    log = (postgres.home / "log").read_text()

    assert f'ALTER ROLE "{shard.app.role}" PASSWORD \'SCRAM-SHA-256$4096:' in log
    for secret in (shard.owner.password, shard.app.password, f"rotated-{shard.app.role}"):
        assert secret not in log
        assert secret.replace("'", "''") not in log


def test_an_applier_with_a_lower_token_changes_nothing(shard: TestShard) -> None:
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    with shard.connect() as connection:
        connection.execute("SELECT shardwright.check_fence(200)")
    before = shard.rows(ACLS)
    late = schema_file("CREATE TABLE late (id bigint)", "002.sql")

    with pytest.raises(FencedOff, match=r"ET111.*token 100 is older than 200"):
        shard.set_up()
    with pytest.raises(FencedOff):
        shard.rotate(9, shard.owner, shard.app)
    with pytest.raises(FencedOff):
        shard.apply(late)
    with pytest.raises(FencedOff):
        shard.guard("-", ("public.t", "id"))

    assert shard.rows(ACLS) == before
    assert shard.catalog().guards == ()
    assert [table.name for table in shard.catalog().tables] == ["public.t"]
    shard.apply(late, token=200)


def test_what_alter_system_set_is_seen(shard: TestShard) -> None:
    with shard.connect() as connection:
        connection.execute("ALTER SYSTEM SET work_mem = '3MB'")
        try:
            assert shard.catalog().overrides == (("work_mem", "3MB"),)
        finally:
            connection.execute("ALTER SYSTEM RESET work_mem")
    assert shard.catalog().overrides == ()


def test_a_wrong_password_is_refused_without_being_shown(
    shard: TestShard, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = replace(shard, login=replace(shard.login, superuser=Credential("postgres", "s3cr3t")))
    with caplog.at_level(logging.DEBUG), pytest.raises(LoginRefused, match="PG202") as caught:
        wrong.catalog()
    assert "s3cr3t" not in f"{caught.value!r} {caught.value} {caplog.text}"
    assert caught.value.__suppress_context__


def test_a_server_that_is_down_is_a_transient_error(shard: TestShard) -> None:
    with pytest.raises(PostgresUnreachable, match="PG201") as caught:
        shard.at(free_port()).catalog()
    assert caught.value.transient
    assert SUPERUSER_PASSWORD not in str(caught.value)


def _supersede_one_that_copies(shard: TestShard) -> None:
    later = PostgresSql(PostgresTimeouts(lock_ms=200))
    fence = partial(later.fence, shard.login, shard.primary, shard.database)
    with shard.connect() as hung:
        hung.execute("SELECT shardwright.check_fence(200)")
        _copy_and_hang(hung, fence)


def _copy_and_hang(hung: psycopg.Connection[Any], fence: Callable[[FencingToken], None]) -> None:
    with hung.transaction():
        hung.execute("SELECT shardwright.check_fence(200)")
        with hung.cursor().copy("COPY public.t FROM STDIN") as copy:
            copy.write_row([1])
            with pytest.raises(LockNotObtained):
                fence(FencingToken(200))  # as new as it: its own other thread
            fence(FencingToken(201))


def test_a_superseded_applier_that_hangs_in_a_copy_keeps_nobody_out(shard: TestShard) -> None:
    """Its backend waits for rows, which no timeout of PostgreSQL ends."""
    shard.apply(schema_file("CREATE TABLE t (id bigint)"))
    with pytest.raises(psycopg.Error):
        _supersede_one_that_copies(shard)

    with pytest.raises(FencedOff):
        shard.apply(schema_file("SELECT 1", "002.sql"), token=200)
    assert shard.rows("SELECT id FROM public.t") == []


def test_a_server_finds_out_within_a_minute_that_our_host_is_gone(shard: TestShard) -> None:
    target = Target(
        shard.primary, shard.database, shard.login.superuser, shard.login.tls,
        PostgresTimeouts(), "shard shop-s0",
    )  # fmt: skip
    for options in (superuser_options(target.timeouts), owner_options(target.timeouts)):
        with session(target, options) as connection:
            names = ("idle", "interval", "count")
            idle, interval, count = (
                int(connection.execute(f"SHOW tcp_keepalives_{name}").fetchall()[0][0])
                for name in names
            )
        assert 0 < idle + interval * count <= 60


def test_a_server_of_another_authority_is_refused(
    shard: TestShard, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not shard.primary.postgres_tls:
        return  # built without TLS: there is no certificate to refuse
    stranger = make_certificates(tmp_path_factory.mktemp("tls"))
    with pytest.raises(CertificateRefused, match="PG203"):
        replace(shard, login=replace(shard.login, tls=stranger)).catalog()


def _ask_a_stopped_backend(target: Target, stopped: list[int], *, inside: bool) -> None:
    options = superuser_options(target.timeouts, read_only=True)
    with session(target, options) as connection, ExitStack() as stack:
        if inside:
            stack.enter_context(connection.transaction())
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        connection.execute("select 1")


@pytest.mark.parametrize("inside", [False, True])
def test_a_backend_that_is_stopped_in_a_session_hangs_nobody(
    shard: TestShard, inside: bool
) -> None:
    target = Target(
        shard.primary, shard.database, shard.login.superuser, shard.login.tls,
        PostgresTimeouts(look_ms=200), "shard shop-s0",
    )  # fmt: skip
    stopped: list[int] = []
    try:
        with pytest.raises(PostgresUnreachable, match=r"no answer within 2\.2 s") as caught:
            _ask_a_stopped_backend(target, stopped, inside=inside)
        assert caught.value.transient
        assert shard.catalog().database_present  # the others serve
    finally:
        for backend in stopped:
            os.kill(backend, signal.SIGCONT)


def test_one_setting_bounds_a_question_to_each_of_the_three() -> None:
    etcd, patroni, postgres = wiring.timeouts(0.7)
    assert (etcd.read_s, etcd.connect_s, patroni.deadline_s) == (0.7, 0.7, 0.7)
    assert (postgres.look_ms, postgres.connect_s) == (700, 1)
    patient = wiring.timeouts(30)
    assert (patient[0].read_s, patient[1].deadline_s, patient[2].look_ms) == (30, 30, 30_000)
    options = superuser_options(postgres, read_only=True)
    assert options["statement_timeout"] == "700"
