"""PostgreSQL's wire protocol 3: frames and the few messages that the router writes itself.

A frame is a byte for its kind, its length (four bytes, itself included, the kind not), and a body.
Source: PostgreSQL's manual, "Frontend/Backend Protocol", "Message Formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

PROTOCOL_3 = 3 << 16
SSL_REQUEST = 80877103
GSS_REQUEST = 80877104
CANCEL_REQUEST = 80877102
HEADER = 5
STARTUP_BYTES_MAX = 10_000
"""PostgreSQL's own limit on a start-up packet (MAX_STARTUP_PACKET_LENGTH)."""

_LENGTH = Struct("!i")
_TWO = Struct("!ii")
_SHORT = Struct("!h")


class Refusal(Exception):
    """Something the client is told as an ErrorResponse; never shows a secret."""

    def __init__(self, sqlstate: str, text: str, hint: str = "", detail: str = "") -> None:
        super().__init__(sqlstate, text)
        self.sqlstate, self.text, self.hint, self.detail = sqlstate, text, hint, detail


class Malformed(Exception):
    """Bytes that are no PostgreSQL protocol."""


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """Return one message."""
    return kind + _LENGTH.pack(len(body) + 4) + body


def text(value: str) -> bytes:
    """Return a string as the protocol has it: UTF-8, ended by a zero byte."""
    return value.encode() + b"\0"


def query(sql: str) -> bytes:
    """Return a simple Query."""
    return frame(b"Q", text(sql))


def error(refusal: Refusal, severity: str = "ERROR") -> bytes:
    """Return an ErrorResponse."""
    fields = {"S": severity, "V": severity, "C": refusal.sqlstate, "M": refusal.text}
    if refusal.detail:
        fields["D"] = refusal.detail
    if refusal.hint:
        fields["H"] = refusal.hint
    return frame(b"E", b"".join(k.encode() + text(v) for k, v in fields.items()) + b"\0")


def error_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse by their one-letter names."""
    parts = (part for part in body.split(b"\0") if part)
    return {chr(part[0]): part[1:].decode(errors="replace") for part in parts}


def ready(status: bytes) -> bytes:
    """Return ReadyForQuery: ``I`` idle, ``T`` in a transaction, ``E`` in a failed one."""
    return b"Z\0\0\0\5" + status


def command_complete(tag: str) -> bytes:
    """Return CommandComplete."""
    return frame(b"C", text(tag))


def parameter_status(name: str, value: str) -> bytes:
    """Return ParameterStatus."""
    return frame(b"S", text(name) + text(value))


def key_data(pid: int, secret: int) -> bytes:
    """Return BackendKeyData; both numbers are unsigned here."""
    return frame(b"K", pid.to_bytes(4, "big") + secret.to_bytes(4, "big"))


def cancel_request(pid: int, secret: int) -> bytes:
    """Return a CancelRequest packet."""
    return _TWO.pack(16, CANCEL_REQUEST) + pid.to_bytes(4, "big") + secret.to_bytes(4, "big")


def startup(parameters: dict[str, str]) -> bytes:
    """Return a StartupMessage."""
    body = b"".join(text(k) + text(v) for k, v in parameters.items()) + b"\0"
    return _TWO.pack(len(body) + 8, PROTOCOL_3) + body


def one_row(names: tuple[str, ...], values: tuple[str, ...], tag: str) -> bytes:
    """Return a result of one row of texts."""
    columns = b"".join(
        text(n) + b"\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0" for n in names
    )
    cells = b"".join(_LENGTH.pack(len(v.encode())) + v.encode() for v in values)
    count = _SHORT.pack(len(names))
    return frame(b"T", count + columns) + frame(b"D", count + cells) + command_complete(tag)


def read_int(data: bytes | bytearray | memoryview, at: int) -> int:
    """Return a four-byte number."""
    return int(_LENGTH.unpack_from(data, at)[0])


def read_short(data: bytes | bytearray | memoryview, at: int) -> int:
    """Return a two-byte number."""
    return int(_SHORT.unpack_from(data, at)[0])


def read_text(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a zero-ended string's bytes and where the next field begins. Raises Malformed."""
    end = data.find(b"\0", at)
    if end < 0:
        raise Malformed("a string without its end")
    return data[at:end], end + 1


def startup_parameters(body: bytes) -> dict[str, str]:
    """Return the parameters of a StartupMessage, whose length and version are cut off."""
    found: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at]:
        name, at = read_text(body, at)
        value, at = read_text(body, at)
        found[name.decode(errors="replace")] = value.decode(errors="replace")
    return found


@dataclass(frozen=True, slots=True)
class Bind:
    """What the router needs of a Bind message: portal, statement, and parameters as they came."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]

    def is_binary(self, index: int) -> bool:
        """Tell a parameter's format: none given means text, one given means it for all."""
        if not self.formats:
            return False
        return (self.formats[0] if len(self.formats) == 1 else self.formats[index]) == 1


def read_bind(body: bytes) -> Bind:
    """Read a Bind. Raises Malformed."""
    try:
        portal, at = read_text(body, 0)
        statement, at = read_text(body, at)
        count = read_short(body, at)
        formats = tuple(read_short(body, at + 2 + 2 * i) for i in range(count))
        at += 2 + 2 * count
        values: list[bytes | None] = []
        number, at = read_short(body, at), at + 2
        for _ in range(number):
            size, at = read_int(body, at), at + 4
            values.append(None if size < 0 else body[at : at + size])
            at += max(size, 0)
    except Exception as problem:
        raise Malformed("a Bind that cannot be read") from problem
    return Bind(portal, statement, formats, tuple(values))
