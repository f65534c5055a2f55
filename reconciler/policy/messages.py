"""Frozen dataclasses as protobuf messages, which is how CEL takes values of a static type.

One generic description: a dataclass becomes a message of its name without ``Facts``, a field its
camelCase name; tuples become lists, tuples of pairs maps, ``X | None`` the nullable wrapper types
(unset is null in CEL, where a plain field would silently be zero). No ``.proto`` file, no compiler:
the dataclass is the only definition.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import timedelta
from types import UnionType
from typing import Any, get_origin

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    wrappers_pb2,
)
from google.protobuf.message import Message

from reconciler.policy.shapes import PACKAGE, PAIRS, camel, item_type, message_name, types_of

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    str: _Field.TYPE_STRING,
    int: _Field.TYPE_INT64,
    float: _Field.TYPE_DOUBLE,
    bool: _Field.TYPE_BOOL,
}
_WRAPPERS = {int: "Int64Value", float: "DoubleValue", str: "StringValue", bool: "BoolValue"}
_SECOND, _MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)


class MessageTypes:
    """The messages of some dataclasses, and of those inside them, in a pool of their own."""

    def __init__(self, *kinds: type) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        for module in (wrappers_pb2, duration_pb2):
            self.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        file = descriptor_pb2.FileDescriptorProto(
            name="shardwright/facts.proto",
            package=PACKAGE,
            syntax="proto3",
            dependency=["google/protobuf/wrappers.proto", "google/protobuf/duration.proto"],
        )
        done: list[type] = []
        for kind in kinds:
            _describe(kind, file, done)
        self.pool.AddSerializedFile(file.SerializeToString())
        self._classes: dict[type, type[Message]] = {
            kind: message_factory.GetMessageClass(
                self.pool.FindMessageTypeByName(message_name(kind))
            )
            for kind in done
        }
        self.fields = {message_name(k): [camel(f.name) for f in fields(k)] for k in done}

    def message(self, value: Any) -> Message:
        """Return a dataclass's value as its message."""
        kind: type = type(value)
        hints: dict[str, Any] = types_of(kind)
        contents = {
            camel(name): self._content(hint, found)
            for name, hint in hints.items()
            if (found := getattr(value, name)) is not None
        }
        return self._classes[kind](**contents)

    def _content(self, hint: Any, value: Any) -> Any:
        if hint == PAIRS:
            return dict(value)
        item = item_type(hint)
        if item is not None and is_dataclass(item):
            return [self.message(v) for v in value]
        if get_origin(hint) is UnionType and item is not None:
            return {"value": value}
        if isinstance(value, timedelta):
            return {"seconds": value // _SECOND, "nanos": value % _SECOND // _MICROSECOND * 1000}
        return value


def _describe(kind: type, file: descriptor_pb2.FileDescriptorProto, done: list[type]) -> None:
    """Add a dataclass's message to the file, after those of the dataclasses in it."""
    if kind in done:
        return
    message = descriptor_pb2.DescriptorProto(name=message_name(kind).rpartition(".")[2])
    for number, (name, hint) in enumerate(types_of(kind).items(), 1):
        inner = item_type(hint)
        if inner is not None and is_dataclass(inner):
            _describe(inner, file, done)
        _add_field(message, camel(name), number, hint)
    file.message_type.append(message)
    done.append(kind)


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, hint: Any) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    inner = item_type(hint)
    if hint in _SCALARS:
        field.type = _SCALARS[hint]
        return
    if get_origin(hint) is tuple:
        field.label = _Field.LABEL_REPEATED
        if inner in _SCALARS:
            field.type = _SCALARS[inner]
            return
    field.type = _Field.TYPE_MESSAGE
    field.type_name = _type_name(message, name, hint)


def _type_name(message: descriptor_pb2.DescriptorProto, name: str, hint: Any) -> str:
    inner = item_type(hint)
    if hint == PAIRS:
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        for number, part in enumerate(("key", "value"), 1):
            entry.field.add(name=part, number=number, type=_Field.TYPE_STRING, label=1)
        return f".{PACKAGE}.{message.name}.{entry.name}"
    if hint is timedelta:
        return ".google.protobuf.Duration"
    if inner in _WRAPPERS:
        return f".google.protobuf.{_WRAPPERS[inner]}"
    if inner is None or not is_dataclass(inner):
        raise TypeError(f"no message field for {message.name}.{name}: {hint}")
    return f".{message_name(inner)}"
