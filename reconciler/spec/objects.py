"""Which of a shard's views, functions, types and extensions no schema file makes.

A new shard has what the schema files make and nothing else. Told is only what is certain: whose
name stands nowhere in the files, not even in a comment or in a string, and only where no statement
of theirs may make things whose names it puts together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from reconciler.model.desired import SchemaFile
from reconciler.model.moves import Obstacle, SchemaObject
from reconciler.spec.statements import split

_CALLING = frozenset({"do", "call", "select", "with", "values", "table", "execute"})
_OF_DUMPS = re.compile(r"select\s+(pg_catalog\.)?(set_config|setval)\s*\(", re.IGNORECASE)
"""Calls in pg_dump's files, which make nothing."""
_LAST_NAME = re.compile(r'(?:"((?:[^"]|"")+)"|([^".(]+))(?:\(.*)?$')


def unmade_objects(
    files: Iterable[SchemaFile], objects: Iterable[SchemaObject], source: str, target: str
) -> tuple[Obstacle, ...]:
    """Return what the source has and the target will certainly not have, each with its cure."""
    texts = [file.text for file in files]
    if any(_calls(text) for text in texts):
        return ()
    whole = "\n".join(texts).lower()
    return tuple(
        Obstacle(
            "",
            f"{found} is at {source}, and no schema file makes it, so {target} would not have it",
            f"add a schema file that makes it where it is missing, or drop it at {source}",
        )
        for found in objects
        if _bare(found.name).lower() not in whole
    )


@lru_cache(maxsize=1024)
def _calls(text: str) -> bool:
    """Tell whether a file calls what may make anything. Kept: databases share their files."""
    return any(
        statement.words[:1]
        and statement.words[0] in _CALLING
        and not _OF_DUMPS.match(statement.text)
        for statement in split(text)
    )


def _bare(name: str) -> str:
    """Return a name without its schema, quotes and arguments, as a file may write it."""
    found = _LAST_NAME.search(name)
    return (found[1] or found[2]) if found else name
