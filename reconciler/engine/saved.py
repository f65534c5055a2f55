"""Saved plans: a file that means one apply of exactly what was shown, or nothing.

The file holds what was asked for (source, revision), the fingerprints of all that the plan was
made from, and the plan's digest. To apply it, everything is looked at again at that revision: the
same look makes the same plan, so an equal digest means exactly this plan, and an unequal
fingerprint names what moved. The steps in the file are for reading only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.engine.problems import PlanFileBroken, PlanStale, PlanUsed
from reconciler.model.errors import Position
from reconciler.model.git import NO_CREDENTIALS, CredentialFiles
from reconciler.model.observed import ObservedState
from reconciler.model.records import BROKEN
from reconciler.plan.actions import Plan

FORMAT = "shardwright.dev/saved-plan/v1"
BYTES_MAX = 256 * 1024 * 1024
"""A larger file is not read."""


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Where specs come from, as asked on the command line.

    ``git`` is a repository's address, empty for a file or folder; ``ref`` a branch, tag or commit,
    empty for the default branch; ``path`` a file or folder, in the repository or on this machine.
    ``keys`` is a file of the signers that are believed, empty when any commit is; ``credentials``
    are the files with what the repository asks for.
    """

    path: str = "."
    git: str = ""
    ref: str = ""
    keys: str = ""
    credentials: CredentialFiles = NO_CREDENTIALS


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What a saved plan's file says."""

    request: SourceRequest
    revision: str
    digest: str
    saw: tuple[tuple[str, str], ...]


def encode_saved(request: SourceRequest, plan: Plan) -> bytes:
    """Return the file of a plan, sealed with a checksum against editing."""
    body: dict[str, Any] = {
        "format": FORMAT,
        "id": plan.id,
        "source": {
            "path": request.path,
            "git": request.git,
            "ref": request.ref,
            "keys": request.keys,
            "credentials": asdict(request.credentials),
        },
        "revision": plan.revision.text,
        "digest": plan.digest,
        "saw": [list(pair) for pair in plan.saw],
        "steps": [{"id": step.id, "title": step.text} for step in plan.steps],
    }
    return json.dumps({**body, "seal": _seal(body)}, indent=2, ensure_ascii=False).encode() + b"\n"


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def decode_saved(data: bytes, file: str) -> SavedPlan:
    """Read a saved plan. Raises PlanFileBroken."""
    try:
        body = json.loads(data)
        seal = body.pop("seal")
        if body["format"] != FORMAT or seal != _seal(body):
            raise ValueError("its seal does not fit: it was edited")
        source = body["source"]
        return SavedPlan(
            SourceRequest(
                str(source["path"]),
                str(source["git"]),
                str(source["ref"]),
                str(source.get("keys", "")),
                CredentialFiles(**source.get("credentials", {})),
            ),
            str(body["revision"]),
            str(body["digest"]),
            tuple((str(what), str(mark)) for what, mark in body["saw"]),
        )
    except BROKEN as problem:
        # A decoder's own words tell where it stumbled, and not what the file is.
        ours = type(problem) is ValueError
        why = str(problem) if ours else "it is not what plan --out writes"
        raise PlanFileBroken(
            "saved plan",
            why,
            remedy="make a new one: shardwright plan --out FILE",
            where=Position(file),
        ) from None


def check_saved(saved: SavedPlan, plan: Plan, observed: ObservedState) -> None:
    """Make sure that today's plan is the saved one. Raises PlanStale and PlanUsed."""
    name = f"plan-{saved.digest[:12]}"
    again = "make a new one: shardwright plan --out FILE"
    if saved.digest in observed.used_plans:
        raise PlanUsed(name, "was applied before", remedy=again)
    if plan.digest == saved.digest:
        return
    raise PlanStale(name, f"changed since: {what_moved(saved.saw, plan.saw)}", remedy=again)


def what_moved(before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]) -> str:
    """Return what differs between two looks, by name."""
    old, new = dict(before), dict(now)
    moved = [what for what in {**old, **new} if old.get(what) != new.get(what)]
    return ", ".join(moved) or "what Shardwright makes of it"
