"""Half-open key ranges over the 64-bit hash space, and their arithmetic.

A key's position is PostgreSQL's extended hash (seed 0) as an unsigned number with the sign bit
flipped: then text order of the hexadecimal form, the order of SQL's signed bigint and the order of
routing agree. Ranges are written as Vitess does, in hexadecimal prefixes: ``-80``, ``40-80``,
``-``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

SPACE_END = 1 << 64
_SIGN = 1 << 63
_RANGE = re.compile(r"([0-9a-f]{0,16})-([0-9a-f]{0,16})")


@dataclass(frozen=True, slots=True, order=True)
class KeyRange:
    """Positions ``start`` ≤ p < ``end``, with 0 ≤ start < end ≤ 2**64."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= SPACE_END:
            raise ValueError(f"no such key range: {self.start:#x} to {self.end:#x}")

    def __contains__(self, position: int) -> bool:
        return self.start <= position < self.end

    def overlaps(self, other: KeyRange) -> bool:
        """Tell whether some position is in both."""
        return self.start < other.end and other.start < self.end

    @property
    def sql_bounds(self) -> tuple[int, int]:
        """First and last position as signed bigints, both inclusive: what SQL compares with."""
        return self.start - _SIGN, self.end - 1 - _SIGN

    @property
    def share(self) -> float:
        """Its part of the whole space, 0 < share ≤ 1."""
        return (self.end - self.start) / SPACE_END

    def __str__(self) -> str:
        return f"{_prefix(self.start)}-{'' if self.end == SPACE_END else _prefix(self.end)}"


WHOLE = KeyRange(0, SPACE_END)


def _prefix(position: int) -> str:
    """Shortest prefix of a position in whole bytes: 0x4000… is ``40``."""
    digits = f"{position:016x}".rstrip("0")
    return digits + "0" * (len(digits) % 2)


def parse_range(text: str) -> KeyRange:
    """Read ``-80``, ``40-80``, ``80-`` or ``-``.

    Raises ValueError, whose text says what is wrong, when it is none of these or is empty.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            "not a key range; write bounds of at most 16 lower-case hexadecimal digits, such as "
            '"-80", "40-80" or "-"'
        )
    start = int(match[1].ljust(16, "0") or "0", 16) if match[1] else 0
    end = int(match[2].ljust(16, "0"), 16) if match[2] else SPACE_END
    if start >= end:
        raise ValueError("the range is empty: its end must be above its start")
    return KeyRange(start, end)


def position_of_hash(unsigned_hash: int) -> int:
    """Turn PostgreSQL's 64-bit hash into a position in the key space."""
    return unsigned_hash ^ _SIGN


@dataclass(frozen=True, slots=True, order=True)
class KeySet:
    """Disjoint, sorted, maximal ranges; made by ``key_set`` or the operators."""

    ranges: tuple[KeyRange, ...] = ()

    def __contains__(self, position: int) -> bool:
        return any(position in r for r in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __and__(self, other: KeySet) -> KeySet:
        """Positions in both; linear in the number of ranges."""
        found: list[KeyRange] = []
        mine, others = list(self.ranges), list(other.ranges)
        i = j = 0
        while i < len(mine) and j < len(others):
            a, b = mine[i], others[j]
            if a.overlaps(b):
                found.append(KeyRange(max(a.start, b.start), min(a.end, b.end)))
            if a.end <= b.end:
                i += 1
            else:
                j += 1
        return KeySet(tuple(found))

    def __or__(self, other: KeySet) -> KeySet:
        """Positions in either."""
        return key_set((*self.ranges, *other.ranges))

    def __sub__(self, other: KeySet) -> KeySet:
        """Positions of this one that the other lacks."""
        return self & other.complement()

    def complement(self) -> KeySet:
        """Every position that is not in this set."""
        found: list[KeyRange] = []
        start = 0
        for r in self.ranges:
            if start < r.start:
                found.append(KeyRange(start, r.start))
            start = r.end
        if start < SPACE_END:
            found.append(KeyRange(start, SPACE_END))
        return KeySet(tuple(found))

    @property
    def share(self) -> float:
        """Its part of the whole space, 0 to 1."""
        return sum(r.end - r.start for r in self.ranges) / SPACE_END

    def __str__(self) -> str:
        """``-80``, or ``-40,80-c0``; ``none`` when empty."""
        return ",".join(str(r) for r in self.ranges) or "none"


def key_set(ranges: Iterable[KeyRange]) -> KeySet:
    """Unite ranges, overlapping or not, into a set of maximal disjoint ones."""
    merged: list[KeyRange] = []
    for r in sorted(ranges):
        if merged and r.start <= merged[-1].end:
            merged[-1] = KeyRange(merged[-1].start, max(merged[-1].end, r.end))
        else:
            merged.append(r)
    return KeySet(tuple(merged))


def parse_key_set(text: str) -> KeySet:
    """Read what ``str(KeySet)`` writes. Raises ValueError."""
    return KeySet() if text == "none" else key_set(parse_range(part) for part in text.split(","))


class KeySetIndex:
    """Finds which of many key sets share positions with another one, without asking each.

    Sets may overlap. Building costs n log n over all ranges; a question costs log n and what it
    finds.
    """

    __slots__ = ("_ends", "_owned")

    def __init__(self, sets: Iterable[KeySet]) -> None:
        self._owned = sorted((r, index) for index, s in enumerate(sets) for r in s.ranges)
        # The furthest end so far never falls, so that it can be bisected even where sets overlap.
        self._ends = list(accumulate((r.end for r, _ in self._owned), max))

    def shared(self, keys: KeySet) -> list[tuple[int, KeySet]]:
        """Return the index of each set that shares positions with ``keys``, and which, by index."""
        found: dict[int, list[KeyRange]] = {}
        for r in keys.ranges:
            for i in range(bisect_right(self._ends, r.start), len(self._owned)):
                other, index = self._owned[i]
                if other.start >= r.end:
                    break
                if other.overlaps(r):
                    both = KeyRange(max(r.start, other.start), min(r.end, other.end))
                    found.setdefault(index, []).append(both)
        return [(index, key_set(found[index])) for index in sorted(found)]


def gaps(sets: Iterable[KeySet]) -> KeySet:
    """Return the positions that no set owns."""
    return key_set(r for s in sets for r in s.ranges).complement()


def first_overlap(sets: Iterable[KeySet]) -> tuple[int, int, KeyRange] | None:
    """Return the indices of two sets that share positions, and the first shared range; or None."""
    owned = sorted((r, index) for index, s in enumerate(sets) for r in s.ranges)
    for (a, i), (b, j) in pairwise(owned):
        if b.start < a.end:
            return i, j, KeyRange(b.start, min(a.end, b.end))
    return None
