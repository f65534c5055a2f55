"""``shardwright describe``: one thing in full."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from reconciler.cli.get import STATUS, Kind, kind_and_name
from reconciler.cli.lazy import command
from reconciler.cli.session import Session, output_option
from reconciler.cli.terminal import WIDTH_MAX, Paint, style_for, width_of, write

if TYPE_CHECKING:
    from reconciler.cli.objects import Object
    from reconciler.engine.world import World


@command("describe")
@click.argument("kind", type=Kind(), metavar="KIND")
@click.argument("name", required=False)
@output_option("text", "json", "yaml")
@click.pass_obj
def describe(session: Session, kind: str, name: str | None, output: str) -> None:
    """Show one thing in full.

    KIND is database, shard, instance, operation or move; NAME as "get" shows it. A name alone is a
    database's.
    """
    from reconciler.cli.looking import ALIASES, look_around, named
    from reconciler.wiring import open_reading_world

    kind, name = kind_and_name(kind, name)
    kind = "database" if kind == STATUS else kind
    if not name:
        raise click.UsageError(f"name the {kind}: shardwright describe {kind} NAME")
    plural = ALIASES[kind]
    world = open_reading_world(session.settings())
    found = named(look_around(world, plural, ended=True).objects[plural], name, kind)
    history = _operations(world, found) if plural == "databases" and output == "text" else []
    if output == "json":
        import json

        write(json.dumps(found[0] if len(found) == 1 else found, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        write(str(yaml.safe_dump_all(found, sort_keys=False, allow_unicode=True)))
    else:
        write("\n\n".join(_told(item, plural, history) for item in found))


def _operations(world: World, databases: list[Object]) -> list[Object]:
    """Return the last applies of the databases; none when etcd is silent, which shows elsewhere."""
    from reconciler.cli.looking import look_around, names_of
    from reconciler.model.errors import ReconcilerError

    try:
        operations = look_around(world, "operations").objects["operations"]
    except ReconcilerError:
        return []
    wanted = {name for database in databases for name in names_of(database)}
    return [item for item in operations if wanted & set(item["databases"])][:5]


INSIDE = {"shards": "shards", "instances": "instances"}
"""Lists of objects within an object, shown as tables of their kind."""


def _told(item: Object, kind: str, history: list[Object]) -> str:
    from reconciler.cli.columns import columns_for

    paint = style_for(sys.stdout)
    facts = [(head, cell(item)) for head, cell in columns_for(kind, wide=True, with_namespace=True)]
    width = max(len(head) for head, _ in facts)
    lines = [line for head, value in facts for line in _fact(head, value, width, paint)]
    for name, inner in INSIDE.items():
        if isinstance(item.get(name), list) and item[name]:
            lines += ["", _titled(name, inner, item[name])]
    if item.get("shards"):
        members = [member for shard in item["shards"] for member in shard["instances"]]
        lines += ["", _titled("instances", "instances", members)]
    lines += _details(item)
    if history:
        lines += ["", _titled("last operations", "operations", history)]
    return "\n".join(lines)


def _fact(head: str, value: str, width: int, paint: Paint) -> Iterator[str]:
    """Yield a fact beside its head, a long one in as many lines as it takes."""
    from reconciler.plan.render_layout import unpainted, wrapped

    first, *more = wrapped(value, width_of(sys.stdout), width + 2, unpainted, "")
    yield f"{paint('dim', head.capitalize().ljust(width))}  {first.lstrip()}"
    yield from more


def _titled(title: str, kind: str, items: list[Object]) -> str:
    from reconciler.cli.columns import columns_for
    from reconciler.cli.table import shown_table

    paint = style_for(sys.stdout)
    wide = kind == "instances" and width_of(sys.stdout) >= WIDTH_MAX
    columns = columns_for(kind, wide=wide, with_namespace=False)
    rows = [
        ["  " + columns[0][1](item), *(cell(item) for _, cell in columns[1:])] for item in items
    ]
    heads = ["  " + columns[0][0], *(head for head, _ in columns[1:])]
    return f"{paint('bold', title.capitalize())}\n{shown_table(heads, rows, paint)}"


def _details(item: Object) -> list[str]:
    """Return what only one kind has: tables and files of a shard, steps of an operation."""
    from reconciler.cli.table import shown_table
    from reconciler.plan.render_report import amount, duration, size

    paint = style_for(sys.stdout)
    lines: list[str] = []
    if item["kind"] == "Shard" and item["tables"]:
        rows = [
            ["  " + t["name"], size(t["bytes"]), amount(t["rows"]) if t["rows"] >= 0 else "-"]
            for t in item["tables"]
        ]
        lines += ["", paint("bold", "Tables"), shown_table(["  NAME", "SIZE", "ROWS"], rows, paint)]
    if item["kind"] == "Database":
        rows = [
            [
                "  " + c["type"],
                c["status"],
                c["reason"],
                c["lastTransitionTime"] or "-",
                c["message"],
            ]
            for c in item["conditions"]
        ]
        heads = ["  TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"]
        lines += ["", paint("bold", "Conditions"), shown_table(heads, rows, paint)]
    if item["kind"] == "Database" and item["tables"]:
        rows = [["  " + name, key] for name, key in item["tables"].items()]
        rows += [["  " + name, "(reference)"] for name in item["reference"]]
        lines += ["", paint("bold", "Tables"), shown_table(["  NAME", "SHARD KEY"], rows, paint)]
    for title, key in (("Schema files", "schemaFiles"), ("Parameters", "parameters")):
        if item.get(key):
            values = item[key]
            texts = (
                [f"  {name} = {value}" for name, value in values.items()]
                if isinstance(values, dict)
                else [f"  {value}" for value in values]
            )
            lines += ["", paint("bold", title), *texts]
    if item["kind"] == "Move":
        lines += _move_details(item)
    if item["kind"] == "Operation" and item["steps"]:
        rows = [
            ["  " + s["id"], s["state"], "-" if s["seconds"] is None else duration(s["seconds"]),
             s["error"] or s["waits"] or s["title"]]
            for s in item["steps"]
        ]  # fmt: skip
        heads = ["  ID", "STATE", "TOOK", ""]
        lines += ["", paint("bold", "Steps"), shown_table(heads, rows, paint)]
    return lines


def _move_details(item: Object) -> list[str]:
    """Return a move's pauses as a histogram, and the lines of its logbook."""
    from reconciler.cli.columns import seconds_between
    from reconciler.cli.table import shown_table

    paint = style_for(sys.stdout)
    lines: list[str] = []
    if item["pausesMs"]:
        most = max(item["pauseHistogram"].values())
        rows = [
            ["  " + upto, str(count), "█" * round(20 * count / most)]
            for upto, count in item["pauseHistogram"].items()
        ]
        lines += ["", paint("bold", "Pauses"), shown_table(["  UP TO", "CUTS", ""], rows, paint)]
    if item["acts"]:
        rows = [
            ["  " + a["act"], a["state"], seconds_between(a["begunAt"], a["endedAt"]), a["error"]]
            for a in item["acts"]
        ]
        heads = ["  ACT", "STATE", "TOOK", ""]
        lines += ["", paint("bold", "Acts"), shown_table(heads, rows, paint)]
    return lines
