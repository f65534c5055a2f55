"""What only looks does so as a user of etcd that may not write, and needs no other login."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler import wiring
from reconciler.cli.configured import load_settings
from reconciler.edges.etcd import EtcdStore
from reconciler.edges.etcd_gateway import EtcdTimeouts, Gateway, StoreForbidden, base64_text
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.platform import LocalPlatform
from reconciler.engine.records import routing_key
from tests.e2e.scene import TWO, Scene, key_of, spec_text

pytestmark = pytest.mark.platform


@pytest.fixture(scope="module")
def seen(stage: Scene) -> Scene:
    """A database of two shards."""
    stage.write("seen", spec_text("seen", *TWO))
    return stage.applied()


@contextmanager
def only(home: Path, user: EtcdUser) -> Iterator[None]:
    """Take the passwords of all others away, Patroni's apart; nobody has a token to go on with."""
    platform = LocalPlatform(home)
    hidden = set(EtcdUser) - {user, EtcdUser.PATRONI}
    files = [Path(platform.etcd_login(one).password_file) for one in hidden]
    for file in files:
        file.rename(f"{file}.hidden")
    try:
        yield
    finally:
        for file in files:
            Path(f"{file}.hidden").rename(file)


LOOKS: tuple[tuple[str, ...], ...] = (
    ("plan", "-f", "SPECS"),
    ("diff", "-f", "SPECS"),
    ("drift", "-f", "SPECS", "--detailed-exitcode"),
    ("get", "databases"),
    ("get", "shards", "seen"),
    ("get", "seen"),
    ("get", "operations"),
    ("get", "moves"),
    ("describe", "database", "seen"),
    ("status",),
    ("history", "seen"),
    ("route", "seen", "42"),
    ("audit", "verify"),
    ("operation", "list"),
    ("router", "map", "seen"),
    ("state", "export"),
    ("connect", "seen", "--key", "42", "--", "-c", "select 1"),
    ("platform", "status"),
)


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_what_only_looks_needs_no_login_but_the_readers(
    seen: Scene, words: tuple[str, ...]
) -> None:
    asked = [str(seen.specs) if word == "SPECS" else word for word in words]
    before = seen.call(*asked)
    with only(seen.home, EtcdUser.READER):
        ended = seen.call(*asked)
    assert ended.code == before.code == 0, ended.told() + before.told()
    assert "ET10" not in ended.told()


def test_doctor_looks_for_what_moves_left_with_no_login_but_the_readers(seen: Scene) -> None:
    with only(seen.home, EtcdUser.READER):
        assert "nothing is left of moves that have ended" in seen.call("doctor").told()


def test_what_writes_is_told_which_login_it_lacks(seen: Scene) -> None:
    with only(seen.home, EtcdUser.READER):
        ended = seen.call("suspend", "seen", "--reason", "a test")
    assert ended.code != 0
    assert "ET108" in ended.told()
    assert "user shardwright:" in ended.told()
    assert "platform up" in ended.told()


def test_the_login_of_a_looking_command_is_refused_every_write_by_etcd_itself(seen: Scene) -> None:
    """Past our own guard, which sends no writes at all."""
    world = wiring.open_reading_world(load_settings(str(seen.home)))
    handle: Any = world.eyes.store
    login = handle._etcd.login
    assert login.user == EtcdUser.READER
    key, platform = routing_key(key_of("seen")), LocalPlatform(seen.home)
    etcd = (platform.etcd_endpoints(), platform.client_tls())
    before = handle.read("/shardwright/v1/databases/")
    put = {"key": base64_text(key), "value": base64_text("nothing")}
    gateway = Gateway(*etcd, EtcdTimeouts(), login)
    for path, body in (
        ("/v3/kv/put", put),
        ("/v3/kv/deleterange", {"key": base64_text(key)}),
        ("/v3/kv/txn", {"success": [{"request_put": put}]}),
    ):
        with pytest.raises(StoreForbidden, match=r"ET109 .*user shardwright-reader"):
            gateway.call(path, body, repeatable=False)
    with pytest.raises(StoreForbidden):
        EtcdStore(*etcd, login=login).acquire("/shardwright/v1/applier", "a looker", 5)
    assert handle.read("/shardwright/v1/databases/") == before


def test_a_user_of_ones_own_is_named_by_the_environment(seen: Scene, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("not that one")
    seen_as: dict[str, Any] = {
        "SHARDWRIGHT_ETCD_USER": "shardwright-reader",
        "SHARDWRIGHT_ETCD_PASSWORD_FILE": str(file),
    }
    refused = seen.call("status", **seen_as)
    assert refused.code != 0
    assert "ET108" in refused.told()
    assert "not that one" not in refused.told()
    reader = LocalPlatform(seen.home).etcd_login(EtcdUser.READER)
    file.write_bytes(Path(reader.password_file).read_bytes())
    assert seen.call("status", **seen_as).code == 0
    assert "ET109" in seen.call("suspend", "seen", "--reason", "a test", **seen_as).told()
