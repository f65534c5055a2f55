"""A thread a source: it looks when something was heard, and every interval whatever was heard."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from reconciler import wiring
from reconciler.daemon.config import FollowedSource
from reconciler.edges.configmaps import watching
from reconciler.edges.git_signatures import CommitNotBelieved, SignersUnreadable
from reconciler.engine.sources import SourceState, take, take_failure
from reconciler.model.errors import ReconcilerError

SETTLE_S = 0.05
"""Editors and the kubelet change several names at once; this long is waited for the rest."""
APART_S = 0.5
"""However often it is poked, a source looks at most twice a second."""
JITTER = 0.1
"""Up to this share of the interval is added, so that many daemons do not ask a forge at once."""


class Follower:
    """Follows one source; ``news`` is called with each state that differs from the one before.

    ``looked`` hears of each look and its result: read, unchanged, unreachable or broken.
    """

    def __init__(
        self,
        source: FollowedSource,
        news: Callable[[SourceState], None],
        looked: Callable[[str, str], None],
        log: Any,
    ) -> None:
        self.source = source
        self.state = SourceState(source.name)
        self._news, self._looked, self._log = news, looked, log.bind(source=source.name)
        self._poke, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {source.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Look now: somebody said that there is news."""
        self._poke.set()

    def stop(self) -> None:
        """Look no more; a look that is under way ends by its own deadlines."""
        self._over.set()
        self._poke.set()

    def _run(self) -> None:
        with ExitStack() as stack:
            if self.source.watch and not stack.enter_context(
                watching(self.source.watch, self._poke.set)
            ):
                self._log.warning("cannot watch, only polling", interval_s=self.source.interval_s)
            while not self._over.is_set():
                self._poke.clear()
                self._looked(self.source.name, self._look())
                looked_at = time.monotonic()
                wait = self.source.interval_s * (1 + random.random() * JITTER)  # noqa: S311
                if self._poke.wait(wait) and not self._over.is_set():
                    apart = APART_S - (time.monotonic() - looked_at)
                    self._over.wait(max(SETTLE_S, apart))

    def _look(self) -> str:
        """Look once; return the result."""
        before, result = self.state, "unchanged"
        try:
            # A commit in doubt is looked at again: the file of believed keys may have changed.
            known = "" if _doubted(before) else before.attempted
            standing = before.revision if self.source.holds_rewrites else ""
            documents = wiring.fetch_news(
                self.source.request, known, mounted=self.source.mounted, standing=standing
            )
            if documents is not None:
                result = "read"
                after = take(before, documents)
                if not _doubted(before) or _told_as(after) != _told_as(before):
                    self.state = after
            elif before.unreachable:
                self.state = SourceState(
                    before.name, before.good, before.attempted, before.problems
                )
        except ReconcilerError as error:
            self.state, result = take_failure(before, error), "unreachable"
        except Exception as error:  # the thread must live: the next look starts afresh
            self._log.error("look failed", error=f"{type(error).__name__}: {error}")
            return "broken"
        if self.state != before or not before.answered:
            self._tell(before)
            self._news(self.state)
        return result

    def _tell(self, before: SourceState) -> None:
        state = self.state
        if state.unreachable and str(state.unreachable) != str(before.unreachable or ""):
            self._log.warning(
                "source unreachable", code=state.unreachable.code, error=state.unreachable.problem
            )
        elif state.problems and state.attempted != before.attempted:
            for problem in state.problems[:20]:
                self._log.error(
                    "problem in revision", revision=state.attempted, code=problem.code,
                    where=str(problem.where or ""), subject=problem.subject, error=problem.problem,
                )  # fmt: skip
            self._log.error(
                "revision quarantined", revision=state.attempted, problems=len(state.problems),
                in_force=state.revision,
            )  # fmt: skip
        elif state.attempted != before.attempted:
            self._log.info("revision in force", revision=state.revision)


def _doubted(state: SourceState) -> bool:
    return any(isinstance(one, CommitNotBelieved | SignersUnreadable) for one in state.problems)


def _told_as(state: SourceState) -> tuple[str, ...]:
    return state.attempted, *(str(problem) for problem in state.problems)
