"""From the ``keys`` of shards to what each owns, and the proof that they tile the key space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.model.desired import Place
from reconciler.model.errors import ReconcilerError
from reconciler.model.hashing import NotAKey, position_of_key
from reconciler.model.keyspace import SPACE_END, KeyRange, KeySet, gaps, key_set, parse_range
from reconciler.spec.manifest import IsolatedKey, ShardSpec
from reconciler.spec.problems import Problems, quoted


class KeyRangeGap(ReconcilerError):
    """No shard owns some of the keys.

    The shards of a database tile the whole hash space, so that every row has exactly one home. Rows
    whose key falls into a gap could be neither written nor read.
    """

    code = "SP101"


class KeyRangeOverlap(ReconcilerError):
    """Two shards own the same keys.

    Every row has exactly one home; with two, they would drift apart. Ranges are half-open: -80 ends
    right before 80-, where the next one begins.
    """

    code = "SP102"


class NotAKeyRange(ReconcilerError):
    """A range is not written as hexadecimal bounds.

    A range is written as Vitess writes it, in prefixes of the 64-bit hash: "-80" is the lower half,
    "80-" the upper, "40-80" the second quarter, "-" all.
    """

    code = "SP103"


class KeyNotOfType(ReconcilerError):
    """An isolated key is not a value of the database's shard key type."""

    code = "SP104"


_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,30}")


class ShardWithoutKeys(ReconcilerError):
    """A shard owns nothing: all it names was isolated for other shards."""

    code = "SP112"


@dataclass(frozen=True, slots=True)
class _Claim:
    """One range of one shard, as written."""

    range: KeyRange
    shard: str
    place: Place


def own_keys(
    database: str, key_type: str, shards: Sequence[ShardSpec], place: Place, problems: Problems
) -> list[KeySet]:
    """Return what each shard owns, isolated keys taken out of all other ranges.

    ``place`` is that of the shards list. Reports gaps (SP101), overlaps (SP102) and what cannot be
    read; then the result is only fit for finding further problems.
    """
    ranges: list[_Claim] = []
    singles: list[_Claim] = []
    readable = True
    for index, shard in enumerate(shards):
        for number, key in enumerate(shard.keys):
            at = place.at(index, "keys", number)
            found = _read(key, key_type, shard.name, at, problems)
            if found is None:
                readable = False
            else:
                (singles if isinstance(key, IsolatedKey) else ranges).append(found)
    _report_overlaps(database, ranges, problems)
    _report_overlaps(database, singles, problems)
    if readable:
        _report_gaps(database, ranges, singles, place, problems)
    owned = _owned(shards, ranges, singles)
    for index, (shard, keys) in enumerate(zip(shards, owned, strict=True)):
        if readable and not keys:
            problem = f"shard {shard.name} owns nothing once isolated keys are taken out"
            error = ShardWithoutKeys(database, problem, remedy="remove it, or give it keys")
            problems.add(place.at(index), error)
    return owned


def _read(
    key: str | IsolatedKey, key_type: str, shard: str, place: Place, problems: Problems
) -> _Claim | None:
    subject = f"shard {shard}"
    if isinstance(key, str):
        try:
            return _Claim(parse_range(key), shard, place)
        except ValueError as error:
            problems.add(place, NotAKeyRange(subject, f"{quoted(key)}: {error}"))
            return None
    text = str(key.value)
    try:
        if key_type in ("int", "bigint") and not _WHOLE_NUMBER.fullmatch(text):
            raise NotAKey(f"{quoted(text)} is no {key_type}")  # int() would take 1_000 and spaces
        position = position_of_key(key_type, text)
    except NotAKey as error:
        remedy = f"sharding.type is {key_type}"
        problems.add(place, KeyNotOfType(subject, str(error), remedy=remedy))
        return None
    return _Claim(KeyRange(position, position + 1), shard, place)


def _owned(
    shards: Sequence[ShardSpec], ranges: list[_Claim], singles: list[_Claim]
) -> list[KeySet]:
    """Return what each shard owns; shards of one name, an error, share all they name."""
    isolated = key_set(claim.range for claim in singles)
    by_shard: dict[str, list[list[KeyRange]]] = {shard.name: [[], []] for shard in shards}
    for kind, claims in enumerate((ranges, singles)):
        for claim in claims:
            by_shard[claim.shard][kind].append(claim.range)
    return [
        ((key_set(wide) - isolated) if isolated else key_set(wide)) | key_set(single)
        for wide, single in (by_shard[shard.name] for shard in shards)
    ]


def _report_overlaps(database: str, claims: list[_Claim], problems: Problems) -> None:
    reach: _Claim | None = None
    for claim in sorted(claims, key=lambda c: (c.range, c.place)):
        if reach is not None and claim.range.start < reach.range.end:
            lower, upper = reach, claim
            problems.add(max(lower.place, upper.place), _overlap(database, lower, upper))
        if reach is None or claim.range.end > reach.range.end:
            reach = claim


def _overlap(database: str, lower: _Claim, upper: _Claim) -> KeyRangeOverlap:
    common = KeyRange(upper.range.start, min(lower.range.end, upper.range.end))
    if lower.range.end - lower.range.start == 1:
        if lower.shard == upper.shard:
            problem = f"shard {lower.shard} isolates the same key twice"
            return KeyRangeOverlap(database, problem, remedy="write it once")
        problem = f"shards {lower.shard} and {upper.shard} both isolate the same key"
        return KeyRangeOverlap(database, problem, remedy="let one of them have it")
    if lower.shard == upper.shard:
        problem = f"shard {lower.shard} names {common} twice ({lower.range} and {upper.range})"
        return KeyRangeOverlap(database, problem, remedy="write it once")
    both = f"shards {lower.shard} ({lower.range}) and {upper.shard} ({upper.range})"
    problem = f"{both} overlap in {common}"
    return KeyRangeOverlap(database, problem, remedy=_apart(lower, upper))


def _apart(lower: _Claim, upper: _Claim) -> str:
    ways = []
    if lower.range.start < upper.range.start:
        ways.append(f"end {lower.shard} at {_start(upper.range)}")
    if lower.range.end < upper.range.end:
        ways.append(f"start {upper.shard} at {_end(lower.range)}")
    return ", or ".join(ways) or f"remove one of {lower.shard} and {upper.shard}"


def _start(r: KeyRange) -> str:
    return str(KeyRange(r.start, SPACE_END)).removesuffix("-") or "the beginning"


def _end(r: KeyRange) -> str:
    return str(KeyRange(0, r.end)).removeprefix("-") or "the end"


def _report_gaps(
    database: str, ranges: list[_Claim], singles: list[_Claim], place: Place, problems: Problems
) -> None:
    owned = [key_set(claim.range for claim in (*ranges, *singles))]
    ordered = sorted(ranges, key=lambda c: c.range)
    for gap in gaps(owned).ranges:
        below = [claim.shard for claim in ordered if claim.range.end == gap.start]
        above = [claim.shard for claim in ordered if claim.range.start == gap.end]
        ways = [f"end {below[0]} at {_end(gap)}"] if below and gap.end != SPACE_END else []
        if below and gap.end == SPACE_END:
            ways.append(f"let {below[0]} end open")
        if above and gap.start:
            ways.append(f"start {above[0]} at {_start(gap)}")
        elif above:
            ways.append(f"let {above[0]} start open")
        remedy = ", or ".join(ways) or f'add a shard with keys ["{gap}"]'
        problems.add(place, KeyRangeGap(database, f"no shard owns keys {gap}", remedy=remedy))
