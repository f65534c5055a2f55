"""The audit: every write, who made it and why, each entry bound to the one before by its hash.

::

    /shardwright/audit/v1/head         the last entry's number and hash
    /shardwright/audit/v1/log/<number> an entry
    /shardwright/audit/v1/anchor       number and hash of the last entry that was let go

An entry is written in one transaction with what it tells of, against the head as it was read: two
writers never fork the chain. What was let go is known by its hash, so that an export made before
joins on. The chain shows a change, a removal and a reordering; it does not keep somebody who may
write all of etcd from writing a new chain: compare exports for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.engine.ports import Store
from reconciler.model.access import ConflictingWrite, Lease
from reconciler.model.errors import ReconcilerError
from reconciler.model.records import BROKEN, dump_record

AUDIT = "/shardwright/audit/v1/"
"""Beside the other records, not below them: every look at all databases reads those whole."""
HEAD, ANCHOR, LOG = AUDIT + "head", AUDIT + "anchor", AUDIT + "log/"
KEPT = 10_000
"""Entries that stay in etcd; the oldest are let go a batch at a time."""
BATCH = 50
_TRIES = 100
START = "0" * 64
Changes = dict[str, tuple[bytes | None, int | None]]


class AuditBroken(ReconcilerError):
    """The audit's chain does not hold: an entry was changed, removed or moved, or its head was.

    Everything before the place that is named is as it was written. Compare it with an earlier
    `shardwright audit export`, and look who may write to etcd.
    """

    code = "AU101"


class AuditContended(ReconcilerError):
    """So many writers appended to the audit at once that one had no turn. Nothing was written."""

    code = "AU102"
    transient = True


class AuditApart(ReconcilerError):
    """An earlier export and the audit have no entry in common, so nobody can tell whether one
    goes on from the other.

    The latest 10,000 entries stay in etcd: export more often than so many are written.
    """

    code = "AU103"


@dataclass(frozen=True, slots=True)
class Deed:
    """What is told: who, when, what of which database, by which plan and revision, how it ended.

    ``what`` is a step's id or an order; ``text`` says it for people; ``sql`` are statements that
    ran. ``outcome``: begun, done, failed or ordered.
    """

    at: datetime
    actor: str
    what: str
    outcome: str
    text: str = ""
    database: str = ""
    revision: str = ""
    plan: str = ""
    action: str = ""
    sql: tuple[str, ...] = ()
    error: str = ""


def write_audited(store: Store, lease: Lease, changes: Changes, deed: Deed) -> int:
    """Write changes and their entry in one transaction; return the new revision.

    Raises what the store raises, and AuditContended.
    """
    for _ in range(_TRIES):
        found = store.read(HEAD)
        head = found.get(HEAD)
        number, last = _head(head.value) if head else (0, START)
        entry = _entry(deed, number + 1, last)
        version = head.version if head else 0
        extra: Changes = {
            _key(number + 1): (dump_record(entry), 0),
            HEAD: (dump_record({"number": number + 1, "hash": entry["hash"]}), version),
        }
        try:
            revision = store.write(changes | extra, lease)
        except ConflictingWrite as conflict:
            if HEAD in str(conflict) or LOG in str(conflict):
                continue
            raise
        if (number + 1) % BATCH == 0:
            _let_go(store, lease, number + 1 - KEPT)
        return revision
    raise AuditContended("audit", "others were always quicker", remedy="try again")


def _head(value: bytes) -> tuple[int, str]:
    try:
        data = json.loads(value)
        return int(data["number"]), str(data["hash"])
    except BROKEN as problem:
        raise AuditBroken(f"etcd key {HEAD}", f"cannot be read: {problem}") from problem


def _entry(deed: Deed, number: int, last: str) -> dict[str, Any]:
    told = {
        "number": number,
        "at": deed.at.isoformat(timespec="milliseconds"),
        "actor": deed.actor,
        "database": deed.database,
        "what": deed.what,
        "outcome": deed.outcome,
        "text": deed.text,
        "revision": deed.revision,
        "plan": deed.plan,
        "action": deed.action,
        "sql": list(deed.sql),
        "error": deed.error,
        "previous": last,
    }
    told = {key: value for key, value in told.items() if value not in ("", [])}
    return {**told, "hash": hash_of(told)}


def hash_of(entry: Mapping[str, Any]) -> str:
    """Return an entry's hash: SHA-256 over its JSON with sorted keys, without ``hash`` itself."""
    told = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _let_go(store: Store, lease: Lease, until: int) -> None:
    """Remove entries up to a number, a batch of them, and note the hash of the last."""
    if until <= 0:
        return
    found = store.read(ANCHOR)
    gone = _head(found[ANCHOR].value)[0] if ANCHOR in found else 0
    numbers = range(gone + 1, min(until, gone + 2 * BATCH) + 1)
    if not numbers:
        return
    last = _key(numbers[-1])
    entry = json.loads(store.read(last)[last].value)
    anchor = dump_record({"number": entry["number"], "hash": entry["hash"]})
    old = (_key(number) for number in numbers)
    store.write({**dict.fromkeys(old, (None, None)), ANCHOR: (anchor, None)}, lease)


def _key(number: int) -> str:
    return f"{LOG}{number:012}"


@dataclass(frozen=True, slots=True)
class Trail:
    """The audit as it was read: entries in order, and what it begins and ends with."""

    entries: tuple[dict[str, Any], ...]
    anchor: tuple[int, str] = (0, START)
    head: tuple[int, str] | None = None


def read_trail(store: Store) -> Trail:
    """Read all that is kept. Raises AuditBroken for an entry that cannot be read."""
    found = store.read(AUDIT)
    entries = []
    for key in sorted(k for k in found if k.startswith(LOG)):
        try:
            entries.append({**json.loads(found[key].value), "key": key.removeprefix(LOG)})
        except BROKEN as problem:
            raise AuditBroken(f"etcd key {key}", f"cannot be read: {problem}") from problem
    anchor = _head(found[ANCHOR].value) if ANCHOR in found else (0, START)
    return Trail(tuple(entries), anchor, _head(found[HEAD].value) if HEAD in found else None)


def encode_trail(trail: Trail) -> str:
    """Return an export: a line for what it begins with, one an entry, one for the head."""
    head = trail.head or (0, START)
    first = {"anchor": {"number": trail.anchor[0], "hash": trail.anchor[1]}}
    last = {"head": {"number": head[0], "hash": head[1]}}
    bare = ({k: v for k, v in entry.items() if k != "key"} for entry in trail.entries)
    return "".join(
        json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in (first, *bare, last)
    )


def decode_trail(lines: Iterable[str], file: str) -> Trail:
    """Read an export. Raises AuditBroken."""
    try:
        first, *rest = (json.loads(line) for line in lines if line.strip())
        *entries, last = rest
        ends = [(int(e["number"]), str(e["hash"])) for e in (first["anchor"], last["head"])]
    except (*BROKEN, IndexError):
        raise AuditBroken(
            file,
            "is no whole export: its lines are JSON, the first the anchor and the last the head",
            remedy="export it again: shardwright audit export > FILE",
        ) from None
    return Trail(tuple(entries), ends[0], ends[1])


def verify(trail: Trail) -> int:
    """Return how many entries hold. Raises AuditBroken at the first that does not."""
    number, last = trail.anchor
    for entry in trail.entries:
        number += 1
        at = f"audit entry {entry.get('number', '?')}"
        if entry.get("number") != number or int(entry.get("key", number)) != number:
            raise AuditBroken(
                at, f"stands where entry {number} should: one was removed or moved",
                remedy="compare with an earlier export: shardwright audit export",
            )  # fmt: skip
        told = {key: value for key, value in entry.items() if key != "key"}
        if entry.get("previous") != last or entry.get("hash") != hash_of(told):
            raise AuditBroken(
                at, "is not what was written: it, or the one before it, was changed",
                remedy="compare with an earlier export: shardwright audit export",
            )  # fmt: skip
        last = entry["hash"]
    if trail.head != (number, last) and (number or trail.head):
        says = f"says that {trail.head[0]} entries were written" if trail.head else "is gone"
        raise AuditBroken(
            "audit head", f"{says}, {number} are there",
            remedy="entries at the end were removed; compare with an earlier export",
        )  # fmt: skip
    return len(trail.entries)


def verify_since(trail: Trail, earlier: Trail) -> int:
    """Return the number of the entry from which a whole trail goes on from an earlier, whole one.

    Shows what the trail alone cannot: that its end was cut off and its head written anew, or all of
    it. Raises AuditBroken, AuditApart.
    """
    compare = "somebody wrote another chain: the export has what was there"
    until, now = (earlier.head or (0, START))[0], (trail.head or (0, START))[0]
    if until > now:
        problem = f"is entry {now}, and the export has entries until {until}: the end is gone"
        raise AuditBroken("audit head", problem, remedy=compare)
    before, after = _hashes(earlier), _hashes(trail)
    common = sorted(before.keys() & after.keys())
    for number in common:
        if before[number] != after[number]:
            raise AuditBroken(
                f"audit entry {number}", "is another one than in the export", remedy=compare
            )
    if until and not common:
        raise AuditApart(
            "audit", f"the export ends with entry {until}, and what follows it was let go",
            remedy="compare with a later export",
        )  # fmt: skip
    return until


def _hashes(trail: Trail) -> dict[int, str]:
    """Return the hash of each entry that is known, the last that was let go included."""
    found = {int(entry["number"]): str(entry["hash"]) for entry in trail.entries}
    return found | ({trail.anchor[0]: trail.anchor[1]} if trail.anchor[0] else {})
