"""YAML text to plain data, streaming, bounded, and strict where YAML is treacherous.

Built on libyaml's events (PyYAML's ``CParser``) instead of a loader: events come one at a time, so
depth, size and aliases are checked before anything is built, and the same pass can note where each
path stands. Differences from YAML 1.1, all on purpose: duplicate keys are errors; timestamps,
sexagesimal and octal numbers stay text; tags are refused. ``yes no on off`` are booleans as in 1.1,
so that a text field that gets one can say "quote it".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from reconciler.model.errors import Position, ReconcilerError
from reconciler.spec.problems import (
    DuplicateKey,
    FileTooLarge,
    KeyNotText,
    NestedTooDeep,
    NotUtf8,
    NotYaml,
    TabIndentation,
    TagRefused,
    TooManyNodes,
    quoted,
)

FILE_BYTES_MAX = 10_000_000
"""Largest file that is read, in bytes."""
DEPTH_MAX = 100
"""Deepest nesting of a document; the deepest field of ours is at 7."""
NODES_MAX = 1_000_000
"""Most values in one file; 10,000 shards take about 80,000."""
ALIAS_NODES_MAX = 10_000
"""Most values that all aliases of one file may stand for together."""

_CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
_CONSTANTS |= {v: None for w in ("null",) for v in (w, w.title(), w.upper())}
_CONSTANTS |= {v: True for w in ("yes", "true", "on") for v in (w, w.title(), w.upper())}
_CONSTANTS |= {v: False for w in ("no", "false", "off") for v in (w, w.title(), w.upper())}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,30}\.[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?")
_NUMERIC_START = frozenset("-+.0123456789")
_STRING_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_COLLECTION_TAGS = frozenset(("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))
_MERGE = "<<"

Path = tuple[str | int, ...]
Marks = dict[tuple[int, Path], tuple[int, int]]
"""Line and column, from 1, of each (document, path)."""


@dataclass(slots=True)
class Parsed:
    """A file's documents in order (empty ones included), and what is wrong with its form."""

    documents: list[Any] = field(default_factory=list)
    problems: list[tuple[Position, ReconcilerError]] = field(default_factory=list)
    marks: Marks = field(default_factory=dict)


def decode_text(data: bytes, file: str) -> str | tuple[Position, ReconcilerError]:
    """Return a file's text without byte order mark, or what forbids to read it."""
    if len(data) > FILE_BYTES_MAX:
        problem = f"it has {len(data):,} bytes, more than the {FILE_BYTES_MAX:,} allowed"
        error = FileTooLarge(file, problem, remedy="split it, or move it out of the specs folder")
        return Position(file), error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        problem = f"byte {bad.start} (0x{data[bad.start]:02x}) is not UTF-8"
        return Position(file, line), NotUtf8(file, problem, remedy="save it as UTF-8")
    if (at := text.find("\0")) >= 0:
        problem = "it holds a NUL character, so it is not a text file"
        where = Position(file, text.count("\n", 0, at) + 1)
        return where, NotYaml(file, problem, remedy="remove it, or move the file elsewhere")
    return text


def parse(text: str, file: str, *, with_marks: bool = False) -> Parsed:
    """Read every document of a text. Never raises: what is wrong is in ``problems``."""
    builder = _Builder(file, with_marks)
    try:
        builder.run(text)
    except _Refused as refused:
        builder.parsed.problems.append((refused.where, refused.error))
    except yaml.YAMLError as error:
        builder.parsed.problems.append(_syntax_problem(error, text, file))
    return builder.parsed


class _Refused(Exception):
    """Reading cannot go on after this."""

    def __init__(self, where: Position, error: ReconcilerError) -> None:
        super().__init__(str(error))
        self.where, self.error = where, error


class _Frame:
    """A collection under construction."""

    __slots__ = ("anchor", "is_map", "key", "merges", "nodes_before", "value")

    def __init__(self, is_map: bool, anchor: str | None, nodes_before: int) -> None:
        self.is_map, self.anchor, self.nodes_before = is_map, anchor, nodes_before
        self.value: Any = {} if is_map else []
        self.key: Any = _NO_KEY
        self.merges: list[Any] = []


class _NoKey:
    """Stands where a mapping waits for its next key."""


_NO_KEY = _NoKey()
_BAD_KEY = object()


class _Builder:
    """Builds plain data from events, iteratively: a deep document costs no stack."""

    def __init__(self, file: str, with_marks: bool) -> None:
        self.file = file
        self.parsed = Parsed()
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = self._alias_nodes = 0
        self._root: Any = None
        self._marks = self.parsed.marks if with_marks else None
        self._path: list[str | int] = []

    def run(self, text: str) -> None:
        """Consume all events. Raises _Refused and yaml.YAMLError."""
        parser = yaml.CSafeLoader(text)
        while True:
            event = parser.get_event()
            kind = type(event)
            if kind is ScalarEvent:
                self._add(self._scalar(event), event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, kind is MappingStartEvent)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._add(self._alias(event), event)
            elif kind is DocumentStartEvent:
                self._root = None
                self._anchors.clear()
            elif kind is DocumentEndEvent:
                self.parsed.documents.append(self._root)
            elif kind is StreamEndEvent:
                return

    def _open(self, event: Any, is_map: bool) -> None:
        if event.tag is not None and event.tag not in _COLLECTION_TAGS:
            self._note(event, self._tag_error(event))
        if len(self._stack) >= DEPTH_MAX:
            raise _Refused(self._where(event), _too_deep(self.file))
        if self._wants_key():
            raise _Refused(self._where(event), self._key_error("a list or mapping"))
        self._mark(event)
        self._stack.append(_Frame(is_map, event.anchor, self._nodes))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        frame = self._stack.pop()
        for merged in reversed(frame.merges):
            frame.value = merged | frame.value
        if frame.anchor:
            self._anchors[frame.anchor] = frame.value, self._nodes - frame.nodes_before
        self._put(frame.value)

    def _wants_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].is_map and self._stack[-1].key is _NO_KEY

    def _add(self, value: Any, event: Any) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            problem = f"it holds more than {NODES_MAX:,} values"
            raise _Refused(self._where(event), TooManyNodes(self.file, problem))
        if self._wants_key():
            self._start_entry(value, event)
            return
        self._mark(event)
        self._put(value)

    def _start_entry(self, key: Any, event: Any) -> None:
        frame = self._stack[-1]
        if key is None or not isinstance(key, str):
            self._note(event, self._key_error(quoted(getattr(event, "value", key))))
            frame.key = _BAD_KEY
            return
        if key in frame.value:
            problem = f"the key {quoted(key)} stands twice in one mapping"
            self._note(event, DuplicateKey(self.file, problem, remedy="keep one of the two"))
            frame.key = _BAD_KEY
            return
        frame.key = key
        if self._marks is not None:
            self._marks.setdefault(self._path_of(key), _line_column(event))

    def _put(self, value: Any) -> None:
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        if not frame.is_map:
            frame.value.append(value)
            return
        key, frame.key = frame.key, _NO_KEY
        if key == _MERGE and _is_merge(value):
            frame.merges.extend(value if isinstance(value, list) else [value])
        elif key is not _BAD_KEY:
            frame.value[key] = value

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.tag is not None and event.tag not in _STRING_TAGS:
            self._note(event, self._tag_error(event))
        value = resolve_plain(text) if event.implicit[0] and event.tag is None else text
        if event.anchor:
            self._anchors[event.anchor] = value, 1
        return value

    def _alias(self, event: Any) -> Any:
        found = self._anchors.get(event.anchor)
        if found is None:
            problem = f"the alias *{event.anchor} has no anchor &{event.anchor} before it"
            raise _Refused(self._where(event), NotYaml(self.file, problem))
        value, nodes = found
        self._alias_nodes += nodes
        self._nodes += nodes
        if self._alias_nodes > ALIAS_NODES_MAX:
            problem = f"its aliases stand for more than {ALIAS_NODES_MAX:,} values"
            raise _Refused(self._where(event), TooManyNodes(self.file, problem))
        return value

    def _tag_error(self, event: Any) -> ReconcilerError:
        problem = f"the tag {quoted(event.tag)} is not allowed"
        return TagRefused(
            self.file, problem, remedy="write plain data; quote a text that starts with !"
        )

    def _key_error(self, key: str) -> ReconcilerError:
        return KeyNotText(self.file, f"the key {key} is not text", remedy="quote it")

    def _note(self, event: Any, error: ReconcilerError) -> None:
        self.parsed.problems.append((self._where(event), error))

    def _where(self, event: Any) -> Position:
        return Position(self.file, *_line_column(event))

    def _mark(self, event: NodeEvent) -> None:
        if self._marks is not None:
            frame = self._stack[-1] if self._stack else None
            if frame is None or not frame.is_map:
                step = () if frame is None else (len(frame.value),)
                self._marks.setdefault(self._path_of(*step), _line_column(event))

    def _path_of(self, *last: str | int) -> tuple[int, Path]:
        steps = [f.key if f.is_map else len(f.value) for f in self._stack[:-1]]
        return len(self.parsed.documents), (*steps, *last)


def _is_merge(value: Any) -> bool:
    if isinstance(value, dict):
        return True
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _line_column(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def resolve_plain(text: str) -> Any:
    """Return what an unquoted scalar means: null, boolean, number, or the text itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if _INT.fullmatch(text):
        return int(text, 16) if text.startswith("0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _too_deep(file: str) -> NestedTooDeep:
    return NestedTooDeep(file, f"it nests deeper than {DEPTH_MAX} levels")


def _syntax_problem(
    error: yaml.YAMLError, text: str, file: str
) -> tuple[Position, ReconcilerError]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:  # yaml.reader.ReaderError: a character YAML does not allow
        at = getattr(error, "position", 0)
        at = at if isinstance(at, int) else 0
        where = Position(file, text.count("\n", 0, at) + 1)
        return where, NotYaml(file, str(getattr(error, "reason", error)).splitlines()[0])
    where = Position(file, mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if (
        "\t" in line[: len(line) - len(line.lstrip())]
        or line[mark.column : mark.column + 1] == "\t"
    ):
        problem = "the line is indented with a tab, which YAML does not allow"
        return where, TabIndentation(file, problem, remedy="indent with spaces")
    problem = str(getattr(error, "problem", "") or error)
    if "maximum nesting depth" in problem:  # libyaml 0.2.6 and later have a limit of their own
        return where, _too_deep(file)
    context = getattr(error, "context", None)
    return where, NotYaml(file, f"not YAML: {problem}{f', {context}' if context else ''}")
