"""How what a sequence has left is divided between the two sides of a move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.edges.replication_numbers import (
    EXACT_MAX,
    Numbers,
    NumbersUsedUp,
    divided,
    shared,
)

WIDE = Numbers("public", "s", up=True, first=1, last=2**63 - 1, at=300, used=True)
FRESH = replace(WIDE, at=0, used=False)


def apart(*numbers: Numbers) -> bool:
    return all(
        not shared({("", ""): one}, {("", ""): other})
        for place, one in enumerate(numbers)
        for other in numbers[place + 1 :]
    )


def test_shards_that_were_split_off_one_after_the_other_have_blocks_of_their_own() -> None:
    shards = [WIDE]
    for number in range(1, 40):
        parent = number % 3 if number > 3 else 0
        lower, upper = divided(shards[parent], FRESH)
        shards[parent] = replace(lower.numbers, at=lower.numbers.at + 1_000_000)
        shards.append(replace(upper.numbers, at=upper.numbers.at + 1_000_000, used=True))
        assert apart(*shards)
    assert max(one.last for one in shards) == EXACT_MAX
    assert all(one.last - one.at > 10**9 for one in shards[:4])


def test_an_int_gives_half_of_what_is_left_and_ends_with_a_reason() -> None:
    narrow = replace(WIDE, last=2**31 - 1)
    lower, upper = divided(narrow, FRESH)
    left = [block.numbers.last - block.numbers.at for block in (lower, upper)]
    assert left == [2**30 - 150, 2**30 - 151]
    with pytest.raises(NumbersUsedUp, match="1 values left"):
        divided(replace(narrow, at=narrow.last - 1), FRESH)


def test_two_shards_that_always_counted_alike_leave_what_either_gave_out() -> None:
    lower, upper = divided(WIDE, replace(WIDE, at=9000))
    assert lower.restart
    assert lower.numbers.at == 9000 < upper.numbers.at
    assert apart(lower.numbers, upper.numbers)


def test_a_block_that_lies_apart_already_only_ends_the_other() -> None:
    block = replace(WIDE, first=10_000, last=20_000, at=10_500)
    lower, upper = divided(WIDE, block)
    assert (lower.numbers.last, upper.numbers) == (9_999, block)
    upper, lower = divided(block, WIDE)
    assert (lower.numbers.last, upper.numbers) == (9_999, block)
