"""Leading: the applier's lease is taken, kept in a thread of its own, and said to be lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from reconciler.engine.leadership import Tenure, stand
from reconciler.engine.world import World
from reconciler.model.access import FencedOff
from reconciler.model.errors import ReconcilerError


class Leader:
    """Leadership of one daemon. ``tenure`` is None while another leads, or nobody can."""

    def __init__(self, world: World, log: Any, lost: Callable[[], None]) -> None:
        self._world, self._log, self._lost = world, log, lost
        self._over = threading.Event()
        self._told = ""
        self.tenure: Tenure | None = None
        self.since = ""

    def stand(self) -> bool:
        """Try to lead. Raises what the store raises."""
        outcome = stand(self._world.eyes.store, self._world.actor, self._world.settings.lease_s)
        if isinstance(outcome, str):
            if outcome != self._told:
                self._told = outcome
                self._log.info("not leading", leader=outcome)
            return False
        self._told = ""
        self.since = self._world.clock.now().isoformat(timespec="seconds")
        self.tenure = outcome
        keeper = threading.Thread(target=self._keep, args=(outcome,), name="lease", daemon=True)
        keeper.start()
        self._log.info("leading", token=outcome.lease.token)
        return True

    def lose(self, tenure: Tenure, why: str) -> None:
        """Another may lead by now; every write under the tenure is refused anyway."""
        if self.tenure is not tenure:
            return
        self.tenure = None
        self._log.error("lost the lease", error=why)
        self._lost()

    def resign(self) -> None:
        """Give the lease back, so that another daemon need not wait for its end."""
        self._over.set()
        tenure, self.tenure = self.tenure, None
        if tenure is None:
            return
        try:
            self._world.eyes.store.release(tenure.lease)
        except ReconcilerError:
            self._log.warning("lease not released", runs_out_in_s=self._world.settings.lease_s)

    def _keep(self, tenure: Tenure) -> None:
        while not self._over.wait(self._world.settings.lease_s / 3):
            if self.tenure is not tenure:
                return
            try:
                self._world.eyes.store.keep_alive(tenure.lease)
            except FencedOff as error:
                self.lose(tenure, error.problem)
            except ReconcilerError:
                continue  # etcd is away for a moment; the lease decides, not this answer
