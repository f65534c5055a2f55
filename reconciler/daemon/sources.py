"""A thread a source: it looks when something was heard, and every interval whatever was heard."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from reconciler import wiring
from reconciler.daemon.config import FollowedSource
from reconciler.edges.folder_watch import FolderWatch, watching
from reconciler.edges.git_signatures import CommitNotBelieved, SignersUnreadable
from reconciler.engine.sources import SourceState, pause_s, restored, take, take_failure
from reconciler.model.errors import ReconcilerError

SETTLE_S = 0.05
"""Editors and the kubelet change several names at once; this long is waited for the rest."""
APART_S = 0.5
"""However often it is poked, a source looks at most twice a second."""
PAUSE_S_MAX = 300.0
"""A repository that cannot be read is asked less and less often, but at least so often."""
JITTER = 0.1
"""Up to this share of the interval is added, so that many daemons do not ask a forge at once."""


class Follower:
    """Follows one source; ``news`` is called with each state that differs from the one before.

    ``looked`` hears of each look and its result: read, unchanged, unreachable or broken.
    ``recorded`` returns the revision that was in force before this daemon began, empty when none
    was; it raises what the store raises, and nothing is taken up until it is known.
    """

    def __init__(
        self,
        source: FollowedSource,
        news: Callable[[SourceState], None],
        looked: Callable[[str, str], None],
        log: Any,
        recorded: Callable[[], str] = str,
    ) -> None:
        self.source = source
        self.state = SourceState(source.name)
        self._news, self._looked, self._log = news, looked, log.bind(source=source.name)
        self._ask_recorded, self._recorded = recorded, "" if not source.request.git else None
        self._forgetting = threading.Lock()
        self._forgotten = self.failures = 0
        self.looks = self.told = 0
        """Looks that began, and which of them was the last that ended and whose news were heard."""
        self._poke, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {source.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Look now: somebody said that there is news."""
        self._poke.set()

    def begin_from(self, recorded: str) -> None:
        """Begin anew from what another daemon had in force, unless what is here follows on it.

        Then nothing of the source is in force until that was read.
        """
        own = self.state.revision
        if not self.source.holds_rewrites or recorded in ("", own):
            return
        if own and wiring.follows(self.source.request, own, recorded):
            return
        with self._forgetting:
            self.state, self._recorded = SourceState(self.source.name), None
            self._forgotten += 1
            self._poke.set()

    def stop(self) -> None:
        """Look no more; a look that is under way ends by its own deadlines."""
        self._over.set()
        self._poke.set()

    def _run(self) -> None:
        with ExitStack() as stack:
            watch, hears = None, True
            if self.source.watch:
                watch = stack.enter_context(watching(self.source.watch, self._poke.set))
            while not self._over.is_set():
                self._poke.clear()
                hears = self._renewed(watch, hears)
                self._looked(self.source.name, self.look())
                looked_at = time.monotonic()
                wait = self.pause_s * (1 + random.random() * JITTER)  # noqa: S311
                if self._poke.wait(wait) and not self._over.is_set():
                    apart = APART_S - (time.monotonic() - looked_at)
                    self._over.wait(max(SETTLE_S, apart))

    def _renewed(self, watch: FolderWatch | None, heard: bool) -> bool:
        """Watch what is there by now; tell whether changes are heard of, once when they are not."""
        hears = watch is None or watch.renew()
        if heard and not hears:
            self._log.warning("cannot watch, only polling", interval_s=self.source.interval_s)
        return hears

    @property
    def pause_s(self) -> float:
        """Seconds until the next look, if nobody says that there is news."""
        longest_s = PAUSE_S_MAX if self.source.request.git else 0
        return pause_s(self.source.interval_s, self.failures, longest_s)

    def look(self) -> str:
        """Look once; return the result. What came of it is in ``state``."""
        with self._forgetting:
            shown, forgotten = self.state, self._forgotten
            self.looks += 1
        try:
            after, result = self._seen(shown)
        except Exception as error:  # the thread must live: the next look starts afresh
            self._log.error("look failed", error=f"{type(error).__name__}: {error}")
            return "broken"
        self.failures = self.failures + 1 if after.unreachable else 0
        with self._forgetting:
            if forgotten != self._forgotten:
                self._recorded = None  # what this look was told is of before
                return result  # it looks again at once
            self.state = after
        if after != shown or not shown.answered:
            self._tell(shown)
            self._news(after)
        self.told = self.looks
        return result

    def _seen(self, before: SourceState) -> tuple[SourceState, str]:
        """Return the state after a look, and its result."""
        try:
            if self._recorded is None:
                before = self._restore(before)
            # A commit in doubt is looked at again: the file of believed keys may have changed.
            known = "" if _doubted(before) else before.attempted
            standing = before.revision or self._recorded or ""
            documents = wiring.fetch_news(
                self.source.request, known, mounted=self.source.mounted,
                standing=standing if self.source.holds_rewrites else "",
            )  # fmt: skip
        except ReconcilerError as error:
            return take_failure(before, error), "unreachable"
        if documents is not None:
            after = take(before, documents)
            same = _doubted(before) and _told_as(after) == _told_as(before)
            return before if same else after, "read"
        return replace(before, unreachable=None), "unchanged"

    def _restore(self, state: SourceState) -> SourceState:
        """Take up what was in force before, also from what was fetched then. Raises store errors.

        When it cannot be read any more, a branch has to follow on it all the same.
        """
        recorded = self._ask_recorded()
        if recorded:
            try:
                state = restored(state, wiring.fetch_again(self.source.request, recorded))
            except ReconcilerError as error:
                self._log.warning(
                    "not restored", revision=recorded, code=error.code, error=error.problem
                )
        self._recorded = recorded
        return state

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
