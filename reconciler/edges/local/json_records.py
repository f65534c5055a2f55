"""Decoding of this platform's JSON records, from any number of threads at once."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

Record = TypeVar("Record")
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def decode_record(data: bytes, kind: type[Record]) -> Record:
    """Return a record. Raises msgspec.MsgspecError.

    Two threads that make msgspec look at a dataclass for the first time at once crash the process
    (seen with 0.22: what it notes on the class is freed under the other), so one at a time does.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _making:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    decoded: Record = decoder.decode(data)
    return decoded
