"""Hearing of changes in a folder of specs, also of one that comes later, goes, or is replaced.

inotify watches what is there, not a name: a folder that is missing cannot be watched, and one that
is replaced (``mv``, a link that leads elsewhere now) stays watched as what it was. So the nearest
folder above it is watched as well, for the one name that leads to it. A ConfigMap's swap is a
rename in the folder itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

_READING = ("opened", "closed_no_write")
_DEPTH_MAX = 64
"""Folders above the one that is watched, each looked at once when many come at the same time."""


class _Teller(FileSystemEventHandler):
    """Passes on what happens below a folder; with ``only``, what happens to that one name."""

    def __init__(self, tell: Callable[[], None], only: str = "") -> None:
        self._tell, self._only = tell, only

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hear of something."""
        names = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        if event.event_type not in _READING and (not self._only or self._only in names):
            self._tell()


class FolderWatch:
    """Calls ``changed`` from a thread whenever something in a folder changes, or it comes or goes.

    ``renew`` takes up what is there by now, and is called before each look at the folder.
    """

    def __init__(self, observer: BaseObserver, folder: str, changed: Callable[[], None]) -> None:
        self._observer, self._changed = observer, changed
        self._folder = Path(os.path.abspath(folder))
        self._below: ObservedWatch | None = None
        self._above: ObservedWatch | None = None
        self._replaced = threading.Event()

    def renew(self) -> bool:
        """Watch what is there now; False when the system cannot: then only polling tells."""
        guarded = self._guard()  # first, so that a folder that comes in between is heard of
        if self._replaced.is_set():
            self._replaced.clear()
            self._end(self._below)
            self._below = None
        if self._below:
            return True
        try:
            self._below = self._observer.schedule(
                _Teller(self._changed), str(self._folder), recursive=True
            )
        except FileNotFoundError:
            return guarded
        except OSError:  # too many watches, no inotify
            return False
        return True

    def _guard(self) -> bool:
        """Watch the nearest folder above that is there, for the next name on the way down."""
        for _ in range(_DEPTH_MAX):
            above = next(p for p in self._folder.parents if p.is_dir() or p == p.parent)
            if self._above and self._above.path == str(above):
                return True
            self._end(self._above)
            self._above = None
            name = above / self._folder.relative_to(above).parts[0]
            with suppress(OSError):
                self._above = self._observer.schedule(_Teller(self._came, str(name)), str(above))
            if not self._above:
                return False
        return False

    def _came(self) -> None:
        self._replaced.set()
        self._changed()

    def _end(self, watch: ObservedWatch | None) -> None:
        if watch:
            self._observer.unschedule(watch)


@contextmanager
def watching(folder: str, changed: Callable[[], None]) -> Iterator[FolderWatch]:
    """Watch a folder until the end of the block; nothing is heard before the first ``renew``."""
    observer = Observer()
    observer.start()
    try:
        yield FolderWatch(observer, folder, changed)
    finally:
        observer.stop()
        observer.join()
