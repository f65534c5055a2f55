"""Ctrl-C while an apply runs: the first asks for a stop at a safe point, the second leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _say(text: str) -> None:
    """Write past the bars: a handler runs inside whatever it interrupts, their locks included."""
    with contextlib.suppress(OSError):  # the terminal may be what went away
        os.write(2, text.encode())


@contextlib.contextmanager
def stopping(stop: threading.Event, again: str) -> Iterator[None]:
    """Set ``stop`` on the first signal and leave the process on the second.

    Leaving at once is safe as well: every step is in the journal before it begins, and the next
    apply goes on from what is there.
    """

    def asked(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            _say(
                f"\nleft at once; what was under way is in the journal\n      go on with: {again}\n"
            )
            os._exit(128 + number)
        stop.set()
        _say("\nstopping at the next safe point; once more to leave at once\n")

    before = {number: signal.signal(number, asked) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
