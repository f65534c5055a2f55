"""A database that was found, as a ShardedDatabase in YAML with comments. Pure.

Written as text, because the comments are half of it: they say what a choice rests on, and mark with
DECIDE what no catalog can know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from reconciler.cli.shard_keys import Guess, guess_keys
from reconciler.edges.postgres_import import FoundDatabase
from reconciler.model.errors import ReconcilerError
from reconciler.model.platform import BASE_PARAMETERS
from reconciler.plan.render_layout import clean
from reconciler.plan.render_report import amount, counted, size
from reconciler.spec.parameters import VERSIONS
from reconciler.spec.parameters.check import check_parameter

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")
_OF_THE_MACHINE = (
    "lc_", "default_text_search_config", "log_directory", "log_filename", "logging_collector",
    "log_timezone", "log_truncate_on_rotation", "log_rotation_", "syslog_", "event_source",
)  # fmt: skip
"""Set by initdb or by the packager for one machine; another one's platform has its own."""
NAME_MAX = 40
SCHEMA = "https://shardwright.dev/schemas/shardeddatabase.v1alpha1.json"
"""The published schema's ``$id``; a test holds it against the schema."""


def spec_yaml(found: FoundDatabase, shards: int, name: str = "") -> str:
    """Return the spec. ``shards`` tile the key space evenly."""
    return "\n".join(_lines(found, guess_keys(found.tables), shards, name)) + "\n"


def _lines(found: FoundDatabase, guess: Guess, shards: int, name: str) -> Iterator[str]:
    yield "# yaml-language-server: $schema=" + SCHEMA
    tables = counted(len(found.tables), "table")
    origin = f"database {clean(found.name)}, PostgreSQL {clean(found.version)}"
    yield f"# From {origin}: {tables}, {size(found.bytes)}."
    yield "# What no catalog can know is marked DECIDE."
    yield "apiVersion: shardwright.dev/v1alpha1"
    yield "kind: ShardedDatabase"
    yield "metadata:"
    yield f"  name: {name or database_name(found.name)}"
    yield "spec:"
    yield from _postgres(found)
    yield "  # DECIDE: where the tables come from. Write them to a file first, for example:"
    yield "  #   pg_dump --schema-only --no-owner --no-privileges DATABASE > schema/001_tables.sql"
    yield "  # schema:"
    yield "  #   files: [schema/*.sql]"
    yield from _sharding(found, guess)
    yield "  defaults:"
    yield f"    instances: {max((found.standbys or 0) + 1, 2)}  # {_standbys(found)}"
    room = "twice what each shard will hold; room to grow?"
    yield f"    storage: {{size: {_storage(found, shards)}}}  # DECIDE: {room}"
    yield f"    synchronous: {str(found.synchronous).lower()}"
    yield "  shards:"
    for index in range(shards):
        yield f'    - {{name: s{index}, keys: ["{_range(index, shards)}"]}}'
    yield "  deletion: protected"


def _standbys(found: FoundDatabase) -> str:
    if found.standbys is None:
        return "DECIDE: could not look at standbys: this role is no member of pg_read_all_stats"
    return f"{counted(found.standbys, 'standby')} seen" if found.standbys else "no standby seen"


def _postgres(found: FoundDatabase) -> Iterator[str]:
    version = found.major if found.major in VERSIONS else VERSIONS[-1]
    yield "  postgres:"
    other = "" if version == found.major else f"  # DECIDE: {found.major} is not run here"
    yield f'    version: "{version}"{other}'
    kept, left = _parameters(found, version)
    if kept:
        yield "    parameters:"
        yield from (f"      {one}: {json.dumps(value)}" for one, value in kept)
    for one, why in left:
        yield f"    # left out: {clean(one)}: {clean(why)}"


def _parameters(
    found: FoundDatabase, version: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the parameters to keep, and those left out with the reason."""
    base = dict(BASE_PARAMETERS)
    kept, left = [], []
    for name, value in found.parameters:
        if name.startswith(_OF_THE_MACHINE) or base.get(name) == value:
            continue
        checked = check_parameter(version, name, value)
        if isinstance(checked, ReconcilerError):
            left.append((name, checked.problem))
        else:
            kept.append(checked)
    return kept, left


def _sharding(found: FoundDatabase, guess: Guess) -> Iterator[str]:
    rows = {table.name: table.rows for table in found.tables}
    yield "  sharding:"
    yield f"    type: {guess.key_type}"
    yield "    tables:  # DECIDE: guessed; rows that are used together need the same key"
    if not guess.tables:
        yield "      change_me: id  # DECIDE: no table has a column that can be a shard key"
    for name, key, why in guess.tables:
        known = f", about {amount(rows[name])} rows" if rows[name] >= 0 else ""
        yield f"      {_table(name)}: {_word(key)}  # {clean(why)}{known}"
    if guess.reference:
        yield "    reference:  # DECIDE: small and referred to; whole on every shard"
        yield from (f"      - {_table(name)}" for name in guess.reference)
    for name, why in guess.undecided:
        yield f"    # DECIDE: {clean(name)}: {clean(why)}; give it a key column, or list it above"


def database_name(name: str) -> str:
    """Return a name as specs allow it: lower case letters, digits and dashes."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:NAME_MAX].strip("-")
    return plain if plain[:1].isalpha() else f"db-{plain}".strip("-")[:NAME_MAX]


def _table(name: str) -> str:
    return _word(name.removeprefix("public."))


def _word(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _storage(found: FoundDatabase, shards: int) -> str:
    """Return twice what one shard will hold, in whole GiB: room to grow, and to rewrite a table."""
    return f"{max(1, -(-2 * found.bytes // (shards << 30)))}Gi"


def _range(index: int, shards: int) -> str:
    digits = 2 if shards <= 256 else 4
    space = 16**digits
    start, end = index * space // shards, (index + 1) * space // shards
    return f"{start:0{digits}x}-{end:0{digits}x}".replace(f"{0:0{digits}x}-", "-", 1).removesuffix(
        f"-{space:x}"
    ) + ("-" if index == shards - 1 else "")
