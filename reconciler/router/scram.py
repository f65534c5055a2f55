"""SCRAM-SHA-256 (RFC 5802, RFC 7677) from both sides, without channel binding.

The router ends the client's login itself and makes its own to the shards: a proof is bound to one
conversation, so it cannot be passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import lru_cache

ITERATIONS = 4096
"""PostgreSQL's default, and so what its own verifiers have."""
MECHANISM = "SCRAM-SHA-256"
_PREFIX = MECHANISM + "$"


class LoginFailed(Exception):
    """The other side's proof or message is wrong; says nothing about secrets."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password: it proves a login and cannot make one."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def read_verifier(secret: str) -> Verifier:
    """Return a verifier as PostgreSQL writes it, or make one of a password. Raises ValueError."""
    if not secret.startswith(_PREFIX):
        return make_verifier(secret)
    cost, _, keys = secret.removeprefix(_PREFIX).partition("$")
    iterations, _, salt = cost.partition(":")
    stored, _, server = keys.partition(":")
    return Verifier(int(iterations), b64decode(salt), b64decode(stored), b64decode(server))


def make_verifier(password: str) -> Verifier:
    """Return a verifier with a salt of its own."""
    salt = secrets.token_bytes(16)
    salted = _salted(password, salt, ITERATIONS)
    return Verifier(
        ITERATIONS,
        salt,
        hashlib.sha256(_hmac(salted, b"Client Key")).digest(),
        _hmac(salted, b"Server Key"),
    )


@dataclass(slots=True)
class ServerLogin:
    """One login of a client: ``first`` takes its first message, ``final`` its last.

    An unknown user gets a verifier that nothing satisfies, so that both refusals look alike.
    """

    verifier: Verifier
    _auth: str = ""
    _header: str = ""
    _nonce: str = ""

    @property
    def begun(self) -> bool:
        """Whether the first message was taken."""
        return bool(self._nonce)

    def first(self, message: str) -> str:
        """Return the server's first message. Raises LoginFailed."""
        parts = message.split(",", 2)
        if len(parts) != 3 or parts[0] not in ("n", "y"):
            raise LoginFailed("channel binding is not offered")
        self._header = f"{parts[0]},{parts[1]},"
        bare = parts[2]
        nonce = next((p[2:] for p in bare.split(",") if p.startswith("r=")), "")
        if not nonce:
            raise LoginFailed("the first message has no nonce")
        self._nonce = nonce + secrets.token_urlsafe(18)
        salt = b64encode(self.verifier.salt).decode()
        answer = f"r={self._nonce},s={salt},i={self.verifier.iterations}"
        self._auth = f"{bare},{answer}"
        return answer

    def final(self, message: str) -> str:
        """Return the server's final message. Raises LoginFailed."""
        unproven, _, proof = message.rpartition(",p=")
        expected = f"c={b64encode(self._header.encode()).decode()},r={self._nonce}"
        if unproven != expected:
            raise LoginFailed("the final message does not belong to the first")
        auth = f"{self._auth},{unproven}".encode()
        signature = _hmac(self.verifier.stored_key, auth)
        try:
            client_key = _xor(b64decode(proof, validate=True), signature)
        except ValueError:
            raise LoginFailed("the proof cannot be read") from None
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), self.verifier.stored_key):
            raise LoginFailed("the proof is wrong")
        return "v=" + b64encode(_hmac(self.verifier.server_key, auth)).decode()


@dataclass(slots=True)
class ClientLogin:
    """The router's own login at a shard."""

    password: str = field(repr=False)
    _nonce: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    _signature: bytes = field(default=b"", repr=False)

    def first(self) -> str:
        """Return the client's first message; PostgreSQL takes the user from the start-up packet."""
        return f"n,,n=,r={self._nonce}"

    def final(self, challenge: str) -> str:
        """Return the client's final message. Raises LoginFailed."""
        parts = dict(p.split("=", 1) for p in challenge.split(",") if "=" in p)
        try:
            nonce, salt, cost = parts["r"], b64decode(parts["s"]), int(parts["i"])
        except (KeyError, ValueError):
            raise LoginFailed("the server's challenge cannot be read") from None
        if not nonce.startswith(self._nonce):
            raise LoginFailed("the server's nonce does not continue ours")
        salted = _salted(self.password, salt, cost)
        unproven = f"c=biws,r={nonce}"
        auth = f"n=,r={self._nonce},{challenge},{unproven}".encode()
        key = _hmac(salted, b"Client Key")
        proof = _xor(key, _hmac(hashlib.sha256(key).digest(), auth))
        self._signature = _hmac(_hmac(salted, b"Server Key"), auth)
        return f"{unproven},p={b64encode(proof).decode()}"

    def check(self, final: str) -> None:
        """Check that the server knows the password too. Raises LoginFailed."""
        if not hmac.compare_digest(final, "v=" + b64encode(self._signature).decode()):
            raise LoginFailed("the server does not know the password")


@lru_cache(maxsize=64)
def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    """About 2 ms at 4,096 iterations; kept, because a pool logs in with one password and salt."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    if len(one) != len(other):
        raise LoginFailed("the proof has a wrong length")
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
