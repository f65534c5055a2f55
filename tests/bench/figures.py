"""Which figures the last table shows, and where each stands in the output of its benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: ``value`` and ``beside`` are patterns whose group is a number.

    ``target`` is the most that the issue allows, in ``unit``; None where it names no number.
    ``yardstick`` names what ``beside`` finds, in the same unit.
    """

    bench: str
    name: str
    unit: str
    value: str
    target: float | None = None
    yardstick: str = ""
    beside: str = ""


_PLAN = r"^{}\s+{}\s+\d+"
_NUMBER = r"\s+([\d.]+)"


def _plans() -> list[Figure]:
    found = []
    for shards, seconds, mib in ((1_000, 1.5, 200), (10_000, 15, 1024)):
        line = _PLAN.format("nothing to do", shards)
        found += [
            Figure("plan", f"plan of {shards:,} shards, nothing to do", "s", line + _NUMBER,
                   seconds, "of deepcopy of the state",
                   line + r"\s+[\d.]+\s+\d+\s+\d+\s+([\d.]+)x"),
            Figure("plan", f"its memory, {shards:,} shards", "MiB", line + r"\s+[\d.]+\s+(\d+)",
                   mib, "before planning", line + r"\s+[\d.]+\s+\d+\s+(\d+)"),
        ]  # fmt: skip
    for case in ("nothing to do", "restart and schema file on all", "every shard is split"):
        growth = rf"^{case}\s+time per shard.*: ([\d.]+)"
        found.append(Figure("plan", f"time a shard, 10,000 to 1,000: {case}", "x", growth))
    return found


FIGURES: tuple[Figure, ...] = (
    Figure("validate", "validate 1,000 documents", "ms", r"validate \(read.*\)\s+(\d+) ms", 1000,
           "yaml.CSafeLoader alone", r"CSafeLoader alone\s+(\d+) ms"),
    Figure("validate", "its memory", "MiB", r"validate \(read.*\)\s+\d+ ms\s+(\d+) MiB", 150,
           "yaml.CSafeLoader alone", r"CSafeLoader alone\s+\d+ ms\s+(\d+) MiB"),
    *_plans(),
    Figure("policy", "1,000 rules × 1,000 shards, in all", "s", r"all together ([\d.]+) s", 2.0,
           "plain Python", r"plain Python, in all ([\d.]+) s"),
    Figure("policy", "its memory", "MiB", r"of 2 s; (\d+) MiB", None,
           "facts and one rule", r"with the facts and one rule (\d+) MiB"),
    Figure("policy", "the check alone", "ms", r"^check .* shards\s+([\d.]+) ms", None,
           "plain Python", r"same in plain Python\s+([\d.]+) ms"),
    Figure("cli", "shardwright --help", "ms", r"^shardwright --help.*\s([\d.]+) ms", 150,
           "python -c 'import click'", r"import click'.*\s([\d.]+) ms"),
    Figure("cli", "completion", "ms", r"^completion.*\s([\d.]+) ms", 150,
           "python -c 'import click'", r"import click'.*\s([\d.]+) ms"),
    Figure("fetch", "no-change Git fetch", "ms",
           r"(?s)^1 documents.*?  fetch, no change\s+([\d.]+)", None, "git ls-remote",
           r"(?s)^1 documents.*?ls-remote \(yardstick\)\s+([\d.]+)"),
    Figure("fetch", "no-change fetch and plan of the demo", "ms",
           r"read, observe, plan and check\s+([\d.]+)", 300, "git ls-remote",
           r"(?s)^1 documents.*?ls-remote \(yardstick\)\s+([\d.]+)"),
    Figure("fetch", "shardwright plan of the demo", "ms", r"shardwright plan --git\s+([\d.]+)",
           1000, "the same in a warm process", r"read, observe, plan and check\s+([\d.]+)"),
    Figure("fetch", "observing, a shard", "ms", r"observe, a shard\s+([\d.]+)", 50,
           "connect + select 1", r"select 1, a shard \(yardstick\)\s+([\d.]+)"),
    Figure("observe", "catalog of 20 guarded tables", "ms",
           r"catalog: 20 guarded[^\n]*?columns\s+[\d.]+\s+([\d.]+)", None, "connect + select 1",
           r"connect \+ select 1[^\n]*?\)\s+[\d.]+\s+([\d.]+)"),
    *(
        Figure("failover", name, "s", rf"^{name}\s+([\d.]+)", 1.0, "plain Patroni",
               rf"^{name}\s+[\d.]+\s+[\d.]+\s+([\d.]+)")
        for name in ("kill -9 of a whole primary", "planned switchover", "kill -9, supervisor too")
    ),
    *(
        Figure("failover", f"writes lost: {name}", "", rf"^{name}.*\s(\d+) of \d+", 1, "written",
               rf"^{name}.*\s\d+ of (\d+)")
        for name in ("kill -9 of a whole primary", "planned switchover", "kill -9, supervisor too")
    ),
    Figure("commands", "make demo", "s", r"make demo  (\d+) s", 180,
           "its first provisioning", r"of which provisioning (\d+) s"),
    Figure("commands", "make test", "s", r"make test  (\d+) s", 720,
           "one test after another", r"one after another (\d+) s"),
    *(
        Figure("move", f"move of 5 million rows, verified, as a part of {name}", "x",
               rf"^move as a part of {name}\s+([\d.]+)", most, "of it, not verified",
               rf"^move as a part of {name}\s+[\d.]+, without verification ([\d.]+)")
        for name, most in (("tablesync", 1 / 2), ("pg_restore", 1 / 3.5), ("cp", 3.0))
    ),
    *(
        Figure("seed", f"5 million rows by bytes, verified, as a part of {name}", "x",
               rf"^{line}.*rows/s\s+([\d.]+)", most, "by rows, of it",
               rf"^{line}.*rows/s\s+[\d.]+\s+([\d.]+)")
        for name, line, most in (
            ("tablesync", "tablesync", 1 / 2), ("pg_restore", "pg_dump", 1 / 3.5),
            ("cp", "cp of the moved", 3.0),
        )
    ),
    Figure("move", "pause of a cut, median", "ms", r"^pause of .*median ([\d.]+)", 25),
    Figure("move", "pause of a cut, largest", "ms", r"^pause of .*largest ([\d.]+)", 100),
    *(
        Figure("clients", f"write gap of a cut, {what}", "ms",
               rf"^write gap over \d+ cuts[^\n]*{what} ([\d.]+)", target,
               "while nothing moves", rf"^write gap over \d+ moments[^\n]*{what} ([\d.]+)")
        for what, target in (("median", 25), ("largest", 100))
    ),
    Figure("clients", "memory of the mover after the last move", "MiB",
           r"MiB after \d+ moves, (\d+) MiB", None, "after a few",
           r"^memory of the mover: (\d+) MiB"),
    Figure("foreground", "p99 of a write during a throttled copy", "ms",
           r"^p99 of a write during a throttled copy\s+([\d.]+)", None,
           "idle", r"^p99 of a write during nothing else\s+([\d.]+)"),
    *(
        Figure("foreground", f"a move of {what} rows, end to end", "s",
               rf"^move of a shard with {rows} rows[^\n]*?:\s+([\d.]+) s", 3)
        for what, rows in (("0", "0"), ("1,000", "2,000"))
    ),
    *(
        Figure("router", f"router by {way}, {clients} clients", "ms",
               rf"^ *{clients} clients  router, by {way}, {mode}\s+([\d.]+) ms", None,
               "PgBouncer", rf"^ *{clients} clients  pgbouncer{few}, {mode}\s+([\d.]+) ms")
        for way, few, mode in (("hint", "", "simple"), ("parameter", "", "prepared"),
                               ("parameter, few keys", ", few keys", "prepared"))
        for clients in (1, 10, 100, 500)
    ),
    *(
        Figure("reaction", what, "ms", rf"^{what}: median (\d+)", most, "git ls-remote",
               rf"^{what}:.*ls-remote ([\d.]+)")
        for what, most in (("webhook to first write", 1000),
                           ("commit to first write, polling at 1 s", 2500))
    ),
    Figure("reaction", "CPU of a poll that finds nothing new", "ms",
           r"^CPU of a poll[^:]*: ([\d.]+)", 50, "git ls-remote", r"^CPU.*ls-remote ([\d.]+)"),
    Figure("day", "memory after a day's rounds", "MiB", r"(?s).*^after[^:]*:\s+([\d.]+)", None,
           "after 300", r"^after[^:]*:\s+([\d.]+)"),
    Figure("sdk", "client, one statement", "µs", r"sdk: shards.execute\s+([\d.]+)", None,
           "plain psycopg", r"plain psycopg, one connection\s+([\d.]+)"),
)  # fmt: skip


def number(pattern: str, output: str) -> float | None:
    """Return the number that a pattern finds, None when it finds nothing."""
    found = re.search(pattern, output, re.MULTILINE) if pattern else None
    return float(found[1]) if found else None


def line_of(figure: Figure, outputs: Mapping[str, str]) -> str:
    """Return one line of the table."""
    output = outputs.get(figure.bench, "")
    value, beside = number(figure.value, output), number(figure.beside, output)
    if value is None:
        return f"{figure.name:56} not found in the output of bench_{figure.bench}"
    target = f"< {figure.target:g}" if figure.target is not None else ""
    met = "" if figure.target is None else "ok" if value < figure.target else "MISSED"
    if figure.yardstick.startswith("of "):  # the benchmark prints the ratio itself
        ratio, shown = beside, figure.yardstick.removeprefix("of ")
    else:
        ratio = value / beside if beside else None
        shown = f"{figure.yardstick} {beside:g}" if beside is not None else figure.yardstick
    times = f"{ratio:.2f}x" if ratio is not None else ""
    value_text = f"{value:g} {figure.unit}"
    return f"{figure.name:56} {value_text:>12} {target:>8} {met:6} {times:>8}  {shown}".rstrip()
