"""When a rule that holds by the clock would pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

HORIZON = timedelta(days=7)
STEP = timedelta(minutes=15)
MINUTE = timedelta(minutes=1)
SEARCHES_MAX = 50
"""Searches in one check whose answer depends on the database: each costs about 20 ms."""
_SUBJECTS = re.compile(r"\b(?:database|plan|fleet|step)\b")
_NOW = re.compile(r"\bnow\b")


@dataclass(slots=True)
class Windows:
    """Finds when rules would pass; remembers windows that only look at the clock."""

    _known: dict[str, datetime | None] = field(default_factory=dict)
    _searches: int = 0

    def opening(
        self, when: str, require: str, now: datetime, passes: Callable[[datetime], bool]
    ) -> datetime | None:
        """Return the minute within seven days from which on the rule passes, or None.

        Quarters of an hour are tried; what opens and closes between two of them is not found.

        A rule that does not mention ``now`` never passes by waiting.
        """
        if not _NOW.search(f"{when} {require}"):
            return None
        shared = not _SUBJECTS.search(require) and not _NOW.search(when)
        if shared and require in self._known:
            return self._known[require]
        if not shared:
            self._searches += 1
            if self._searches > SEARCHES_MAX:
                return None
        found = next((at for at in _quarters(now) if passes(at)), None)
        found = found and _first_minute(found, now, passes)
        if shared:
            self._known[require] = found
        return found


def _first_minute(quarter: datetime, now: datetime, passes: Callable[[datetime], bool]) -> datetime:
    """Return the first minute that passes after the quarter before, which did not."""
    known, early = quarter, max(quarter - STEP, now.replace(second=0, microsecond=0))
    while known - early > MINUTE:
        middle = early + (known - early) // MINUTE // 2 * MINUTE
        known, early = (middle, early) if passes(middle) else (known, middle)
    return known


def _quarters(now: datetime) -> list[datetime]:
    """Return the quarters, counted in UTC, because local clocks are set; told in now's zone."""
    start = now.astimezone(UTC)
    first = start.replace(minute=start.minute // 15 * 15, second=0, microsecond=0) + STEP
    return [(first + STEP * n).astimezone(now.tzinfo) for n in range(int(HORIZON / STEP))]
