"""The texts that the edges hand to the spec layer: all files of one source at one revision."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.model.desired import Revision
from reconciler.model.errors import ReconcilerError

APPROVAL_TRAILER = "Shardwright-Approve"
"""A trailer of a commit's message that approves: ``Shardwright-Approve: ap-4f2a9c1e77d0``."""
MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
"""Files that may hold documents; every other file is only reachable through ``schema.files``."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its path as the user knows it (``specs/shop.yaml``), and its bytes."""

    path: str
    data: bytes = field(repr=False)

    @property
    def is_manifest(self) -> bool:
        """True when it may hold documents."""
        return self.path.lower().endswith(MANIFEST_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Documents:
    """What a source holds, sorted by path.

    ``foreign_files`` counts what the edge left alone already; ``problems`` are what it could not
    read (links out of the tree, files without permission), to be reported with all others. Every
    path begins with ``root``, which depends on how the user named the source. ``approved`` are the
    approvals in the trailers of the commit that was read.
    """

    source: str
    revision: Revision
    files: tuple[SourceFile, ...]
    foreign_files: int = 0
    problems: tuple[ReconcilerError, ...] = ()
    root: str = ""
    approved: tuple[str, ...] = ()
