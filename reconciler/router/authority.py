"""The authority that members' certificates are checked with, as its file is now."""

from __future__ import annotations

import os
import ssl


class Authority:
    """Reads the file again when it is another, as libpq does at each connection.

    So a rotated authority is in force at the next session. A file that is missing or half written
    changes nothing: the last one that could be read stays.
    """

    def __init__(self, file: str) -> None:
        """Read the file, which must be there. Raises OSError."""
        self._file = file
        self._read = _identity(file)
        self._context = ssl.create_default_context(cafile=file)

    def context(self) -> ssl.SSLContext:
        """Return what checks a member."""
        try:
            found = _identity(self._file)
            if found != self._read:
                self._context = ssl.create_default_context(cafile=self._file)
                self._read = found
        except OSError:  # ssl's errors are some, too
            pass
        return self._context


def _identity(file: str) -> tuple[int, int, int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
