"""A mounted ConfigMap: files that are links through ``..data``, which the kubelet swaps at once.

What the kubelet does (pkg/volume/util/atomic_writer.go): it writes a new folder ``..2026_…``, makes
a link ``..data_tmp`` to it, and renames that over ``..data``. So the link names one whole state;
reading through it twice may mix two. A ``subPath`` mount has no ``..data`` and is never updated.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from reconciler.model.errors import ReconcilerError
from reconciler.spec.documents import Documents

TRIES = 10
"""Swaps in a row that a reading is willing to meet; a kubelet makes one in a minute or two."""


class MountNeverUpdated(ReconcilerError):
    """A ConfigMap is mounted in a way in which its changes never arrive.

    A mount with `subPath` is a copy of the files as they were when the pod started. The kubelet
    updates only mounts of the whole volume, by swapping the link `..data`.
    """

    code = "SO301"


class MountSwapped(ReconcilerError):
    """A ConfigMap's mount was swapped each time it was read."""

    code = "SO302"
    transient = True


def read_mounted(path: str, read: Callable[[str], Documents]) -> Documents:
    """Read a ConfigMap's mount whole, from one state of it; ``read`` reads a folder.

    Raises MountNeverUpdated when there is no ``..data``, MountSwapped, and what ``read`` raises.
    """
    for _ in range(TRIES):
        before = _state_of(path)
        documents = read(path)
        if _state_of(path) == before:
            return documents
    raise MountSwapped(path, f"it was swapped {TRIES} times while it was read")


def _state_of(path: str) -> str:
    try:
        return os.readlink(os.path.join(path, "..data"))
    except OSError:
        raise MountNeverUpdated(
            path,
            "it has no ..data link, so it is no mount of a whole ConfigMap",
            remedy="mount the volume itself, without subPath; for a plain folder write folder:",
        ) from None
