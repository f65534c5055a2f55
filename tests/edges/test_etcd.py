"""The store on a real etcd with TLS and client certificates."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from reconciler.edges import etcd as etcd_edge
from reconciler.edges.etcd import EtcdStore
from reconciler.edges.etcd_gateway import (
    EtcdTimeouts,
    HistoryCompacted,
    StoreCertificateRefused,
    StoreFull,
    StoreRefused,
    StoreSilent,
    StoreUnreachable,
    WriteOutcomeUnknown,
)
from reconciler.edges.local.supervisor_etcd import EtcdAccess, LeaseUnreachable, ScopeStore
from reconciler.model.access import ConflictingWrite, FencedOff, Lease, LeaseHeld
from reconciler.model.names import FencingToken
from reconciler.model.platform import TlsFiles
from reconciler.sdk.config import Limits
from reconciler.sdk.etcd import EtcdAway, EtcdReader
from tests.edges.servers import EtcdServer, etcd_binary, free_port, make_certificates

DEADLINE_S = 60.0


@pytest.fixture
def store(etcd: EtcdServer) -> EtcdStore:
    return EtcdStore((etcd.endpoint,), etcd.tls)


@pytest.fixture
def prefix() -> str:
    """A corner of the key space for one test."""
    return f"/{uuid4().hex}/"


@pytest.fixture
def lease(store: EtcdStore, prefix: str) -> Iterator[Lease]:
    held = store.acquire(f"{prefix}lease", "test", 60)
    yield held
    store.release(held)


@pytest.fixture
def own_etcd(tmp_path: Path, tls: TlsFiles) -> Iterator[EtcdServer]:
    """An etcd that the test may break."""
    server = EtcdServer(etcd_binary(), tmp_path, tls)
    server.start()
    yield server
    server.stop()


def test_what_was_written_is_read_with_its_version(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    version = store.write({f"{prefix}r/a": (b"1", 0), f"{prefix}r/b": (b"\x00\xff", None)}, lease)

    found = store.read(f"{prefix}r/")

    assert {key: (v.value, v.version) for key, v in found.items()} == {
        f"{prefix}r/a": (b"1", version),
        f"{prefix}r/b": (b"\x00\xff", version),
    }


def test_a_prefix_without_keys_reads_as_empty(store: EtcdStore, prefix: str) -> None:
    assert store.read(prefix) == {}


def test_more_keys_than_a_page_are_read_as_of_one_revision(
    store: EtcdStore, prefix: str, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{prefix}r/{i:03}" for i in range(25)]
    store.write(dict.fromkeys(keys, (b"old", 0)), lease)
    monkeypatch.setattr(etcd_edge, "PAGE_KEYS", 10)
    pages = 0
    ask = store._call

    def ask_and_disturb(path: str, body: dict[str, object]) -> dict[str, object]:
        nonlocal pages
        answer = ask(path, body)
        pages += 1
        store_other.write(dict.fromkeys(keys, (b"new", None)), lease)
        return answer

    store_other = EtcdStore(store._etcd.endpoints, store._etcd.tls)
    monkeypatch.setattr(store, "_call", ask_and_disturb)

    found = store.read(f"{prefix}r/")

    assert pages == 3
    assert list(found) == keys
    assert {v.value for v in found.values()} == {b"old"}


@pytest.mark.parametrize("compactions", [1, 99])
def test_a_read_whose_revision_is_compacted_between_pages_begins_anew_a_few_times(
    store: EtcdStore,
    prefix: str,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
    compactions: int,
) -> None:
    keys = [f"{prefix}r/{i:03}" for i in range(25)]
    store.write(dict.fromkeys(keys, (b"old", 0)), lease)
    monkeypatch.setattr(etcd_edge, "PAGE_KEYS", 10)
    other, left, ask = EtcdStore(store._etcd.endpoints, store._etcd.tls), compactions, store._call

    def ask_and_compact(path: str, body: dict[str, object]) -> dict[str, object]:
        nonlocal left
        answer = ask(path, body)
        if answer.get("more") and left:
            left -= 1
            revision = other.write({keys[0]: (b"new", None)}, lease)
            other._call("/v3/kv/compaction", {"revision": str(revision)})
        return answer

    monkeypatch.setattr(store, "_call", ask_and_compact)

    if compactions == 1:
        assert list(store.read(f"{prefix}r/")) == keys
    else:
        with pytest.raises(HistoryCompacted):
            store.read(f"{prefix}r/")
        assert compactions - left == etcd_edge.READ_TRIES


def test_a_write_on_an_old_version_changes_nothing_and_names_the_key(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    a, b = f"{prefix}a", f"{prefix}b"
    version = store.write({a: (b"1", 0), b: (b"1", 0)}, lease)
    store.write({b: (b"2", version)}, lease)

    with pytest.raises(ConflictingWrite, match=rf"{b}: .*was version {version} when read"):
        store.write({a: (b"3", version), b: (b"3", version)}, lease)

    assert [v.value for v in store.read(prefix).values()][:2] == [b"1", b"2"]


def test_version_zero_expects_that_the_key_is_absent(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    store.write({f"{prefix}a": (b"1", 0)}, lease)

    with pytest.raises(ConflictingWrite, match="was absent when read"):
        store.write({f"{prefix}a": (b"2", 0)}, lease)


def test_a_key_is_deleted_only_at_its_expected_version(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    key = f"{prefix}a"
    version = store.write({key: (b"1", 0)}, lease)
    with pytest.raises(ConflictingWrite):
        store.write({key: (None, version + 1)}, lease)

    store.write({key: (None, version)}, lease)

    assert key not in store.read(prefix)


def test_a_second_acquirer_is_told_who_holds_the_lease(store: EtcdStore, prefix: str) -> None:
    key = f"{prefix}lease"
    first = store.acquire(key, "ann on host-1", 60)

    with pytest.raises(LeaseHeld, match=r"held by ann on host-1, since 20\d\d-"):
        store.acquire(key, "bob", 60)

    store.release(first)
    second = store.acquire(key, "bob", 60)
    assert second.token > first.token
    store.release(second)


def test_a_former_holder_is_fenced_off_and_writes_nothing(store: EtcdStore, prefix: str) -> None:
    key, record = f"{prefix}lease", f"{prefix}record"
    former = store.acquire(key, "former", 60)
    store.release(former)
    with pytest.raises(FencedOff, match="it ran out"):
        store.write({record: (b"late", None)}, former)

    present = store.acquire(key, "present", 60)
    with pytest.raises(FencedOff):
        store.write({record: (b"late", None)}, former)
    with pytest.raises(FencedOff):
        store.keep_alive(former)

    assert record not in store.read(prefix)
    store.write({record: (b"mine", 0)}, present)
    store.release(former)
    store.keep_alive(present)
    store.release(present)


def test_a_lease_whose_key_was_deleted_by_hand_is_not_renewed(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    victim = store.acquire(f"{prefix}other", "victim", 60)
    store.write({victim.key: (None, None)}, lease)
    with pytest.raises(FencedOff):
        store.keep_alive(victim)
    store.release(victim)


def test_a_forged_token_is_fenced_off(store: EtcdStore, prefix: str, lease: Lease) -> None:
    forged = replace(lease, token=FencingToken(lease.token + 1))
    with pytest.raises(FencedOff):
        store.write({f"{prefix}a": (b"1", None)}, forged)


def test_being_fenced_off_is_said_before_a_conflict(store: EtcdStore, prefix: str) -> None:
    former = store.acquire(f"{prefix}lease", "former", 60)
    store.release(former)
    with pytest.raises(FencedOff):
        store.write({f"{prefix}a": (b"1", 77)}, former)


def test_the_lease_of_a_holder_that_was_killed_ends_by_itself(
    etcd: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    key = f"{prefix}lease"
    program = (
        "import sys, time\n"
        "from reconciler.edges.etcd import EtcdStore\n"
        "from reconciler.model.platform import TlsFiles\n"
        "store = EtcdStore((sys.argv[1],), TlsFiles(*sys.argv[2:5]))\n"
        "lease = store.acquire(sys.argv[5], 'the victim', 2)\n"
        "print('held', flush=True)\n"
        "while True:\n    time.sleep(0.3); store.keep_alive(lease)\n"
    )
    files = (etcd.tls.ca, etcd.tls.cert, etcd.tls.key)
    holder = subprocess.Popen(
        [sys.executable, "-c", program, etcd.endpoint, *files, key], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LeaseHeld, match="the victim"):
        store.acquire(key, "heir", 2)

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()

    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            store.release(store.acquire(key, "heir", 2))
            break
        except LeaseHeld:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_dead_endpoint_is_passed_over(etcd: EtcdServer, prefix: str) -> None:
    dead = f"https://127.0.0.1:{free_port()}"
    store = EtcdStore((dead, etcd.endpoint), etcd.tls)
    lease = store.acquire(f"{prefix}lease", "test", 60)
    store.write({f"{prefix}a": (b"1", 0)}, lease)
    store.release(lease)


def test_etcd_being_down_is_a_transient_error_with_a_remedy(tls: TlsFiles) -> None:
    store = EtcdStore((f"https://127.0.0.1:{free_port()}",), tls)
    with pytest.raises(StoreUnreachable, match=r"ET101.*no connection") as caught:
        store.read("/")
    assert caught.value.transient
    assert "platform up" in caught.value.remedy


def test_a_silent_etcd_leaves_a_writes_outcome_unknown(own_etcd: EtcdServer) -> None:
    store = EtcdStore((own_etcd.endpoint,), own_etcd.tls, EtcdTimeouts(read_s=0.5))
    lease = store.acquire("/lease", "test", 60)
    own_etcd.freeze()
    try:
        with pytest.raises(StoreSilent):
            store.read("/")
        with pytest.raises(WriteOutcomeUnknown, match="may have happened"):
            store.write({"/a": (b"1", 0)}, lease)
    finally:
        own_etcd.thaw()


def test_after_a_silent_endpoint_the_next_write_is_sent_to_another(
    own_etcd: EtcdServer, etcd: EtcdServer
) -> None:
    """Only a read moves on at once: the write that was not answered may have happened."""
    ends = (own_etcd.endpoint, etcd.endpoint)
    store = EtcdStore(ends, etcd.tls, EtcdTimeouts(read_s=0.5))
    lease = EtcdStore((etcd.endpoint,), etcd.tls).acquire("/moved-on/lease", "test", 60)
    reader = EtcdStore(ends, etcd.tls, EtcdTimeouts(read_s=0.5))
    own_etcd.freeze()
    try:
        assert list(reader.read("/moved-on/")) == ["/moved-on/lease"]
        with pytest.raises(WriteOutcomeUnknown):
            store.write({"/moved-on/a": (b"1", 0)}, lease)
        store.write({"/moved-on/a": (b"2", 0)}, lease)
    finally:
        own_etcd.thaw()
        store.release(lease)


def test_an_answer_that_is_not_etcds_is_taken_for_none() -> None:
    """A proxy on the way may say 200 and send a page."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<p>We will be back soon.</p>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = EtcdStore((f"http://127.0.0.1:{server.server_port}",))
    try:
        with pytest.raises(StoreSilent, match="back soon"):
            store.read("/a")
        with pytest.raises(WriteOutcomeUnknown):
            store.write({"/a": (b"1", 0)}, Lease("/lease", 1, FencingToken(1)))
    finally:
        server.shutdown()
        server.server_close()


def test_records_and_lease_outlive_a_restart_of_etcd(own_etcd: EtcdServer) -> None:
    store = EtcdStore((own_etcd.endpoint,), own_etcd.tls)
    lease = store.acquire("/lease", "test", 600)
    store.write({"/a": (b"1", 0)}, lease)

    own_etcd.stop()
    with pytest.raises(StoreUnreachable):
        store.read("/a")
    own_etcd.start()

    assert store.read("/a")["/a"].value == b"1"
    store.keep_alive(lease)
    store.write({"/a": (b"2", None)}, lease)


def test_a_full_etcd_says_how_to_make_room(tmp_path: Path, tls: TlsFiles) -> None:
    server = EtcdServer(etcd_binary(), tmp_path, tls, ("--quota-backend-bytes=100000",))
    server.start()
    try:
        store = EtcdStore((server.endpoint,), tls)
        with pytest.raises(StoreFull, match="space exceeded") as caught:  # noqa: PT012
            lease = store.acquire("/lease", "test", 60)
            for i in range(50):
                store.write({f"/{i}": (b"x" * 50_000, 0)}, lease)
        assert not caught.value.transient
        assert "defrag" in caught.value.remedy
        store.read("/")
    finally:
        server.stop()


def test_a_server_of_another_authority_is_refused(etcd: EtcdServer, tmp_path: Path) -> None:
    stranger = make_certificates(tmp_path)
    with pytest.raises(StoreCertificateRefused, match="ET106"):
        EtcdStore((etcd.endpoint,), stranger).read("/")


def test_a_client_without_the_right_certificate_is_refused(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path)
    mixed = replace(stranger, ca=etcd.tls.ca)
    with pytest.raises((StoreCertificateRefused, StoreSilent)):
        EtcdStore((etcd.endpoint,), mixed).read("/")


def test_rotated_certificates_are_in_force_without_a_new_store(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    """Authority, server and client at once: the old ones fit nothing any more."""
    tls = make_certificates(tmp_path / "tls")
    server = EtcdServer(etcd_binary(), tmp_path, tls)
    server.start()
    try:
        store = EtcdStore((server.endpoint,), tls)
        reader = EtcdReader((server.endpoint,), tls, Limits())
        access = EtcdAccess((server.endpoint,), tls.ca, tls.cert, tls.key)
        supervisor = ScopeStore(access, "/patroni", "s0", timeout_s=10.0)
        lease = store.acquire("/lease", "test", 600)
        store.write({"/a": (b"1", 0)}, lease)
        assert reader.read("/a").value == b"1"
        assert supervisor.read().view.leader is None

        server.stop()
        shutil.copytree(tmp_path / "tls", tmp_path / "old")
        make_certificates(tmp_path / "tls")
        server.start()
        store.keep_alive(lease)
        store.write({"/a": (b"2", None)}, lease)
        with pytest.raises(EtcdAway, match="CERTIFICATE_VERIFY_FAILED"):
            reader.read("/a")
        assert reader.read("/a").value == b"2"
        with pytest.raises(LeaseUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            supervisor.read()
        assert supervisor.read().view.leader is None
        old = TlsFiles(*(str(tmp_path / "old" / Path(f).name) for f in (tls.ca, tls.cert, tls.key)))
        with pytest.raises(StoreCertificateRefused):
            EtcdStore((server.endpoint,), old).read("/a")

        # Half rotated: nothing is sent, so that nobody need wonder what came of a write.
        server.stop()
        Path(tls.key).rename(tmp_path / "key")
        server.tls = old
        server.start()
        with pytest.raises(StoreCertificateRefused, match=r"ET106 .*No such file"):
            store.write({"/a": (b"3", None)}, lease)
        shutil.copytree(tmp_path / "old", tmp_path / "tls", dirs_exist_ok=True)
        store.write({"/a": (b"4", None)}, lease)
    finally:
        server.stop()


def test_too_many_changes_are_refused_before_they_are_sent(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    with pytest.raises(StoreRefused, match="200 changes at once"):
        store.write({f"{prefix}{i}": (b"", None) for i in range(200)}, lease)


def test_as_many_changes_as_allowed_pass_in_one_transaction(
    store: EtcdStore, prefix: str, lease: Lease
) -> None:
    count = etcd_edge.WRITE_CHANGES_MAX
    store.write({f"{prefix}r/{i}": (b"", 0) for i in range(count)}, lease)
    assert len(store.read(f"{prefix}r/")) == count


def test_importing_the_store_loads_no_http_library() -> None:
    program = "import sys, reconciler.edges.etcd; print('urllib3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"
