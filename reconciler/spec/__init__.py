"""Text to model; pure. ``read`` is the way in; nothing heavy is imported before it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.spec.documents import Documents
    from reconciler.spec.loaded import Loaded


def read(documents: Documents, earlier: Loaded | None = None) -> Loaded:
    """Return what a source's documents ask for. ``earlier`` saves reading what did not change.

    Raises ProblemsFound with every problem of all files, each with file, line and column.
    """
    from reconciler.spec.loaded import load

    return load(documents, earlier)
