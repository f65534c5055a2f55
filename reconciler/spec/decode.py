"""Files to typed manifests: which documents are ours, and what is wrong with their form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import msgspec

from reconciler.model.desired import KeyType, Place
from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.form import check_form, wrong_type
from reconciler.spec.manifest import API_GROUP, API_VERSION
from reconciler.spec.manifest_other import KINDS, Manifest
from reconciler.spec.problems import (
    ForeignFileUnreadable,
    Found,
    MissingField,
    NeedsQuotes,
    UnknownApiVersion,
    UnknownKind,
    did_you_mean,
    quoted,
)
from reconciler.spec.yaml_reader import Marks, Path, decode_text, parse

_OWN_NAMES = [kind for kind in KINDS if kind not in ("Policy", "PolicyTest")]
"""Kinds nobody else uses: their bare presence without an apiVersion makes a document ours."""
_NEAR = 0.85
_MENTION = re.compile(r"shardwright\.dev|shardeddatabase|reconcilerconfig", re.IGNORECASE)
_API_VERSION = re.compile(r"apiVersion[\"']?\s*:\s*[\"']?([^\s\"',}/]+)")


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """What one file holds. ``foreign`` is True when nothing in it is ours.

    ``estranged`` is True when a document of it looks like one of ours under another apiVersion: it
    may have been ours before.
    """

    manifests: tuple[tuple[Place, Manifest], ...] = ()
    problems: tuple[Found, ...] = ()
    warnings: tuple[Found, ...] = ()
    foreign: bool = False
    estranged: bool = False


def decode_file(path: str, data: bytes) -> DecodedFile:
    """Read one file completely; never raises for what a user wrote."""
    text = decode_text(data, path)
    if not isinstance(text, str):
        return _unreadable(path, text, is_ours=f"{API_GROUP}/".encode() in data)
    if not _concerns_us(text):
        return DecodedFile(foreign=True)
    parsed = parse(text, path)
    manifests: list[tuple[Place, Manifest]] = []
    problems: list[Found] = list(parsed.problems)
    ours = bool(parsed.problems) and f"{API_GROUP}/" in text
    if parsed.problems and not ours:
        return _unreadable(path, parsed.problems[0], is_ours=False)
    estranged = False
    for index, document in enumerate(parsed.documents):
        place = Place(path, index)
        found = _decode_document(place, document)
        if found is None:
            estranged |= isinstance(document, dict) and document.get("kind") in _OWN_NAMES
            continue
        ours = True
        manifest, wrong = found
        problems += wrong
        if manifest is not None:
            manifests.append((place, manifest))
    return DecodedFile(tuple(manifests), tuple(problems), (), not ours, estranged)


def _concerns_us(text: str) -> bool:
    """Tell whether a text can hold a document of ours, well spelt or not, without reading it.

    Templates and huge lists of other tools then cost nothing and need not even be YAML.
    """
    if _MENTION.search(text):
        return True
    return any(_near(group, API_GROUP) for group in set(_API_VERSION.findall(text)))


def _unreadable(
    path: str, problem: tuple[Position, ReconcilerError], *, is_ours: bool
) -> DecodedFile:
    if is_ours:
        return DecodedFile(problems=(problem,))
    where, error = problem
    warning = ForeignFileUnreadable(path, f"left alone, it cannot be read: {error.problem}")
    return DecodedFile(warnings=((where, warning),), foreign=True)


def _decode_document(place: Place, document: Any) -> tuple[Manifest | None, list[Found]] | None:
    """Return a document of ours and its problems; None for another tool's, or an empty one."""
    if not isinstance(document, dict):
        return None
    api_version, kind = document.get("apiVersion"), document.get("kind")
    if not _is_ours(api_version, kind, document):
        return None
    head = list(_check_head(place, api_version, kind))
    if head:
        return None, head
    wrong = check_form(str(kind), document)
    problems: list[Found] = [(place.at(*path), error) for path, error in wrong]
    if wrong:
        return _salvaged(str(kind), document, dict(wrong)), problems
    try:
        return msgspec.convert(document, KINDS[str(kind)]), []
    except msgspec.ValidationError as error:  # the schema is made from the types: not expected
        return None, [(place, UnknownKind(str(kind), str(error)))]


def _salvaged(kind: str, document: Any, wrong: dict[Path, ReconcilerError]) -> Manifest | None:
    """Return the document mended, so that its meaning is checked in the same run.

    What lacks quotes gets them, and bad fields of mappings go if they are optional: what followed
    from leaving out more would be noise. A shard key type stands in for a bad one, because ranges
    mean the same under each.
    """
    try:
        return msgspec.convert(_mended(*_typed(document, wrong)), KINDS[kind])
    except msgspec.ValidationError:
        return None


def _typed(
    document: Any, wrong: dict[Path, ReconcilerError]
) -> tuple[Any, dict[Path, ReconcilerError]]:
    at: Path = ("spec", "sharding")
    if (*at, "type") not in wrong and not isinstance(wrong.get(at), MissingField):
        return document, wrong
    sharding = {**document["spec"]["sharding"], "type": KeyType.TEXT.value}
    rest = {path: error for path, error in wrong.items() if path not in (at, (*at, "type"))}
    return {**document, "spec": {**document["spec"], "sharding": sharding}}, rest


def _mended(node: Any, wrong: dict[Path, ReconcilerError], path: Path = ()) -> Any:
    error = wrong.get(path)
    if isinstance(error, NeedsQuotes):
        return error.meant
    if isinstance(node, dict):
        kept = {
            k: v
            for k, v in node.items()
            if (*path, k) not in wrong or isinstance(wrong[*path, k], NeedsQuotes)
        }
        return {k: _mended(v, wrong, (*path, k)) for k, v in kept.items()}
    if isinstance(node, list):
        return [_mended(v, wrong, (*path, i)) for i, v in enumerate(node)]
    return node


def _is_ours(api_version: Any, kind: Any, document: dict[str, Any]) -> bool:
    if isinstance(api_version, str):
        group, _, _ = api_version.partition("/")
        return group == API_GROUP or _near(group, API_GROUP)
    if any(isinstance(v, str) and v.startswith(f"{API_GROUP}/") for v in document.values()):
        return True  # the field's name is misspelt
    return isinstance(kind, str) and any(kind == k or _near(kind, k) for k in _OWN_NAMES)


def _near(word: str, known: str) -> bool:
    return len(word) < 80 and SequenceMatcher(None, word.lower(), known.lower()).ratio() >= _NEAR


def _check_head(place: Place, api_version: Any, kind: Any) -> Iterator[Found]:
    if api_version != API_VERSION:
        at = place.at("apiVersion") if api_version is not None else place
        problem = (
            f"{quoted(api_version)} is not an apiVersion of Shardwright"
            if api_version is not None
            else "the field apiVersion is missing"
        )
        yield at, UnknownApiVersion("apiVersion", problem, remedy=f"write {API_VERSION}")
    if kind is None:
        yield place, UnknownKind("kind", "the field is missing", remedy=_kinds())
    elif not isinstance(kind, str):
        yield place.at("kind"), wrong_type("kind", ["string"], kind)
    elif kind not in KINDS:
        remedy = did_you_mean(kind, list(KINDS)) or _kinds()
        yield place.at("kind"), UnknownKind("kind", f"there is no {quoted(kind)}", remedy=remedy)


def _kinds() -> str:
    return f"it is one of {', '.join(KINDS)}"


@lru_cache(maxsize=8)
def _marks(path: str, data: bytes) -> Marks:
    text = decode_text(data, path)
    return parse(text, path, with_marks=True).marks if isinstance(text, str) else {}


def locate(data: bytes, place: Place) -> Position:
    """Return line and column of a place: of the key for an entry of a mapping, else of the item.

    A path that the text does not hold (a missing field, a value that an alias stands for) gives
    the nearest thing around it.
    """
    marks = _marks(place.file, data)
    path = place.path
    while (at := marks.get((place.document, path))) is None and path:
        path = path[:-1]
    return Position(place.file, *(at or (0, 0)))
