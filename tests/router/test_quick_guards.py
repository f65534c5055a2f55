"""When a statement may not go the short way: one test for each condition of ``router/quick.py``.

Messages that no driver sends in such an order, or at once, are written to the driver's own socket
after its login.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any

import psycopg
import pytest
from psycopg import errors

from reconciler.model.names import Epoch
from reconciler.router import wire
from reconciler.router.pool import PoolLimits
from tests.local_home import wait_for
from tests.router.conftest import RunningRouter, key_at, moved_key, running
from tests.sdk.scene import TABLE, Scene

INSERT = "INSERT INTO entry (k, id) VALUES ({}, '{}')"
FIRST = "/* shard_key: {} */ SELECT 1"
READ = "SELECT id FROM entry WHERE k = $1"
HERE, THERE = key_at(0), key_at(1)
EXECUTE = wire.frame(b"E", b"\0\0\0\0\0")
SYNC = wire.frame(b"S")

Client = psycopg.Connection[Any]


def parse(name: str, text: str) -> bytes:
    return wire.frame(b"P", wire.text(name) + wire.text(text) + b"\0\0")


def bind(name: str, *values: object) -> bytes:
    cells = b"".join(pack("!i", len(str(v))) + str(v).encode() for v in values)
    return wire.frame(b"B", b"\0" + wire.text(name) + pack("!hh", 0, len(values)) + cells + b"\0\0")


def told(client: Client, *chunks: bytes, answers: int = 1) -> list[str]:
    """Send chunks, each alone, and return the values and error codes of so many answers.

    A shard that waits for a COPY's rows has answered, too.
    """
    found: list[str] = []
    with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
        raw.settimeout(60)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index, chunk in enumerate(chunks):
            raw.sendall(chunk)
            if index + 1 < len(chunks):
                _read_by_the_router(raw)
        rest = b""
        while answers:
            rest += raw.recv(65536)
            while len(rest) > 4 and len(rest) > (size := wire.read_int(rest, 1)):
                frame, rest = rest[: size + 1], rest[size + 1 :]
                found += _value(frame)
                answers -= frame[:1] in (b"Z", b"G")
    return found


def _read_by_the_router(raw: socket.socket) -> None:
    """Wait until the other end has taken all, so that what follows is another chunk."""
    mine = f"0100007F:{raw.getsockname()[1]:04X}"

    def taken() -> bool:
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        unsent = {queues.split(":")[0] for _, local, _, _, queues, *_ in sockets if local == mine}
        unread = {queues.split(":")[1] for _, _, far, _, queues, *_ in sockets if far == mine}
        return unsent | unread == {"00000000"}

    wait_for(taken, "an empty socket")


def _value(frame: bytes) -> list[str]:
    if frame[:1] == b"E":
        return [wire.error_fields(frame[wire.HEADER :])["C"]]
    return [frame[11:].decode()] if frame[:1] == b"D" else []


@pytest.fixture
def client(router: RunningRouter) -> Any:
    with router.connect() as client:
        for key, ident in ((HERE, "here"), (THERE, "there")):
            client.execute(INSERT.format(key, ident).encode())
        yield client


def query(key: int, hint: str = "") -> bytes:
    return wire.query(f"{hint.format(key)}SELECT id FROM entry WHERE k = {key}")


@pytest.mark.parametrize("hint", ["", "/* shard_key: {} */ "])
def test_simple_queries_that_come_at_once_are_told_apart(client: Client, hint: str) -> None:
    both = query(HERE, hint) + query(THERE, hint)
    assert told(client, both, answers=2) == ["here", "there"]
    assert told(client, both[:30], both[30:], answers=2) == ["here", "there"]


@pytest.mark.parametrize("hint", ["", "/* shard_key: {} */ "])
def test_what_comes_before_an_answer_waits_for_it(client: Client, hint: str) -> None:
    slow = wire.query(f"/* shard_key: {HERE} */ SELECT pg_sleep(0.3)::text || 'slept'")
    assert told(client, slow, query(THERE, hint), answers=2) == ["slept", "there"]


def test_what_comes_while_a_session_is_awaited_waits_for_its_turn(scene: Scene) -> None:
    limits = PoolLimits(backends_max=1, wait_s=60)
    with running(scene, pools=limits) as router, router.connect() as client:
        other = router.connect()
        for one, key, ident in ((client, THERE, "there"), (other, HERE, "here")):
            one.execute(INSERT.format(key, ident).encode())
        leaving = threading.Timer(1, other.close)
        leaving.start()
        assert told(client, query(HERE), query(THERE), answers=2) == ["here", "there"]
        leaving.join()


def test_extended_queries_that_come_at_once_are_told_apart(client: Client) -> None:
    for ask in (parse("", READ) + bind("", HERE), bind("", HERE)):
        assert told(client, ask + EXECUTE + SYNC) == ["here"]
    first, second = (bind("", key) + EXECUTE + SYNC for key in (HERE, THERE))
    assert told(client, first + second, answers=2) == ["here", "there"]
    two = bind("", HERE) + EXECUTE + bind("", THERE) + EXECUTE + SYNC
    assert told(client, two) == ["0A000"]


def test_the_beginning_of_a_unit_is_not_forgotten(client: Client) -> None:
    for key in (HERE, THERE):
        told(client, parse("", READ) + bind("", key) + EXECUTE + SYNC)
    first, second = (bind("", key) + EXECUTE for key in (THERE, HERE))
    assert told(client, first, second + SYNC) == ["0A000"]
    other = parse("", "SELECT 'other' WHERE $1 <> ''")
    assert told(client, other, bind("", HERE) + EXECUTE + SYNC) == ["other"]


def test_the_end_of_a_failed_copys_row_is_no_query(client: Client) -> None:
    hidden = query(HERE)
    assert told(client, wire.query("/* shard: s0 */ COPY entry FROM STDIN")) == []
    half = b"d" + pack("!i", 4 + 3 + len(hidden)) + b"row"
    assert told(client, wire.frame(b"d", b"no number\n") + half) == ["22P02"]
    assert told(client, hidden, query(THERE)) == ["there"]


def test_after_an_error_all_is_skipped_up_to_the_sync(client: Client) -> None:
    ask = parse("", READ) + bind("", HERE) + EXECUTE
    assert told(client, ask + SYNC) == ["here"]
    flush = wire.frame(b"H")
    wrong = bind("none", HERE) + EXECUTE + flush
    assert told(client, wrong, query(HERE), ask + SYNC, ask + SYNC, answers=2) == ["26000", "here"]


def test_more_than_one_statement_under_a_hint_is_read(client: Client) -> None:
    hint = f"/* shard_key: {HERE} */"
    client.execute(f"{hint} SELECT 1; SET work_mem = '888kB'".encode())
    for key in (HERE, THERE):
        text = f"/* shard_key: {key} */ SELECT current_setting('work_mem')"
        assert client.execute(text.encode()).fetchone() == ("888kB",)
    with pytest.raises(errors.FeatureNotSupported, match="go alone"):
        client.execute(f"{hint} SELECT 1; SET shardwright.key = '1';".encode())


def test_a_text_that_is_not_utf8_is_refused_under_a_hint_too(client: Client) -> None:
    client.execute("SET client_encoding = 'LATIN1'")
    hint = b"/* shard_key: %d */" % HERE
    assert told(client, wire.frame(b"Q", hint + b"SELECT 'x'\0")) == ["x"]
    assert told(client, wire.frame(b"Q", hint + b"SELECT '\xe9'\0")) == ["22021"]


@pytest.mark.parametrize("wish", ["shard = 's1'", f"key = '{THERE}'"])
def test_a_wish_goes_before_a_key_and_a_hint_before_a_wish(client: Client, wish: str) -> None:
    asks = [query(HERE), bind("n", HERE) + EXECUTE + SYNC]
    assert told(client, parse("n", READ) + bind("n", HERE) + EXECUTE + SYNC) == ["here"]
    client.execute(f"SET shardwright.{wish}".encode())
    for _ in range(2):
        assert [told(client, ask) for ask in asks] == [[], []]
    assert told(client, query(HERE, "/* shard_key: {} */ ")) == ["here"]
    hinted = f"/* shard_key: $1 */ {READ}"
    for _ in range(2):
        assert told(client, parse("", hinted) + bind("", HERE) + EXECUTE + SYNC) == ["here"]


def test_the_unnamed_statement_is_the_last_that_was_parsed(client: Client) -> None:
    key_first = "SELECT 'k' FROM entry WHERE k = $1::bigint AND id <> $2"
    key_last_ = "SELECT 'l' FROM entry WHERE id <> $1 AND k = $2::bigint"
    assert len(key_first) == len(key_last_)
    for text, letter in ((key_first, "k"), (key_last_, "l")) * 2:
        values = (HERE, THERE) if letter == "k" else (THERE, HERE)
        for _ in range(2):
            ask = parse("", text) + bind("", *values) + EXECUTE + SYNC
            assert told(client, ask) == [letter]


def test_a_named_statement_is_brought_along_to_a_shard_that_lacks_it(client: Client) -> None:
    unnamed = parse("", READ)
    for name, before in (("n", b""), ("m", unnamed)):
        assert told(client, parse(name, READ) + bind(name, HERE) + EXECUTE + SYNC) == ["here"]
        for _ in range(2):
            assert told(client, unnamed + bind("", THERE) + EXECUTE + SYNC) == ["there"]
        assert told(client, before + bind(name, THERE) + EXECUTE + SYNC) == ["there"]


def test_a_statement_read_by_an_older_map_is_read_anew(
    client: Client, router: RunningRouter, scene: Scene
) -> None:
    assert told(client, parse("n", READ) + bind("n", HERE) + EXECUTE + SYNC) == ["here"]
    scene.publish(replace(scene.map, tables=((TABLE, "id"),), epoch=Epoch(scene.map.epoch + 1)))
    wait_for(lambda: router.process.routes.get().epoch == scene.map.epoch, "the new map")
    client.execute(f"/* shard_key: {HERE} */ SELECT 1".encode())
    assert told(client, bind("n", HERE) + EXECUTE + SYNC) == ["0A000"]
    with pytest.raises(errors.FeatureNotSupported):
        client.execute(f"SELECT id FROM entry WHERE k = {HERE}".encode())


def test_nothing_is_done_in_a_transaction_that_failed_before_its_shard(
    client: Client, scene: Scene
) -> None:
    client.execute("BEGIN")
    with pytest.raises(errors.FeatureNotSupported):
        client.execute("DELETE FROM entry")
    for hint in ("", f"/* shard_key: {HERE} */ "):
        with pytest.raises(errors.InFailedSqlTransaction):
            client.execute(f"{hint}{INSERT.format(HERE, 'never')}".encode())
    client.execute("ROLLBACK")
    assert [ident for _, ident in scene.rows(0)] == ["here"]


def test_a_refusal_in_the_middle_of_a_transaction_is_told(
    client: Client, router: RunningRouter, scene: Scene
) -> None:
    """Sent once more it would be done without what came before it."""
    client.execute("BEGIN")
    client.execute(FIRST.format(moved_key()).encode())
    scene.fence()
    with pytest.raises(psycopg.Error) as refused:
        client.execute(INSERT.format(moved_key(), "second").encode())
    assert refused.value.sqlstate == "PS001"
    assert not router.process.routes.held_total
    client.execute("ROLLBACK")
