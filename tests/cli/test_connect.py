"""What a psql of ours is told before it starts."""

from __future__ import annotations

from reconciler.cli.connect import options_for
from tests.cli.calls import Caller


def test_every_session_tells_its_epoch_after_what_the_user_set() -> None:
    assert options_for("", 7, past_guards=False) == "-c shardwright.epoch=7"
    told = options_for("-c work_mem=1MB", 7, past_guards=False)
    assert told == "-c work_mem=1MB -c shardwright.epoch=7"


def test_what_the_superuser_makes_is_not_made_in_our_own_schema_unless_it_asks_for_it() -> None:
    told = options_for("-c search_path=sales", 7, admin=True)
    assert told == "-c search_path=public -c search_path=sales -c shardwright.epoch=7"
    assert "search_path" not in options_for("", 7)


def test_only_who_asks_goes_past_the_guards() -> None:
    assert "session_replication_role=replica" in options_for("", 7, past_guards=True)


def test_only_the_superuser_goes_past_the_guards(call: Caller) -> None:
    ended = call("connect", "shop", "--shard", "s0", "--past-guards")
    assert ended.code == 1
    assert "needs --admin" in ended.told()
