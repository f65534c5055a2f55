"""The short way of a statement of one key: where it goes, and when it has to leave that way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from struct import pack
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router import wire
from reconciler.router.quick import parameter_of
from reconciler.router.relay import Backend, Exchange
from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at, moved_key
from tests.sdk.scene import Scene

INSERT = "INSERT INTO entry (k, id) VALUES (%s, %s) RETURNING current_setting('{}', true)"
Write = Callable[[psycopg.Connection[Any], int, str, str], Any]


def prepared(client: psycopg.Connection[Any], key: int, ident: str, shown: str) -> Any:
    return client.execute(INSERT.format(shown).encode(), [key, ident], prepare=True).fetchone()


def unnamed(client: psycopg.Connection[Any], key: int, ident: str, shown: str) -> Any:
    return client.execute(INSERT.format(shown).encode(), [key, ident], prepare=False).fetchone()


def hinted(client: psycopg.Connection[Any], key: int, ident: str, shown: str) -> Any:
    text = INSERT.format(shown).replace("%s, %s", f"{key}, '{ident}'")
    return client.execute(f"/* shard_key: {key} */ {text};".encode()).fetchone()


def written(client: psycopg.Connection[Any], key: int, ident: str, shown: str) -> Any:
    return client.execute(
        INSERT.format(shown).replace("%s, %s", f"{key}, '{ident}'").encode()
    ).fetchone()


WAYS = pytest.mark.parametrize("write", [prepared, unnamed, hinted, written])


@WAYS
def test_it_goes_to_the_owner_alone_and_in_a_transaction(
    router: RunningRouter, scene: Scene, write: Write
) -> None:
    here, there = key_at(0), key_at(1)
    with router.connect() as client:
        for turn in range(3):
            write(client, here, f"a{turn}", "x")
            write(client, there, f"b{turn}", "x")
            with client.transaction():
                write(client, there, f"c{turn}", "x")
                write(client, there, f"d{turn}", "x")
        client.execute("BEGIN")
        write(client, there, "e", "x")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            write(client, here, "f", "x")
        client.execute("ROLLBACK")
        with pytest.raises(psycopg.errors.UniqueViolation):
            write(client, here, "a0", "x")
        write(client, here, "a3", "x")
    assert {ident for _, ident in scene.rows(0)} == {"a0", "a1", "a2", "a3"}
    assert {ident for _, ident in scene.rows(1)} == {f"{c}{n}" for c in "bcd" for n in range(3)}


@WAYS
def test_a_setting_is_there_and_a_new_epoch_too(
    router: RunningRouter, scene: Scene, write: Write
) -> None:
    with router.connect() as client:
        for turn in range(3):
            for key in (key_at(0), key_at(1)):
                write(client, key, f"{turn}", "shardwright.epoch")
        client.execute("SET work_mem = '888kB'")
        for key in (key_at(0), key_at(1)):
            assert write(client, key, "set", "work_mem") == ("888kB",)
        scene.switch()
        wait_for(lambda: router.process.routes.get().epoch == 2, "the new map")
        for key in (key_at(0), key_at(1)):
            assert write(client, key, "later", "shardwright.epoch") == ("2",)


@WAYS
def test_it_waits_out_a_fence_and_is_done_once(
    router: RunningRouter, scene: Scene, write: Write
) -> None:
    def work() -> None:
        with router.connect() as client:
            for turn in range(3):
                write(client, moved_key(), f"before{turn}", "x")
            fenced.set()
            proceed.wait(60)
            for turn in range(3):
                write(client, moved_key(), f"after{turn}", "x")
            done.set()

    fenced, proceed, done = threading.Event(), threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert fenced.wait(60)
    scene.fence()
    proceed.set()
    wait_for(lambda: router.process.routes.held_total, "a held client")
    scene.open_target()
    scene.switch()
    thread.join(60)
    assert done.is_set()
    idents = {f"{when}{turn}" for when in ("before", "after") for turn in range(3)}
    assert sorted(ident for _, ident in scene.rows(1)) == sorted(idents)


def test_only_a_hint_that_is_one_counts(router: RunningRouter) -> None:
    here, there, read = key_at(0), key_at(1), "SELECT id FROM entry"
    with router.connect() as client:
        for key in (here, there):
            hinted(client, key, f"{key}", "x")
        for hint, ident in (("shard: s0", here), (f"shard_key: {there}", there)):
            rows = client.execute(f"/* {hint} */ {read}".encode()).fetchall()
            assert rows == [(f"{ident}",)]
        for text in (f"/* SHARD_KEY: {here} */ {read}", f"/* shard: s9 */ {read}"):
            with pytest.raises((psycopg.errors.FeatureNotSupported, psycopg.DataError)):
                client.execute(text.encode())


@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=9)), min_size=1, max_size=5),
    st.sampled_from(("none", "one", "each")),
    st.data(),
)
def test_a_parameter_is_cut_out_as_the_whole_bind_is_read(
    values: list[bytes | None], formats: str, data: st.DataObject
) -> None:
    count = {"none": 0, "one": 1, "each": len(values)}[formats]
    kinds = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    number = data.draw(st.integers(1, len(values) + 1))
    cells = b"".join(pack("!i", -1) if v is None else pack("!i", len(v)) + v for v in values)
    body = b"\0name\0" + pack(f"!h{count}hh", count, *kinds, len(values)) + cells + b"\0\0"
    bind, message = wire.read_bind(body), wire.frame(b"B", body)
    if number > len(values) or values[number - 1] is None:
        with pytest.raises(IndexError):
            parameter_of(message, 11, len(message), number)
    else:
        found = parameter_of(message, 11, len(message), number)
        assert found == (values[number - 1], bind.is_binary(number - 1))


class Asker:
    """Who asked, and what it was told."""

    def __init__(self) -> None:
        self.told = b""
        self.ended: list[Exchange] = []

    def write(self, data: bytes) -> None:
        self.told += data

    def finished(self, _backend: Backend, exchange: Exchange, _status: bytes) -> None:
        self.ended.append(exchange)

    def lost(self, _backend: Backend, _exchange: Exchange | None) -> None:
        raise AssertionError


ERROR = wire.error(wire.Refusal("22012", "division by zero"))
FRAMES = st.sampled_from((b"1", b"2", b"t", b"T", b"n", b"D", b"C", b"I", b"S", b"N"))
FRAME = st.builds(wire.frame, FRAMES, st.sampled_from((b"", b"a", b"E\0\0\0\4", wire.ready(b"I"))))
ANSWER = st.lists(st.one_of(FRAME, FRAME, FRAME, st.just(ERROR)), max_size=6)


@given(st.lists(ANSWER, min_size=2, max_size=6))
def test_an_answer_that_begins_like_the_last_one_is_read_to_its_own_end(
    answers: list[list[bytes]],
) -> None:
    asker, backend = Asker(), Backend(0, 0, ("", 0))
    for frames in answers:
        exchange = Exchange(asker, b"")
        exchange.plain, backend.exchange, asker.told = True, exchange, b""
        answer = b"".join(frames) + wire.ready(b"I")
        backend.data_received(answer)
        assert (asker.told, asker.ended[-1]) == (answer, exchange)
        assert exchange.failed == (ERROR in frames) == (not exchange.plain)


def test_a_part_of_an_answer_is_nothing_to_know_the_next_one_by() -> None:
    """Its end looks like an answer's end, and what follows like a row that hides an error."""
    asker, backend = Asker(), Backend(0, 0, ("", 0))
    row_that_is_none = b"D" + pack("!i", 4 + len(ERROR))
    columns = wire.frame(b"T", wire.ready(b"I") + row_that_is_none)
    answer = columns + ERROR + wire.ready(b"I")
    cut = wire.HEADER + len(wire.ready(b"I"))
    for chunks in ((answer[:cut], answer[cut:]), (answer,)):
        exchange = Exchange(asker, b"")
        exchange.plain, backend.exchange, asker.told = True, exchange, b""
        for chunk in chunks:
            backend.data_received(chunk)
        assert (asker.told, asker.ended[-1], exchange.failed) == (answer, exchange, True)
