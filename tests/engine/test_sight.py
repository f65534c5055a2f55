"""A shared look serves many rounds, and none that was asked for after it began."""

from __future__ import annotations

from datetime import UTC, datetime

from reconciler.engine.operations import Operation
from reconciler.engine.sight import AGE_S, DEAR, Sight
from reconciler.model.names import DatabaseKey, DatabaseName, Namespace

SHOP, MINE = (DatabaseKey(Namespace("default"), DatabaseName(name)) for name in ("shop", "mine"))


def seen(began_s: float = 100.0, took_s: float = 0.01) -> Sight:
    return Sight(began_s, began_s + took_s, {}, {}, {})


def test_it_serves_what_was_asked_for_before_it_began() -> None:
    assert seen().serves(99.9, 100.1)
    assert seen().serves(0.0, 100.0 + AGE_S)


def test_it_never_serves_what_was_asked_for_after_it_began_or_will_be_asked_for() -> None:
    assert not seen().serves(100.0, 100.1)
    assert not seen().serves(100.005, 100.1)
    assert not seen().serves(102.0, 100.1)


def test_it_grows_old_and_one_that_was_dear_does_so_later() -> None:
    assert not seen().serves(0.0, 100.1 + AGE_S)
    assert seen(took_s=2.0).serves(0.0, 100.0 + DEAR * 2.0)
    assert not seen(took_s=2.0).serves(0.0, 100.1 + DEAR * 2.0)


def test_looks_take_a_bounded_share_of_the_time() -> None:
    look = seen(took_s=2.0)
    assert not look.may_be_renewed(look.ended_s + DEAR * 2.0 - 0.1)
    assert look.may_be_renewed(look.ended_s + DEAR * 2.0)


def test_operations_of_several_databases_are_told_once_and_in_their_order() -> None:
    def ran(id_: str, minute: int, *databases: DatabaseKey) -> Operation:
        at = datetime(2026, 11, 26, 12, minute, tzinfo=UTC).isoformat()
        return Operation(id_, "kim", at, databases, "r", "s", "p", "done", at, version=1)

    both, later = ran("a", 1, SHOP, MINE), ran("b", 2, SHOP)
    look = Sight(0.0, 0.0, {}, {}, {SHOP: (both, later), MINE: (both,)})
    assert look.operations_of(frozenset((SHOP, MINE))).all == (both, later)
    assert look.operations_of(frozenset((MINE,))).all == (both,)
