"""The users of a home's etcd: made once, also in a home that is older than they are."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from reconciler.cli.checks import Check, run_checks
from reconciler.edges.etcd import EtcdStore
from reconciler.edges.etcd_gateway import StoreForbidden, StoreLoginRefused
from reconciler.edges.local import etcd_access, etcd_server, lifecycle, member, tls
from reconciler.edges.local.etcd_users import GRANTS, EtcdUser
from reconciler.edges.local.home import open_home
from reconciler.edges.local.patroni_config import LOOP_WAIT_S, TTL_S, patroni_config
from reconciler.edges.local.platform import LocalPlatform, home_record
from reconciler.settings import Settings
from tests.local_home import wait_for
from tests.platform.failover_shard import FailoverShard, Writer

pytestmark = pytest.mark.platform


def store(root: Path, user: EtcdUser | None) -> EtcdStore:
    platform = LocalPlatform(root)
    login = platform.etcd_login(user) if user else None
    return EtcdStore(platform.etcd_endpoints(), platform.client_tls(), login=login)


def may(root: Path, user: EtcdUser, what: str, key: str) -> bool:
    """Whether etcd lets a user do this with a key."""
    try:
        if what == "read":
            store(root, user).read(key)
        else:
            there = store(root, user)
            there.release(there.acquire(key, "test", 10))
    except StoreForbidden:
        return False
    return True


def assert_users_are_in_force(root: Path) -> None:
    with pytest.raises(StoreLoginRefused):
        store(root, None).read("/shardwright/")
    for user in EtcdUser:
        assert may(root, user, "read", "/shardwright/") == (
            user in (EtcdUser.ROOT, EtcdUser.WRITER, EtcdUser.READER)
        ), user


def test_each_user_may_do_what_it_is_for_and_no_more(new_home: Path) -> None:
    lifecycle.up(new_home)
    assert_users_are_in_force(new_home)
    writers = {
        "/shardwright/v1/test": {EtcdUser.ROOT, EtcdUser.WRITER},
        "/shardwright/audit/v1/test": {EtcdUser.ROOT, EtcdUser.WRITER},
        "/shardwright/patroni/default/s/test": {EtcdUser.ROOT, EtcdUser.PATRONI},
        "/shardwright/v1/routers/default/shop/r": {EtcdUser.ROOT, EtcdUser.WRITER, EtcdUser.ROUTER},
        "/elsewhere/test": {EtcdUser.ROOT},
    }
    for key, allowed in writers.items():
        assert {user for user in EtcdUser if may(new_home, user, "write", key)} == allowed, key
    databases = "/shardwright/v1/databases/"
    assert {user for user in EtcdUser if may(new_home, user, "read", databases)} == (
        set(EtcdUser) - {EtcdUser.PATRONI}
    )


def test_passwords_are_their_owners_and_in_no_argument_or_log(new_home: Path) -> None:
    lifecycle.up(new_home)
    logins = sorted((new_home / "etcd" / "logins").iterdir())
    assert [path.name for path in logins] == sorted([*EtcdUser, "token.key"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in logins} == {0o600}
    told = "".join(path.read_text(errors="replace") for path in (new_home / "etcd").glob("*.*"))
    etcd = etcd_server.running(open_home(new_home))
    assert etcd is not None
    told += Path(f"/proc/{etcd.pid}/cmdline").read_text()
    for path in logins:
        assert path.read_text() not in told


def test_an_up_that_is_killed_anywhere_before_users_are_asked_for_is_finished_by_the_next(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = etcd_server.ask, [0]

    def ask_until_killed(*arguments: Any) -> Any:
        if str(arguments[2]).startswith("/v3/auth/"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(etcd_server, "ask", ask_until_killed)
    deaths = 0
    for calls in range(200):
        left[0] = calls
        try:
            lifecycle.up(new_home)
        except KeyboardInterrupt:
            deaths += 1
        else:
            break
    assert deaths > len(EtcdUser) * 3
    left[0] = 1000
    assert_users_are_in_force(new_home)


def test_a_lost_password_is_made_anew_and_everybody_logs_in_again(new_home: Path) -> None:
    lifecycle.up(new_home)
    writer = store(new_home, EtcdUser.WRITER)
    lease = writer.acquire("/shardwright/test", "test", 60)
    Path(LocalPlatform(new_home).etcd_login(EtcdUser.READER).password_file).unlink()
    with pytest.raises(StoreLoginRefused, match="user shardwright-reader"):
        store(new_home, EtcdUser.READER).read("/shardwright/")

    lifecycle.up(new_home)

    assert "/shardwright/test" in store(new_home, EtcdUser.READER).read("/shardwright/")
    writer.write({"/shardwright/v1/test": (b"1", 0)}, lease)
    lifecycle.up(new_home)
    assert_users_are_in_force(new_home)


OTHERS = {
    **GRANTS,
    EtcdUser.READER: (("READWRITE", ("/shardwright/", "/shardwright0")),),
    EtcdUser.ROUTER: (("READ", ("/", "\0")),),
    EtcdUser.WRITER: GRANTS[EtcdUser.WRITER][:-1],
}


def doctor(root: Path) -> Check:
    """What doctor says of the users."""
    checks = run_checks(Settings(home=str(root)))
    (found,) = [check for check in checks if check.name == "etcd's users"]
    return found


@pytest.fixture
def others_home(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of a release that let users do other things; a role is there that no release made."""
    with monkeypatch.context() as patch:
        patch.setattr(etcd_access, "GRANTS", OTHERS)
        lifecycle.up(new_home)
    home = open_home(new_home)
    record = home_record(home)
    for path, body in (
        ("/v3/auth/role/add", {"name": "more"}),
        ("/v3/auth/user/grant", {"user": EtcdUser.READER, "role": "more"}),
    ):
        assert etcd_server.ask(home, record, path, body, EtcdUser.ROOT)[0] == etcd_server.OK
    return new_home


def test_what_users_may_in_a_home_of_another_release_becomes_what_the_code_says(
    others_home: Path,
) -> None:
    assert may(others_home, EtcdUser.READER, "write", "/shardwright/v1/test")
    told = doctor(others_home)
    assert told.state == "warn"
    assert "shardwright may not read and write /shardwright/patroni0 (and 6 more)" in told.fact
    assert told.remedy == "shardwright platform up"
    lease = store(others_home, EtcdUser.WRITER).acquire("/shardwright/held", "test", 60)
    writer = store(others_home, EtcdUser.WRITER)

    lifecycle.up(others_home)

    assert_users_are_in_force(others_home)
    assert not may(others_home, EtcdUser.READER, "write", "/shardwright/v1/test")
    assert not may(others_home, EtcdUser.ROUTER, "read", "/elsewhere")
    assert may(others_home, EtcdUser.ROUTER, "write", "/shardwright/v1/routers/default/shop/r")
    writer.write({"/shardwright/audit/v1/test": (b"1", 0)}, lease)
    assert doctor(others_home).state == "ok"

    etcd = etcd_server.running(open_home(others_home))
    lifecycle.up(others_home)
    assert etcd_server.running(open_home(others_home)) == etcd, "nothing differs: nothing is done"


def test_an_up_that_is_killed_anywhere_in_changing_what_users_may_is_finished_by_the_next(
    others_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Patronis would go on with tokens that they do not know to be old."""
    first = etcd_server.running(open_home(others_home))
    deaths = _die_after_each_change(others_home, monkeypatch)
    assert deaths > 5
    assert_users_are_in_force(others_home)
    assert etcd_server.running(open_home(others_home)) != first
    assert not (others_home / "etcd" / "logins" / "token.key.due").exists()


def _die_after_each_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Begin ups that die right after a change of users until one does not; return how many died."""
    real, deaths = etcd_server.ask, 0

    def ask_and_die(*arguments: Any) -> Any:
        answer = real(*arguments)
        changes = str(arguments[2]).startswith(("/v3/auth/role/", "/v3/auth/user/"))
        if changes and not str(arguments[2]).endswith("/get"):
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(etcd_server, "ask", ask_and_die)
    while True:
        try:
            lifecycle.up(root)
        except KeyboardInterrupt:
            deaths += 1
        else:
            monkeypatch.setattr(etcd_server, "ask", real)
            return deaths


def test_patronis_rotated_password_reaches_its_members_and_keeps_the_leader(new_home: Path) -> None:
    shard = FailoverShard(new_home)
    leader, timeline = shard.leader(), shard.timeline()
    patronis = {name: shard.process(name, "patroni") for name in shard.members()}
    file = Path(shard.platform.etcd_login(EtcdUser.PATRONI).password_file)
    file.write_text("another-word")

    with Writer(shard) as writer:
        writer.await_writes()
        lifecycle.up(new_home)
        assert_users_are_in_force(new_home)
        changed_at = time.monotonic()
        wait_for(lambda: time.monotonic() > changed_at + TTL_S + LOOP_WAIT_S or None, "a ttl later")
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert (shard.leader(), shard.timeline()) == (leader, timeline)
    assert {name: shard.process(name, "patroni") for name in shard.members()} == patronis


def test_a_lost_password_of_root_is_said_and_everything_else_goes_on(new_home: Path) -> None:
    lifecycle.up(new_home)
    root = Path(LocalPlatform(new_home).etcd_login(EtcdUser.ROOT).password_file)
    kept = root.read_text()
    root.unlink()
    with pytest.raises(etcd_access.EtcdUserRefused, match=rf"LP143 .*root: .*\n.*restore {root}"):
        lifecycle.up(new_home)
    assert store(new_home, EtcdUser.READER).read("/shardwright/") == {}
    root.write_text(kept)
    lifecycle.up(new_home)
    assert_users_are_in_force(new_home)


@contextmanager
def before_users() -> Iterator[None]:
    """As the platform was before its etcd had users: no login anywhere, certificates with names."""
    command, described = etcd_server.command, member._description

    def without_login(*arguments: Any) -> dict[str, Any]:
        found = described(*arguments)
        etcd = {k: v for k, v in found["etcd"].items() if k not in ("user", "password_file")}  # type: ignore[attr-defined]
        return {**found, "etcd": etcd}

    def without_password(*arguments: Any) -> dict[str, Any]:
        found = patroni_config(*arguments)
        etcd = {k: v for k, v in found["etcd3"].items() if k not in ("username", "password")}
        return {**found, "etcd3": etcd}

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"shardwright-{name}")])

    def old_options(*arguments: Any) -> list[str]:
        return [o for o in command(*arguments) if not o.startswith(("--auth-token", "--bcrypt"))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etcd_server, "command", old_options)
        patch.setattr(etcd_access, "is_open", lambda *_: False)
        patch.setattr(lifecycle, "_mend_users", lambda *_: False)
        patch.setattr(member, "_description", without_login)
        patch.setattr(member, "patroni_config", without_password)
        patch.setattr(tls, "_leaf_name", named)
        yield


def test_a_home_from_before_gets_its_users_under_a_writer_and_fails_over_as_ever(
    new_home: Path,
) -> None:
    with before_users():
        shard = FailoverShard(new_home)
    told = doctor(new_home)
    assert (told.state, told.remedy) == ("warn", "shardwright platform up")
    assert "it asks nobody for a login" in told.fact
    shutil.rmtree(open_home(new_home).etcd / "logins")
    leader, timeline = shard.leader(), shard.timeline()
    supervisors = {name: shard.process(name, "supervisor") for name in shard.members()}
    patronis = {name: shard.process(name, "patroni") for name in shard.members()}

    with Writer(shard) as writer:
        writer.await_writes()
        lifecycle.up(new_home)
        assert_users_are_in_force(new_home)
        writer.await_writes()
        shard.await_ready()
    assert writer.lost() == set()
    assert (shard.leader(), shard.timeline()) == (leader, timeline)
    now = {name: shard.process(name, "supervisor") for name in shard.members()}
    assert all(now[name] not in (None, old) for name, old in supervisors.items())
    assert {name: shard.process(name, "patroni") for name in shard.members()} == patronis

    with Writer(shard) as writer:
        writer.await_writes()
        shard.kill(leader, "postgres", "patroni", "supervisor")
        wait_for(lambda: shard.leader() not in ("", leader) or None, "another leader")
        shard.await_ready()
        writer.await_writes()
    assert writer.lost() == set()
    assert "gave up leader lease" in shard.log(shard.leader())
