"""Which shared look a round may rest on, and when another one is worth its price."""

from __future__ import annotations

import threading

from reconciler.engine.observe import Eyes
from reconciler.engine.sight import AGE_S, MANY, Sight, survey
from reconciler.model.errors import ReconcilerError
from reconciler.model.names import DatabaseKey


class Sights:
    """The latest shared look, and since when each database has to be looked at anew."""

    def __init__(self, eyes: Eyes) -> None:
        self._eyes = eyes
        self._lock = threading.Lock()
        self._since: dict[DatabaseKey, float] = {}
        self._sight: Sight | None = None
        self._blind_until_s = 0.0

    def note(self, key: DatabaseKey, in_s: float = 0.0) -> None:
        """Something happened to a database, or will then: only a look that begins later is true."""
        self._since[key] = self._eyes.clock.monotonic() + in_s

    def forget(self) -> None:
        """Look anew, whoever asks: another daemon may have worked in between."""
        with self._lock:
            self._sight = None

    def of(self, key: DatabaseKey, waiting: int) -> Sight | None:
        """Return a look for a database's round, ``waiting`` others wait too; None: look yourself.

        One that fails is not tried again for a while: each round then says what does not answer.
        """
        since_s = self._since.get(key, 0.0)
        sight = self._sight
        if sight is not None and sight.serves(since_s, self._eyes.clock.monotonic()):
            return sight
        if waiting < MANY:
            return None
        with self._lock:
            now_s = self._eyes.clock.monotonic()
            sight = self._sight
            if sight is not None and sight.serves(since_s, now_s):
                return sight  # another worker has just looked
            dear = sight is not None and not sight.may_be_renewed(now_s)
            if dear or now_s <= max(since_s, self._blind_until_s):
                return None
            try:
                self._sight = survey(self._eyes.platform, self._eyes.store, self._eyes.clock)
            except ReconcilerError:
                self._sight, self._blind_until_s = None, now_s + AGE_S
            return self._sight
