"""The audit's chain: any entry that is changed, removed or moved is found, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.engine.audit import (
    START,
    AuditApart,
    AuditBroken,
    Deed,
    Trail,
    _entry,
    decode_trail,
    encode_trail,
    hash_of,
    verify,
    verify_since,
)
from reconciler.model.statements import note, noting

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
Entries = list[dict[str, Any]]


def _trail(actor: str = "kim@host", count: int = 6) -> Trail:
    entries: Entries = []
    last = START
    for number in range(1, count + 1):
        deed = Deed(NOW, actor, f"shop-s{number}/configure", "done", sql=("ALTER TABLE t",))
        entries.append(_entry(deed, number, last))
        last = entries[-1]["hash"]
    return Trail(tuple(entries), head=(count, last))


def test_what_was_written_holds_and_so_does_its_export() -> None:
    assert verify(_trail()) == 6
    lines = encode_trail(_trail()).splitlines()
    assert verify(decode_trail(lines, "export")) == 6
    assert verify(Trail(())) == 0


def _change(entries: Entries) -> None:
    entries[2] = {**entries[2], "actor": "nobody"}


def _change_and_hash_again(entries: Entries) -> None:
    entries[2] = {**entries[2], "actor": "nobody"}
    entries[2]["hash"] = hash_of(entries[2])


def _remove(entries: Entries) -> None:
    del entries[2]


def _swap(entries: Entries) -> None:
    entries[2], entries[3] = entries[3], entries[2]


def _swap_and_number_again(entries: Entries) -> None:
    entries[2], entries[3] = (
        {**entries[3], "number": 3}, {**entries[2], "number": 4},
    )  # fmt: skip


def _remove_first(entries: Entries) -> None:
    del entries[0]


def _remove_last(entries: Entries) -> None:
    del entries[-1]


def _add(entries: Entries) -> None:
    entries.append(_entry(Deed(NOW, "me", "x", "done"), 7, START))


@pytest.mark.parametrize(
    "spoil",
    [_change, _change_and_hash_again, _remove, _swap, _swap_and_number_again, _remove_first,
     _remove_last, _add],
)  # fmt: skip
def test_what_was_spoilt_is_found(spoil: Callable[[Entries], None]) -> None:
    trail = _trail()
    entries = list(trail.entries)
    spoil(entries)
    with pytest.raises(AuditBroken):
        verify(replace(trail, entries=tuple(entries)))


def test_a_head_that_is_gone_hides_no_removal_at_the_end() -> None:
    trail = _trail()
    for kept in (6, 4, 0):
        cut = replace(trail, entries=trail.entries[:kept], head=None)
        anchored = replace(cut, anchor=(1, trail.entries[0]["hash"]), entries=cut.entries[1:])
        for one in (cut, anchored) if kept else (anchored,):
            with pytest.raises(AuditBroken, match="head: is gone"):
                verify(one)


def test_a_trail_whose_oldest_entries_were_let_go_holds_from_its_anchor() -> None:
    trail = _trail()
    rest = replace(trail, entries=trail.entries[2:], anchor=(2, trail.entries[1]["hash"]))
    assert verify(rest) == 4
    with pytest.raises(AuditBroken):
        verify(replace(rest, anchor=(2, START)))


def test_an_earlier_export_shows_an_end_that_was_cut_off_and_a_chain_that_was_written_anew() -> (
    None
):
    trail = _trail()
    four = replace(trail, entries=trail.entries[:4], head=(4, trail.entries[3]["hash"]))
    assert verify(four) == 4, "its head was written anew"
    assert verify_since(trail, four) == 4
    assert verify_since(trail, trail) == 6
    assert verify_since(trail, Trail(())) == 0
    with pytest.raises(AuditBroken, match="entries until 6: the end is gone"):
        verify_since(four, trail)
    with pytest.raises(AuditBroken, match="entry 0, and the export"):
        verify_since(Trail(()), trail)
    other = _trail("eve")
    assert verify(other) == 6
    with pytest.raises(AuditBroken, match="entry 1: is another one than in the export"):
        verify_since(other, four)


def test_an_export_joins_on_what_was_let_go_since_and_not_on_more() -> None:
    trail = _trail()
    two = replace(trail, entries=trail.entries[:2], head=(2, trail.entries[1]["hash"]))
    rest = replace(trail, entries=trail.entries[2:], anchor=(2, trail.entries[1]["hash"]))
    assert verify_since(rest, two) == 2
    with pytest.raises(AuditBroken, match="entry 2"):
        verify_since(replace(rest, anchor=(2, START)), two)
    later = replace(rest, entries=trail.entries[3:], anchor=(3, trail.entries[2]["hash"]))
    with pytest.raises(AuditApart, match="ends with entry 2"):
        verify_since(later, two)


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_half_an_export_is_not_whole(cut: int) -> None:
    lines = encode_trail(_trail()).splitlines()
    del lines[cut]
    with pytest.raises(AuditBroken):
        verify(decode_trail(lines, "export"))
    with pytest.raises(AuditBroken):
        decode_trail(["[]"], "export")
    for lines in (["no JSON"], ["{}"], encode_trail(_trail()).splitlines()[:3]):
        with pytest.raises(AuditBroken, match="is no whole export: its lines are JSON"):
            decode_trail(lines, "export")


def _noted(text: str) -> list[str]:
    with noting() as statements:
        note(text)
    return statements


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("ALTER ROLE shop PASSWORD 'hunter2'", "ALTER ROLE shop PASSWORD '***'"),
        ("CREATE ROLE x LOGIN password 'it''s hunter2' ", "CREATE ROLE x LOGIN password '***'"),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2 user=u' PUBLICATION p",
         "CREATE SUBSCRIPTION s CONNECTION 'host=h password=*** user=u' PUBLICATION p"),
        ("ALTER ROLE a PASSWORD $x$hunter2$x$", "ALTER ROLE a PASSWORD '***'"),
        ("SET x = 'SCRAM-SHA-256$4096:hunter2$a:b'", "SET x = '***'"),
        ("SELECT shardwright.check_fence(7); CREATE TABLE t ()",
         "SELECT shardwright.check_fence(7); CREATE TABLE t ()"),
    ],
)  # fmt: skip
def test_statements_are_noted_without_passwords(text: str, noted: str) -> None:
    assert _noted(text) == [noted]
    assert "hunter2" not in json.dumps(_noted(text))


@pytest.mark.parametrize("text", ["SELECT 1", "BEGIN", "  show work_mem", "select v from beat"])
def test_what_only_reads_is_not_noted(text: str) -> None:
    assert _noted(text) == []
    note("DROP TABLE nobody_listens")
