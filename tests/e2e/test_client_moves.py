"""Every kind of client writes while keys really move: no write is lost or doubled, no client fails.

The clients are both SDKs, the router's command, and one that never hears of a new map and goes on
to INSERT, UPDATE and DELETE where its keys once were; each at every isolation level.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from reconciler.model.keyspace import parse_key_set
from reconciler.sdk.routes import Key
from tests.e2e.bank import Bank
from tests.e2e.scene import TWO, Scene
from tests.e2e.test_moves import SPLIT, apply_all, end_window, leftovers

pytestmark = pytest.mark.platform
UNSPLIT = {"s0": "-80", "s1": "80-"}


def assert_nobody_failed(bank: Bank) -> None:
    for ledger in bank.ledgers:
        if not ledger.stale:
            assert not ledger.unknown, f"{ledger.name}: nothing was killed, yet outcomes are open"
            assert not ledger.lost, (ledger.name, ledger.lost)
    stale = bank.ledgers[-1]
    assert stale.stale
    assert stale.refused, "the stale client was never refused"
    assert stale.acknowledged


def test_no_client_loses_doubles_or_fails_in_a_split_a_way_back_and_a_merge(scene: Scene) -> None:
    bank = Bank(scene, "bank", "bigint", range(1, 41))
    bank.found(*TWO)
    with bank.clients():
        bank.retile(*SPLIT)
        apply_all(scene)
        bank.await_more()
        bank.retile(*TWO)  # a reverted commit, within the window
        apply_all(scene)
        bank.await_more()
        assert bank.owners() == UNSPLIT
        bank.retile(*SPLIT)
        apply_all(scene)
        end_window(scene)
        apply_all(scene)
        assert bank.owners() == {"s0": "-40", "s1": "80-", "s2": "40-80"}
        bank.await_more()
        bank.retile(*TWO)
        apply_all(scene)
        end_window(scene)
        apply_all(scene)
        bank.await_more()
    assert bank.owners() == UNSPLIT
    bank.check()
    assert_nobody_failed(bank)
    assert leftovers(scene, "bank") == []


ISOLATED: dict[str, tuple[list[Key], str]] = {
    "bigint": (list(range(1, 41)), "42"),
    "text": ([f"kunde {n} é漢🙂" for n in range(40)], '"acme ö"'),
    "uuid": (
        [UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128)) for n in range(40)],
        '"0189a3c5-7d2e-7c3a-9f00-5b1d2c3e4f50"',
    ),
}


@pytest.mark.parametrize("key_type", list(ISOLATED))
def test_one_key_is_isolated_on_a_shard_of_its_own_and_comes_back(
    scene: Scene, key_type: str
) -> None:
    others, text = ISOLATED[key_type]
    value: Key = {"bigint": int, "text": str, "uuid": UUID}[key_type](text.strip('"'))
    bank = Bank(scene, "solo", key_type, [*others, value])
    bank.found(*TWO)
    bank.keys = [*others, *[value] * 10]  # the busy tenant, which is why it gets its own shard
    with bank.clients():
        bank.retile(*TWO, f"{{name: s2, keys: [{{value: {text}}}]}}")
        apply_all(scene)
        end_window(scene)
        apply_all(scene)
        bank.await_more()
        alone = {row[0] for row in bank.at("s2", "SELECT id FROM accounts")}
        kept = {row[0] for s in ("s0", "s1") for row in bank.at(s, "SELECT id FROM accounts")}
        (owned,) = (o.keys.ranges for o in bank.routing.owners if o.shard == "s2")
        bank.retile(*TWO)
        apply_all(scene)
        end_window(scene)
        apply_all(scene)
        bank.await_more()
    assert alone == {value}
    assert kept == set(others)
    assert len(owned) == 1
    assert owned[0].end - owned[0].start == 1
    assert bank.owners() == {name: str(parse_key_set(keys)) for name, keys in UNSPLIT.items()}
    bank.check()
    assert_nobody_failed(bank)
    assert leftovers(scene, "solo") == []
