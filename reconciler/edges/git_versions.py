"""The newest tag of a range: ``>=1.2 <2``. Versions are compared by the library semver."""

from __future__ import annotations

import re
from collections.abc import Iterable

from semver import Version

from reconciler.model.errors import ReconcilerError

_COMPARATOR = re.compile(r"(>=|<=|>|<|==|!=|=)?\s*v?(\d+(?:\.\d+){0,2}(?:-[0-9A-Za-z.-]+)?)")


class RangeInvalid(ReconcilerError):
    """A range of versions cannot be read.

    Write comparators with spaces between them, all of which must hold: `>=1.2 <2`.
    """

    code = "SO140"


class NoVersionInRange(ReconcilerError):
    """The repository has no tag whose version is in the range."""

    code = "SO141"


def newest(tags: Iterable[str], wanted: str) -> str:
    """Return the tag with the highest version in a range. Raises RangeInvalid, NoVersionInRange.

    ``v1.2.3`` and ``1.2.3`` are versions; other tags are left alone. A pre-release is in a range
    only when the range names one.
    """
    comparators = _comparators(wanted)
    early = "-" in wanted
    found: list[tuple[Version, str]] = []
    for tag in tags:
        version = _version(tag)
        if version is None or (version.prerelease and not early):
            continue
        if all(version.match(comparator) for comparator in comparators):
            found.append((version, tag))
    if not found:
        known = sorted((v, tag) for tag in tags if (v := _version(tag)))
        near = ", ".join(tag for _, tag in known[-3:])
        raise NoVersionInRange(
            f"range {wanted}", "no tag's version is in it",
            remedy=f"the highest there are: {near}" if near else "tag a version: git tag v1.0.0",
        )  # fmt: skip
    return max(found)[1]


def _comparators(wanted: str) -> list[str]:
    rest = wanted.replace(",", " ").strip()
    found = []
    while rest:
        match = _COMPARATOR.match(rest)
        if match is None:
            raise RangeInvalid(f"range {wanted}", f"{rest!r} is no comparator", remedy=">=1.2 <2")
        operator = {"=": "==", None: "=="}.get(match[1], match[1])
        found.append(f"{operator}{_whole(match[2])}")
        rest = rest[match.end() :].strip()
    if not found:
        raise RangeInvalid(f"range {wanted!r}", "it is empty", remedy="write >=1.2 <2")
    return found


def _whole(text: str) -> str:
    numbers, dash, rest = text.partition("-")
    return ".".join([*numbers.split("."), "0", "0"][:3]) + dash + rest


def _version(tag: str) -> Version | None:
    try:
        return Version.parse(tag.removeprefix("v"))
    except ValueError:
        return None
