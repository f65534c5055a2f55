"""Key ranges and their sets, held against sets of whole numbers that nobody can get wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.model.keyspace import (
    SPACE_END,
    WHOLE,
    KeyRange,
    KeySet,
    KeySetIndex,
    first_overlap,
    gaps,
    key_set,
    parse_key_set,
    parse_range,
    position_of_hash,
)

SLOTS = 12
WIDTH = SPACE_END // 16
"""Small spaces are sixteenths of the whole one, so that the last range can end where it ends."""


def ranges(slots: int = 16) -> st.SearchStrategy[KeyRange]:
    """Ranges of whole sixteenths."""
    pairs = st.tuples(st.integers(0, slots), st.integers(0, slots)).filter(lambda p: p[0] != p[1])
    return pairs.map(lambda p: KeyRange(min(p) * WIDTH, max(p) * WIDTH))


def key_sets(slots: int = 16) -> st.SearchStrategy[KeySet]:
    return st.lists(ranges(slots), max_size=5).map(key_set)


any_range = st.tuples(st.integers(0, SPACE_END), st.integers(0, SPACE_END)).filter(
    lambda p: p[0] != p[1]
).map(lambda p: KeyRange(min(p), max(p)))  # fmt: skip


def slots_of(keys: KeySet | KeyRange) -> set[int]:
    """The sixteenths in which a set is, asked position by position."""
    return {slot for slot in range(16) if slot * WIDTH in keys}


@given(any_range)
def test_a_written_range_reads_as_itself(r: KeyRange) -> None:
    assert parse_range(str(r)) == r


@given(st.lists(any_range, max_size=4).map(key_set))
def test_a_written_set_reads_as_itself(keys: KeySet) -> None:
    assert parse_key_set(str(keys)) == keys


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("-", 0, SPACE_END),
        ("-80", 0, 1 << 63),
        ("80-", 1 << 63, SPACE_END),
        ("40-80", 1 << 62, 1 << 63),
        ("4-8", 1 << 62, 1 << 63),
        ("0000000000000001-0000000000000002", 1, 2),
        ("00-10", 0, 1 << 60),
    ],
)
def test_a_range_is_written_in_hexadecimal_prefixes(text: str, start: int, end: int) -> None:
    assert parse_range(text) == KeyRange(start, end)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a key range"),
        ("80", "not a key range"),
        ("-8G", "not a key range"),
        ("-80-", "not a key range"),
        ("A0-", "not a key range"),
        ("0" * 17 + "-", "not a key range"),
        ("80-80", "empty"),
        ("80-40", "empty"),
        ("-00", "empty"),
        ("-0", "empty"),
    ],
)
def test_a_text_that_is_no_range_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_range(text)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (2, 1), (-1, 1), (0, SPACE_END + 1)])
def test_a_range_outside_the_space_or_without_positions_cannot_be_made(
    start: int, end: int
) -> None:
    with pytest.raises(ValueError, match="no such key range"):
        KeyRange(start, end)


def test_a_range_holds_its_start_and_not_its_end() -> None:
    r = parse_range("40-80")

    assert r.start in r
    assert r.end not in r
    assert r.end - 1 in r
    assert not r.overlaps(parse_range("80-"))


def test_no_keys_are_written_as_none() -> None:
    assert str(KeySet()) == "none"
    assert parse_key_set("none") == KeySet()
    assert not KeySet()


@given(key_sets(), key_sets())
def test_sets_of_ranges_behave_as_sets_of_numbers(a: KeySet, b: KeySet) -> None:
    x, y = slots_of(a), slots_of(b)

    assert slots_of(a & b) == x & y
    assert slots_of(a | b) == x | y
    assert slots_of(a - b) == x - y
    assert slots_of(a.complement()) == set(range(16)) - x
    assert a.share == len(x) / 16
    assert bool(a) == bool(x)


@given(key_sets(), key_sets())
def test_every_result_is_sorted_disjoint_and_maximal(a: KeySet, b: KeySet) -> None:
    for result in (a & b, a | b, a - b, a.complement()):
        assert all(left.end < right.start for left, right in pairwise(result.ranges))
        assert result == key_set(result.ranges)


@given(key_sets(), key_sets())
def test_equal_sets_are_equal_values_however_they_were_made(a: KeySet, b: KeySet) -> None:
    assert (a | b) == (b | a)
    assert (a - b) | (a & b) == a
    assert a.complement().complement() == a


@given(st.lists(ranges(), min_size=1, max_size=4))
def test_uniting_ranges_does_not_depend_on_their_order(some: list[KeyRange]) -> None:
    assert key_set(some) == key_set(reversed(some))


@given(st.lists(key_sets(SLOTS), max_size=4))
def test_gaps_are_what_nobody_owns(sets: list[KeySet]) -> None:
    owned = set().union(*(slots_of(s) for s in sets))

    assert slots_of(gaps(sets)) == set(range(16)) - owned


@given(st.lists(key_sets(), max_size=4))
def test_an_overlap_is_found_exactly_when_two_sets_share_a_position(sets: list[KeySet]) -> None:
    shared = [
        (i, j)
        for i in range(len(sets))
        for j in range(len(sets))
        if i != j and slots_of(sets[i]) & slots_of(sets[j])
    ]

    found = first_overlap(sets)

    assert (found is not None) == bool(shared)
    if found:
        i, j, r = found
        assert (i, j) in shared
        assert slots_of(r) <= slots_of(sets[i]) & slots_of(sets[j])


def test_a_tiling_has_neither_gap_nor_overlap() -> None:
    tiles = [parse_key_set(text) for text in ("-40,c0-", "40-80", "80-c0")]

    assert not gaps(tiles)
    assert first_overlap(tiles) is None


@given(st.lists(key_sets(), max_size=5), key_sets())
@example([parse_key_set("-c0"), parse_key_set("10-30")], parse_key_set("80-a0"))
def test_the_index_finds_what_asking_every_set_finds(sets: list[KeySet], keys: KeySet) -> None:
    expected = [(i, s & keys) for i, s in enumerate(sets) if s & keys]

    assert KeySetIndex(sets).shared(keys) == expected


@given(any_range, st.integers(0, SPACE_END - 1))
def test_sql_compares_signed_numbers_in_the_order_of_positions(r: KeyRange, position: int) -> None:
    first, last = r.sql_bounds
    signed = position - (1 << 63)

    assert -(1 << 63) <= first <= last < 1 << 63
    assert (first <= signed <= last) == (position in r)


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_positions_order_hashes_as_signed_numbers(a: int, b: int) -> None:
    unsigned = [h % SPACE_END for h in (a, b)]

    assert (position_of_hash(unsigned[0]) < position_of_hash(unsigned[1])) == (a < b)
    assert position_of_hash(unsigned[0]) - (1 << 63) == a


def test_the_whole_space_is_one() -> None:
    assert WHOLE.share == 1
    assert str(WHOLE) == "-"
    assert KeySet().complement() == key_set([WHOLE])
    assert WHOLE.sql_bounds == (-(1 << 63), (1 << 63) - 1)
