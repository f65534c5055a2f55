"""A home's private certificate authority, its server certificate and its client certificate.

Valid for loopback only. The server certificate may also act as a client: etcd's own gRPC gateway
dials etcd with it (etcd 3.4 and 3.5 ``embed/serve.go``), and Patroni members call one another.

Neither has a common name: where etcd knows users, its gateway refuses a certificate with one (same
file), as it could mean another user than the login does.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.edges.local.home import Home, write_file
from reconciler.model.platform import TlsFiles

if TYPE_CHECKING:  # cryptography costs a tenth of a second; it is needed once in a home's life
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

VALIDITY_DAYS = 3650
BACKDATE_DAYS = 365
"""Certificates are valid from this long ago: a clock that is set back does not void them."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Paths of the server side's certificate files in PEM."""

    ca: str
    cert: str
    key: str


def server_files(home: Home) -> ServerTls:
    """Return the paths for etcd, PostgreSQL and Patroni."""
    tls = home.tls
    return ServerTls(str(tls / "ca.pem"), str(tls / "server.pem"), str(tls / "server.key"))


def client_files(home: Home) -> TlsFiles:
    """Return the paths for clients of this home."""
    tls = home.tls
    return TlsFiles(str(tls / "ca.pem"), str(tls / "client.pem"), str(tls / "client.key"))


def client_context(home: Home) -> ssl.SSLContext:
    """Return a context that trusts only this home's authority and shows the client certificate."""
    files = client_files(home)
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def ensure_certificates(home: Home) -> None:
    """Create all certificate files unless they are there; the last one written is the sign.

    Those with a common name, of a home from before its etcd had users, are signed anew for the same
    keys, so that who reads a key and a certificate meanwhile gets two that fit.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    tls = home.tls
    if (tls / "client.pem").exists():
        if any(_has_common_name(tls / f"{name}.pem") for name in ("client", "server")):
            ca_key = _read_key(tls / "ca.key")
            _sign_leaves(tls, ca_key, _read_key(tls / "server.key"), _read_key(tls / "client.key"))
        return
    tls.mkdir(mode=0o700, exist_ok=True)
    ca_key, server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca = _builder(_ca_name(), ca_key, _ca_name(), ca_key, is_ca=True)
    _write(tls / "ca", _sign(ca, ca_key), ca_key)
    _sign_leaves(tls, ca_key, server, client)


def _sign_leaves(
    tls: Path,
    ca_key: ec.EllipticCurvePrivateKey,
    server: ec.EllipticCurvePrivateKey,
    client: ec.EllipticCurvePrivateKey,
) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    client_auth, server_auth = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    leaves = (("server", server, [server_auth, client_auth]), ("client", client, [client_auth]))
    for name, key, usages in leaves:
        builder = _builder(_leaf_name(name), key, _ca_name(), ca_key, is_ca=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if name == "server":
            builder = builder.add_extension(_loopback_names(), critical=False)
        _write(tls / name, _sign(builder, ca_key), key)


def _has_common_name(file: Path) -> bool:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_pem_x509_certificate(file.read_bytes()).subject
    return bool(subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _read_key(file: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we wrote no other
    return key


def _ca_name() -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shardwright local CA")])


def _leaf_name(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"shardwright-{name}")])


def _loopback_names() -> x509.SubjectAlternativeName:
    from cryptography import x509

    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return x509.SubjectAlternativeName([address, x509.DNSName("localhost")])


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=is_ca, crl_sign=is_ca,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=BACKDATE_DAYS))
        .not_valid_after(now + datetime.timedelta(days=VALIDITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(issuer_id, critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_file(stem.with_suffix(".key"), private)
    write_file(stem.with_suffix(".pem"), certificate.public_bytes(pem))
