"""What a pull request would do, against what is live or against a state file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.cli.session import Session
    from reconciler.cli.source import Where
    from reconciler.engine.world import Outlook
    from reconciler.model.observed import ObservedState
    from reconciler.spec.loaded import Loaded

STALE_S = 3600.0
"""A state file that is older is said to be old."""


def outlook(
    session: Session, where: Where, base: str, head: str, state: str
) -> tuple[Outlook, tuple[str, ...]]:
    """Return what ``head`` does that its merge base with ``base`` does not, and what to tell."""
    from reconciler import spec
    from reconciler.edges.git_here import here
    from reconciler.engine.pullrequest import propose

    repository = here(Path.cwd())
    proposed = repository.commit(head)
    left = repository.merge_base(repository.commit(base), proposed)
    path = where.subpath or "."
    after = spec.read(repository.read(proposed, path, head))
    before = spec.read(repository.read(left, path, base), after)
    observed, told = _observed(session, (before, after), state)
    found = propose(before, after, observed, datetime.now(UTC))
    if found.outstanding:
        told = (*told, f"{found.outstanding} steps are outstanding without this proposal")
    return found.outlook, told


def against_file(loaded: Loaded, state: str) -> tuple[Outlook, tuple[str, ...]]:
    """Return the outlook of specs against a state file, and what to tell of the file."""
    from reconciler.engine.pullrequest import judged

    observed, told = _read(state)
    return judged(loaded, observed, datetime.now(UTC)), told


def _observed(
    session: Session, both: tuple[Loaded, ...], state: str
) -> tuple[ObservedState, tuple[str, ...]]:
    if state:
        return _read(state)
    from reconciler.engine.observe import observe
    from reconciler.wiring import open_reading_world

    keys = {database.key for loaded in both for database in loaded.desired.databases}
    return observe(open_reading_world(session.settings()).eyes, sorted(keys)), ()


def _read(file: str) -> tuple[ObservedState, tuple[str, ...]]:
    from reconciler.cli.files import read_all
    from reconciler.engine.snapshot import BYTES_MAX, decode_state

    observed = decode_state(read_all(Path(file), BYTES_MAX), file)
    age_s = (datetime.now(UTC) - datetime.fromisoformat(observed.looked_at)).total_seconds()
    if age_s < STALE_S:
        return observed, (f"as observed at {observed.looked_at}",)
    return observed, (f"as observed at {observed.looked_at}, {age_s / 3600:.0f} h ago: it is old",)
