"""JSON Schemas (draft-07, as the YAML language server reads it) made from the manifest types.

``python -m reconciler.spec.schema --write|--check [FOLDER]`` keeps ``schemas/`` fresh.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import msgspec

from reconciler.spec.manifest_other import KINDS

_ADDRESS = "https://shardwright.dev/schemas/"
_DEFINITIONS = "#/$defs/"


def file_name(kind: str) -> str:
    """Return the name under which a kind's schema is published."""
    return f"{kind.lower()}.v1alpha1.json"


@cache
def json_schema(kind: str) -> dict[str, Any]:
    """Return a kind's schema; references are written out, so that each field keeps its text."""
    raw = msgspec.json.schema(KINDS[kind])
    root: dict[str, Any] = _inline(raw, raw["$defs"])
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": _ADDRESS + file_name(kind),
    }
    return head | {k: v for k, v in root.items() if k != "$defs"}


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = {k: v for k, v in node.items() if not _is_noise(k, v)}
    reference = node.pop("$ref", "")
    found = {k: _inline(v, definitions) for k, v in node.items()}
    if reference:
        # The field's own description says more than its type's.
        return _inline(definitions[reference.removeprefix(_DEFINITIONS)], definitions) | found
    return found


def _is_noise(keyword: str, value: Any) -> bool:
    """Tell what editors need not show; a default is worth showing when it is one value."""
    if keyword == "default":
        return isinstance(value, dict | list)
    return keyword in ("$defs", "title")


def render(kind: str) -> str:
    """Return the text of a published schema."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the schemas, or say which are stale; return the exit code."""
    if not arguments or arguments[0] not in ("--write", "--check") or len(arguments) > 2:
        sys.stderr.write("usage: python -m reconciler.spec.schema --write|--check [FOLDER]\n")
        return 1
    folder = arguments[1] if len(arguments) == 2 else "schemas"
    stale = [kind for kind in KINDS if _published(f"{folder}/{file_name(kind)}") != render(kind)]
    for kind in stale:
        path = f"{folder}/{file_name(kind)}"
        if arguments[0] == "--write":
            with open(path, "w", encoding="utf-8") as file:
                file.write(render(kind))
        sys.stderr.write(f"{path} {'written' if arguments[0] == '--write' else 'is stale'}\n")
    return 1 if stale and arguments[0] == "--check" else 0


def _published(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
