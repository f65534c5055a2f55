"""What the tests of the diff ask of a difference."""

from __future__ import annotations

from typing import TypeVar

from reconciler.diff.changes import Difference, Refusal
from reconciler.diff.diff import diff
from reconciler.model.desired import Database
from reconciler.model.errors import ReconcilerError
from reconciler.model.observed import ObservedState
from tests.worlds import desired, settled

C = TypeVar("C")


def difference(wanted: Database, seen: ObservedState) -> Difference:
    return diff(desired(wanted, revision="r2"), seen)


def there(wanted: Database) -> ObservedState:
    """What is there once a database was applied."""
    return settled(desired(wanted))


def only(found: Difference, kind: type[C]) -> C:
    """The one change of a kind."""
    (change,) = (c for c in found.changes if isinstance(c, kind))
    return change


def names(found: Difference) -> list[str]:
    return [type(change).__name__ for change in found.changes]


def refused(found: Difference, kind: type[ReconcilerError]) -> Refusal:
    """The one refusal, which is of this kind; nothing else of the shard is looked at twice."""
    (refusal,) = found.refusals
    assert refusal.kind is kind
    assert refusal.problem
    assert refusal.remedy
    assert refusal.place is not None or kind.code == "PL101"
    return refusal


def left_alone(found: Difference) -> list[tuple[str, bool]]:
    return [(still.subject, still.unseen) for still in found.standstills]
