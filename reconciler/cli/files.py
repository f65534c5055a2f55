"""Files that the command line writes and reads for its user."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from reconciler.model.errors import ReconcilerError


class FileNotWritten(ReconcilerError):
    """A file that was asked for could not be written."""

    code = "CL003"


class FileNotRead(ReconcilerError):
    """A file that was named could not be read."""

    code = "CL004"


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole, readable by its owner only. Raises FileNotWritten."""
    if not path.name:  # such as / or the current folder
        raise FileNotWritten(str(path), "it is a folder", remedy="name a file in it")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may not be there, and its folder be none
            draft.unlink()
        problem = error.strerror or type(error).__name__
        raise FileNotWritten(str(path), problem, remedy="name a file you may write") from error


def read_all(path: Path, bytes_max: int) -> bytes:
    """Return a file's content, not more than one byte beyond the limit. Raises FileNotRead."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except OSError as error:
        raise FileNotRead(str(path), error.strerror or type(error).__name__) from error
