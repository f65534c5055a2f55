"""A lease that is kept alive while work goes on under it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from reconciler.engine.ports import Store
from reconciler.engine.problems import StepBroken
from reconciler.model.access import FencedOff, Lease
from reconciler.model.errors import ReconcilerError


@contextmanager
def kept(
    store: Store, lease: Lease, lease_s: int, give_up: Callable[[ReconcilerError], None]
) -> Iterator[Lease]:
    """Keep a lease alive, and release it at the end; ``give_up`` is called when it is lost."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(lease_s / 3):
            try:
                store.keep_alive(lease)
            except FencedOff as error:
                give_up(error)
                return
            except ReconcilerError:
                continue  # etcd is away for a moment; the lease decides, not this answer
            except Exception as bug:
                # Without this thread the lease runs out in the middle of a step.
                give_up(StepBroken("lease", f"{type(bug).__name__}: {bug}"))
                return

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        over.set()
        keeper.join()
        with suppress(ReconcilerError):  # it runs out by itself
            store.release(lease)
