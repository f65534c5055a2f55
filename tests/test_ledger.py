"""The ledger sees what it is there to see: each wrong of rows, and of what a session was told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from psycopg import IsolationLevel

from reconciler.sdk.routes import Key
from tests.ledger import Ledger, Query, Rows, check

ACCOUNTS: Rows = [(1, 1, 2), (2, 0, 0)]
ENTRIES: Rows = [(1, "a", 1), (1, "b", 0)]


class Told:
    """A session whose answers are given."""

    def __init__(self, *answers: list[Rows]) -> None:
        self._answers = list(answers)

    def run(self, key: Key, work: Sequence[Query], level: IsolationLevel | None) -> list[Rows]:
        return self._answers.pop(0)

    def close(self) -> None:
        return


def wrote() -> Ledger:
    """Return a ledger that deposited a and c, withdrew c, noted b, and may have noted d."""
    ledger = Ledger("one", Told, [1, 2])
    ledger.there = {"a": 1, "b": 1}
    ledger.gone, ledger.unknown = {"c"}, {"d": 1}
    ledger.changes[1], ledger.acknowledged = 2, 4
    return ledger


def test_rows_that_are_as_acknowledged_pass_with_or_without_the_unknown_one() -> None:
    check(ACCOUNTS, ENTRIES, wrote())
    check(ACCOUNTS, [*ENTRIES, (1, "d", 0)], wrote())


@pytest.mark.parametrize(
    ("accounts", "entries", "wrong"),
    [
        (ACCOUNTS, ENTRIES[:1], "lost"),
        (ACCOUNTS, [*ENTRIES, ENTRIES[1]], "doubled"),
        (ACCOUNTS, [*ENTRIES, (1, "c", 0)], "there again"),
        (ACCOUNTS, [*ENTRIES, (1, "x", 0)], "nobody wrote"),
        (ACCOUNTS[:1], ENTRIES, "accounts lost"),
        ([*ACCOUNTS, ACCOUNTS[1]], ENTRIES, "accounts doubled"),
        ([(1, 0, 2), ACCOUNTS[1]], ENTRIES, "its entries"),
        ([(1, 1, 1), ACCOUNTS[1]], ENTRIES, "changes"),
    ],
)
def test_each_wrong_of_the_rows_is_found(accounts: Rows, entries: Rows, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check(accounts, entries, wrote())


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([[[]]], "done nowhere"),
        ([[[(5,)]], [[(4,)]]], "went from 5 to 4"),
    ],
)
def test_each_wrong_of_an_answer_is_found(answers: list[list[Rows]], wrong: str) -> None:
    ledger, session = Ledger("one", Told, [1]), Told(*answers)
    for number in range(len(answers)):
        ledger._write(session, 1, f"{number}", 1, [("", [])], None)
    with pytest.raises(AssertionError, match=wrong):
        check(ACCOUNTS, ENTRIES, ledger)


@pytest.mark.parametrize(
    ("row", "wrong"), [((3, 2, 1), "its entries 1"), ((2, 0, 0), "went from 3 to 2")]
)
def test_each_wrong_of_a_read_is_found(row: tuple[int, int, int], wrong: str) -> None:
    ledger, session = Ledger("one", Told, [1]), Told([[(3, 1, 1)]], [[row]])
    for _ in range(2):
        ledger._read(session, 1, IsolationLevel.READ_COMMITTED)
    assert wrong in ledger.problems[0]
