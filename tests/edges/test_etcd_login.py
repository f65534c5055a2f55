"""Users of a real etcd: logins, tokens that run out or die, and what a reader may not do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from reconciler.edges.etcd import EtcdStore
from reconciler.edges.etcd_gateway import (
    EtcdTimeouts,
    Gateway,
    StoreForbidden,
    StoreLoginRefused,
    base64_text,
    prefix_end,
)
from reconciler.edges.local.supervisor_etcd import EtcdAccess, LeaseUnreachable, ScopeStore
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.platform import TlsFiles
from reconciler.sdk.config import Limits
from reconciler.sdk.etcd import EtcdAway, EtcdReader
from tests.edges.servers import EtcdServer, etcd_binary

KEY = "/mine/key"


class Users:
    """An etcd with root, a writer and a reader of one prefix; each password is its user's name."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        for user in ("root", "writer", "reader"):
            (server.home / user).write_text(f"{user}\n")
        self.new_key()

    def login(self, user: str) -> EtcdLogin:
        return EtcdLogin(user, str(self.server.home / user))

    def store(self, user: str | None) -> EtcdStore:
        login = self.login(user) if user else None
        return EtcdStore((self.server.endpoint,), self.server.tls, login=login)

    def gateway(self, user: str | None) -> Gateway:
        login = self.login(user) if user else None
        return Gateway((self.server.endpoint,), self.server.tls, EtcdTimeouts(), login)

    def sdk(self, login: EtcdLogin | None) -> EtcdReader:
        return EtcdReader((self.server.endpoint,), self.server.tls, Limits(), login)

    def admit(self) -> None:
        """Let etcd know its users, and ask everybody for a login from now on."""
        for user in ("root", "writer", "reader"):
            self.ask("/v3/auth/user/add", name=user, password=user)
            self.ask("/v3/auth/role/add", name=user)
            self.ask("/v3/auth/user/grant", user=user, role=user)
        whole = {"key": base64_text("/mine/"), "range_end": base64_text(prefix_end(b"/mine/"))}
        self.ask("/v3/auth/role/grant", name="writer", perm={**whole, "permType": "READWRITE"})
        self.ask("/v3/auth/role/grant", name="reader", perm={**whole, "permType": "READ"})
        self.ask("/v3/auth/enable")
        self.server.login = self.login("root")

    def ask(self, path: str, by: str | None = None, **body: Any) -> None:
        self.gateway(by).call(path, body, repeatable=False)

    def new_key(self) -> None:
        """From its next start on, etcd takes none of the tokens that it gave."""
        (self.server.home / "token.key").write_text(uuid4().hex)

    def age_tokens(self) -> None:
        """Make all tokens those of an older set of users, as any change of users does."""
        self.ask("/v3/auth/role/add", "root", name=f"r{time.monotonic_ns()}")


@contextmanager
def running_etcd(home: Path, tls: TlsFiles, ttl: str = "1h") -> Iterator[Users]:
    """An etcd whose tokens are good until they run out, its users change, or its key does."""
    jwt = f"--auth-token=jwt,priv-key={home / 'token.key'},sign-method=HS256,ttl={ttl}"
    server = EtcdServer(etcd_binary(), home, tls, ("--bcrypt-cost=4", jwt))
    users = Users(server)
    server.start()
    try:
        yield users
    finally:
        server.stop()


@pytest.fixture
def etcd(tmp_path: Path, tls: TlsFiles) -> Iterator[Users]:
    with running_etcd(tmp_path, tls) as users:
        yield users


@pytest.fixture
def users(etcd: Users) -> Users:
    etcd.admit()
    return etcd


def test_a_writer_writes_and_a_reader_reads(users: Users) -> None:
    writer = users.store("writer")
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    assert users.store("reader").read("/mine/")[KEY].value == b"1"


def test_etcd_itself_refuses_every_write_of_a_reader(users: Users) -> None:
    writer = users.store("writer")
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    before = writer.read("/mine/")
    put = {"key": base64_text(KEY), "value": base64_text("2")}
    never = {"key": base64_text(KEY), "target": "MOD", "mod_revision": "1"}
    writes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/v3/kv/put", put),
        ("/v3/kv/deleterange", {"key": base64_text(KEY)}),
        ("/v3/kv/txn", {"success": [{"request_put": put}]}),
        ("/v3/kv/txn", {"compare": [never], "success": [{"request_put": put}]}),
        ("/v3/kv/txn", {"failure": [{"request_delete_range": {"key": base64_text(KEY)}}]}),
        ("/v3/lease/revoke", {"ID": str(lease.lease_id)}),
        ("/v3/auth/user/add", {"name": "more", "password": "x"}),
        ("/v3/auth/disable", {}),
    )
    for path, body in writes:
        with pytest.raises(StoreForbidden, match=r"ET109 .*user reader: .*permission denied"):
            users.gateway("reader").call(path, body, repeatable=False)
    with pytest.raises(StoreForbidden):
        users.store("reader").acquire("/mine/other", "a reader", 60)
    assert users.store("reader").read("/mine/") == before


def test_nobody_sees_what_is_not_theirs(users: Users) -> None:
    with pytest.raises(StoreForbidden):
        users.store("reader").read("/")
    with pytest.raises(StoreForbidden):
        users.store("writer").acquire("/others/lease", "test", 60)


def test_without_a_login_an_etcd_with_users_says_what_is_missing(users: Users) -> None:
    with pytest.raises(StoreLoginRefused, match=r"ET108 .*asks for a login, and none is set"):
        users.store(None).read("/mine/")


@pytest.mark.parametrize("password", ["hunter2", None])
def test_a_wrong_or_missing_password_is_an_error_that_names_user_and_file(
    users: Users, password: str | None
) -> None:
    file = users.server.home / "writer"
    file.unlink() if password is None else file.write_text(password)
    with pytest.raises(StoreLoginRefused, match=f"user writer: .*\n.*put .* in {file}") as raised:
        users.store("writer").read("/mine/")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("end", ["restart", "age"])
def test_a_token_that_died_is_replaced_under_a_lease_that_goes_on(users: Users, end: str) -> None:
    writer = users.store("writer")
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    _end_tokens(users, end)
    writer.write({KEY: (b"2", None)}, lease)
    _end_tokens(users, end)
    writer.keep_alive(lease)
    _end_tokens(users, end)
    assert writer.read("/mine/")[KEY].value == b"2"
    _end_tokens(users, end)
    writer.release(lease)
    assert "/mine/lease" not in writer.read("/mine/")


def _end_tokens(users: Users, how: str) -> None:
    if how == "restart":
        users.server.stop()
        users.new_key()
        users.server.start()
    else:
        users.age_tokens()


def test_a_rotated_password_is_in_force_without_a_new_store(users: Users) -> None:
    writer, reader = users.store("writer"), users.sdk(users.login("reader"))
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    assert reader.read(KEY).value == b"1"
    for user in ("writer", "reader"):
        users.ask("/v3/auth/user/changepw", "root", name=user, password=f"next-{user}")
    with pytest.raises(StoreLoginRefused):
        writer.write({KEY: (b"2", None)}, lease)
    for user in ("writer", "reader"):
        Path(users.login(user).password_file).write_text(f"next-{user}\n")
    writer.write({KEY: (b"3", None)}, lease)
    writer.keep_alive(lease)
    assert reader.read(KEY).value == b"3"


def test_a_token_that_ran_out_is_replaced(tmp_path: Path, tls: TlsFiles) -> None:
    with running_etcd(tmp_path, tls, "1s") as users:
        users.admit()
        writer, reader = users.store("writer"), users.sdk(users.login("reader"))
        lease = writer.acquire("/mine/lease", "test", 60)
        for number in range(3):
            time.sleep(1.2)
            writer.write({KEY: (b"%d" % number, None)}, lease)
            assert reader.read(KEY).value == b"%d" % number


def test_an_etcd_without_users_is_used_with_a_login_until_it_has_them(etcd: Users) -> None:
    writer, reader = etcd.store("writer"), etcd.sdk(etcd.login("reader"))
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    assert reader.read(KEY).value == b"1"
    etcd.admit()
    writer.write({KEY: (b"2", None)}, lease)
    assert reader.read(KEY).value == b"2"


@pytest.mark.parametrize("end", ["restart", "age"])
def test_the_sdk_reads_and_watches_on_when_its_token_died(users: Users, end: str) -> None:
    writer, reader = users.store("writer"), users.sdk(users.login("reader"))
    lease = writer.acquire("/mine/lease", "test", 60)
    writer.write({KEY: (b"1", 0)}, lease)
    seen = reader.read(KEY)
    _end_tokens(users, end)
    with pytest.raises(EtcdAway, match="cancelled"):
        next(reader.watch(KEY, seen))
    again = reader.read(KEY)
    assert again.value == b"1"
    watch = reader.watch(KEY, again)
    writer.write({KEY: (b"2", None)}, lease)
    assert next(watch).value == b"2"
    watch.close()  # type: ignore[attr-defined]


def test_the_sdk_says_which_login_was_refused(users: Users) -> None:
    (users.server.home / "reader").write_text("wrong")
    with pytest.raises(EtcdAway, match="authentication failed"):
        users.sdk(users.login("reader")).read(KEY)
    with pytest.raises(EtcdAway, match="permission denied"):
        users.sdk(None).read(KEY)
    gone = replace(users.login("reader"), password_file="/nowhere/at/all")
    with pytest.raises(EtcdAway, match="permission denied"):
        users.sdk(gone).read(KEY)


def supervisor(users: Users) -> ScopeStore:
    """What the parent of a member asks etcd with, on the standard library alone."""
    tls = users.server.tls
    access = EtcdAccess((users.server.endpoint,), tls.ca, tls.cert, tls.key, users.login("writer"))
    return ScopeStore(access, "/mine", "s0", timeout_s=10.0)


@pytest.mark.parametrize("end", ["restart", "age"])
def test_a_supervisor_asks_on_when_its_token_died_and_with_a_rotated_password(
    users: Users, end: str
) -> None:
    store = supervisor(users)
    assert store.read().view.leader is None
    _end_tokens(users, end)
    assert store.read().view.leader is None
    users.ask("/v3/auth/user/changepw", "root", name="writer", password="next")
    with pytest.raises(LeaseUnreachable, match="authentication failed"):
        store.read()
    Path(users.login("writer").password_file).write_text("next\n")
    assert store.read().view.leader is None


def test_a_supervisor_needs_no_login_until_etcd_has_users(etcd: Users) -> None:
    store = supervisor(etcd)
    assert store.read().view.leader is None
    etcd.admit()
    assert store.read().view.leader is None
