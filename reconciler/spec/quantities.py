"""Sizes, amounts of CPU, durations and ratios as specs write them, and what they are in numbers."""

from __future__ import annotations

import re
from decimal import Decimal

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_FACTORS = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate("kMGTP", 1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", 1)},
}
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def size_bytes(text: str) -> int:
    """Return the bytes of a Kubernetes quantity such as ``10Gi``. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 10Gi")
    return int(Decimal(match[1]) * _FACTORS[match[2] or ""])


def cpu_cores(text: str) -> float:
    """Return cores of ``2``, ``0.5`` or ``500m``. Raises ValueError."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def duration_ms(text: str) -> int:
    """Return the milliseconds of ``100ms``, ``30s``, ``5m`` or ``24h``. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 30s")
    return int(match[1]) * _MILLISECONDS[match[2]]


def ratio(text: str) -> float:
    """Return the number of ``2x``. Raises ValueError."""
    if not text.endswith("x"):
        raise ValueError(f"{text!r} is not a ratio such as 2x")
    return float(text[:-1])
