"""Records in etcd: what is written is read again, and anything else is refused with its key."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.records import (
    RecordUnreadable,
    database_of_key,
    decode_record,
    decode_routing,
    encode_record,
    encode_routing,
    record_key,
    routing_key,
)
from reconciler.model.desired import Deletion, KeyType
from reconciler.model.keyspace import SPACE_END, KeyRange, key_set
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Epoch,
    MemberName,
    Namespace,
    Scope,
    ShardName,
)
from reconciler.model.platform import Endpoint
from reconciler.model.routing import AppliedRecord, RoutingMap, RoutingMember, RoutingOwner

_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,15}", fullmatch=True)
_TEXT = st.text(max_size=30)
_SHOP = DatabaseKey(Namespace("default"), DatabaseName("shop"))
_KEYS = st.builds(DatabaseKey, _NAMES.map(Namespace), _NAMES.map(DatabaseName))
_RANGES = st.lists(st.integers(0, SPACE_END), min_size=2, max_size=6, unique=True).map(
    lambda ends: key_set(
        KeyRange(a, b) for a, b in zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False)
    )
)
_MEMBERS = st.builds(
    RoutingMember,
    _NAMES.map(MemberName),
    st.builds(Endpoint, _TEXT, st.integers(0, 65535), st.integers(0, 65535), st.booleans()),
)
_OWNERS = st.builds(
    RoutingOwner,
    _NAMES.map(ShardName),
    _NAMES.map(Scope),
    _RANGES,
    st.lists(_MEMBERS, max_size=3).map(tuple),
)
_MAPS = st.builds(
    RoutingMap,
    _KEYS,
    st.integers(1, 2**40).map(Epoch),
    st.sampled_from(KeyType),
    st.lists(st.tuples(_TEXT, _TEXT), max_size=3, unique_by=lambda t: t[0]).map(tuple),
    st.lists(_TEXT, max_size=3).map(tuple),
    st.lists(_OWNERS, max_size=4).map(tuple),
    st.integers(0, 2**60),
)
_RECORDS = st.builds(
    AppliedRecord, _KEYS, _TEXT, _TEXT, _TEXT, st.sampled_from(Deletion), _TEXT, st.integers(0, 9),
    _TEXT,
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(_MAPS)
def test_a_routing_map_is_read_as_it_was_written(routing: RoutingMap) -> None:
    assert decode_routing("k", encode_routing(routing), routing.version) == routing


@given(_RECORDS)
def test_a_last_applied_record_is_read_as_it_was_written(record: AppliedRecord) -> None:
    read = decode_record("k", encode_record(record), record.database, record.version)
    assert read == record


@given(_KEYS)
def test_a_key_tells_its_database_and_kind(database: DatabaseKey) -> None:
    assert database_of_key(routing_key(database)) == (database, "routing")
    assert database_of_key(record_key(database)) == (database, "record")


def _broken(whole: bytes, field: str, value: object) -> bytes:
    return json.dumps({**json.loads(whole), field: value}).encode()


@given(st.data(), _MAPS, _JSON)
def test_a_map_with_any_field_broken_is_read_or_refused(
    data: st.DataObject, routing: RoutingMap, value: object
) -> None:
    whole = encode_routing(routing)
    field = data.draw(st.sampled_from(sorted(json.loads(whole))))
    with suppress(RecordUnreadable):
        decode_routing("the/key", _broken(whole, field, value), 1)


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"[]", b"3", b'"x"', b"{}", b"[" * 100_000, b'{"epoch": 1e999}']
)
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(RecordUnreadable, match="a/key"):
        decode_routing("a/key", value, 1)
    with pytest.raises(RecordUnreadable, match="a/key"):
        decode_record("a/key", value, _SHOP, 1)


@given(_RECORDS, st.sampled_from(["source", "revision", "digest", "deletion", "appliedAt"]))
def test_a_record_without_a_field_is_refused(record: AppliedRecord, field: str) -> None:
    data = json.loads(encode_record(record))
    del data[field]
    with pytest.raises(RecordUnreadable):
        decode_record("k", json.dumps(data).encode(), record.database, 1)
    assert replace(record, version=1).database == record.database
